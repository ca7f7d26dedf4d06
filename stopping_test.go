package twiliosync_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// TestDrainTimeoutStopsInOrder is a SIGTERM with a long queue.
func TestDrainTimeoutStopsInOrder(t *testing.T) {
	for _, test := range []struct {
		name    string
		drain   time.Duration
		latency time.Duration
		over    time.Duration // after the end of the context
		unknown int
	}{
		{"enough time: all that is in flight finishes", 5 * time.Second, 200 * time.Millisecond, 150 * time.Millisecond, 0},
		{"too little time: then it is cancelled", 100 * time.Millisecond, time.Second, 100 * time.Millisecond, 64},
		{"none: it is cancelled at once", 0, time.Second, 0, 64},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{latency: test.latency}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				input := &watched{requests: func(yield func(bulkRequest) bool) {
					for i := range 300 { // fills the window
						if !yield(numbered("hot", i)) {
							return
						}
					}
					for i := 300; yield(numbered(fmt.Sprint([]string{"hot", fmt.Sprint("stream-", i)}[map[bool]int{true: 0, false: 1}[i < 10_300]]), i)); i++ {
						continue
					}
				}}
				var ended time.Time
				time.AfterFunc(9050*time.Millisecond, func() { // 10,000 wait for their pace by then
					ended = time.Now()
					cancel()
				})
				counts := map[twiliosync.Outcome]int{}
				waited := 0
				for result := range m.client(t).StreamMessages.CreateAll(ctx, "default", input.seq, &twiliosync.CreateAllOptions{DrainTimeout: test.drain}) {
					counts[twiliosync.OutcomeOf(result.Err)]++
					if twiliosync.OutcomeOf(result.Err) == twiliosync.OutcomeNotSent {
						waited++
						require.Equal(t, ended, time.Now(), "what waits is yielded at once")
						require.ErrorIs(t, result.Err, context.Canceled)
						require.True(t, twiliosync.Retryable(result.Err))
					}
				}
				assert.Equal(t, test.over, time.Since(ended))
				assert.GreaterOrEqual(t, waited, 9_000)
				assert.Equal(t, test.unknown, counts[twiliosync.OutcomeUnknown])
				total := 0
				for _, n := range counts {
					total += n
				}
				assert.EqualValues(t, input.pulled.Load(), total, "each that was pulled has a result")
				inFlight, _ := m.load()
				assert.Zero(t, inFlight)
			})
		})
	}
}

// TestARequestThatComesWhileStoppingIsTold: it has a result, and its call a start and an end.
func TestARequestThatComesWhileStoppingIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, tr := &memory{}, &tracer{}
		ctx, cancel := context.WithCancel(t.Context())
		input := func(yield func(bulkRequest) bool) {
			if !yield(numbered("orders", 0)) {
				return
			}
			<-ctx.Done()
			time.Sleep(time.Millisecond)
			yield(numbered("orders", 1))
		}
		time.AfterFunc(time.Second, cancel)
		results := byIndex(t, m.client(t, twiliosync.WithTracer(tr)).StreamMessages.CreateAll(ctx, "default", input, nil))
		require.Len(t, results, 2)
		assert.NoError(t, results[0].Err)
		assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(results[1].Err))
		assert.ErrorIs(t, results[1].Err, context.Canceled)
		assert.Len(t, m.all(), 1)
		require.Len(t, tr.calls, 2)
		for _, call := range tr.calls {
			assert.Equal(t, 1, call.ends)
		}
	})
}

func TestAMessageThatComesTooLateIsNotStarted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, epoch := &memory{}, time.Now()
		m.respond = func(a arrival) response {
			if a.stream == "throttled" {
				return response{status: 429, code: 54009, retryAfter: "5"}
			}
			return response{}
		}
		client := m.client(t, twiliosync.WithStreamRateLimit(1, paceWindow))
		request := func(stream string, n int, notAfter time.Duration) bulkRequest {
			r := numbered(stream, n)
			r.NotAfter = epoch.Add(notAfter)
			return r
		}
		input := []bulkRequest{
			request("past", 0, -1),
			numbered("hot", 1),
			request("hot", 2, paceSlot-1),  // can't start in time, for certain
			request("hot", 3, paceSlot),    // just in time
			request("hot", 4, time.Minute), // after those before it
			request("hot", 5, paceSlot+5*time.Second),
			request("throttled", 6, 4*time.Second), // the next attempt would come too late
		}
		expired := map[int]time.Duration{}
		results := map[int]bulkResult{}
		for result := range client.StreamMessages.CreateAll(t.Context(), "default", slices.Values(input), nil) {
			results[result.Index] = result
			if result.Err != nil {
				expired[result.Index] = time.Since(epoch)
				assert.ErrorIs(t, result.Err, twiliosync.ErrExpired)
				assert.False(t, twiliosync.Retryable(result.Err) && result.Index != 6)
			}
		}
		require.Len(t, results, len(input))
		assert.Equal(t, map[int]time.Duration{0: 0, 2: 0, 5: paceSlot, 6: 0}, expired, "each is yielded as soon as it is certain")
		assert.Equal(t, paceSlot, asError(t, results[2].Err).RetryAfter, "when the stream has a place")
		for _, i := range []int{0, 2, 5} {
			assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(results[i].Err))
			assert.Zero(t, asError(t, results[i].Err).Attempts)
		}
		assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(results[6].Err), "that of the attempt before")
		assert.ErrorIs(t, results[6].Err, twiliosync.ErrRateLimited)
		assert.Equal(t, []time.Duration{0, paceSlot, 2 * paceSlot}, m.of("hot", epoch))
	})
}

func TestTagComesBackAndIsNeverShown(t *testing.T) {
	client, _ := setup(t)
	tag := new(int)
	input := []bulkRequest{{StreamSID: "orders", Data: map[string]any{"card": "4111111111111111"}, Tag: tag}, {StreamSID: "orders", Data: "4111111111111111", Tag: "the tag"}}
	for i, result := range byIndex(t, client.StreamMessages.CreateAll(context.Background(), "default", slices.Values(input), nil)) {
		assert.Equal(t, input[i].Tag, result.Request.Tag)
		text, err := json.Marshal(result)
		require.NoError(t, err)
		assert.NotContains(t, string(text), "4111111111111111")
		assert.NotContains(t, string(text), "tag")
		assert.Contains(t, string(text), `"stream_sid":"orders"`)
	}
}

func TestOptionsOfACall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Hour}
		client := m.client(t, twiliosync.WithTimeout(time.Minute))
		start := time.Now()
		for result := range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", 1),
			&twiliosync.CreateAllOptions{Call: []twiliosync.CallOption{twiliosync.WithTimeout(2 * time.Second)}}) {
			assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(result.Err))
		}
		assert.Equal(t, 2*time.Second, time.Since(start))
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", json.RawMessage(`{}`),
			twiliosync.WithTimeout(time.Second), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{AtLeastOnce: true, MaxAttempts: 4, BaseDelay: time.Nanosecond}))
		assert.Equal(t, 4, asError(t, err).Attempts)
		for name, opt := range map[string]twiliosync.CallOption{"a nil option": nil, "a negative timeout": twiliosync.WithTimeout(-1), "a unit forgotten": twiliosync.WithTimeout(10)} {
			_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", json.RawMessage(`{}`), opt)
			assert.Equal(t, "opts", refusedParameter(t, err).Parameter, name)
			for result := range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", 1), &twiliosync.CreateAllOptions{Call: []twiliosync.CallOption{opt}}) {
				assert.Equal(t, -1, result.Index)
				assert.Equal(t, "opts", refusedParameter(t, result.Err).Parameter, name)
			}
		}
	})
}

func TestAnInputThatEndsItsGoroutineIsToldAfterAllResults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Second}
		input := func(yield func(bulkRequest) bool) {
			for i := range 5 {
				yield(numbered("orders", i))
			}
			runtime.Goexit()
		}
		var indexes []int
		var last error
		for result := range m.client(t).StreamMessages.CreateAll(t.Context(), "default", input, nil) {
			indexes = append(indexes, result.Index)
			last = result.Err
		}
		require.Len(t, indexes, 6)
		assert.Equal(t, -1, indexes[5])
		assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(last))
		assert.ErrorContains(t, last, "more requests than results")
	})
}

func TestDataWhoseEncodingIsBlockedIsLeftAfterASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		release := make(chan struct{})
		blocked := marshalerFunc(func() ([]byte, error) {
			<-release
			return []byte(`{}`), nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		input := slices.Values([]bulkRequest{{StreamSID: "orders", Data: blocked}, numbered("orders", 1), numbered("invoices", 2)})
		time.AfterFunc(time.Minute, cancel)
		start := time.Now()
		tr := &tracer{}
		results := byIndex(t, m.client(t, twiliosync.WithTracer(tr)).StreamMessages.CreateAll(ctx, "default", input, nil))
		assert.Equal(t, time.Minute+time.Second, time.Since(start))
		require.Len(t, results, 3)
		assert.NoError(t, results[1].Err, "another message of its stream")
		assert.NoError(t, results[2].Err)
		assert.ErrorIs(t, results[0].Err, context.Canceled)
		assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(results[0].Err))
		close(release)
		synctest.Wait()
		assert.Len(t, m.all(), 2)
		tr.requireBalance(t)
	})
}

// countingService counts exactly, as the service does: when a request arrives,
// somewhere between the start of its attempt and the end of its answer. It
// answers 429 to what is more than the limit in any closed window.
type countingService struct {
	limit  int
	window time.Duration
	random *rand.Rand
	before func(*rand.Rand) time.Duration // on the way there
	after  func(*rand.Rand) time.Duration // and back

	mu       sync.Mutex
	arrivals map[string][]time.Time
	refused  int
}

func (s *countingService) memory() *memory {
	s.arrivals = map[string][]time.Time{}
	m := &memory{}
	m.respond = func(a arrival) response {
		s.mu.Lock()
		there, back := s.before(s.random), s.after(s.random)
		s.mu.Unlock()
		time.Sleep(there)
		refused := s.count(a.stream)
		time.Sleep(back)
		if refused {
			return response{status: 429, code: 54009, quick: true}
		}
		return response{quick: true}
	}
	return m
}

func (s *countingService) count(stream string) (refused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	recent := slices.DeleteFunc(s.arrivals[stream], func(at time.Time) bool { return now.Sub(at) > s.window })
	s.arrivals[stream] = append(recent, now)
	if len(recent) >= s.limit {
		s.refused++
		return true
	}
	return false
}

func between(from, to time.Duration) func(*rand.Rand) time.Duration {
	return func(random *rand.Rand) time.Duration { return from + time.Duration(random.Int64N(int64(to-from)+1)) }
}

func TestNoWindowOfTheServiceHoldsMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	cases := 60
	if *bulkFull {
		cases = 1000
	}
	for seed := range cases {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(seed), 7))
			limit := 1 + random.IntN(300)
			service := &countingService{limit: limit, window: paceWindow, random: random, before: between(0, 500*time.Millisecond), after: between(0, 500*time.Millisecond)}
			if random.IntN(2) == 0 { // cold connections
				calls := 0
				service.before = func(r *rand.Rand) time.Duration {
					if calls++; calls <= limit {
						return between(150*time.Millisecond, 2*time.Second)(r)
					}
					return between(0, 25*time.Millisecond)(r)
				}
			}
			m := service.memory()
			client := m.client(t, twiliosync.WithStreamRateLimit(limit, paceWindow))
			n := limit * 4
			for result := range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", n), &twiliosync.CreateAllOptions{Concurrency: 1 + random.IntN(1024)}) {
				require.NoError(t, result.Err)
			}
			require.Zero(t, service.refused, "seed %d, limit %d", seed, limit)
			require.Len(t, m.all(), n)
		})
	}
}

func TestTheSustainedRateIsTheLimitForEachWindowAndLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: 100 * time.Millisecond}
		const rounds = 20
		for result := range m.client(t).StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", rounds*paceLimit), &twiliosync.CreateAllOptions{Concurrency: 512}) {
			require.NoError(t, result.Err)
		}
		starts := m.all()
		took := starts[len(starts)-1].at.Sub(starts[0].at)
		assert.LessOrEqual(t, took, (rounds-1)*(paceSlot+100*time.Millisecond)*100/99)
	})
}

func TestAServiceThatThrottlesAtRandomLosesNoMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		random := rand.New(rand.NewPCG(3, 4))
		m := &memory{latency: 50 * time.Millisecond, respond: func(arrival) response {
			mu.Lock()
			defer mu.Unlock()
			if random.IntN(2) == 0 {
				return response{status: 429, code: 54009}
			}
			return response{}
		}}
		client := m.client(t)
		results := byIndex(t, client.StreamMessages.CreateAll(t.Context(), "default", firstOf(endless(20), 4000), nil))
		require.Len(t, results, 4000)
		for _, result := range results {
			require.NoError(t, result.Err)
		}
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "other", json.RawMessage(`{}`), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 200}))
		assert.NotErrorIs(t, err, twiliosync.ErrRetryQuota, "the quota is as it was")
	})
}

func TestAPacedCreateTakesTurnsWithCreateAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		client := m.client(t, twiliosync.WithStreamRateLimit(10, paceWindow))
		go func() {
			for range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", 1000), nil) {
				continue
			}
		}()
		synctest.Wait()
		var longest time.Duration
		for range 20 {
			start := time.Now()
			require.NoError(t, publishTo(t.Context(), client, "orders"))
			longest = max(longest, time.Since(start))
		}
		assert.LessOrEqual(t, longest, paceSlot)
	})
}

func TestWaitingMessagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		m := &memory{}
		client := m.client(t, twiliosync.WithMaxDataSize(0), twiliosync.WithStreamRateLimit(1, 24*time.Hour))
		big := json.RawMessage(`{"a":"` + strings.Repeat("x", size-8) + `"}`)
		input := &watched{requests: func(yield func(bulkRequest) bool) {
			for yield(bulkRequest{StreamSID: "orders", Data: big}) {
				continue
			}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, cancel)
		for range client.StreamMessages.CreateAll(ctx, "default", input.seq, &twiliosync.CreateAllOptions{Concurrency: 4}) {
			continue
		}
		assert.GreaterOrEqual(t, input.pulled.Load(), int64(64))
		assert.LessOrEqual(t, input.pulled.Load(), int64(64+1+4))
	})
}

// slowListener accepts as a service under load does: each connection late.
type slowListener struct {
	net.Listener
	delay func() time.Duration
}

func (l slowListener) Accept() (net.Conn, error) {
	time.Sleep(l.delay())
	return l.Listener.Accept()
}

// TestNoWindowOverRealSockets is the same where time is real: a service that
// counts exactly refuses nothing, however late the first connections get
// through.
func TestNoWindowOverRealSockets(t *testing.T) {
	t.Parallel()
	limit, window, n := 30, 300*time.Millisecond, 240
	if *bulkFull {
		limit, window, n = paceLimit, paceWindow, 1200
	}
	for _, concurrency := range []int{64, 256} {
		t.Run(fmt.Sprint(concurrency), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(uint64(concurrency), 7))
			service := &countingService{limit: limit, window: window, arrivals: map[string][]time.Time{}}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if service.count(r.URL.Path) {
					http.Error(w, `{"code":54009,"message":"Rate limit exceeded"}`, http.StatusTooManyRequests)
					return
				}
				w.WriteHeader(http.StatusCreated)
				fmt.Fprintf(w, `{"sid":"TZ%032d","data":{}}`, 1)
			})}
			go server.Serve(slowListener{listener, func() time.Duration { return between(0, 20*time.Millisecond)(random) }}) //nolint:errcheck // it ends with Close
			t.Cleanup(func() { server.Close() })
			client, err := twiliosync.NewClient(twiliosync.BasicAuth("SK00000000000000000000000000000001", "secret"),
				twiliosync.WithBaseURL("http://"+listener.Addr().String()), twiliosync.WithStreamRateLimit(limit, window))
			require.NoError(t, err)
			t.Cleanup(client.CloseIdleConnections)
			published := 0
			for result := range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", n), &twiliosync.CreateAllOptions{Concurrency: concurrency}) {
				require.NoError(t, result.Err)
				published++
			}
			assert.Equal(t, n, published)
			assert.Zero(t, service.refused)
		})
	}
}

// lateAuth signs as BasicAuth does, but not before its time.
type lateAuth struct {
	twiliosync.Authenticator
	notBefore atomic.Pointer[time.Time]
}

func (a *lateAuth) Authenticate(ctx context.Context, r *http.Request) error {
	for at := a.notBefore.Load(); at != nil && !time.Now().After(*at); {
		time.Sleep(time.Until(*at) + time.Millisecond)
	}
	return a.Authenticator.Authenticate(ctx, r)
}

func TestNoRequestLeavesAfterNotAfter(t *testing.T) {
	t.Parallel()
	fake := twiliosynctest.NewServer(t)
	for _, name := range []string{"on a new connection", "on one that is used again"} {
		t.Run(name, func(t *testing.T) {
			auth := &lateAuth{Authenticator: twiliosync.BasicAuth(fake.Credentials())}
			client, err := twiliosync.NewClient(auth, twiliosync.WithBaseURL(fake.URL))
			require.NoError(t, err)
			defer client.CloseIdleConnections()
			send := func(n int, notAfter time.Time) bulkResult {
				request := numbered("orders", n)
				request.NotAfter = notAfter
				for result := range client.StreamMessages.CreateAll(t.Context(), "default", slices.Values([]bulkRequest{request}), nil) {
					return result
				}
				panic("no result")
			}
			if name != "on a new connection" {
				require.NoError(t, send(0, time.Time{}).Err)
			}
			before := len(fake.Requests())
			soon := time.Now().Add(20 * time.Millisecond)
			auth.notBefore.Store(&soon) // the attempt starts in time, and comes to its connection too late
			result := send(1, soon)
			require.ErrorIs(t, result.Err, twiliosync.ErrExpired)
			assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(result.Err))
			assert.Zero(t, asError(t, result.Err).Sends)
			assert.Len(t, fake.Requests(), before, "nothing came")
			require.NoError(t, send(2, time.Now().Add(time.Hour)).Err, "the next finds a connection")
		})
	}
}
