package twiliosync_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// The documented rate, and how long the limiter counts a start: a closed window
// of 10 s must not hold both a start and the one that takes its place.
const (
	paceLimit  = 300
	paceWindow = 10 * time.Second
	paceSlot   = paceWindow + 1
)

// startLog is a transport that notes the start of each attempt and accepts it
// at once: the cheapest attempt that counts. The times are since it was made.
type startLog struct {
	epoch time.Time

	mu     sync.Mutex
	starts map[string][]time.Duration // by stream
}

func newStartLog() *startLog {
	return &startLog{epoch: time.Now(), starts: map[string][]time.Duration{}}
}

func (l *startLog) RoundTrip(req *http.Request) (*http.Response, error) {
	stream := streamOf(req)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.starts[stream] = append(l.starts[stream], time.Since(l.epoch))
	return response{}.answer(req), req.Body.Close()
}

func (l *startLog) client(t *testing.T, opts ...twiliosync.Option) *twiliosync.Client {
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret), append(opts, twiliosync.WithHTTPClient(&http.Client{Transport: l}))...)
	require.NoError(t, err)
	return client
}

func (l *startLog) of(stream string) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.starts[stream])
}

// streamOf returns the stream in the path of a request.
func streamOf(req *http.Request) string {
	_, rest, _ := strings.Cut(req.URL.Path, "/Streams/")
	return strings.TrimSuffix(rest, "/Messages")
}

// memory is a transport without a network, for virtual time. It reports to
// httptrace what net/http's own does, which the outcomes are proven by.
type memory struct {
	latency time.Duration
	// respond decides what becomes of a request; nil accepts all.
	respond func(arrival) response

	mu       sync.Mutex
	arrivals []arrival
	numbers  map[string]int // of requests, by stream and data
	inFlight int
	peak     int // of inFlight
}

// arrival is a request as it came.
type arrival struct {
	stream, data string
	at           time.Time
	number       int // of the requests for this message, from 1
}

// response is what a request meets; the zero value is 201 after the latency.
type response struct {
	status     int
	code       int
	retryAfter string
	quick      bool // without the latency
	lost       bool // the connection breaks when the answer is due
	unsent     bool // there is no connection
	dialing    bool // nor the news that there is none, ever
}

func (m *memory) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	req.Body.Close()
	if err != nil {
		return nil, err
	}
	this := m.arrive(streamOf(req), string(body))
	defer m.leave()

	what := response{}
	if m.respond != nil {
		what = m.respond(this)
	}
	trace := httptrace.ContextClientTrace(req.Context())
	trace.GetConn("memory")
	switch {
	case what.dialing:
		<-req.Context().Done()
		return nil, req.Context().Err()
	case what.unsent:
		return nil, &net.OpError{Op: "dial", Net: "memory", Err: errors.New("unreachable")}
	}
	trace.WroteHeaders()
	if !what.quick {
		select {
		case <-time.After(m.latency):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	if what.lost {
		return nil, io.ErrUnexpectedEOF
	}
	return what.answer(req), nil
}

func (m *memory) arrive(stream, form string) arrival {
	data, _ := url.QueryUnescape(strings.TrimPrefix(form, "Data="))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.numbers == nil {
		m.numbers = map[string]int{}
	}
	m.numbers[stream+data]++
	this := arrival{stream: stream, data: data, at: time.Now(), number: m.numbers[stream+data]}
	m.arrivals = append(m.arrivals, this)
	m.inFlight++
	m.peak = max(m.peak, m.inFlight)
	return this
}

func (m *memory) leave() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inFlight--
}

// of returns when the requests of a stream arrived, since epoch.
func (m *memory) of(stream string, epoch time.Time) []time.Duration {
	var at []time.Duration
	for _, this := range m.all() {
		if this.stream == stream {
			at = append(at, this.at.Sub(epoch))
		}
	}
	return at
}

func (m *memory) all() []arrival {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.arrivals)
}

// load returns how many requests are in flight, and were at most.
func (m *memory) load() (inFlight, peak int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inFlight, m.peak
}

func (r response) answer(req *http.Request) *http.Response {
	status, body, header := http.StatusCreated, `{"sid":"TZ1","data":{}}`, http.Header{}
	if r.status != 0 {
		status, body = r.status, fmt.Sprintf(`{"code":%d,"message":"no","status":%d}`, r.code, r.status)
	}
	if r.retryAfter != "" {
		header.Set("Retry-After", r.retryAfter)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}
}

// client returns a client that sends through m.
func (m *memory) client(t testing.TB, opts ...twiliosync.Option) *twiliosync.Client {
	t.Helper()
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret),
		append([]twiliosync.Option{twiliosync.WithHTTPClient(&http.Client{Transport: m})}, opts...)...)
	require.NoError(t, err)
	return client
}

// publishTo is one call of Create.
func publishTo(ctx context.Context, client *twiliosync.Client, stream string) error {
	_, _, err := client.StreamMessages.Create(ctx, "default", stream, json.RawMessage(`{}`))
	return err
}

// arrivalPattern returns when n messages of a stream come, ascending: bursts,
// trickles, pauses, and gaps about as long as a window.
func arrivalPattern(random *rand.Rand, n int) []time.Duration {
	var at time.Duration
	pattern := make([]time.Duration, 0, n)
	for len(pattern) < n {
		count := min(1+random.IntN(200), n-len(pattern))
		var gap func() time.Duration
		switch random.IntN(5) {
		case 0: // a burst
			gap = func() time.Duration { return 0 }
		case 1: // evenly, below or above the rate
			every := time.Duration(random.Int64N(int64(100 * time.Millisecond)))
			gap = func() time.Duration { return every }
		case 2: // at random
			mean := float64(time.Millisecond) * (1 + 60*random.Float64())
			gap = func() time.Duration { return time.Duration(random.ExpFloat64() * mean) }
		case 3: // one message after another at the edge of the window
			count = min(count, 3)
			gap = func() time.Duration { return paceWindow + time.Duration(random.IntN(5)-2) }
		case 4: // silence, then a burst
			at += time.Duration(random.Int64N(int64(25 * time.Second)))
			gap = func() time.Duration { return 0 }
		}
		for range count {
			pattern = append(pattern, at)
			at += gap()
		}
	}
	return pattern
}

// sliding returns when the messages of a pattern may start: the same rule as
// the limiter's, told in one line.
func sliding(pattern []time.Duration, limit int, window time.Duration) []time.Duration {
	starts := slices.Clone(pattern)
	for i := range starts {
		if i > 0 {
			starts[i] = max(starts[i], starts[i-1])
		}
		if i >= limit {
			starts[i] = max(starts[i], starts[i-limit]+window+1)
		}
	}
	return starts
}

// mostInWindow returns the largest number of ascending starts in a window that
// holds both its ends.
func mostInWindow(starts []time.Duration, window time.Duration) int {
	most, first := 0, 0
	for last := range starts {
		for starts[last]-starts[first] > window {
			first++
		}
		most = max(most, last-first+1)
	}
	return most
}

// requireTimes is require.Equal, which takes minutes to print how two long lists
// differ.
func requireTimes(t *testing.T, want, got []time.Duration, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	for i := range want {
		require.Equal(t, want[i], got[i], "%s: the one with index %d", what, i)
	}
}

const patternsPerBubble = 50

// patternBubbles is how many times patternsPerBubble patterns are tried in each
// of the two ways in: 1,000 patterns in all.
func patternBubbles() int {
	if testing.Short() {
		return 1
	}
	return 10
}

// patternsOf returns the patterns of a bubble, by stream.
func patternsOf(seed int) map[string][]time.Duration {
	patterns := map[string][]time.Duration{}
	for i := range patternsPerBubble {
		random := rand.New(rand.NewPCG(uint64(seed), uint64(i)))
		n := paceLimit + 1 + random.IntN(30)
		if i == 0 {
			n = 1000 // several windows on end
		}
		patterns[fmt.Sprintf("stream-%02d", i)] = arrivalPattern(random, n)
	}
	return patterns
}

func checkPatterns(t *testing.T, patterns map[string][]time.Duration, log *startLog) {
	t.Helper()
	for stream, pattern := range patterns {
		starts := log.of(stream)
		require.LessOrEqual(t, mostInWindow(starts, paceWindow), paceLimit, "%s: starts in a window", stream)
		requireTimes(t, sliding(pattern, paceLimit, paceWindow), starts, stream+": each starts as early as the rate allows")
	}
}

func TestStreamsKeepTheDocumentedRateUnderEveryArrivalPattern(t *testing.T) {
	t.Parallel()
	for seed := range patternBubbles() {
		t.Run(fmt.Sprintf("Create, seed %d", seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				patterns, log := patternsOf(seed), newStartLog()
				client := log.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow), twiliosync.WithTimeout(0))
				for stream, pattern := range patterns {
					go func() {
						for _, at := range pattern {
							time.Sleep(at - time.Since(log.epoch))
							go publishTo(t.Context(), client, stream)
						}
					}()
				}
				time.Sleep(time.Hour)
				checkPatterns(t, patterns, log)
			})
		})
		t.Run(fmt.Sprintf("CreateAll, seed %d", -1-seed), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				patterns, log := patternsOf(-1-seed), newStartLog()
				client := log.client(t, twiliosync.WithTimeout(0))
				type message struct {
					stream string
					at     time.Duration
				}
				var input []message
				for stream, pattern := range patterns {
					for _, at := range pattern {
						input = append(input, message{stream, at})
					}
				}
				slices.SortStableFunc(input, func(a, b message) int { return cmp.Compare(a.at, b.at) })
				requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
					for _, m := range input {
						time.Sleep(m.at - time.Since(log.epoch))
						if !yield(twiliosync.StreamMessageRequest{StreamSID: m.stream, Data: json.RawMessage(`{}`)}) {
							return
						}
					}
				}
				results := 0
				for result := range client.StreamMessages.CreateAll(context.Background(), "default", requests, &twiliosync.CreateAllOptions{Concurrency: 1000}) {
					require.NoError(t, result.Err)
					results++
				}
				require.Equal(t, len(input), results)
				checkPatterns(t, patterns, log)
			})
		})
	}
}

func TestAnIdleStreamTakesItsBurstAtOnceAndThenItsRate(t *testing.T) {
	const messages = 6000
	ways := map[string]func(context.Context, *twiliosync.Client){
		"Create": func(ctx context.Context, client *twiliosync.Client) {
			for range messages {
				go publishTo(ctx, client, "orders")
			}
			time.Sleep(time.Hour)
		},
		"CreateAll": func(ctx context.Context, client *twiliosync.Client) {
			for range client.StreamMessages.CreateAll(ctx, "default", toOneStream("orders", messages), nil) {
			}
		},
	}
	for way, send := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				log := newStartLog()
				client := log.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow))
				send(t.Context(), client)

				starts := log.of("orders")
				require.Len(t, starts, messages)
				assert.Zero(t, starts[paceLimit-1], "the 300th starts at once")
				assert.Equal(t, paceSlot, starts[paceLimit], "the 301st starts when the first has left the window")
				assert.LessOrEqual(t, mostInWindow(starts, paceWindow), paceLimit)
				sustained := float64(messages-paceLimit) / starts[messages-1].Seconds()
				assert.GreaterOrEqual(t, sustained, 29.9, "messages a second after the burst")
				t.Logf("%d messages to one stream: %d at once, then %.6f/s over %v", messages, paceLimit, sustained, starts[messages-1])
			})
		})
	}
}

// toOneStream returns n messages to a stream, with their numbers as data.
func toOneStream(stream string, n int) func(yield func(twiliosync.StreamMessageRequest) bool) {
	return func(yield func(twiliosync.StreamMessageRequest) bool) {
		for i := range n {
			if !yield(numbered(stream, i)) {
				return
			}
		}
	}
}

func numbered(stream string, i int) twiliosync.StreamMessageRequest {
	return twiliosync.StreamMessageRequest{StreamSID: stream, Data: json.RawMessage(fmt.Sprintf(`{"n":%d}`, i))}
}

func TestTheRateCountsForEachServiceAndStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newStartLog()
		client := log.client(t, twiliosync.WithStreamRateLimit(1, paceWindow))
		for _, key := range [][2]string{{"shop", "orders"}, {"stock", "orders"}, {"shop", "invoices"}, {"shop", "orders"}} {
			client.StreamMessages.Create(context.Background(), key[0], key[1], json.RawMessage(`{}`))
		}
		assert.Equal(t, []time.Duration{0, 0, paceSlot}, log.of("orders"))
		assert.Equal(t, []time.Duration{0}, log.of("invoices"))
	})
}

func TestCreateIsNotPacedUnlessAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newStartLog()
		client := log.client(t)
		for range 2 * paceLimit {
			publishTo(context.Background(), client, "orders")
		}
		assert.Len(t, log.of("orders"), 2*paceLimit)
		assert.Zero(t, time.Since(log.epoch))
	})
}

// paceWaiter is a paced Create that waits for its turn.
type paceWaiter struct {
	cancel context.CancelFunc
	err    error
	ended  time.Duration // since the epoch; 0 while it waits
	done   chan struct{}
}

func newPaceWaiter(t *testing.T, client *twiliosync.Client, epoch time.Time, data string, deadline time.Duration) *paceWaiter {
	w := &paceWaiter{done: make(chan struct{})}
	ctx := t.Context() // ends the wait also if the test fails
	if deadline > 0 {
		ctx, w.cancel = context.WithDeadline(ctx, epoch.Add(deadline))
	} else {
		ctx, w.cancel = context.WithCancel(ctx)
	}
	time.AfterFunc(time.Hour, w.cancel) // the limiter's timers would let a stuck test go on for ever
	go func() {
		defer close(w.done)
		_, _, w.err = client.StreamMessages.Create(ctx, "default", "orders", json.RawMessage(data))
		w.ended = time.Since(epoch)
	}()
	synctest.Wait() // it is in the queue
	return w
}

func TestPacedCallsStartInTheOrderTheyCame(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const calls, latecomers = 25, 10
		m, epoch := &memory{}, time.Now()
		client := m.client(t, twiliosync.WithStreamRateLimit(1, paceWindow)) // one, since those that start together arrive in any order
		var late sync.WaitGroup
		for i := range latecomers {
			late.Go(func() {
				time.Sleep(time.Duration(i+1) * paceSlot) // just when the next of those who wait may start
				newPaceWaiter(t, client, epoch, `{"late":1}`, 0)
			})
		}
		synctest.Wait()
		var waiters []*paceWaiter
		for i := range calls {
			waiters = append(waiters, newPaceWaiter(t, client, epoch, fmt.Sprintf(`{"n":%02d}`, 10+i), 0))
			time.Sleep(time.Duration(i%3) * time.Millisecond)
		}
		for _, w := range waiters {
			<-w.done
			require.NoError(t, w.err)
		}
		late.Wait()
		time.Sleep(time.Hour)
		arrived := m.all()
		require.Len(t, arrived, calls+latecomers)
		for i, a := range arrived {
			if i < calls {
				require.Equal(t, fmt.Sprintf(`{"n":%02d}`, 10+i), a.data)
			} else {
				require.Equal(t, `{"late":1}`, a.data)
			}
		}
	})
}

func TestACancelledWaiterGivesItsPlaceToTheNext(t *testing.T) {
	for name, cancelled := range map[string]int{"the first of the queue": 0, "one in the middle": 1, "the last": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, epoch := &memory{}, time.Now()
				client := m.client(t, twiliosync.WithStreamRateLimit(1, paceWindow))
				require.NoError(t, publishTo(context.Background(), client, "orders"))
				var waiters []*paceWaiter
				for i := range 4 {
					waiters = append(waiters, newPaceWaiter(t, client, epoch, fmt.Sprintf(`{"n":%d}`, i), 0))
				}
				time.Sleep(time.Second)
				waiters[cancelled].cancel()
				<-waiters[cancelled].done
				err := waiters[cancelled].err
				assert.Equal(t, time.Second, waiters[cancelled].ended, "it returns when it is cancelled")
				assert.ErrorIs(t, err, context.Canceled)
				assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
				assert.True(t, twiliosync.Retryable(err))

				turn := 0
				for i, w := range waiters {
					<-w.done
					if i == cancelled {
						continue
					}
					turn++
					assert.NoError(t, w.err)
					assert.Equal(t, time.Duration(turn)*paceSlot, w.ended, "waiter %d takes turn %d", i, turn)
				}
			})
		})
	}
}

func TestACallWhoseTurnWouldComeTooLateReturnsAtOnce(t *testing.T) {
	const limit = 2
	for _, test := range []struct {
		name    string
		waiting int           // calls before it in the queue
		slot    time.Duration // its turn
	}{
		{"as the first in the queue", 0, paceSlot},
		{"as the last of its window", 1, paceSlot},
		{"as the first of the next window", 2, 2 * paceSlot},
		{"many windows later", 8, 5 * paceSlot},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, epoch := &memory{}, time.Now()
				client := m.client(t, twiliosync.WithStreamRateLimit(limit, paceWindow))
				for range limit + test.waiting {
					newPaceWaiter(t, client, epoch, `{}`, 0)
				}
				time.Sleep(time.Second)
				for _, deadline := range []time.Duration{time.Second + 1, test.slot - 1, test.slot} {
					late := newPaceWaiter(t, client, epoch, `{}`, deadline)
					select {
					case <-late.done:
					default:
						t.Fatalf("with the deadline at %v it waits", deadline)
					}
					assert.Equal(t, time.Second, late.ended, "no time passes")
					assert.ErrorIs(t, late.err, context.DeadlineExceeded)
					assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(late.err))
					assert.True(t, twiliosync.Retryable(late.err))
					var e *twiliosync.Error
					require.ErrorAs(t, late.err, &e)
					assert.Zero(t, e.Attempts)
					assert.Equal(t, test.slot-time.Second, e.RetryAfter, "it says when it would have been its turn")
				}
				inTime := newPaceWaiter(t, client, epoch, `{}`, test.slot+1)
				<-inTime.done
				assert.NoError(t, inTime.err, "the calls that returned took no turn")
				assert.Equal(t, test.slot, inTime.ended)
			})
		})
	}
}

func TestA429PausesItsStreamForAllPacedCalls(t *testing.T) {
	for _, test := range []struct {
		name       string
		retryAfter string
		policy     twiliosync.RetryPolicy
		min, max   time.Duration // of the pause
	}{
		{"for the Retry-After, if it is longer than the backoff", "3", twiliosync.RetryPolicy{MaxAttempts: 1}, 3 * time.Second, 3 * time.Second},
		{"for the backoff without a Retry-After", "", twiliosync.RetryPolicy{MaxAttempts: 1, BaseDelay: time.Second}, 1, time.Second},
		{"for the Retry-After, if the backoff could be longer", "1", twiliosync.RetryPolicy{MaxAttempts: 1, BaseDelay: 15 * time.Second}, time.Second, time.Second},
		{"for MaxDelay, if the Retry-After is longer", "3600", twiliosync.RetryPolicy{MaxAttempts: 1}, 20 * time.Second, 20 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{}
				m.respond = func(a arrival) response {
					if a.stream == "orders" && a.number == 1 {
						return response{status: 429, code: 54009, retryAfter: test.retryAfter}
					}
					return response{}
				}
				client := m.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow), twiliosync.WithRetryPolicy(test.policy))
				start := time.Now()
				require.ErrorIs(t, publishTo(context.Background(), client, "orders"), twiliosync.ErrRateLimited)
				require.NoError(t, publishTo(context.Background(), client, "invoices"))
				require.Zero(t, time.Since(start), "the other stream is not slowed")
				require.NoError(t, publishTo(context.Background(), client, "orders"))
				assert.GreaterOrEqual(t, time.Since(start), test.min)
				assert.LessOrEqual(t, time.Since(start), test.max)
			})
		})
	}
}

func TestALater429DoesNotShortenAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, epoch := &memory{latency: time.Second}, time.Now()
		m.respond = func(a arrival) response {
			switch {
			case strings.Contains(a.data, "first"):
				return response{status: 429, code: 54009, retryAfter: "10", quick: true}
			case strings.Contains(a.data, "second"):
				return response{status: 429, code: 54009, retryAfter: "2"}
			}
			return response{quick: true}
		}
		client := m.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
		second := newPaceWaiter(t, client, epoch, `{"second":1}`, 0)
		first := newPaceWaiter(t, client, epoch, `{"first":1}`, 0)
		<-first.done
		<-second.done
		require.Equal(t, time.Second, time.Since(epoch))
		require.NoError(t, publishTo(t.Context(), client, "orders"))
		assert.Equal(t, 10*time.Second, time.Since(epoch))
	})
}

func TestAPauseLongerThanTheWindowIsNotForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, epoch := &memory{}, time.Now()
		m.respond = func(a arrival) response {
			if a.stream == "orders" && a.number == 1 {
				return response{status: 429, code: 54009, retryAfter: "20"}
			}
			return response{}
		}
		client := m.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
		require.ErrorIs(t, publishTo(context.Background(), client, "orders"), twiliosync.ErrRateLimited)
		time.Sleep(time.Second)
		impatient := newPaceWaiter(t, client, epoch, `{}`, 2*time.Second)
		<-impatient.done
		require.ErrorIs(t, impatient.err, context.DeadlineExceeded)
		time.Sleep(11 * time.Second)
		require.NoError(t, publishTo(context.Background(), client, "invoices"))
		require.NoError(t, publishTo(context.Background(), client, "orders"))
		assert.Equal(t, 20*time.Second, time.Since(epoch))
	})
}

// Not parallel: it measures the memory of the process.
func TestIdleStreamsCostNothing(t *testing.T) {
	many := 100_000
	if raceEnabled { // the detector makes each of them ten times as slow, and their memory no other
		many = 25_000
	}
	for _, test := range []struct {
		name    string
		streams int
		lasting time.Duration // from the first use to the last
		paused  bool          // another stream is, for an hour
	}{
		{name: "used at once", streams: many},
		{name: "used over a while", streams: 10_000, lasting: 7 * time.Second},
		{name: "used while another stream is paused for an hour", streams: 10_000, paused: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &memory{respond: func(arrival) response { return response{status: 429, code: 54009, retryAfter: "3600"} }}
				auth := &failing{}
				client, err := twiliosync.NewClient(auth, twiliosync.WithHTTPClient(&http.Client{Transport: m}), twiliosync.WithTimeout(0),
					twiliosync.WithStreamRateLimit(paceLimit, paceWindow), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxDelay: time.Hour, MaxAttempts: 1}))
				require.NoError(t, err)
				if test.paused {
					require.ErrorIs(t, publishTo(t.Context(), client, "paused"), twiliosync.ErrRateLimited)
				}
				auth.err = errors.New("no token") // an attempt costs less than with an answer
				before := heapInUse()
				for i := range test.streams {
					publishTo(t.Context(), client, fmt.Sprintf("stream-%06d", i))
					time.Sleep(test.lasting / time.Duration(test.streams))
				}
				used := heapInUse() - before
				time.Sleep(paceSlot)
				synctest.Wait()
				idle := heapInUse() - before
				t.Logf("%d streams: %d bytes each within the window, %d in all after it", test.streams, used/int64(test.streams), idle)
				assert.Greater(t, used, int64(1<<20), "else there is nothing to forget")
				assert.Less(t, idle, int64(1<<19))
				runtime.KeepAlive(client)
			})
		})
	}
}

// failing is an Authenticator that does nothing, and fails if it has an error.
type failing struct{ err error }

func (f *failing) Authenticate(context.Context, *http.Request) error { return f.err }

func heapInUse() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // what was in a sync.Pool
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}
