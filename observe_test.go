package twiliosync_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// tracer writes down what it is told, and which Start each End belongs to.
type tracer struct {
	header http.Header // is added to each attempt
	fail   string      // the method that panics
	quit   string      // the method that ends its goroutine

	mu     sync.Mutex
	calls  []*tracedCall
	strays int // Ends without a Start
}

type tracedCall struct {
	start    twiliosync.CallStart
	end      *twiliosync.CallEnd
	attempts []*tracedAttempt
	ends     int
}

type tracedAttempt struct {
	start twiliosync.AttemptStart
	end   *twiliosync.Attempt
	ends  int
}

type (
	callKey    struct{}
	attemptKey struct{}
)

func (tr *tracer) misbehave(method string) {
	if tr.fail == method {
		panic(method)
	}
	if tr.quit == method {
		runtime.Goexit()
	}
}

func (tr *tracer) TraceCallStart(ctx context.Context, start twiliosync.CallStart) context.Context {
	defer tr.misbehave("TraceCallStart")
	tr.mu.Lock()
	defer tr.mu.Unlock()
	call := &tracedCall{start: start}
	tr.calls = append(tr.calls, call)
	return context.WithValue(ctx, callKey{}, call)
}

func (tr *tracer) TraceCallEnd(ctx context.Context, end twiliosync.CallEnd) {
	defer tr.misbehave("TraceCallEnd")
	tr.mu.Lock()
	defer tr.mu.Unlock()
	call, ok := ctx.Value(callKey{}).(*tracedCall)
	if !ok {
		tr.strays++
		return
	}
	call.end = &end
	call.ends++
}

func (tr *tracer) TraceAttemptStart(ctx context.Context, start twiliosync.AttemptStart) context.Context {
	defer tr.misbehave("TraceAttemptStart")
	tr.mu.Lock()
	defer tr.mu.Unlock()
	attempt := &tracedAttempt{start: start}
	for name, values := range tr.header {
		start.Header[name] = values
	}
	if call, ok := ctx.Value(callKey{}).(*tracedCall); ok {
		call.attempts = append(call.attempts, attempt)
	}
	return context.WithValue(ctx, attemptKey{}, attempt)
}

func (tr *tracer) TraceAttemptEnd(ctx context.Context, end twiliosync.Attempt) {
	defer tr.misbehave("TraceAttemptEnd")
	tr.mu.Lock()
	defer tr.mu.Unlock()
	attempt, ok := ctx.Value(attemptKey{}).(*tracedAttempt)
	if !ok {
		tr.strays++
		return
	}
	attempt.end = &end
	attempt.ends++
}

// requireBalance checks that each Start has had exactly one End.
func (tr *tracer) requireBalance(t *testing.T) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	require.Zero(t, tr.strays, "Ends without a Start")
	for _, call := range tr.calls {
		require.Equal(t, 1, call.ends, "of the call %+v", call.start)
		require.Len(t, call.attempts, call.end.Attempts, "%+v", call.end)
		for _, attempt := range call.attempts {
			require.Equal(t, 1, attempt.ends, "of attempt %d of the call %+v", attempt.start.Number, call.start)
		}
	}
}

func TestATracerBracketsCallsAndAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &tracer{}
		client, _ := scripted(t, []twiliosync.Option{twiliosync.WithTracer(tr)}, answered(429, 54009, "3"), answered(201, 0))
		_, _, err := publish(client)
		require.NoError(t, err)
		tr.requireBalance(t)
		require.Len(t, tr.calls, 1)
		call := tr.calls[0]
		assert.Equal(t, twiliosync.CallStart{Operation: "CreateStreamMessage", ServiceSID: "default", StreamSID: "orders", Index: -1, DataSize: len(`{"a":1}`)}, call.start)
		assert.Equal(t, twiliosync.CallEnd{Outcome: twiliosync.OutcomeAccepted, Attempts: 2, Sends: 2, MessageSID: testSID}, *call.end)
		require.Len(t, call.attempts, 2)
		for i, attempt := range call.attempts {
			assert.Equal(t, i+1, attempt.start.Number)
			assert.Equal(t, "https://sync.twilio.com/v1/Services/default/Streams/orders/Messages", attempt.start.URL.String())
			assert.Equal(t, i+1, attempt.end.Number)
			assert.Equal(t, "CreateStreamMessage", attempt.end.Operation)
		}
		assert.Equal(t, 3*time.Second, call.attempts[0].end.RetryIn)
		assert.Equal(t, twiliosync.OutcomeRejected, call.attempts[0].end.Outcome)
		assert.Equal(t, twiliosync.OutcomeAccepted, call.attempts[1].end.Outcome)
	})
}

func TestATracerSeesWhatIsRefused(t *testing.T) {
	tr := &tracer{}
	client, server := setup(t, twiliosync.WithTracer(tr))
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	client.StreamMessages.Create(context.Background(), "", "orders", map[string]any{"a": 1})
	client.StreamMessages.Create(context.Background(), "default", "orders", "text")
	client.StreamMessages.Create(cancelled, "default", "orders", map[string]any{"a": 1})
	client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"a": 1}, twiliosync.WithTimeout(-1))
	for range client.StreamMessages.CreateAll(context.Background(), "default", slices.Values([]bulkRequest{{StreamSID: "orders", Data: 7}}), nil) {
		continue
	}
	tr.requireBalance(t)
	require.Len(t, tr.calls, 5)
	for _, call := range tr.calls {
		assert.Empty(t, call.attempts)
		assert.Equal(t, twiliosync.OutcomeNotSent, call.end.Outcome)
		assert.Error(t, call.end.Err)
	}
	assert.Equal(t, 0, tr.calls[4].start.Index)
	assert.Empty(t, server.all())
}

// TestATracersContextIsThatOfAllThatFollows up to the End.
func TestATracersContextIsThatOfAllThatFollows(t *testing.T) {
	var inAuthenticator, inTransport, inObserver any
	auth := authFunc(func(ctx context.Context, _ *http.Request) error {
		inAuthenticator = ctx.Value(attemptKey{})
		return nil
	})
	transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		inTransport = req.Context().Value(attemptKey{})
		return answered(201, 0)(req)
	})
	client, err := twiliosync.NewClient(auth, twiliosync.WithTracer(&tracer{}), twiliosync.WithHTTPClient(&http.Client{Transport: transport}),
		twiliosync.WithObserver(func(ctx context.Context, _ twiliosync.Attempt) { inObserver = ctx.Value(callKey{}) }))
	require.NoError(t, err)
	_, _, err = publish(client)
	require.NoError(t, err)
	assert.NotNil(t, inAuthenticator)
	assert.NotNil(t, inTransport)
	assert.NotNil(t, inObserver)
}

func TestHeadersOfATracerAreSentWhereNobodyElseSetsThem(t *testing.T) {
	tr := &tracer{header: http.Header{
		"Traceparent": {"00-1-2-01"}, "Authorization": {"Bearer stolen"}, "content-type": {"text/plain"}, "User-Agent": {"mine"},
		"Idempotency-Key": {"1"}, "X-Idempotency-Key": {"1"}, "Bad name": {"x"}, "X-Bad-Value": {"a\r\nb"},
	}}
	for name, opts := range map[string][]twiliosync.Option{
		"the SDK's own transport": nil, "a caller's": {twiliosync.WithHTTPClient(&http.Client{Transport: &http.Transport{}})},
	} {
		t.Run(name, func(t *testing.T) {
			client, server := setup(t, append(opts, twiliosync.WithTracer(tr))...)
			for range 2 {
				_, _, err := publish(client)
				require.NoError(t, err)
			}
			for _, request := range server.all() {
				assert.Equal(t, []string{"00-1-2-01"}, request.header["Traceparent"])
				assert.Contains(t, request.header.Get("Authorization"), "Basic ")
				assert.Equal(t, []string{"application/x-www-form-urlencoded"}, request.header["Content-Type"])
				assert.Contains(t, request.header.Get("User-Agent"), "twiliosync-go/")
				for _, absent := range []string{"Idempotency-Key", "X-Idempotency-Key", "X-Bad-Value"} {
					assert.Empty(t, request.header[absent], absent)
				}
			}
		})
	}
}

func TestATracerThatPanicsCostsNoOutcome(t *testing.T) {
	for _, method := range []string{"TraceCallStart", "TraceCallEnd", "TraceAttemptStart", "TraceAttemptEnd"} {
		t.Run(method, func(t *testing.T) {
			client, server := setup(t, twiliosync.WithTracer(&tracer{fail: method}))
			message, _, err := publish(client)
			require.NoError(t, err)
			assert.Equal(t, testSID, message.SID)
			assert.Len(t, server.all(), 1)
			results := byIndex(t, client.StreamMessages.CreateAll(context.Background(), "default", firstOf(endless(3), 10), nil))
			require.Len(t, results, 10)
			for _, result := range results {
				assert.NoError(t, result.Err)
			}
		})
	}
}

func TestWhoeverEndsAGoroutineEachMessageHasOneResult(t *testing.T) {
	for _, method := range []string{"TraceCallStart", "TraceAttemptStart", "TraceAttemptEnd", "observer", "Authenticator", "MarshalJSON", "transport"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr := &tracer{quit: method}
				exits := func(what string) {
					if what == method {
						runtime.Goexit()
					}
				}
				m := &memory{}
				client, err := twiliosync.NewClient(authFunc(func(context.Context, *http.Request) error { exits("Authenticator"); return nil }),
					twiliosync.WithTracer(tr), twiliosync.WithObserver(func(context.Context, twiliosync.Attempt) { exits("observer") }),
					twiliosync.WithHTTPClient(&http.Client{Transport: roundTripFunc(func(req *http.Request) (*http.Response, error) {
						exits("transport")
						return m.RoundTrip(req)
					})}))
				require.NoError(t, err)
				var input []bulkRequest
				for i := range 100 {
					input = append(input, bulkRequest{StreamSID: fmt.Sprint("stream-", i%7), Data: marshalerFunc(func() ([]byte, error) {
						exits("MarshalJSON")
						return []byte(`{}`), nil
					})})
				}
				results := byIndex(t, client.StreamMessages.CreateAll(t.Context(), "default", slices.Values(input), &twiliosync.CreateAllOptions{Concurrency: 5}))
				require.Len(t, results, len(input))
				published := 0
				for _, result := range results {
					switch twiliosync.OutcomeOf(result.Err) {
					case twiliosync.OutcomeAccepted:
						published++
					case twiliosync.OutcomeUnknown:
						published++ // perhaps
					}
				}
				assert.GreaterOrEqual(t, published, len(m.all()), "what arrived is not called not sent")
			})
		})
	}
}

type marshalerFunc func() ([]byte, error)

func (f marshalerFunc) MarshalJSON() ([]byte, error) { return f() }

func TestEachStartHasOneEndHoweverCreateAllEnds(t *testing.T) {
	for name, end := range map[string]func(cancel context.CancelFunc) (goOn bool){
		"the input ends": func(context.CancelFunc) bool { return true },
		"a cancel":       func(cancel context.CancelFunc) bool { cancel(); return true },
		"a break":        func(context.CancelFunc) bool { return false },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				tr := &tracer{}
				m := &memory{latency: 10 * time.Millisecond, respond: func(a arrival) response {
					switch {
					case a.number == 1 && len(a.data)%3 == 0:
						return response{status: 429, code: 54009, retryAfter: "1"}
					case a.number == 1 && len(a.data)%3 == 1:
						return response{unsent: true}
					}
					return response{}
				}}
				client := m.client(t, twiliosync.WithTracer(tr))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				results := 0
				for range client.StreamMessages.CreateAll(ctx, "default", firstOf(endless(5), 3000), &twiliosync.CreateAllOptions{Concurrency: 8}) {
					if results++; results == 500 && !end(cancel) {
						break
					}
				}
				tr.requireBalance(t)
				assert.GreaterOrEqual(t, len(tr.calls), results)
			})
		})
	}
}

func TestAttemptsSayHowLongTheyWaitedForThePace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &tracer{}
		m := &memory{}
		client := m.client(t, twiliosync.WithTracer(tr), twiliosync.WithStreamRateLimit(1, paceWindow))
		for range 2 {
			require.NoError(t, publishTo(t.Context(), client, "orders"))
		}
		for result := range client.StreamMessages.CreateAll(t.Context(), "default", toOneStream("invoices", 2), nil) {
			require.NoError(t, result.Err)
		}
		tr.requireBalance(t)
		require.Len(t, tr.calls, 4)
		for i, want := range []time.Duration{0, paceSlot, 0, paceSlot} {
			assert.Equal(t, want, tr.calls[i].end.Waited, "call %d", i)
			assert.Equal(t, want, tr.calls[i].attempts[0].start.Waited)
			assert.Equal(t, want, tr.calls[i].attempts[0].end.Waited)
		}
	})
}

func TestWithTransportWrapperKeepsTheProofs(t *testing.T) {
	var requests []*url.URL
	wrap := func(own http.RoundTripper) http.RoundTripper {
		return roundTripFunc(func(req *http.Request) (*http.Response, error) {
			requests = append(requests, req.URL)
			return own.RoundTrip(req)
		})
	}
	t.Run("a request passes through it", func(t *testing.T) {
		requests = nil
		client, server := setup(t, twiliosync.WithTransportWrapper(wrap))
		_, response, err := publish(client)
		require.NoError(t, err)
		assert.Equal(t, 1, response.Sends)
		assert.Len(t, requests, 1)
		assert.Len(t, server.all(), 1)
	})
	t.Run("a refused connection is not sent", func(t *testing.T) {
		client := clientFor(t, closedURL(t), append(hurried(), twiliosync.WithTransportWrapper(wrap))...)
		_, _, err := publish(client)
		assertProof(t, notSentAndRetried, err)
	})
	t.Run("an answer that is lost is unknown", func(t *testing.T) {
		client, server := setup(t, twiliosync.WithTransportWrapper(wrap))
		server.answer = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
		_, _, err := publish(client)
		assertProof(t, unknownAndNotResent, err)
	})
	t.Run("a failure that the wrapper makes up proves nothing", func(t *testing.T) {
		client, server := setup(t, twiliosync.WithTransportWrapper(func(own http.RoundTripper) http.RoundTripper {
			return roundTripFunc(func(req *http.Request) (*http.Response, error) {
				if res, err := own.RoundTrip(req.Clone(context.Background())); err == nil { // with a context of its own
					res.Body.Close()
				}
				return nil, errors.New("the circuit is open")
			})
		}))
		_, _, err := publish(client)
		assertProof(t, unknownAndNotResent, err)
		assert.Len(t, server.all(), 1)
	})
	for name, opts := range map[string][]twiliosync.Option{
		"nil":                                {twiliosync.WithTransportWrapper(nil)},
		"a wrapper that returns nil":         {twiliosync.WithTransportWrapper(func(http.RoundTripper) http.RoundTripper { return nil })},
		"together with a caller's transport": {twiliosync.WithTransportWrapper(wrap), twiliosync.WithHTTPClient(&http.Client{Transport: &http.Transport{}})},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			_, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret), opts...)
			assert.ErrorContains(t, err, "WithTransportWrapper")
		})
	}
}
