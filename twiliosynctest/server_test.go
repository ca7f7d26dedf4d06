package twiliosynctest_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
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

// once makes a client report what its first attempt met.
func once() twiliosync.Option {
	return twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1})
}

func create(ctx context.Context, client *twiliosync.Client, stream string, n int) error {
	_, _, err := client.StreamMessages.Create(ctx, service, stream, map[string]int{"n": n})
	return err
}

func statusOf(err error) (status, code int) {
	var failure *twiliosync.Error
	if errors.As(err, &failure) {
		return failure.StatusCode, failure.Code
	}
	return 201, 0
}

func TestNewServerUsesSocketsOutsideOfABubble(t *testing.T) {
	srv := twiliosynctest.NewServer(t)
	assert.Regexp(t, `^http://(127\.0\.0\.1|\[::1\]):\d+$`, srv.URL)
	require.NoError(t, create(t.Context(), srv.Client(), "orders", 1))
	assert.Len(t, srv.Messages("orders"), 1)
}

func TestNewServerUsesMemoryInsideABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		assert.Equal(t, "http://127.0.0.1:1", srv.URL)
		require.NoError(t, create(t.Context(), srv.Client(), "orders", 1))
		assert.Len(t, srv.Messages("orders"), 1)
	})
}

func TestAServerIsOfUseOnlyWhereItWasMade(t *testing.T) {
	const (
		madeInside    = "twiliosynctest: the server was made inside of a testing/synctest bubble and is used outside: make it where it is used"
		madeOutside   = "twiliosynctest: the server was made outside of a testing/synctest bubble and is used inside of one: make it where it is used"
		madeElsewhere = "twiliosynctest: the server was made in another testing/synctest bubble: make it where it is used"
	)
	refuses := func(t *testing.T, srv *twiliosynctest.Server, sentence string) {
		t.Helper()
		assert.PanicsWithValue(t, sentence, func() { srv.Client() })
		_, err := srv.WaitForMessages(t.Context(), "orders", 1)
		assert.EqualError(t, err, sentence)
	}
	var inside *twiliosynctest.Server
	var client *twiliosync.Client
	outside := twiliosynctest.NewServer(t)
	synctest.Test(t, func(t *testing.T) {
		inside = twiliosynctest.NewServer(t)
		client = inside.Client(once())
		refuses(t, outside, madeOutside)
	})

	refuses(t, inside, madeInside)
	assert.ErrorContains(t, create(t.Context(), client, "orders", 1), madeInside)
	synctest.Test(t, func(t *testing.T) {
		refuses(t, inside, madeElsewhere)
		assert.ErrorContains(t, create(t.Context(), client, "orders", 1), madeElsewhere)
	})
}

func TestAClientThatDialsForRealInABubbleIsRefusedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		client, err := twiliosync.NewClient(twiliosync.BasicAuth(srv.Credentials()), twiliosync.WithBaseURL(srv.URL), once())
		require.NoError(t, err)
		assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(create(t.Context(), client, "orders", 1)))
		assert.Empty(t, srv.Requests())
	})
}

func TestClientTakesOptions(t *testing.T) {
	srv := twiliosynctest.NewServer(t)
	require.NoError(t, create(t.Context(), srv.Client(twiliosync.WithUserAgent("orders-api/2.1")), "orders", 1))
	assert.Contains(t, srv.Messages("orders")[0].Header.Get("User-Agent"), "orders-api/2.1")
	assert.Panics(t, func() { srv.Client(twiliosync.WithUserAgent("")) })

	other := twiliosynctest.NewServer(t)
	require.NoError(t, create(t.Context(), srv.Client(twiliosync.WithBaseURL(other.URL)), "orders", 1))
	assert.Len(t, other.Messages("orders"), 1, "an option wins over the client's own")
}

func TestWaitForMessages(t *testing.T) {
	publishEverySecond := func(t *testing.T, srv *twiliosynctest.Server) {
		client := srv.Client()
		go func() {
			for n := range 3 {
				time.Sleep(time.Second)
				assert.NoError(t, create(t.Context(), client, "orders", n))
			}
		}()
	}
	for _, tt := range []struct {
		name    string
		n       int
		timeout time.Duration
		want    int
		elapsed time.Duration
		err     string
	}{
		{"returns at once if no message is wanted", 0, time.Minute, 0, 0, ""},
		{"returns when the message is there", 1, time.Minute, 1, time.Second, ""},
		{"returns when the last of several is there", 3, time.Minute, 3, 3 * time.Second, ""},
		{"returns what is there when the context ends", 4, time.Minute, 3, time.Minute,
			`twiliosynctest: 3 of 4 messages on stream "orders": context deadline exceeded`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := twiliosynctest.NewServer(t)
				start := time.Now()
				publishEverySecond(t, srv)
				ctx, cancel := context.WithTimeout(t.Context(), tt.timeout)
				defer cancel()

				messages, err := srv.WaitForMessages(ctx, "orders", tt.n)
				assert.Len(t, messages, tt.want)
				assert.Equal(t, tt.elapsed, time.Since(start))
				if tt.err == "" {
					require.NoError(t, err)
				} else {
					require.EqualError(t, err, tt.err)
					require.ErrorIs(t, err, context.DeadlineExceeded)
				}
				time.Sleep(time.Minute) // for the publisher to end
			})
		})
	}
}

func TestWithStreamRateLimitSlides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreamRateLimit(300, 10*time.Second))
		client := srv.Client(once())
		publish := func(stream string, n int) (accepted int) {
			for range n {
				err := create(t.Context(), client, stream, n)
				status, code := statusOf(err)
				switch {
				case err == nil:
					accepted++
				default:
					assert.Equal(t, []int{429, 54009}, []int{status, code})
				}
			}
			return accepted
		}

		assert.Equal(t, 100, publish("orders", 100))
		time.Sleep(5 * time.Second)
		assert.Equal(t, 200, publish("orders", 250), "the window holds 300")
		assert.Equal(t, 300, publish("bills", 310), "each stream has its own")
		time.Sleep(5*time.Second - 1)
		assert.Equal(t, 0, publish("orders", 50), "nothing has left the window")
		time.Sleep(1)
		assert.Equal(t, 100, publish("orders", 150), "the first 100 have left it, and what was refused never counted")
		time.Sleep(time.Hour)
		assert.Equal(t, 300, publish("orders", 301))
	})
}

func TestStreamRateIsCountedForEachService(t *testing.T) {
	srv := newFake(twiliosynctest.WithStreamRateLimit(1, time.Hour))
	assert.Equal(t, 201, publish(srv, orders, `{}`).Code)
	assert.Equal(t, 201, publish(srv, strings.Replace(orders, service, "default", 1), `{}`).Code)
	assertTwilioError(t, publish(srv, orders, `{}`), 429, 54009)
	assertTwilioError(t, publish(srv, strings.Replace(orders, "orders", srv.StreamSID("orders"), 1), `{}`), 429, 54009)
}

func TestWithConcurrencyLimitRefusesTheSurplusAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithConcurrencyLimit(2))
		srv.Every().Delay(time.Second)
		client := srv.Client(once())

		for round := range 2 {
			var running sync.WaitGroup
			for n := range 5 {
				running.Go(func() {
					start := time.Now()
					switch err := create(t.Context(), client, fmt.Sprint("round ", round), n); time.Since(start) {
					case time.Second:
						assert.NoError(t, err)
					default:
						assert.Zero(t, time.Since(start))
						status, code := statusOf(err)
						assert.Equal(t, []int{429, 20429}, []int{status, code})
					}
				})
			}
			running.Wait()
			assert.Len(t, srv.Messages(fmt.Sprint("round ", round)), 2)
		}
	})
}

func TestConcurrentRequestsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		srv.Next(1).Delay(time.Minute)
		client := srv.Client(twiliosync.WithTimeout(0))
		counts := make(chan string, 1)
		go func() {
			_, response, err := client.StreamMessages.Create(t.Context(), service, "slow", map[string]int{})
			assert.NoError(t, err)
			counts <- response.Header.Get("Twilio-Concurrent-Requests") + " in " + response.Header.Get("Twilio-Request-Duration")
		}()
		synctest.Wait()
		_, response, err := client.StreamMessages.Create(t.Context(), service, "fast", map[string]int{})
		require.NoError(t, err)
		assert.Equal(t, "2", response.Header.Get("Twilio-Concurrent-Requests"))
		assert.Equal(t, "1 in 60.000", <-counts)
	})
}

func TestParallelClientsLoseNothing(t *testing.T) {
	const clients, messages, streams = 64, 50, 100
	srv := twiliosynctest.NewServer(t)
	client := srv.Client()
	var running sync.WaitGroup
	for c := range clients {
		running.Go(func() {
			for n := range messages {
				assert.NoError(t, create(t.Context(), client, fmt.Sprint((c*messages+n)%streams), n))
			}
		})
	}
	running.Wait()

	sids := make(map[string]bool)
	for n := range streams {
		previous := time.Time{}
		for _, message := range srv.Messages(fmt.Sprint(n)) {
			sids[message.SID] = true
			assert.False(t, message.Time.Before(previous), "messages are in order of arrival")
			previous = message.Time
		}
	}
	assert.Len(t, sids, clients*messages)
	assert.Len(t, srv.Requests(), clients*messages)
}

func TestCloseCutsWhatIsBeingServed(t *testing.T) {
	networks(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		client := srv.Client(once(), twiliosync.WithTimeout(0))
		failed := make(chan error)
		arrived := make(chan struct{})
		srv.Next(1).Matching(func(twiliosynctest.Request) bool { close(arrived); return true }).NeverAnswer()
		go func() { failed <- create(t.Context(), client, "orders", 1) }()
		<-arrived
		srv.Close()
		assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(<-failed))

		assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(create(t.Context(), client, "orders", 2)))
		assert.Empty(t, srv.Messages("orders"))
		srv.Close()
	})
}

func TestCloseReturnsFromWithinARequest(t *testing.T) {
	for name, closeFrom := range map[string]func(t *testing.T, shut func()) *twiliosynctest.Server{
		"OnMessage": func(t *testing.T, shut func()) *twiliosynctest.Server {
			return twiliosynctest.NewServer(t, twiliosynctest.OnMessage(func(twiliosynctest.Message) { shut() }))
		},
		"OnRequest": func(t *testing.T, shut func()) *twiliosynctest.Server {
			return twiliosynctest.NewServer(t, twiliosynctest.OnRequest(func(twiliosynctest.Request) { shut() }))
		},
		"Matching": func(t *testing.T, shut func()) *twiliosynctest.Server {
			srv := twiliosynctest.NewServer(t)
			srv.Every().Optional().Matching(func(twiliosynctest.Request) bool { shut(); return false }).Reset()
			return srv
		},
	} {
		t.Run(name, func(t *testing.T) {
			networks(t, func(t *testing.T) {
				var srv *twiliosynctest.Server
				var both sync.WaitGroup
				both.Add(2)
				srv = closeFrom(t, func() {
					both.Done()
					both.Wait()
					srv.Close()
				})
				client := srv.Client(once())
				var running sync.WaitGroup
				for n := range 2 {
					running.Go(func() {
						assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(create(t.Context(), client, "orders", n)))
					})
				}
				running.Wait()
			})
		})
	}
}

func TestWithRetentionKeepsTheNewest(t *testing.T) {
	srv := newFake(twiliosynctest.WithRetention(3))
	for n := range 20 {
		for _, stream := range []string{"orders", "bills"} {
			publish(srv, strings.Replace(orders, "orders", stream, 1), fmt.Sprintf(`{"n":%d}`, n))
			messages := srv.Messages(stream)
			require.Len(t, messages, min(n+1, 3))
			assert.Equal(t, fmt.Sprintf(`{"n":%d}`, n), string(messages[len(messages)-1].Data))
			assert.Equal(t, fmt.Sprintf(`{"n":%d}`, max(0, n-2)), string(messages[0].Data))
		}
	}
	assert.Len(t, srv.Requests(), 3)
	assert.Equal(t, `{"n":19}`, string(srv.Requests()[2].Data))

	messages, err := srv.WaitForMessages(t.Context(), "orders", 20)
	require.NoError(t, err, "those forgotten count")
	assert.Len(t, messages, 3)
}

func TestWithRetentionForgetsTheStreamsNotUsedForLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 10_000
		srv := newFake(twiliosynctest.WithRetention(1))
		path := func(n int) string { return fmt.Sprintf("%s/%d/Messages", streams, n) }
		require.Equal(t, 201, call(srv, "POST", streams, url.Values{"UniqueName": {"0"}}).Code)
		require.Equal(t, 201, publish(srv, "/v1/Services/default/Streams/1/Messages", `{}`).Code)
		for n := range most {
			publish(srv, path(n), `{}`)
			time.Sleep(1)
		}
		require.Len(t, srv.Streams(service), most)
		publish(srv, path(2), `{}`)
		waited := make(chan struct{})
		go func() {
			_, err := srv.WaitForMessages(t.Context(), "3", 2)
			assert.NoError(t, err)
			close(waited)
		}()
		synctest.Wait()

		require.Equal(t, 201, publish(srv, path(most), `{}`).Code)
		assert.Len(t, srv.Streams(service), most/2+3)
		assert.Empty(t, srv.Streams("default"))
		for n, kept := range map[int]bool{0: false, 1: false, 2: true, 3: true, 4: false, most - 1: true, most: true} {
			assert.Equal(t, kept, len(srv.Messages(fmt.Sprint(n))) == 1, n)
		}
		assert.Equal(t, 200, fetch(srv, "0").Code, "it was created")
		assert.Equal(t, 404, fetch(srv, "1").Code)
		publish(srv, path(3), `{}`)
		<-waited
	})
}

func TestWithRetentionBoundsTheMemory(t *testing.T) {
	heap := func() int64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	for name, use := range map[string]func(srv *twiliosynctest.Server, n int){
		"of messages": func(srv *twiliosynctest.Server, n int) {
			if n%4 == 0 {
				publish(srv, orders, objectOf(4096))
			}
		},
		"of streams that have expired": func(srv *twiliosynctest.Server, n int) {
			createStream(srv, url.Values{"Ttl": {"1"}})
			time.Sleep(time.Millisecond)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newFake(twiliosynctest.WithRetention(10))
				before := heap()
				for n := range 20_000 {
					use(srv, n)
				}
				assert.Less(t, heap()-before, int64(3<<20))
				runtime.KeepAlive(srv)
			})
		})
	}
}

func TestResetForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newFake(twiliosynctest.WithStreamRateLimit(1, time.Hour), twiliosynctest.WithStreams("orders"))
		fields := url.Values{"UniqueName": {"bills"}}
		require.Equal(t, 201, call(srv, "POST", streams, fields).Code)
		require.Equal(t, 201, publish(srv, orders, `{"n":1}`).Code)
		srv.Every().Answer(503, 20503)
		waited := make(chan []twiliosynctest.Message)
		go func() {
			messages, err := srv.WaitForMessages(t.Context(), "orders", 2)
			assert.NoError(t, err)
			waited <- messages
		}()
		synctest.Wait()

		srv.Reset()
		assert.Empty(t, srv.Messages("orders"))
		assert.Empty(t, srv.Requests())
		assert.Empty(t, srv.Faults())
		assert.Len(t, srv.Streams(service), 1, "the one that was given")
		assert.Equal(t, 201, publish(srv, orders, `{"n":2}`).Code)
		time.Sleep(time.Hour)
		assert.Equal(t, 201, publish(srv, orders, `{"n":3}`).Code)
		assert.Len(t, <-waited, 2, "who waits goes on waiting")
	})
}

func TestCloseWaitsForWhatIsBeingServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t, twiliosynctest.OnMessage(func(twiliosynctest.Message) { time.Sleep(time.Minute) }))
		client := srv.Client(once())
		go func() { assert.Error(t, create(t.Context(), client, "orders", 1)) }()
		synctest.Wait()

		start := time.Now()
		srv.Close()
		assert.Equal(t, time.Minute, time.Since(start))
	})
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	srv := twiliosynctest.NewServer(t)
	client := srv.Client(once(), twiliosync.WithTimeout(0))
	require.NoError(t, create(t.Context(), client, "orders", 1))
	srv.Next(1).CutBody()
	require.Error(t, create(t.Context(), client, "orders", 1))
	srv.Next(1).AnswerGarbage()
	require.Error(t, create(t.Context(), client, "orders", 1))

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, fault := range []func(twiliosynctest.Fault){
		twiliosynctest.Fault.NeverAnswer,
		func(f twiliosynctest.Fault) { f.Delay(time.Hour) },
		func(f twiliosynctest.Fault) { f.AfterHandling().NeverAnswer() },
	} {
		arrived := make(chan struct{})
		fault(srv.Next(1).Matching(func(twiliosynctest.Request) bool { close(arrived); return true }))
		running.Go(func() { assert.Error(t, create(ctx, client, "orders", 1)) })
		<-arrived
	}
	cancel()
	running.Wait()
	srv.Close()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		stacks := make([]byte, 1<<20)
		text := string(stacks[:runtime.Stack(stacks, true)])
		for _, function := range []string{"twiliosynctest.(", "net/http.(*conn)", "net/http.(*persistConn)"} {
			assert.NotContains(c, text, function)
		}
	}, 10*time.Second, time.Millisecond)
}

// networks runs a test on sockets and in a bubble.
func networks(t *testing.T, test func(*testing.T)) {
	t.Run("on sockets", test)
	t.Run("in memory", func(t *testing.T) { synctest.Test(t, test) })
}

func BenchmarkServer(b *testing.B) {
	for _, streams := range []int{1, 2000} {
		b.Run(fmt.Sprint(streams, " streams"), func(b *testing.B) {
			srv := newFake(twiliosynctest.WithStreamRateLimit(1<<30, time.Second))
			paths := make([]string, streams)
			for i := range paths {
				paths[i] = fmt.Sprintf("/v1/Services/%s/Streams/stream-%d/Messages", service, i)
			}
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					publish(srv, paths[i%streams], `{"n":1}`)
				}
			})
		})
	}
}
