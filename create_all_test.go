package twiliosync_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"iter"
	"math"
	"math/rand/v2"
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

type (
	bulkRequest = twiliosync.StreamMessageRequest
	bulkResult  = twiliosync.StreamMessageResult
)

// byIndex collects all results, and checks that no index comes twice.
func byIndex(t testing.TB, results iter.Seq[bulkResult]) map[int]bulkResult {
	t.Helper()
	collected := map[int]bulkResult{}
	for result := range results {
		if _, twice := collected[result.Index]; twice {
			t.Errorf("index %d comes twice", result.Index)
		}
		collected[result.Index] = result
	}
	return collected
}

// watched is an input that is watched.
type watched struct {
	requests iter.Seq[bulkRequest]
	pulled   atomic.Int64
	ended    atomic.Bool // its cleanup has run
}

func (w *watched) seq(yield func(bulkRequest) bool) {
	defer w.ended.Store(true)
	for request := range w.requests {
		w.pulled.Add(1)
		if !yield(request) {
			return
		}
	}
}

// endless is an input without an end, or nearly so, lest a failing test hang:
// message i goes to stream i modulo streams.
func endless(streams int) iter.Seq[bulkRequest] {
	return func(yield func(bulkRequest) bool) {
		for i := 0; i < 100_000 && yield(numbered(fmt.Sprintf("stream-%03d", i%streams), i)); i++ {
		}
	}
}

func TestCreateAllYieldsOneResultForEachRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: 50 * time.Millisecond, respond: func(a arrival) response {
			if a.stream == "forbidden" {
				return response{status: 403, code: 54056}
			}
			return response{}
		}}
		bad := map[string]bulkRequest{ // by the parameter that is refused
			"streamSID":       {StreamSID: "", Data: map[string]any{}},
			"data, a string":  {StreamSID: "orders", Data: `{"a":1}`},
			"data, nil":       {StreamSID: "orders"},
			"data, a channel": {StreamSID: "orders", Data: make(chan int)},
			"data, too large": {StreamSID: "orders", Data: map[string]string{"a": strings.Repeat("a", 4096)}},
		}
		var input []bulkRequest
		refused := map[int]string{}
		for parameter, request := range bad {
			input = append(input, numbered("orders", len(input)), numbered("forbidden", len(input)+1))
			refused[len(input)] = parameter
			input = append(input, request)
		}

		results := byIndex(t, m.client(t).StreamMessages.CreateAll(t.Context(), "default", slices.Values(input), nil))

		require.Len(t, results, len(input))
		for i, request := range input {
			result := results[i]
			assert.Equal(t, request, result.Request)
			parameter, isBad := refused[i]
			switch {
			case isBad:
				var refusal *twiliosync.ParameterError
				require.ErrorAs(t, result.Err, &refusal, parameter)
				assert.True(t, strings.HasPrefix(parameter, refusal.Parameter), "%s: %v", parameter, result.Err)
				assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(result.Err))
				assert.Nil(t, result.Message)
				assert.Nil(t, result.Response)
			case request.StreamSID == "forbidden":
				assert.ErrorIs(t, result.Err, twiliosync.ErrForbidden)
				assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(result.Err))
				assert.Nil(t, result.Message)
				assert.Equal(t, 403, result.Response.StatusCode)
			default:
				require.NoError(t, result.Err)
				assert.Equal(t, "TZ1", result.Message.SID)
				assert.Equal(t, 1, result.Response.Attempts)
			}
		}
	})
}

func TestCreateAllWithNothingToDoYieldsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client := (&memory{}).client(t)
		assert.Empty(t, byIndex(t, client.StreamMessages.CreateAll(t.Context(), "default", slices.Values([]bulkRequest(nil)), nil)))
		over, cancel := context.WithCancel(t.Context())
		cancel()
		input := &watched{requests: endless(1)}
		assert.Empty(t, byIndex(t, client.StreamMessages.CreateAll(over, "default", input.seq, nil)))
		assert.Zero(t, input.pulled.Load(), "a context that is over pulls nothing")
	})
}

func TestCreateAllThatCannotBeginSaysSoOnce(t *testing.T) {
	service := (&memory{}).client(t).StreamMessages
	some := endless(1)
	for _, test := range []struct {
		name      string
		service   *twiliosync.StreamMessageService
		ctx       context.Context
		requests  iter.Seq[bulkRequest]
		opts      *twiliosync.CreateAllOptions
		parameter string
	}{
		{"a nil service", nil, t.Context(), some, nil, "client"},
		{"the service of a zero client", new(twiliosync.Client).StreamMessages, t.Context(), some, nil, "client"},
		{"a zero service", new(twiliosync.StreamMessageService), t.Context(), some, nil, "client"},
		{"a nil context", service, nil, some, nil, "ctx"},
		{"nil requests", service, t.Context(), nil, nil, "requests"},
		{"a negative concurrency", service, t.Context(), some, &twiliosync.CreateAllOptions{Concurrency: -1}, "opts"},
	} {
		t.Run(test.name, func(t *testing.T) {
			results := byIndex(t, test.service.CreateAll(test.ctx, "default", test.requests, test.opts))
			require.Len(t, results, 1)
			var refusal *twiliosync.ParameterError
			require.ErrorAs(t, results[-1].Err, &refusal)
			assert.Equal(t, test.parameter, refusal.Parameter)
			assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(results[-1].Err))
			assert.False(t, twiliosync.Retryable(results[-1].Err))
			for range test.service.CreateAll(test.ctx, "default", test.requests, test.opts) {
				break // must not panic
			}
		})
	}
}

func TestConcurrencyIsHowManyAreInFlightAtMost(t *testing.T) {
	for name, test := range map[string]struct {
		opts *twiliosync.CreateAllOptions
		want int
	}{
		"64 without options":    {nil, 64},
		"64 for zero":           {&twiliosync.CreateAllOptions{}, 64},
		"one":                   {&twiliosync.CreateAllOptions{Concurrency: 1}, 1},
		"more than the default": {&twiliosync.CreateAllOptions{Concurrency: 100}, 100},
		"more than there are":   {&twiliosync.CreateAllOptions{Concurrency: math.MaxInt32}, 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{latency: time.Second}
				input := slices.Values(slices.Collect(firstOf(endless(100), 500)))
				results := m.client(t).StreamMessages.CreateAll(t.Context(), "default", input, test.opts)
				if test.opts != nil {
					test.opts.Concurrency = 7 // too late to have an effect
				}
				start := time.Now()
				require.Len(t, byIndex(t, results), 500)
				_, peak := m.load()
				assert.Equal(t, test.want, peak)
				assert.Equal(t, time.Duration((500+test.want-1)/test.want)*time.Second, time.Since(start), "all places are used all the time")
			})
		})
	}
}

func firstOf(requests iter.Seq[bulkRequest], n int) iter.Seq[bulkRequest] {
	return func(yield func(bulkRequest) bool) {
		if n == 0 {
			return
		}
		left := n
		for request := range requests {
			if left--; !yield(request) || left == 0 {
				return
			}
		}
	}
}

func TestAHotStreamDoesNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			hot, others, each = 10_000, 1_000, 10
			places            = 64
			latency           = 100 * time.Millisecond
		)
		input := func(yield func(bulkRequest) bool) {
			for i := range hot {
				if !yield(numbered("hot", i)) {
					return
				}
			}
			for i := range others * each {
				if !yield(numbered(fmt.Sprintf("stream-%03d", i%others), i)) {
					return
				}
			}
		}
		m, epoch := &memory{latency: latency}, time.Now()
		left := others * each
		var othersTook time.Duration
		for result := range m.client(t).StreamMessages.CreateAll(t.Context(), "default", input, nil) {
			require.NoError(t, result.Err)
			if result.Index >= hot {
				if left--; left == 0 {
					othersTook = time.Since(epoch)
				}
			}
		}

		startsAt := map[time.Duration]int{}
		for _, a := range m.all() {
			startsAt[a.at.Sub(epoch)]++
		}
		ticks := 0
		for at := time.Duration(0); at < othersTook-latency; at += latency {
			ticks++
			require.Equal(t, places, startsAt[at], "messages in flight from %v on, while the others have some left", at)
		}
		starts := m.of("hot", epoch)
		require.Len(t, starts, hot)
		assert.LessOrEqual(t, mostInWindow(starts, paceWindow), paceLimit)
		hotMeanwhile, _ := slices.BinarySearch(starts, othersTook)
		full := time.Duration((others*each+hotMeanwhile+places-1)/places) * latency
		assert.LessOrEqual(t, othersTook, full, "at full concurrency")
		assert.Less(t, starts[hot-1], hot/paceLimit*(paceSlot+(paceLimit/places+1)*latency), "the hot stream goes at its own pace")
		_, peak := m.load()
		t.Logf("%d messages of %d streams took %v, %d in flight in all of %d ticks; the %d of the hot stream %v; most in flight %d",
			others*each, others, othersTook, places, ticks, hot, time.Since(epoch), peak)
	})
}

func TestA429OfOneStreamDelaysTheOthersByNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const (
			streams, rounds = 20, 300
			every           = 50 * time.Millisecond
			refusedRound    = 40
			pause           = 5 * time.Second
		)
		m, epoch := &memory{latency: 20 * time.Millisecond}, time.Now()
		refused := fmt.Sprintf(`{"n":%d}`, refusedRound)
		m.respond = func(a arrival) response {
			if a.stream == "stream-00" && a.data == refused && a.number == 1 {
				return response{status: 429, code: 54009, retryAfter: "5"}
			}
			return response{}
		}
		input := func(yield func(bulkRequest) bool) {
			for round := range rounds {
				for stream := range streams {
					if !yield(numbered(fmt.Sprintf("stream-%02d", stream), round)) {
						return
					}
				}
				time.Sleep(every)
			}
		}
		results := byIndex(t, m.client(t).StreamMessages.CreateAll(t.Context(), "default", input, &twiliosync.CreateAllOptions{Concurrency: 1000}))
		require.Len(t, results, streams*rounds)
		for _, result := range results {
			require.NoError(t, result.Err)
		}

		var undisturbed, paused []time.Duration
		refusedAt := refusedRound*every + m.latency
		for round := range rounds {
			at := time.Duration(round) * every
			undisturbed = append(undisturbed, at)
			if at > refusedAt {
				at = max(at, refusedAt+pause)
			}
			paused = append(paused, at)
		}
		paused = slices.Insert(paused, refusedRound+1, refusedAt+pause) // again
		slices.Sort(paused)
		requireTimes(t, paused, m.of("stream-00", epoch), "the refused stream pauses for its Retry-After, counted from the answer")
		for stream := 1; stream < streams; stream++ {
			requireTimes(t, undisturbed, m.of(fmt.Sprintf("stream-%02d", stream), epoch), "the others start when they are pulled")
		}
	})
}

func TestWaitsOccupyNobodysPlace(t *testing.T) {
	for name, first := range map[string]response{
		"for the next attempt after a 429":              {status: 429, code: 54009, retryAfter: "10"},
		"for the next attempt after a 503":              {status: 503, code: 20503, retryAfter: "10"},
		"for the next attempt after a failed dial":      {unsent: true},
		"for the next attempt after a long Retry-After": {status: 429, code: 20429, retryAfter: "20"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m, epoch := &memory{}, time.Now()
				m.respond = func(a arrival) response {
					if a.stream == "orders" && a.number == 1 {
						return first
					}
					return response{}
				}
				client := m.client(t, twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: 10 * time.Second}))
				var order []int
				input := slices.Values([]bulkRequest{numbered("orders", 0), numbered("invoices", 1), numbered("invoices", 2)})
				for result := range client.StreamMessages.CreateAll(t.Context(), "default", input, &twiliosync.CreateAllOptions{Concurrency: 1}) {
					require.NoError(t, result.Err)
					order = append(order, result.Index)
				}
				assert.Equal(t, []int{1, 2, 0}, order)
				assert.Equal(t, []time.Duration{0, 0}, m.of("invoices", epoch))
				assert.Len(t, m.of("orders", epoch), 2)
			})
		})
	}
}

func TestStreamsTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const each = 20
		m, epoch := &memory{latency: time.Second}, time.Now()
		m.respond = func(a arrival) response {
			if time.Since(epoch) == 0 { // both streams have to wait, and for the same time
				return response{status: 429, code: 54009, retryAfter: "5", quick: true}
			}
			return response{}
		}
		input := func(yield func(bulkRequest) bool) {
			for i, streams := range [][]string{{"a", "b"}, slices.Repeat([]string{"a"}, each-1), slices.Repeat([]string{"b"}, each-1)} {
				for j, stream := range streams {
					if !yield(numbered(stream, 100*i+j)) {
						return
					}
				}
			}
		}
		require.Len(t, byIndex(t, m.client(t).StreamMessages.CreateAll(t.Context(), "default", input, &twiliosync.CreateAllOptions{Concurrency: 1})), 2*each)
		sent := m.all()[2:]
		require.Len(t, sent, 2*each)
		for i := range each - 1 {
			assert.NotEqual(t, sent[2*i].stream, sent[2*i+1].stream, "of the requests %d and %d", 2*i, 2*i+1)
		}
	})
}

func TestAPauseCountsFromTheAnswerHoweverSlowTheLoopIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, epoch := &memory{latency: time.Second}, time.Now()
		m.respond = func(a arrival) response {
			switch {
			case a.stream == "invoices":
				return response{quick: true}
			case a.data == `{"n":0}` && a.number == 1:
				return response{status: 429, code: 54009, retryAfter: "4"}
			}
			return response{}
		}
		client := m.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow))
		var other sync.WaitGroup
		other.Go(func() {
			time.Sleep(2 * time.Second)
			assert.NoError(t, publishTo(t.Context(), client, "orders"))
		})
		input := slices.Values([]bulkRequest{numbered("orders", 0), numbered("invoices", 1)})
		for result := range client.StreamMessages.CreateAll(t.Context(), "default", input, nil) {
			require.NoError(t, result.Err)
			if result.Request.StreamSID == "invoices" {
				time.Sleep(time.Minute) // the 429 comes meanwhile
			}
		}
		other.Wait()
		assert.Equal(t, []time.Duration{0, 5 * time.Second, 5 * time.Second}, m.of("orders", epoch),
			"another call is paused, and the message is sent again, although the loop is busy")
	})
}

func TestTheInputIsPulledOnlyAsCapacityFrees(t *testing.T) {
	const concurrency, waiting = 8, 16384
	for _, test := range []struct {
		name    string
		streams int
		slow    time.Duration // what the loop does with a result
		results int
		atMost  int64 // pulled, but without a result yet
	}{
		{"while the loop is slow", 1_000_000, time.Minute, 200, concurrency + 1},
		{"while a single stream keeps its pace", 1, 0, 4 * paceLimit, concurrency + waiting},
		{"while a few streams keep their pace and the loop is slow", 3, time.Second, 100, concurrency + waiting},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{latency: 10 * time.Millisecond}
				input := &watched{requests: endless(test.streams)}
				results, most := int64(0), int64(0)
				for range m.client(t).StreamMessages.CreateAll(t.Context(), "default", input.seq, &twiliosync.CreateAllOptions{Concurrency: concurrency}) {
					results++
					time.Sleep(test.slow)
					synctest.Wait()
					most = max(most, input.pulled.Load()-results)
					if results == int64(test.results) {
						break
					}
				}
				assert.LessOrEqual(t, most, test.atMost)
				t.Logf("%d pulled and without a result at most", most)
			})
		})
	}
}

func TestResultsAreYieldedWhileTheInputBlocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const messages = 100
		queue := make(chan bulkRequest)
		input := func(yield func(bulkRequest) bool) {
			for request := range queue {
				if !yield(request) {
					return
				}
			}
		}
		m := &memory{latency: time.Second}
		go func() { queue <- numbered("orders", 0) }()
		results := 0
		for result := range m.client(t).StreamMessages.CreateAll(t.Context(), "default", input, nil) {
			require.NoError(t, result.Err)
			require.Equal(t, results, result.Index)
			if results++; results == messages {
				close(queue)
				continue
			}
			queue <- numbered("orders", results) // each message is made of the result before
		}
		assert.Equal(t, messages, results)
	})
}

// In each of these tests the bubble fails if a goroutine is left.

func TestABreakLeavesNothingBehind(t *testing.T) {
	for name, test := range map[string]struct {
		requests iter.Seq[bulkRequest]
		after    int // results
	}{
		"an endless input":                     {endless(1000), 1},
		"an endless input, after many results": {endless(1000), 5000},
		"an endless input of a single stream":  {endless(1), 400},
		"an endless input of refused messages": {func(yield func(bulkRequest) bool) {
			for yield(bulkRequest{}) {
			}
		}, 100},
		"an input that has ended":              {firstOf(endless(10), 100), 50},
		"an input that has ended, at its last": {firstOf(endless(10), 100), 100},
		"messages that wait to be sent again":  {throttledInput, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{latency: time.Second, respond: throttledStreams}
				input := &watched{requests: test.requests}
				results := 0
				var broke time.Time
				for range m.client(t).StreamMessages.CreateAll(t.Context(), "default", input.seq, nil) {
					if results++; results == test.after {
						broke = time.Now()
						break
					}
				}
				assert.Equal(t, test.after, results)
				assert.Zero(t, time.Since(broke), "it doesn't wait for the answers")
				inFlight, _ := m.load()
				assert.Zero(t, inFlight, "requests")
				assert.True(t, input.ended.Load(), "the input's cleanup has run")
			})
		})
	}
}

// throttledInput makes two of three messages wait for their next attempt.
func throttledInput(yield func(bulkRequest) bool) {
	for i := 0; yield(numbered([]string{"throttled", "throttled too", "orders"}[i%3], i)); i++ {
	}
}

func throttledStreams(a arrival) response {
	if strings.HasPrefix(a.stream, "throttled") {
		return response{status: 429, code: 54009, retryAfter: "15", quick: true}
	}
	return response{}
}

func TestABreakLeavesABlockedInputToItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		queue := make(chan bulkRequest)
		wanted := true
		input := &watched{requests: func(yield func(bulkRequest) bool) {
			for request := range queue {
				if wanted = yield(request); !wanted {
					return
				}
			}
		}}
		go func() { queue <- numbered("orders", 0) }()
		start := time.Now()
		for range (&memory{}).client(t).StreamMessages.CreateAll(t.Context(), "default", input.seq, nil) {
			break
		}
		assert.Equal(t, time.Second, time.Since(start), "it waits a second for it")
		assert.False(t, input.ended.Load())
		queue <- numbered("orders", 1)
		synctest.Wait()
		assert.False(t, wanted, "the next yield tells the input to end")
		assert.True(t, input.ended.Load())
	})
}

func TestACancelYieldsWhatWasPulledWithItsOutcome(t *testing.T) {
	errShutdown := errors.New("shutting down")
	pulled := []bulkRequest{
		numbered("throttled", 0), // waits for its next attempt
		numbered("lost", 1),      // waits for its second answer; the first was lost
		numbered("hot", 2), numbered("hot", 3),
		numbered("hot", 4), numbered("hot", 5), // wait for the pace
		numbered("orders", 6),
		numbered("dialing", 7),
	}
	outcomes := map[int]twiliosync.Outcome{
		0: twiliosync.OutcomeRejected,
		1: twiliosync.OutcomeUnknown,
		2: twiliosync.OutcomeUnknown, 3: twiliosync.OutcomeUnknown,
		4: twiliosync.OutcomeNotSent, 5: twiliosync.OutcomeNotSent,
		6: twiliosync.OutcomeUnknown,
		7: twiliosync.OutcomeNotSent,
	}
	type ending struct {
		name  string
		ctx   func(context.Context) (context.Context, context.CancelFunc)
		match []error
	}
	endings := []ending{
		{"a cancel", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			time.AfterFunc(time.Second, func() { cancel(errShutdown) })
			return ctx, func() { cancel(nil) }
		}, []error{context.Canceled}},
		{"a deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Second)
		}, []error{context.DeadlineExceeded}},
	}
	blocked := func(release chan struct{}) iter.Seq[bulkRequest] {
		return func(yield func(bulkRequest) bool) {
			for _, request := range pulled {
				if !yield(request) {
					return
				}
			}
			<-release
			yield(numbered("never pulled", 8))
		}
	}
	for _, end := range endings {
		for _, test := range []struct {
			name     string
			requests func(release chan struct{}) iter.Seq[bulkRequest]
			places   int
			took     time.Duration
		}{
			{"an input that has ended", func(chan struct{}) iter.Seq[bulkRequest] { return slices.Values(pulled) }, 64, time.Second},
			{"an endless input, with all places taken", func(chan struct{}) iter.Seq[bulkRequest] {
				return func(yield func(bulkRequest) bool) {
					for _, request := range pulled {
						if !yield(request) {
							return
						}
					}
					endless(1)(yield)
				}
			}, 4, time.Second},
			{"an input that blocks", blocked, 64, 2 * time.Second},
		} {
			t.Run(end.name+" with "+test.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					m := &memory{latency: time.Hour, respond: func(a arrival) response {
						switch a.stream {
						case "lost":
							return response{quick: a.number == 1, lost: a.number == 1}
						case "dialing":
							return response{dialing: true}
						}
						return throttledStreams(a)
					}}
					client := m.client(t, twiliosync.WithStreamRateLimit(2, paceWindow), twiliosync.WithTimeout(0),
						twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{AtLeastOnce: true, BaseDelay: time.Nanosecond}))
					ctx, cancel := end.ctx(t.Context())
					defer cancel()
					release := make(chan struct{})
					input := &watched{requests: test.requests(release)}
					start := time.Now()
					results := byIndex(t, client.StreamMessages.CreateAll(ctx, "default", input.seq, &twiliosync.CreateAllOptions{Concurrency: test.places}))
					assert.Equal(t, test.took, time.Since(start))
					assert.EqualValues(t, len(pulled), input.pulled.Load())
					require.Len(t, results, len(pulled))
					hot := []int{2, 3, 4, 5} // which of these start first is up to the workers that encode them
					slices.SortStableFunc(hot, func(a, b int) int {
						return cmp.Compare(twiliosync.OutcomeOf(results[a].Err), twiliosync.OutcomeOf(results[b].Err))
					})
					for i, request := range pulled {
						err := results[which(i, hot)].Err
						assert.Equal(t, outcomes[i], twiliosync.OutcomeOf(err), "%s: %v", request.StreamSID, err)
						if request.StreamSID == "throttled" && end.name == "a deadline" {
							continue // it was yielded at once, since the next attempt would come after the deadline
						}
						for _, match := range end.match {
							assert.ErrorIs(t, err, match, request.StreamSID)
						}
						assert.NotErrorIs(t, err, errShutdown, "the cause may be about anything")
						assert.Equal(t, outcomes[i] != twiliosync.OutcomeUnknown, twiliosync.Retryable(err), "%s: %v", request.StreamSID, err)
					}
					assert.ErrorIs(t, results[0].Err, twiliosync.ErrRateLimited, "the last answer is not forgotten")
					inFlight, _ := m.load()
					assert.Zero(t, inFlight)
					close(release)
					synctest.Wait()
					assert.True(t, input.ended.Load())
				})
			})
		}
	}
}

func TestACancelStartsNothingMore(t *testing.T) {
	t.Parallel()
	for seed := range 20 {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(seed), 0))
			m, epoch := &memory{latency: time.Duration(random.IntN(3)) * time.Millisecond}, time.Now()
			m.respond = func(a arrival) response {
				if time.Since(epoch) == 0 && a.number == 1 { // so that many are ready at the same time
					return response{status: 429, code: 54009, retryAfter: "1", quick: true}
				}
				return response{}
			}
			var attempts atomic.Int64
			client := m.client(t, twiliosync.WithObserver(func(context.Context, twiliosync.Attempt) { attempts.Add(1) }))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			input := &watched{requests: firstOf(endless(100), 500)}
			after, results, sent := 1+random.IntN(300), 0, 0
			for range client.StreamMessages.CreateAll(ctx, "default", input.seq, &twiliosync.CreateAllOptions{Concurrency: 1 + random.IntN(64)}) {
				if results++; results == after {
					synctest.Wait() // what has started is on its way
					sent = len(m.all())
					cancel()
				}
			}
			assert.EqualValues(t, input.pulled.Load(), results, "each that was pulled has a result")
			assert.Len(t, m.all(), sent, "no request after the cancel")
			assert.EqualValues(t, sent, attempts.Load(), "nor an attempt")
		})
	}
}

func TestACancelWhileTheLoopIsBusyEndsARetryThatWasDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Second, respond: func(a arrival) response {
			if a.stream == "invoices" {
				return response{quick: true}
			}
			return response{status: 429, code: 54009, retryAfter: "20"}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		input := slices.Values([]bulkRequest{numbered("orders", 0), numbered("invoices", 1)})
		var last error
		for result := range m.client(t).StreamMessages.CreateAll(ctx, "default", input, nil) {
			if last = result.Err; result.Index == 1 {
				time.Sleep(30 * time.Second) // two 429s come meanwhile
				cancel()
			}
		}
		assert.ErrorIs(t, last, context.Canceled)
		assert.ErrorIs(t, last, twiliosync.ErrRateLimited)
		assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(last))
		assert.Len(t, m.all(), 3)
	})
}

func TestACancelDuringAuthenticationSendsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	transport := &counting{change: func(string, int) { t.Error("the transport was asked") }} // it would panic then
	client, err := twiliosync.NewClient(slowAuth(cancel), twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
	require.NoError(t, err)
	results := byIndex(t, client.StreamMessages.CreateAll(ctx, "default", firstOf(endless(1), 1), nil))
	require.Len(t, results, 1)
	assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(results[0].Err))
	assert.ErrorIs(t, results[0].Err, context.Canceled)
}

// slowAuth is an Authenticator that the context doesn't outlive.
type slowAuth context.CancelFunc

func (cancel slowAuth) Authenticate(context.Context, *http.Request) error {
	cancel()
	return nil
}

func TestOrderedSendsTheMessagesOfAStreamOneAfterAnother(t *testing.T) {
	for _, ordered := range []bool{true, false} {
		t.Run(fmt.Sprint(ordered), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				const streams, messages = 7, 700
				var mu sync.Mutex
				inFlight := map[string]int{}
				overlaps := 0
				random := rand.New(rand.NewPCG(1, 2))
				m := &memory{latency: 30 * time.Millisecond}
				m.respond = func(a arrival) response {
					mu.Lock()
					defer mu.Unlock()
					switch random.IntN(20) {
					case 0:
						return response{status: 429, code: 54009, retryAfter: "1"}
					case 1:
						return response{status: 429, code: 54009, quick: true}
					case 2:
						return response{unsent: true}
					case 3:
						return response{lost: true}
					}
					return response{quick: random.IntN(2) == 0}
				}
				count := &counting{next: m, change: func(stream string, by int) {
					mu.Lock()
					defer mu.Unlock()
					inFlight[stream] += by
					if inFlight[stream] > 1 {
						overlaps++
					}
				}}
				client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret),
					twiliosync.WithHTTPClient(&http.Client{Transport: count}), twiliosync.WithStreamRateLimit(20, time.Second),
					twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 5, AtLeastOnce: true}))
				require.NoError(t, err)
				results := byIndex(t, client.StreamMessages.CreateAll(t.Context(), "default", firstOf(endless(streams), messages), &twiliosync.CreateAllOptions{Ordered: ordered}))
				require.Len(t, results, messages)

				again, disorder := 0, 0
				last := map[string]int{}
				for _, a := range m.all() {
					var message struct{ N int }
					require.NoError(t, json.Unmarshal([]byte(a.data), &message))
					if a.number > 1 {
						again++
					}
					if message.N < last[a.stream] {
						disorder++
					}
					last[a.stream] = message.N
				}
				assert.Greater(t, again, 50, "else this tries nothing")
				if ordered {
					assert.Zero(t, overlaps, "in flight beside another of their stream")
					assert.Zero(t, disorder, "sent after a later one")
				} else {
					assert.NotZero(t, overlaps, "else the test above could not fail")
					assert.NotZero(t, disorder)
				}
			})
		})
	}
}

// counting tells when requests of a stream begin and end.
type counting struct {
	next   http.RoundTripper
	change func(stream string, by int)
}

func (c *counting) RoundTrip(req *http.Request) (*http.Response, error) {
	stream := streamOf(req)
	c.change(stream, 1)
	defer c.change(stream, -1)
	return c.next.RoundTrip(req)
}

// explosive panics where it is told to.
type explosive struct{ at string }

func (e explosive) MarshalJSON() ([]byte, error) { panic(e.at) }

func (e explosive) Authenticate(_ context.Context, req *http.Request) error {
	if streamOf(req) == "panic" {
		panic(e.at)
	}
	return nil
}

func TestAPanicReachesTheLoopAfterAllIsCleanedUp(t *testing.T) {
	const bang = "bang"
	good := firstOf(endless(10), 30)
	then := func(last func(yield func(bulkRequest) bool)) iter.Seq[bulkRequest] {
		return func(yield func(bulkRequest) bool) {
			for request := range good {
				if !yield(request) {
					return
				}
			}
			last(yield)
		}
	}
	for _, test := range []struct {
		name     string
		requests iter.Seq[bulkRequest]
		auth     twiliosync.Authenticator
		body     func(bulkResult) bool // says whether to go on
	}{
		{name: "in the input", requests: then(func(func(bulkRequest) bool) { panic(bang) })},
		{name: "in the input before its first", requests: func(func(bulkRequest) bool) { panic(bang) }},
		{name: "in the input's cleanup after a break", requests: func(yield func(bulkRequest) bool) {
			defer panic(bang)
			endless(10)(yield)
		}, body: func(bulkResult) bool { return false }},
		{name: "in an encoder of data", requests: then(func(yield func(bulkRequest) bool) {
			yield(bulkRequest{StreamSID: "orders", Data: explosive{bang}})
		})},
		{name: "in the Authenticator", auth: explosive{bang}, requests: then(func(yield func(bulkRequest) bool) {
			yield(numbered("panic", 0))
		})},
		{name: "in the loop's body", requests: endless(10), body: func(bulkResult) bool { panic(bang) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{latency: time.Second}
				if test.auth == nil {
					test.auth = twiliosync.BasicAuth(testUser, testSecret)
				}
				client, err := twiliosync.NewClient(test.auth, twiliosync.WithHTTPClient(&http.Client{Transport: m}))
				require.NoError(t, err)
				input := &watched{requests: test.requests}
				assert.PanicsWithValue(t, bang, func() {
					for result := range client.StreamMessages.CreateAll(t.Context(), "default", input.seq, nil) {
						if test.body != nil && !test.body(result) {
							break
						}
					}
				})
				inFlight, _ := m.load()
				assert.Zero(t, inFlight, "requests")
				assert.True(t, input.ended.Load(), "the input's cleanup has run")
			})
		})
	}
}

func TestAnEndOfTheLoopsGoroutineCleansUpToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Second}
		input := &watched{requests: endless(10)}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range m.client(t).StreamMessages.CreateAll(t.Context(), "default", input.seq, nil) {
				runtime.Goexit() // as t.FailNow does
			}
		}()
		<-done
		inFlight, _ := m.load()
		assert.Zero(t, inFlight)
		assert.True(t, input.ended.Load())
	})
}

func TestResultsCanBeRangedTwice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		results := m.client(t).StreamMessages.CreateAll(t.Context(), "default", firstOf(endless(3), 50), nil)
		assert.Empty(t, m.all(), "nothing is sent before the loop")
		for range 2 {
			require.Len(t, byIndex(t, results), 50)
		}
		assert.Len(t, m.all(), 100)
	})
}

func TestConcurrentCallsShareTheRateOfAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newStartLog()
		client := log.client(t, twiliosync.WithStreamRateLimit(paceLimit, paceWindow))
		var running sync.WaitGroup
		for range 3 {
			running.Go(func() {
				for range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("orders", 700), nil) {
				}
			})
		}
		for range 500 {
			running.Go(func() { publishTo(t.Context(), client, "orders") })
		}
		running.Wait()
		starts := log.of("orders")
		require.Len(t, starts, 3*700+500)
		requireTimes(t, sliding(make([]time.Duration, len(starts)), paceLimit, paceWindow), starts, "all together")
	})
}

var bulkFull = flag.Bool("bulk.full", false, "publish 100,000 messages to 2,000 streams against the fake, in place of 20,000 to 400")

// TestCreateAllAgainstAFaultyService compares what CreateAll says of each message
// with what the service recorded.
func TestCreateAllAgainstAFaultyService(t *testing.T) {
	t.Parallel()
	messages, streams := 20_000, 400
	if *bulkFull {
		messages, streams = 100_000, 2_000
	}
	for _, test := range []struct {
		name              string
		messages, streams int
		opts              *twiliosync.CreateAllOptions
	}{
		{"at any order", messages, streams, &twiliosync.CreateAllOptions{Concurrency: 200}},
		{"ordered", messages / 20, streams / 20, &twiliosync.CreateAllOptions{Ordered: true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { faultyService(t, test.messages, test.streams, test.opts) })
		})
	}
}

func faultyService(t *testing.T, messages, streams int, opts *twiliosync.CreateAllOptions) {
	srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreamRateLimit(paceLimit, paceWindow))
	script := &seededScript{seed: 7}
	// In permille of the requests. The message is always handled at once: a delay before that would be a jitter of the
	// network, which can bring more than 300 messages into a window of the service.
	script.line(300, srv.Every().AfterHandling()).Delay(40 * time.Millisecond)
	script.line(300, srv.Every().AfterHandling()).Delay(90 * time.Millisecond)
	script.line(10, srv.Every()).Answer(429, 54009)
	script.line(10, srv.Every().WithHeader("Retry-After", "2")).Answer(429, 54009)
	script.line(10, srv.Every()).Answer(429, 20429)
	script.line(10, srv.Every().WithHeader("Retry-After", "1")).Answer(503, 20503)
	script.line(10, srv.Every()).Reset()
	script.line(10, srv.Every()).LoseAnswer()
	script.line(5, srv.Every()).CutHeader()
	script.line(5, srv.Every()).CutBody()
	script.line(5, srv.Every().AfterHandling()).Answer(500, 20500)
	script.line(5, srv.Every()).Answer(500, 20500)
	script.line(3, srv.Every()).NeverAnswer()
	script.line(2, srv.Every()).Answer(403, 54056)

	input := func(yield func(bulkRequest) bool) {
		random := rand.New(rand.NewPCG(3, 4))
		for i := range messages {
			stream := random.IntN(streams)
			if random.IntN(10) < 3 {
				stream = random.IntN(3) // hot ones
			}
			if !yield(numbered(fmt.Sprintf("stream-%04d", stream), i)) {
				return
			}
		}
	}
	client := srv.Client()
	start := time.Now()
	results := byIndex(t, client.StreamMessages.CreateAll(t.Context(), "default", input, opts))
	took := time.Since(start)
	client.CloseIdleConnections()

	require.Len(t, results, messages, "results")
	recorded := map[string][]string{} // SIDs by data
	record := 0
	for stream := range streams {
		for _, message := range srv.Messages(fmt.Sprintf("stream-%04d", stream)) {
			recorded[string(message.Data)] = append(recorded[string(message.Data)], message.SID)
			record++
		}
	}
	outcomes := map[twiliosync.Outcome]int{}
	unknownHandled, withoutAnswer, duplicates := 0, 0, 0
	for _, result := range results {
		outcome := twiliosync.OutcomeOf(result.Err)
		outcomes[outcome]++
		sids := recorded[string(result.Request.Data.(json.RawMessage))]
		if len(sids) > 1 {
			duplicates++
		}
		switch outcome {
		case twiliosync.OutcomeAccepted:
			if assert.Len(t, sids, 1, "message %d is accepted", result.Index) && result.Err == nil {
				assert.Equal(t, sids[0], result.Message.SID)
			}
			if result.Err != nil {
				withoutAnswer++
			}
		case twiliosync.OutcomeUnknown:
			unknownHandled += len(sids)
		default:
			assert.Empty(t, sids, "message %d: %v", result.Index, result.Err)
		}
	}
	assert.Zero(t, duplicates, "duplicates")
	assert.Equal(t, outcomes[twiliosync.OutcomeAccepted]+unknownHandled, record, "the record is what was accepted and the unknown that were handled")
	for _, outcome := range []twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeRejected, twiliosync.OutcomeAccepted} {
		assert.NotZero(t, outcomes[outcome], "else the script tries nothing: %v", outcome)
	}
	assert.NotZero(t, withoutAnswer)

	throttled := 0
	requests := srv.Requests()
	for _, request := range requests {
		if request.Status == 429 {
			throttled++
		}
	}
	assert.EqualValues(t, script.played(2, 3, 4), throttled, "no 429 but those of the script: the pace is kept")
	t.Logf("%d messages to %d streams: %d requests (%d throttled) in %v of virtual time; accepted %d (%d without a readable answer), unknown %d (%d of them recorded), rejected %d, not sent %d; recorded %d, duplicates %d",
		messages, streams, len(requests), throttled, took.Round(time.Millisecond), outcomes[twiliosync.OutcomeAccepted], withoutAnswer,
		outcomes[twiliosync.OutcomeUnknown], unknownHandled, outcomes[twiliosync.OutcomeRejected], outcomes[twiliosync.OutcomeNotSent], record, duplicates)
}

// seededScript deals faults out by chance: each request draws a number of its
// seed, data and time, and each line takes a range of the numbers.
type seededScript struct {
	seed  int64
	taken uint32
	hits  []*atomic.Int64 // by line
}

func (s *seededScript) line(permille uint32, fault twiliosynctest.Fault) twiliosynctest.Fault {
	from, to := s.taken, s.taken+permille
	s.taken = to
	hits := new(atomic.Int64)
	s.hits = append(s.hits, hits)
	return fault.Matching(func(r twiliosynctest.Request) bool {
		sum := fnv.New32a()
		sum.Write(binary.AppendVarint(r.Data[:len(r.Data):len(r.Data)], s.seed^r.Time.UnixNano()))
		drawn := sum.Sum32() >> 8 % 1000
		if drawn < from || drawn >= to {
			return false
		}
		hits.Add(1)
		return true
	})
}

func (s *seededScript) played(lines ...int) (requests int64) {
	for _, line := range lines {
		requests += s.hits[line].Load()
	}
	return requests
}

// which returns the message that stands for the one at i: of the hot ones, that with the outcome that is due.
func which(i int, hot []int) int {
	if i >= 2 && i-2 < len(hot) {
		return hot[i-2]
	}
	return i
}
