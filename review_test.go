package twiliosync_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
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
)

func TestATryOfAWrapperThatMayHaveArrivedIsNotForgottenForALaterOne(t *testing.T) {
	arrived := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived++
		panic(http.ErrAbortHandler) // the answer is lost
	}))
	defer server.Close()
	retrying := func(own http.RoundTripper) http.RoundTripper {
		return roundTripFunc(func(req *http.Request) (*http.Response, error) {
			again := req.Clone(req.Context())
			again.Body, _ = req.GetBody()
			if res, err := own.RoundTrip(req); err == nil {
				return res, nil
			}
			server.Close() // nobody listens to the second
			return own.RoundTrip(again)
		})
	}
	client := clientFor(t, server.URL, append(hurried(), twiliosync.WithTransportWrapper(retrying))...)
	_, _, err := publish(client)
	assert.Equal(t, 1, arrived)
	assertProof(t, unknownAndNotResent, err)
}

func TestRoomForOneMessageLetsOneCallOfPublishGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size = 8 << 20
		m := &memory{}
		client := m.client(t, twiliosync.WithMaxDataSize(0), twiliosync.WithStreamRateLimit(1, 24*time.Hour))
		big := json.RawMessage(`{"a":"` + strings.Repeat("x", size-8) + `"}`)
		publisher := newPublisher(t, client, func(bulkResult) {}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var taken atomic.Int64
		var running sync.WaitGroup
		for range 20 {
			running.Go(func() {
				if publisher.Publish(ctx, bulkRequest{StreamSID: "orders", Data: big}) == nil {
					taken.Add(1)
				}
			})
		}
		synctest.Wait()
		assert.LessOrEqual(t, taken.Load(), int64(1+8), "one is published, 64 MiB wait")
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		assert.LessOrEqual(t, taken.Load(), int64(2+8), "another is published, 64 MiB wait")
		cancel()
		running.Wait()
		_ = publisher.Close(ctx)
	})
}

func TestACallThatGivesUpLetsThoseBehindItIn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		client := m.client(t, twiliosync.WithMaxDataSize(0), twiliosync.WithStreamRateLimit(1, 24*time.Hour))
		sized := func(size int) bulkRequest {
			return bulkRequest{StreamSID: "orders", Data: json.RawMessage(`{"a":"` + strings.Repeat("x", size-8) + `"}`)}
		}
		publisher := newPublisher(t, client, func(bulkResult) {}, nil)
		for range 8 { // one is published, 56 MiB wait
			require.NoError(t, publisher.Publish(t.Context(), sized(8<<20)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- publisher.Publish(ctx, sized(16<<20)) }() // no room for it
		synctest.Wait()
		go func() { second <- publisher.Publish(t.Context(), sized(1000)) }()
		synctest.Wait()
		assert.Empty(t, second, "it takes its turn")
		cancel()
		synctest.Wait()
		assert.ErrorIs(t, <-first, context.Canceled)
		require.Len(t, second, 1)
		assert.NoError(t, <-second)
		_ = publisher.Close(ctx)
	})
}

// slowStart is a tracer whose TraceCallStart takes long for the messages of one stream.
type slowStart struct {
	*tracer
	stream string
	delay  time.Duration
}

func (s slowStart) TraceCallStart(ctx context.Context, start twiliosync.CallStart) context.Context {
	if start.StreamSID == s.stream {
		time.Sleep(s.delay)
	}
	return s.tracer.TraceCallStart(ctx, start)
}

func TestABlockedEncodingCostsNoOtherMessageItsResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		blocked := marshalerFunc(func() ([]byte, error) { <-release; return []byte(`{}`), nil })
		slow := marshalerFunc(func() ([]byte, error) { time.Sleep(1500 * time.Millisecond); return []byte(`{}`), nil })
		input := slices.Values([]bulkRequest{{StreamSID: "orders", Data: blocked}, {StreamSID: "invoices", Data: slow}})
		time.AfterFunc(time.Second, cancel)
		client := m.client(t, twiliosync.WithTracer(slowStart{&tracer{}, "invoices", 3 * time.Second}))
		results := byIndex(t, client.StreamMessages.CreateAll(ctx, "default", input, nil))
		assert.Len(t, results, 2)
		close(release)
		synctest.Wait()
	})
}

func TestOnResultMayPublishFromAnyDepth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{latency: time.Second}
		var publisher *twiliosync.Publisher
		var last error
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		var deep func(n int)
		deep = func(n int) {
			if n > 0 {
				deep(n - 1)
				return
			}
			for i := range 5 {
				last = publisher.Publish(ctx, numbered("orders", 100+i))
			}
		}
		publisher = newPublisher(t, m.client(t), func(result bulkResult) {
			if result.Index == 0 {
				deep(1000)
			}
		}, &twiliosync.PublisherOptions{Buffer: 3, Concurrency: 1})
		publishN(t, publisher, "orders", 0, 1)
		require.NoError(t, publisher.Flush(t.Context()))
		require.NoError(t, publisher.Close(t.Context()))
		assert.ErrorIs(t, last, twiliosync.ErrBufferFull)
	})
}

func TestATracerThatEndsTheGoroutineOfAPacedCallKeepsNoPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &tracer{quit: "TraceAttemptStart"}
		m := &memory{}
		client := m.client(t, twiliosync.WithTracer(tr), twiliosync.WithStreamRateLimit(1, time.Second))
		var running sync.WaitGroup
		running.Go(func() { _ = publishTo(t.Context(), client, "orders") })
		running.Wait()
		tr.quit = ""
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		assert.NoError(t, publishTo(ctx, client, "orders"))
	})
}

func TestATracerThatEndsTheGoroutineOfOnResultCostsNoResult(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &tracer{quit: "TraceCallEnd"}
		m := &memory{latency: time.Second}
		var got collected
		publisher := newPublisher(t, m.client(t, twiliosync.WithTracer(tr)), got.add, &twiliosync.PublisherOptions{LatestOnly: true})
		publishN(t, publisher, "orders", 0, 5)
		require.NoError(t, publisher.Close(t.Context()))
		assert.Equal(t, 5, got.len())
		assert.Zero(t, got.twice)
	})
}

func TestATracerThatEndsTheGoroutineOfPublishCostsNoContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &tracer{quit: "TraceCallStart"}
		m := &memory{}
		var got collected
		publisher := newPublisher(t, m.client(t, twiliosync.WithTracer(tr)), got.add, nil)
		var running sync.WaitGroup
		running.Go(func() { _ = publisher.Publish(t.Context(), numbered("orders", 0)) })
		running.Wait()
		require.NoError(t, publisher.Close(t.Context()))
		require.Equal(t, 1, got.len())
		assert.NoError(t, got.results[0].Err)
		assert.Len(t, m.all(), 1)
	})
}

func TestAnAbandonedInputMayPanicLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		input := func(yield func(bulkRequest) bool) {
			yield(numbered("orders", 1))
			time.Sleep(time.Hour)
			panic("late")
		}
		results := 0
		for range m.client(t).StreamMessages.CreateAll(ctx, "default", input, nil) {
			results++
		}
		assert.Equal(t, 1, results)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
	})
}
