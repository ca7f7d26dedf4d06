package twiliosync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// collected are the results of a Publisher.
type collected struct {
	mu      sync.Mutex
	results map[int]bulkResult
	twice   int
	order   []int
}

func (c *collected) add(result bulkResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.results == nil {
		c.results = map[int]bulkResult{}
	}
	if _, there := c.results[result.Index]; there {
		c.twice++
	}
	c.results[result.Index] = result
	c.order = append(c.order, result.Index)
}

func (c *collected) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.results)
}

// outcomes counts the results.
func (c *collected) outcomes() map[twiliosync.Outcome]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := map[twiliosync.Outcome]int{}
	for _, result := range c.results {
		counts[twiliosync.OutcomeOf(result.Err)]++
	}
	return counts
}

func newPublisher(t testing.TB, client *twiliosync.Client, onResult func(bulkResult), opts *twiliosync.PublisherOptions) *twiliosync.Publisher {
	t.Helper()
	publisher, err := client.StreamMessages.NewPublisher("default", onResult, opts)
	require.NoError(t, err)
	return publisher
}

func publishN(t testing.TB, publisher *twiliosync.Publisher, stream string, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		require.NoError(t, publisher.Publish(t.Context(), numbered(stream, i)))
	}
}

func TestEveryMessageThatAPublisherTookHasOneResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: 20 * time.Millisecond}
		var got collected
		publisher := newPublisher(t, m.client(t), got.add, nil)
		start := time.Now()
		var running sync.WaitGroup
		for g := range 8 {
			running.Go(func() { publishN(t, publisher, fmt.Sprint("stream-", g), 0, 250) })
		}
		running.Wait()
		assert.Zero(t, time.Since(start), "Publish waits for nothing")
		require.NoError(t, publisher.Flush(t.Context()))
		assert.Equal(t, 2000, got.len())
		publishN(t, publisher, "stream-0", 250, 260)
		require.NoError(t, publisher.Close(t.Context()))
		require.NoError(t, publisher.Close(t.Context()), "closing again is nil")
		assert.Equal(t, 2010, got.len())
		assert.Zero(t, got.twice)
		assert.Equal(t, map[twiliosync.Outcome]int{twiliosync.OutcomeAccepted: 2010}, got.outcomes())
		for i := range 2010 {
			assert.Contains(t, got.results, i, "the index counts what was taken, from 0")
		}
		err := publisher.Publish(t.Context(), numbered("stream-0", 1))
		assert.ErrorIs(t, err, twiliosync.ErrClosed)
		assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
		assert.False(t, twiliosync.Retryable(err))
	})
}

func TestAPublisherTakesNothingBad(t *testing.T) {
	server := &recorder{answer: answer(http.StatusCreated, testAnswer)}
	tr := &tracer{}
	client := clientOf(t, server, twiliosync.BasicAuth(testUser, testSecret), twiliosync.WithTracer(tr))
	publisher := newPublisher(t, client, func(bulkResult) { t.Error("nothing was taken") }, nil)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, test := range map[string]struct {
		publisher *twiliosync.Publisher
		ctx       context.Context
		request   bulkRequest
		parameter string
	}{
		"a nil Publisher":  {nil, context.Background(), numbered("orders", 1), "publisher"},
		"a zero Publisher": {&twiliosync.Publisher{}, context.Background(), numbered("orders", 1), "publisher"},
		"no context":       {publisher, nil, numbered("orders", 1), "ctx"},
		"no stream":        {publisher, context.Background(), bulkRequest{Data: json.RawMessage(`{}`)}, "streamSID"},
		"a text":           {publisher, context.Background(), bulkRequest{StreamSID: "orders", Data: "text"}, "data"},
		"an ended context": {publisher, cancelled, numbered("orders", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.publisher.Publish(test.ctx, test.request)
			assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
			if test.parameter != "" {
				assert.Equal(t, test.parameter, refusedParameter(t, err).Parameter)
			} else {
				assert.ErrorIs(t, err, context.Canceled)
			}
		})
	}
	require.NoError(t, publisher.Close(context.Background()))
	tr.requireBalance(t)
	assert.Len(t, tr.calls, 3)

	for name, build := range map[string]func() (*twiliosync.Publisher, error){
		"client": func() (*twiliosync.Publisher, error) {
			return (&twiliosync.StreamMessageService{}).NewPublisher("default", func(bulkResult) {}, nil)
		},
		"serviceSID": func() (*twiliosync.Publisher, error) {
			return client.StreamMessages.NewPublisher("", func(bulkResult) {}, nil)
		},
		"onResult": func() (*twiliosync.Publisher, error) { return client.StreamMessages.NewPublisher("default", nil, nil) },
		"opts": func() (*twiliosync.Publisher, error) {
			return client.StreamMessages.NewPublisher("default", func(bulkResult) {}, &twiliosync.PublisherOptions{Buffer: -1})
		},
	} {
		_, err := build()
		assert.Equal(t, name, refusedParameter(t, err).Parameter)
	}
}

func TestOverflow(t *testing.T) {
	t.Parallel()
	full := func(t *testing.T, overflow twiliosync.Overflow, test func(t *testing.T, m *memory, publisher *twiliosync.Publisher, got *collected)) {
		synctest.Test(t, func(t *testing.T) {
			m := &memory{latency: time.Second}
			got := &collected{}
			publisher := newPublisher(t, m.client(t), got.add, &twiliosync.PublisherOptions{Buffer: 3, Concurrency: 2, Overflow: overflow, DrainTimeout: time.Minute})
			publishN(t, publisher, "orders", 0, 2)
			synctest.Wait() // these are in flight
			publishN(t, publisher, "orders", 2, 5)
			test(t, m, publisher, got)
			require.NoError(t, publisher.Close(t.Context()))
		})
	}
	t.Run("block: Publish waits for room, first come, first served", func(t *testing.T) {
		full(t, twiliosync.OverflowBlock, func(t *testing.T, _ *memory, publisher *twiliosync.Publisher, got *collected) {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			err := publisher.Publish(ctx, numbered("orders", 5))
			assert.ErrorIs(t, err, context.DeadlineExceeded)
			assert.True(t, twiliosync.Retryable(err))
			publishN(t, publisher, "orders", 6, 10)
			assert.Equal(t, 2*time.Second, time.Since(start))
			require.NoError(t, publisher.Flush(t.Context()))
			assert.Equal(t, 9, got.len())
		})
	})
	t.Run("refuse: ErrBufferFull at once", func(t *testing.T) {
		full(t, twiliosync.OverflowRefuse, func(t *testing.T, _ *memory, publisher *twiliosync.Publisher, got *collected) {
			start := time.Now()
			err := publisher.Publish(t.Context(), numbered("orders", 5))
			assert.ErrorIs(t, err, twiliosync.ErrBufferFull)
			assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
			assert.True(t, twiliosync.Retryable(err))
			assert.Zero(t, time.Since(start))
			require.NoError(t, publisher.Flush(t.Context()))
			assert.Equal(t, 5, got.len())
		})
	})
	t.Run("drop the oldest: it ends not sent", func(t *testing.T) {
		full(t, twiliosync.OverflowDropOldest, func(t *testing.T, m *memory, publisher *twiliosync.Publisher, got *collected) {
			publishN(t, publisher, "orders", 5, 7)
			require.NoError(t, publisher.Flush(t.Context()))
			assert.Equal(t, 7, got.len())
			for i := range 7 {
				if dropped := i == 2 || i == 3; dropped {
					assert.ErrorIs(t, got.results[i].Err, twiliosync.ErrDropped)
					assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(got.results[i].Err))
				} else {
					assert.NoError(t, got.results[i].Err)
				}
			}
			assert.Len(t, m.all(), 5)
		})
	})
}

func TestFromInsideOnResultPublishNeverWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Second}
		var publisher *twiliosync.Publisher
		var errs []error
		var flushed, closed error
		publisher = newPublisher(t, m.client(t), func(result bulkResult) {
			if result.Index == 0 {
				for i := range 5 {
					errs = append(errs, publisher.Publish(context.Background(), numbered("orders", 100+i)))
				}
				flushed, closed = publisher.Flush(context.Background()), publisher.Close(context.Background())
			}
		}, &twiliosync.PublisherOptions{Buffer: 3, Concurrency: 1})
		publishN(t, publisher, "orders", 0, 1)
		require.NoError(t, publisher.Flush(t.Context()))
		assert.NoError(t, errs[0])
		assert.ErrorIs(t, errs[4], twiliosync.ErrBufferFull)
		assert.ErrorContains(t, flushed, "onResult")
		assert.ErrorContains(t, closed, "onResult")
		require.NoError(t, publisher.Close(t.Context()))
	})
}

func TestLatestOnlyPublishesTheNewestStateAtThePaceOfTheStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: 5 * time.Millisecond}
		m.respond = func(a arrival) response {
			if a.number == 1 && strings.HasSuffix(a.data, "77}") {
				return response{status: 429, code: 54009}
			}
			return response{}
		}
		var got collected
		publisher := newPublisher(t, m.client(t), got.add, &twiliosync.PublisherOptions{LatestOnly: true})
		const updates = 60_000
		for i := range updates { // 1,000 a second for a minute
			require.NoError(t, publisher.Publish(t.Context(), numbered("cursor", i)))
			time.Sleep(time.Millisecond)
		}
		require.NoError(t, publisher.Close(t.Context()))
		require.Equal(t, updates, got.len())
		assert.Zero(t, got.twice)
		var starts []time.Duration
		last := -1
		for _, a := range m.all() {
			starts = append(starts, time.Duration(a.at.UnixNano()))
			var message struct{ N int }
			require.NoError(t, json.Unmarshal([]byte(a.data), &message))
			require.GreaterOrEqual(t, message.N, last, "none out of order")
			last = message.N
		}
		assert.Equal(t, updates-1, last, "the last update is always published")
		assert.LessOrEqual(t, mostInWindow(starts, paceWindow), paceLimit)
		assert.NoError(t, got.results[updates-1].Err)
		published := 0
		for _, result := range got.results {
			if result.Err == nil {
				published++
				continue
			}
			require.ErrorIs(t, result.Err, twiliosync.ErrDropped)
		}
		assert.Greater(t, published, 5*paceLimit)
	})
}

func TestLatestOnlyDropsWhatWouldBeSentAgainWhenThereIsANewerState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Second, respond: func(a arrival) response {
			if a.data == `{"n":0}` {
				return response{status: 429, code: 54009, retryAfter: "5"}
			}
			return response{quick: true}
		}}
		var got collected
		publisher := newPublisher(t, m.client(t), got.add, &twiliosync.PublisherOptions{LatestOnly: true})
		publishN(t, publisher, "cursor", 0, 1)
		synctest.Wait() // it is in flight
		publishN(t, publisher, "cursor", 1, 2)
		require.NoError(t, publisher.Close(t.Context()))
		assert.ErrorIs(t, got.results[0].Err, twiliosync.ErrDropped)
		assert.ErrorIs(t, got.results[0].Err, twiliosync.ErrRateLimited)
		assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(got.results[0].Err), "that of its attempt")
		assert.NoError(t, got.results[1].Err)
		assert.Len(t, m.all(), 2)
	})
}

func TestCloseByDeadline(t *testing.T) {
	for _, test := range []struct {
		name    string
		drain   time.Duration
		took    time.Duration
		unknown int
	}{
		{"what is in flight has its time", 10 * time.Second, 3 * time.Second, 0},
		{"then it is cancelled", time.Second, 2 * time.Second, 2},
		{"without a DrainTimeout at once", 0, time.Second, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{latency: 3 * time.Second}
				var got collected
				publisher := newPublisher(t, m.client(t), got.add, &twiliosync.PublisherOptions{Concurrency: 2, DrainTimeout: test.drain})
				publishN(t, publisher, "orders", 0, 100)
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				assert.Equal(t, context.DeadlineExceeded, publisher.Close(ctx))
				assert.Equal(t, test.took, time.Since(start))
				assert.Equal(t, 100, got.len())
				assert.Equal(t, test.unknown, got.outcomes()[twiliosync.OutcomeUnknown])
				assert.Equal(t, 98, got.outcomes()[twiliosync.OutcomeNotSent])
				for _, result := range got.results {
					if result.Err != nil {
						assert.ErrorIs(t, result.Err, context.DeadlineExceeded)
					}
				}
			})
		})
	}
}

func TestOnResultMayPanicOrEndItsGoroutine(t *testing.T) {
	for name, misbehave := range map[string]func(){"panic": func() { panic("bang") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := &memory{}
				var got collected
				var log strings.Builder
				client := m.client(t, twiliosync.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
				publisher := newPublisher(t, client, func(result bulkResult) {
					got.add(result)
					misbehave()
				}, nil)
				publishN(t, publisher, "orders", 0, 50)
				require.NoError(t, publisher.Close(t.Context()))
				assert.Equal(t, 50, got.len())
				assert.Zero(t, got.twice)
				assert.Equal(t, name == "panic", strings.Contains(log.String(), "bang"))
			})
		})
	}
}

func TestAPanicWhileAMessageIsPublishedIsItsResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		client, err := twiliosync.NewClient(explosive{"bang"}, twiliosync.WithHTTPClient(&http.Client{Transport: &memory{}}),
			twiliosync.WithLogger(slog.New(slog.NewTextHandler(&log, nil))))
		require.NoError(t, err)
		var got collected
		publisher := newPublisher(t, client, got.add, nil)
		publishN(t, publisher, "panic", 0, 1)
		publishN(t, publisher, "orders", 1, 2)
		require.NoError(t, publisher.Close(t.Context()))
		assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(got.results[0].Err), "who knows what the panic left behind")
		assert.NoError(t, got.results[1].Err)
		assert.Contains(t, log.String(), "bang")
	})
}

func TestTheValuesOfPublishsContextAreTheMessages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type key struct{}
		var seen any
		m := &memory{latency: time.Second}
		client := m.client(t, twiliosync.WithObserver(func(ctx context.Context, _ twiliosync.Attempt) { seen = ctx.Value(key{}) }))
		var got collected
		publisher := newPublisher(t, client, got.add, nil)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "the user"))
		require.NoError(t, publisher.Publish(ctx, numbered("orders", 1)))
		cancel() // of no effect on what was taken
		require.NoError(t, publisher.Close(t.Context()))
		assert.Equal(t, "the user", seen)
		assert.NoError(t, got.results[0].Err)
	})
}

func TestOrderedPublishersKeepTheOrderOfEachGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		random := rand.New(rand.NewPCG(5, 6))
		var mu sync.Mutex
		m := &memory{latency: 10 * time.Millisecond, respond: func(arrival) response {
			mu.Lock()
			defer mu.Unlock()
			if random.IntN(10) == 0 {
				return response{status: 429, code: 54009}
			}
			return response{quick: random.IntN(2) == 0}
		}}
		var got collected
		publisher := newPublisher(t, m.client(t), got.add, &twiliosync.PublisherOptions{Ordered: true})
		publishN(t, publisher, "orders", 0, 200)
		require.NoError(t, publisher.Close(t.Context()))
		last := -1
		for _, a := range m.all() {
			var message struct{ N int }
			require.NoError(t, json.Unmarshal([]byte(a.data), &message))
			require.GreaterOrEqual(t, message.N, last)
			last = message.N
		}
	})
}

// TestPublisherAgainstAFaultyService publishes from many goroutines, closes in
// the middle, and compares the results with what the service recorded.
func TestPublisherAgainstAFaultyService(t *testing.T) {
	rounds, goroutines, each, upTo := 12, 16, 60, 20
	if *bulkFull {
		rounds, goroutines, each, upTo = 100, 64, 10_000, 1000
	}
	before := runtime.NumGoroutine()
	for round := range rounds {
		random := rand.New(rand.NewPCG(uint64(round), 9))
		srv := twiliosynctest.NewServer(t)
		script := &seededScript{seed: int64(round)}
		script.line(20, srv.Every().Optional()).Answer(429, 54009)
		script.line(10, srv.Every().Optional()).Answer(503, 20503)
		script.line(10, srv.Every().Optional()).LoseAnswer()
		script.line(10, srv.Every().Optional()).Reset()
		script.line(10, srv.Every().Optional().AfterHandling()).Answer(500, 20500)
		client := srv.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond}))
		var got collected
		publisher := newPublisher(t, client, got.add, &twiliosync.PublisherOptions{Buffer: 200, DrainTimeout: time.Duration(random.IntN(2)) * time.Second})
		var running sync.WaitGroup
		var mu sync.Mutex
		taken := 0
		for g := range goroutines {
			running.Go(func() {
				for i := range each {
					err := publisher.Publish(context.Background(), bulkRequest{StreamSID: fmt.Sprint("stream-", (g*each+i)%500), Data: map[string]any{"id": g*each + i}})
					if err == nil {
						mu.Lock()
						taken++
						mu.Unlock()
					} else {
						if !errors.Is(err, twiliosync.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(random.IntN(upTo)) * time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.IntN(20))*time.Millisecond)
		publisher.Close(ctx)
		cancel()
		running.Wait()
		require.Equal(t, taken, got.len(), "taken = results")
		require.Zero(t, got.twice)
		held := map[string]int{}
		for i := range 500 {
			for _, message := range srv.Messages(fmt.Sprint("stream-", i)) {
				held[string(message.Data)]++
			}
		}
		for _, result := range got.results {
			data, _ := json.Marshal(result.Request.Data)
			n := held[string(data)]
			require.LessOrEqual(t, n, 1, "duplicates")
			switch twiliosync.OutcomeOf(result.Err) {
			case twiliosync.OutcomeAccepted:
				require.Equal(t, 1, n)
			case twiliosync.OutcomeNotSent, twiliosync.OutcomeRejected:
				require.Zero(t, n)
			}
		}
		client.CloseIdleConnections()
		srv.Close()
	}
	for range 200 { // connections take a moment to end
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), before+2)
}
