package twiliosync_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
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

// errNoRoute is the cause of the attempts that are not sent.
var errNoRoute = errors.New("no route to host")

// The attempts that a script is made of.

func unreachable(req *http.Request) (*http.Response, error) {
	httptrace.ContextClientTrace(req.Context()).GetConn(req.URL.Host)
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errNoRoute}
}

func lost(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF } // no trace event: it may be sent

func answered(status, code int, retryAfter ...string) roundTripFunc {
	body := testAnswer
	if status >= 300 {
		body = fmt.Sprintf(`{"code":%d,"message":"as scripted","status":%d}`, code, status)
	}
	return func(req *http.Request) (*http.Response, error) {
		header := http.Header{"Twilio-Request-Id": {fmt.Sprint("RQ", status)}}
		if len(retryAfter) > 0 {
			header["Retry-After"] = retryAfter
		}
		return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
	}
}

// scriptedAttempts plays one of its steps per attempt, the last one again and
// again.
type scriptedAttempts struct {
	steps []roundTripFunc

	mu       sync.Mutex
	arrivals []time.Time
}

func (s *scriptedAttempts) RoundTrip(req *http.Request) (*http.Response, error) {
	s.mu.Lock()
	step := s.steps[min(len(s.arrivals), len(s.steps)-1)]
	s.arrivals = append(s.arrivals, time.Now())
	s.mu.Unlock()
	return step(req)
}

func (s *scriptedAttempts) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.arrivals)
}

// scripted is a client whose attempts go as written, without a network.
func scripted(t *testing.T, opts []twiliosync.Option, steps ...roundTripFunc) (*twiliosync.Client, *scriptedAttempts) {
	t.Helper()
	script := &scriptedAttempts{steps: steps}
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret),
		append([]twiliosync.Option{twiliosync.WithHTTPClient(&http.Client{Transport: script})}, opts...)...)
	require.NoError(t, err)
	return client, script
}

func retrying(p twiliosync.RetryPolicy) []twiliosync.Option {
	return []twiliosync.Option{twiliosync.WithRetryPolicy(p)}
}

// observing collects what an observer sees.
func observing(attempts *[]twiliosync.Attempt) twiliosync.Option {
	return twiliosync.WithObserver(func(_ context.Context, a twiliosync.Attempt) { *attempts = append(*attempts, a) })
}

func TestNumberOfAttempts(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		policy   twiliosync.RetryPolicy
		attempts int
	}{
		{"three by default", twiliosync.RetryPolicy{}, 3},
		{"1 switches retrying off", twiliosync.RetryPolicy{MaxAttempts: 1}, 1},
		{"2", twiliosync.RetryPolicy{MaxAttempts: 2}, 2},
		{"10", twiliosync.RetryPolicy{MaxAttempts: 10}, 10},
		{"at-least-once changes the rows, not the number", twiliosync.RetryPolicy{AtLeastOnce: true}, 3},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for name, step := range map[string]roundTripFunc{"unreachable": unreachable, "429": answered(429, 54009), "503": answered(503, 20503)} {
					client, script := scripted(t, retrying(test.policy), step)
					_, _, err := publish(client)
					assert.Equal(t, test.attempts, script.count(), name)
					assert.Equal(t, test.attempts, asError(t, err).Attempts, name)
				}
			})
		})
	}
}

// TestBackoffIsFullJitter looks at the distribution of the delays: even
// between zero, excluded, and a bound that doubles. The bounds of the
// statistics are beyond six standard deviations.
func TestBackoffIsFullJitter(t *testing.T) {
	t.Parallel()
	const calls = 400
	ms := time.Millisecond
	for _, test := range []struct {
		name   string
		policy twiliosync.RetryPolicy
		step   roundTripFunc
		bounds []time.Duration
	}{
		{"100 ms by default", twiliosync.RetryPolicy{MaxAttempts: 5}, unreachable, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms}},
		{"1 s after a 429", twiliosync.RetryPolicy{MaxAttempts: 4}, answered(429, 20429), []time.Duration{1000 * ms, 2000 * ms, 4000 * ms}},
		{"100 ms after a 503", twiliosync.RetryPolicy{MaxAttempts: 4}, answered(503, 20503), []time.Duration{100 * ms, 200 * ms, 400 * ms}},
		{"100 ms after an unknown outcome", twiliosync.RetryPolicy{AtLeastOnce: true}, lost, []time.Duration{100 * ms, 200 * ms}},
		{"a Retry-After that is not valid", twiliosync.RetryPolicy{MaxAttempts: 2}, answered(429, 0, "soon"), []time.Duration{1000 * ms}},
		{"a Retry-After of zero", twiliosync.RetryPolicy{MaxAttempts: 2}, answered(429, 0, "0"), []time.Duration{1000 * ms}},
		{"a date in the past", twiliosync.RetryPolicy{MaxAttempts: 2}, answered(429, 0, "Fri, 31 Dec 1999 23:59:59 GMT"), []time.Duration{1000 * ms}},
		{"BaseDelay, also after a 429", twiliosync.RetryPolicy{MaxAttempts: 3, BaseDelay: 3 * ms}, answered(429, 0), []time.Duration{3 * ms, 6 * ms}},
		{"MaxDelay", twiliosync.RetryPolicy{MaxAttempts: 5, BaseDelay: 3 * ms, MaxDelay: 10 * ms}, unreachable, []time.Duration{3 * ms, 6 * ms, 10 * ms, 10 * ms}},
		{"MaxDelay below the default of BaseDelay", twiliosync.RetryPolicy{MaxAttempts: 3, MaxDelay: 7 * ms}, unreachable, []time.Duration{7 * ms, 7 * ms}},
		{"20 s at most by default", twiliosync.RetryPolicy{MaxAttempts: 6, BaseDelay: 4 * time.Second}, unreachable, []time.Duration{4000 * ms, 8000 * ms, 16000 * ms, 20000 * ms, 20000 * ms}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				delays := make([][]time.Duration, len(test.bounds))
				for range calls {
					var attempts []twiliosync.Attempt
					client, script := scripted(t, append(retrying(test.policy), observing(&attempts)), test.step)
					_, _, err := publish(client)
					require.Error(t, err)
					require.Len(t, attempts, len(test.bounds)+1)
					for i := range test.bounds {
						require.Equal(t, attempts[i].RetryIn, script.arrivals[i+1].Sub(script.arrivals[i]))
						delays[i] = append(delays[i], attempts[i].RetryIn)
					}
				}
				for i, bound := range test.bounds {
					assert.Positive(t, slices.Min(delays[i]))
					assert.LessOrEqual(t, slices.Max(delays[i]), bound)
					assert.Less(t, slices.Min(delays[i]), bound/10, "delay %d is never short", i+1)
					assert.Greater(t, slices.Max(delays[i]), bound*9/10, "delay %d is never long", i+1)
					var sum time.Duration
					for _, delay := range delays[i] {
						sum += delay
					}
					assert.InDelta(t, 0.5, float64(sum)/calls/float64(bound), 0.1, "mean of delay %d", i+1)
				}
			})
		})
	}
}

func TestBackoffIsNeverZero(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var attempts []twiliosync.Attempt
		client, _ := scripted(t, append(retrying(twiliosync.RetryPolicy{BaseDelay: 1, MaxDelay: 1}), observing(&attempts)), unreachable)
		_, _, err := publish(client)
		require.Error(t, err)
		require.Len(t, attempts, 3)
		assert.EqualValues(t, 1, attempts[0].RetryIn)
		assert.EqualValues(t, 1, attempts[1].RetryIn)
	})
}

// TestRetryAfterIsObeyedExactly begins at the start of a year, as a bubble does.
func TestRetryAfterIsObeyedExactly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		policy twiliosync.RetryPolicy
		header string
		status int
		code   int
		wait   time.Duration // 0: not waited for
		says   time.Duration // of the error then
	}{
		{name: "seconds", header: "7", status: 429, code: 54009, wait: 7 * time.Second},
		{name: "a date", header: "Sat, 01 Jan 2000 00:00:12 GMT", status: 429, code: 54009, wait: 12 * time.Second},
		{name: "a date in the old form of RFC 850", header: "Saturday, 01-Jan-00 00:00:12 GMT", status: 429, code: 54009, wait: 12 * time.Second},
		{name: "503", header: "3", status: 503, code: 20503, wait: 3 * time.Second},
		{name: "an unknown outcome, at least once", policy: twiliosync.RetryPolicy{AtLeastOnce: true}, header: "3", status: 500, code: 20500, wait: 3 * time.Second},
		{name: "less than the backoff", policy: twiliosync.RetryPolicy{BaseDelay: 20 * time.Second}, header: "1", status: 429, wait: time.Second},
		{name: "exactly the default of MaxDelay", header: "20", status: 429, wait: 20 * time.Second},
		{name: "more than the default of MaxDelay", header: "21", status: 429, says: 21 * time.Second},
		{name: "a date beyond MaxDelay", header: "Sat, 01 Jan 2000 00:00:21 GMT", status: 503, code: 20503, says: 21 * time.Second},
		{name: "a larger MaxDelay", policy: twiliosync.RetryPolicy{MaxDelay: time.Hour}, header: "3600", status: 429, wait: time.Hour},
		{name: "a smaller MaxDelay", policy: twiliosync.RetryPolicy{MaxDelay: 2 * time.Second}, header: "3", status: 429, says: 3 * time.Second},
		{name: "a century", header: "3155760000", status: 429, says: 3155760000 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := twiliosynctest.NewServer(t)
				server.Next(1).WithHeader("Retry-After", test.header).Answer(test.status, test.code)
				start := time.Now()
				_, response, err := publish(server.Client(retrying(test.policy)...))
				if test.says > 0 {
					e := asError(t, err)
					assert.Equal(t, test.says, e.RetryAfter)
					assert.Equal(t, []int{test.status, test.code, 1}, []int{e.StatusCode, e.Code, e.Attempts})
					assert.Equal(t, twiliosync.OutcomeRejected, e.Outcome)
					assert.True(t, twiliosync.Retryable(err))
					assert.Zero(t, time.Since(start), "it must not be waited")
					assert.Len(t, server.Requests(), 1)
					return
				}
				require.NoError(t, err)
				assert.Equal(t, 2, response.Attempts)
				assert.Equal(t, test.wait, server.Requests()[1].Time.Sub(server.Requests()[0].Time))
				assert.Equal(t, test.wait, time.Since(start))
			})
		})
	}
}

// TestDeadlineTooNear returns at once, instead of a wait that is in vain.
func TestDeadlineTooNear(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		header   []string
		deadline time.Duration
		waited   bool
		says     time.Duration // 0: some backoff
	}{
		{"a Retry-After after the deadline", []string{"7"}, 5 * time.Second, false, 7 * time.Second},
		{"a Retry-After at the deadline", []string{"7"}, 7 * time.Second, false, 7 * time.Second},
		{"a Retry-After just before the deadline", []string{"7"}, 7*time.Second + 1, true, 0},
		{"a backoff after the deadline", nil, time.Nanosecond, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, script := scripted(t, nil, answered(429, 54009, test.header...), answered(201, 0))
				ctx, cancel := context.WithTimeout(t.Context(), test.deadline)
				defer cancel()
				start := time.Now()
				_, response, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
				if test.waited {
					require.NoError(t, err)
					assert.Equal(t, 7*time.Second, time.Since(start))
					return
				}
				assert.Zero(t, time.Since(start), "it must not be waited")
				assert.Equal(t, 1, script.count())
				e := asError(t, err)
				assert.Equal(t, []int{429, 54009, 1, 1}, []int{e.StatusCode, e.Code, e.Attempts, e.Sends})
				assert.Equal(t, twiliosync.OutcomeRejected, e.Outcome)
				assert.Equal(t, "as scripted", e.Message)
				assert.Equal(t, 429, response.StatusCode)
				assert.True(t, twiliosync.Retryable(err))
				assert.ErrorIs(t, err, twiliosync.ErrRateLimited)
				assert.NotErrorIs(t, err, context.DeadlineExceeded, "the deadline is not reached")
				if test.says > 0 {
					assert.Equal(t, test.says, e.RetryAfter)
				} else {
					assert.Positive(t, e.RetryAfter)
					assert.LessOrEqual(t, e.RetryAfter, time.Second)
				}
			})
		})
	}
}

// TestCancelBetweenAttempts ends the sleep at that instant, and keeps what the
// last attempt said.
func TestCancelBetweenAttempts(t *testing.T) {
	t.Parallel()
	left := errors.New("the user left")
	const at = 3 * time.Second
	byCancel := func(parent context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(parent)
		time.AfterFunc(at, func() { cancel(left) })
		return ctx, func() { cancel(nil) }
	}
	// A deadline that next does not know: it would not begin to sleep.
	byHiddenDeadline := func(parent context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithTimeoutCause(parent, at, left)
		return hiddenDeadline{ctx}, cancel
	}
	type end = func(context.Context) (context.Context, context.CancelFunc)
	for _, test := range []struct {
		name         string
		end          end
		matches      error
		step         roundTripFunc
		atLeastOnce  bool
		status, code int
		outcome      twiliosync.Outcome
		sends        int
		retryable    bool
		cause        error
	}{
		{"cancelled after a 429", byCancel, context.Canceled, answered(429, 54009, "9"), false, 429, 54009, twiliosync.OutcomeRejected, 1, true, nil},
		{"deadline after a 429", byHiddenDeadline, context.DeadlineExceeded, answered(429, 54009, "9"), false, 429, 54009, twiliosync.OutcomeRejected, 1, true, nil},
		{"cancelled after a 503", byCancel, context.Canceled, answered(503, 20503, "9"), false, 503, 20503, twiliosync.OutcomeRejected, 1, true, nil},
		{"cancelled after a failed dial", byCancel, context.Canceled, unreachable, false, 0, 0, twiliosync.OutcomeNotSent, 0, true, errNoRoute},
		{"cancelled after a lost answer", byCancel, context.Canceled, lost, true, 0, 0, twiliosync.OutcomeUnknown, 1, false, io.ErrUnexpectedEOF},
		{"cancelled after a 500", byCancel, context.Canceled, answered(500, 20500, "9"), true, 500, 20500, twiliosync.OutcomeUnknown, 1, false, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				// The backoff is random: make the call until one wait is long enough.
				for {
					client, script := scripted(t, retrying(twiliosync.RetryPolicy{BaseDelay: 20 * time.Second, AtLeastOnce: test.atLeastOnce}), test.step)
					ctx, cancel := test.end(t.Context())
					start := time.Now()
					_, response, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
					cancel()
					if script.count() > 1 {
						continue
					}
					assert.Equal(t, at, time.Since(start))
					assert.ErrorIs(t, err, test.matches)
					assert.NotErrorIs(t, err, left)
					assert.ErrorContains(t, err, "the user left")
					e := asError(t, err)
					assert.Equal(t, []int{test.status, test.code, 1, test.sends}, []int{e.StatusCode, e.Code, e.Attempts, e.Sends})
					assert.Equal(t, test.outcome, e.Outcome)
					assert.Equal(t, test.retryable, twiliosync.Retryable(err))
					if test.cause != nil {
						assert.ErrorIs(t, err, test.cause)
					}
					if test.status != 0 {
						assert.Equal(t, test.status, response.StatusCode)
						assert.Equal(t, fmt.Sprint("RQ", test.status), e.RequestID)
						assert.Equal(t, "as scripted", e.Message)
					}
					return
				}
			})
		})
	}
}

// hiddenDeadline is a context that ends at a deadline it does not tell.
type hiddenDeadline struct{ context.Context }

func (hiddenDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// TestPerAttemptTimeout is about WithTimeout, which is not the caller's
// deadline. The server has read the request.
func TestPerAttemptTimeout(t *testing.T) {
	t.Parallel()
	assertTimeout := func(t *testing.T, err error) {
		t.Helper()
		assert.NotErrorIs(t, err, context.DeadlineExceeded, "that is the caller's own deadline")
		assert.NotErrorIs(t, err, context.Canceled)
		var timeout net.Error
		if assert.ErrorAs(t, err, &timeout) {
			assert.True(t, timeout.Timeout())
		}
		assert.Contains(t, err.Error(), "timeout of an attempt")
	}
	t.Run("after the header was written the outcome is unknown, and nothing is sent again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := twiliosynctest.NewServer(t)
			server.Every().NeverAnswer()
			start := time.Now()
			_, response, err := publish(server.Client(twiliosync.WithTimeout(3 * time.Second)))
			assert.Equal(t, 3*time.Second, time.Since(start))
			assert.Nil(t, response)
			assertProof(t, unknownAndNotResent, err)
			assertTimeout(t, err)
			assert.Len(t, server.Requests(), 1)
		})
	})
	t.Run("10 s by default", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := twiliosynctest.NewServer(t)
			server.Every().NeverAnswer()
			start := time.Now()
			_, _, err := publish(server.Client())
			assert.Equal(t, 10*time.Second, time.Since(start))
			assertTimeout(t, err)
		})
	})
	t.Run("a timeout of 0 leaves the bound to the context, whose end is the caller's", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := twiliosynctest.NewServer(t)
			server.Every().NeverAnswer()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			start := time.Now()
			_, _, err := server.Client(twiliosync.WithTimeout(0)).StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
			assert.Equal(t, time.Hour, time.Since(start))
			assertProof(t, unknownAndNotResent, err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
	t.Run("the caller's deadline ends an attempt as an unknown outcome, too", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := twiliosynctest.NewServer(t)
			server.Every().NeverAnswer()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			_, _, err := server.Client(retrying(twiliosync.RetryPolicy{AtLeastOnce: true})...).StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
			assertProof(t, unknownAndNotResent, err)
			assert.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
	t.Run("at least once: each attempt has its own timeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			server := twiliosynctest.NewServer(t)
			server.Next(2).NeverAnswer()
			var attempts []twiliosync.Attempt
			client := server.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{AtLeastOnce: true}), observing(&attempts))
			_, response, err := publish(client)
			require.NoError(t, err)
			assert.Equal(t, []int{3, 3}, []int{response.Attempts, response.Sends})
			require.Len(t, attempts, 3)
			for _, attempt := range attempts[:2] {
				assert.Equal(t, 10*time.Second, attempt.Latency)
				assertTimeout(t, attempt.Err)
			}
		})
	})
	t.Run("while dialing nothing was sent, and it is tried again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			blocked := dialing(func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			_, _, err := publish(clientFor(t, "https://sync.example.invalid", twiliosync.WithHTTPClient(blocked)))
			assertProof(t, notSentAndRetried, err)
			assertTimeout(t, err)
		})
	})
	t.Run("in the Authenticator, which does not notice", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			client, err := twiliosync.NewClient(authFunc(func(ctx context.Context, _ *http.Request) error {
				<-ctx.Done()
				return nil
			}), twiliosync.WithHTTPClient(&http.Client{Transport: roundTripFunc(lost)}))
			require.NoError(t, err)
			_, _, err = publish(client)
			assertProof(t, notSentAndRetried, err)
			assertTimeout(t, err)
		})
	})
	t.Run("in the Authenticator, whose own error is returned", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tired := errors.New("no token in time")
			client, err := twiliosync.NewClient(authFunc(func(ctx context.Context, _ *http.Request) error {
				<-ctx.Done()
				return tired
			}), twiliosync.WithHTTPClient(&http.Client{Transport: roundTripFunc(lost)}))
			require.NoError(t, err)
			start := time.Now()
			_, _, err = publish(client)
			assert.Equal(t, 10*time.Second, time.Since(start))
			assertProof(t, notSentAndFinal, err)
			assert.ErrorIs(t, err, tired)
		})
	})
	t.Run("of a caller's http.Client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			httpClient := &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DialContext: silentPeer}}
			client := clientFor(t, "http://127.0.0.1", twiliosync.WithHTTPClient(httpClient))
			start := time.Now()
			_, _, err := publish(client)
			assert.Equal(t, 3*time.Second, time.Since(start))
			assertProof(t, unknownAndNotResent, err)
			assert.NotErrorIs(t, err, context.DeadlineExceeded)
			var timeout net.Error
			if assert.ErrorAs(t, err, &timeout) {
				assert.True(t, timeout.Timeout())
			}
		})
	})
	t.Run("within the body of an answer the status counts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			stalled := func(status int) roundTripFunc {
				return func(req *http.Request) (*http.Response, error) {
					body, _ := io.Pipe()
					context.AfterFunc(req.Context(), func() { body.CloseWithError(req.Context().Err()) })
					return &http.Response{StatusCode: status, Header: http.Header{}, Body: body, Request: req}, nil
				}
			}
			for status, outcome := range map[int]twiliosync.Outcome{201: twiliosync.OutcomeAccepted, 200: twiliosync.OutcomeUnknown, 307: twiliosync.OutcomeRejected, 400: twiliosync.OutcomeUnknown, 500: twiliosync.OutcomeUnknown} {
				client, _ := scripted(t, nil, stalled(status))
				start := time.Now()
				_, response, err := publish(client)
				assert.Equal(t, 10*time.Second, time.Since(start))
				assert.Equal(t, outcome, twiliosync.OutcomeOf(err))
				assert.Equal(t, status, response.StatusCode)
				assertTimeout(t, err)
			}
		})
	})
}

// TestOutcomeOfSeveralAttempts is the call's: once a message may have been
// published, no later attempt makes that undone.
func TestOutcomeOfSeveralAttempts(t *testing.T) {
	t.Parallel()
	noSID := func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 201, Header: http.Header{}, Body: io.NopCloser(strings.NewReader("{}")), Request: req}, nil
	}
	for _, test := range []struct {
		name        string
		steps       []roundTripFunc
		outcome     twiliosync.Outcome
		ofAttempts  []twiliosync.Outcome
		status      int
		accepted    bool // without an error
		isRetryable bool
	}{
		{"unknown, then 429 to the end", []roundTripFunc{lost, answered(429, 54009)}, twiliosync.OutcomeUnknown,
			[]twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeRejected, twiliosync.OutcomeRejected}, 429, false, false},
		{"unknown, then refused", []roundTripFunc{answered(500, 0), answered(404, 20404)}, twiliosync.OutcomeUnknown,
			[]twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeRejected}, 404, false, false},
		{"unknown, then unreachable", []roundTripFunc{lost, unreachable}, twiliosync.OutcomeUnknown,
			[]twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeNotSent, twiliosync.OutcomeNotSent}, 0, false, false},
		{"unknown, then accepted", []roundTripFunc{lost, answered(201, 0)}, twiliosync.OutcomeAccepted,
			[]twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeAccepted}, 201, true, false},
		{"unknown, then accepted with an answer that is no message", []roundTripFunc{lost, noSID}, twiliosync.OutcomeAccepted,
			[]twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeAccepted}, 201, false, false},
		{"429, then unknown to the end", []roundTripFunc{answered(429, 0), lost}, twiliosync.OutcomeUnknown,
			[]twiliosync.Outcome{twiliosync.OutcomeRejected, twiliosync.OutcomeUnknown, twiliosync.OutcomeUnknown}, 0, false, false},
		{"unreachable, then 429 to the end", []roundTripFunc{unreachable, answered(429, 0)}, twiliosync.OutcomeRejected,
			[]twiliosync.Outcome{twiliosync.OutcomeNotSent, twiliosync.OutcomeRejected, twiliosync.OutcomeRejected}, 429, false, true},
		{"429, then unreachable to the end", []roundTripFunc{answered(429, 0), unreachable}, twiliosync.OutcomeNotSent,
			[]twiliosync.Outcome{twiliosync.OutcomeRejected, twiliosync.OutcomeNotSent, twiliosync.OutcomeNotSent}, 0, false, true},
		{"a redirect is never sent again", []roundTripFunc{answered(302, 0)}, twiliosync.OutcomeUnknown,
			[]twiliosync.Outcome{twiliosync.OutcomeUnknown}, 302, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var attempts []twiliosync.Attempt
				client, script := scripted(t, append(retrying(twiliosync.RetryPolicy{AtLeastOnce: true}), observing(&attempts)), test.steps...)
				message, response, err := publish(client)
				assert.Equal(t, test.outcome, twiliosync.OutcomeOf(err), "%v", err)
				assert.Equal(t, test.isRetryable, twiliosync.Retryable(err))
				assert.Equal(t, test.accepted, err == nil)
				assert.Equal(t, test.accepted, message != nil)
				if test.status == 0 {
					assert.Nil(t, response, "the last attempt had no answer")
				} else {
					assert.Equal(t, test.status, response.StatusCode)
					assert.Equal(t, script.count(), response.Attempts)
				}
				if !test.accepted {
					e := asError(t, err)
					assert.Equal(t, test.status, e.StatusCode, "of the last attempt")
					assert.Equal(t, len(test.ofAttempts), e.Attempts)
				}
				require.Len(t, attempts, len(test.ofAttempts))
				for i, outcome := range test.ofAttempts {
					assert.Equal(t, outcome, attempts[i].Outcome, "attempt %d", i+1)
					assert.Equal(t, outcome, twiliosync.OutcomeOf(attempts[i].Err), "attempt %d", i+1)
				}
			})
		})
	}
}

// TestSendsOfSeveralAttempts counts only the attempts that may have been sent.
func TestSendsOfSeveralAttempts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, _ := scripted(t, nil, unreachable, answered(429, 54009), answered(201, 0))
		_, response, err := publish(client)
		require.NoError(t, err)
		assert.Equal(t, []int{3, 2}, []int{response.Attempts, response.Sends})
	})
}

// TestEachAttemptSendsTheSameBytes and asks for the credentials anew.
func TestEachAttemptSendsTheSameBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		type sent struct{ url, body, again, header string }
		var requests []sent
		var credentials []string
		recording := func(then roundTripFunc) roundTripFunc {
			return func(req *http.Request) (*http.Response, error) {
				body, err := io.ReadAll(req.Body)
				require.NoError(t, err)
				assert.EqualValues(t, len(body), req.ContentLength)
				require.NotNil(t, req.GetBody)
				copied, err := req.GetBody()
				require.NoError(t, err)
				again, err := io.ReadAll(copied)
				require.NoError(t, err)
				header := maps.Clone(req.Header)
				delete(header, "Authorization")
				requests = append(requests, sent{req.Method + " " + req.URL.String(), string(body), string(again), fmt.Sprint(header)})
				credentials = append(credentials, req.Header.Get("Authorization"))
				return then(req)
			}
		}
		asked := 0
		rotating := authFunc(func(ctx context.Context, req *http.Request) error {
			deadline, ok := ctx.Deadline()
			assert.True(t, ok, "the context ends with the attempt")
			assert.Equal(t, 10*time.Second, time.Until(deadline))
			asked++
			req.Header.Set("Authorization", fmt.Sprint("Bearer ", asked))
			return nil
		})
		script := &scriptedAttempts{steps: []roundTripFunc{recording(answered(429, 54009)), recording(lost), recording(answered(201, 0))}}
		client, err := twiliosync.NewClient(rotating, twiliosync.WithHTTPClient(&http.Client{Transport: script}),
			twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{AtLeastOnce: true}))
		require.NoError(t, err)
		_, response, err := client.StreamMessages.Create(t.Context(), "default", "orders#1", map[string]any{"z": 1, "a": "ü & <b>", "m": map[string]int{"y": 2, "x": 1}})

		require.NoError(t, err)
		assert.Equal(t, 3, response.Attempts)
		assert.Equal(t, []string{"Bearer 1", "Bearer 2", "Bearer 3"}, credentials)
		require.Len(t, requests, 3)
		form, err := url.ParseQuery(requests[0].body)
		require.NoError(t, err)
		assert.Equal(t, `{"a":"ü & <b>","m":{"x":1,"y":2},"z":1}`, form.Get("Data"))
		assert.Equal(t, requests[0].body, requests[0].again)
		assert.Equal(t, requests[0], requests[1])
		assert.Equal(t, requests[0], requests[2])
	})
}

// TestRetryQuota takes the numbers of the package comment: 500 tokens, a retry
// takes 14, or 5 after the server throttled, a success gives 1 back.
func TestRetryQuota(t *testing.T) {
	t.Parallel()
	const calls = 1000
	for _, test := range []struct {
		name    string
		policy  twiliosync.RetryPolicy
		step    roundTripFunc
		retries int // of all calls
	}{
		{"an unreachable server", twiliosync.RetryPolicy{}, unreachable, 35},
		{"an unreachable server and many attempts", twiliosync.RetryPolicy{MaxAttempts: 1000}, unreachable, 35},
		{"lost answers, at least once", twiliosync.RetryPolicy{AtLeastOnce: true}, lost, 35},
		{"500, at least once", twiliosync.RetryPolicy{AtLeastOnce: true}, answered(500, 20500), 35},
		{"429", twiliosync.RetryPolicy{}, answered(429, 54009), 100},
		{"503 with code 20503", twiliosync.RetryPolicy{}, answered(503, 20503), 100},
		{"no retry, no cost", twiliosync.RetryPolicy{}, answered(404, 20404), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, script := scripted(t, retrying(test.policy), test.step)
				for range calls {
					_, _, err := publish(client)
					require.Error(t, err)
				}
				assert.Equal(t, calls+test.retries, script.count())
			})
		})
	}
	t.Run("an unreachable server and many callers", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			client, script := scripted(t, nil, unreachable)
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() {
					for range calls / 100 {
						publish(client)
					}
				})
			}
			callers.Wait()
			assert.Equal(t, calls+35, script.count())
		})
	})
}

func TestRetryQuotaAfterRecovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var step roundTripFunc
		client, script := scripted(t, retrying(twiliosync.RetryPolicy{MaxAttempts: 1000}), func(req *http.Request) (*http.Response, error) { return step(req) })
		// make makes some calls and returns how many attempts they took.
		make := func(calls int, as roundTripFunc) int {
			step = as
			before := script.count()
			for range calls {
				publish(client)
			}
			return script.count() - before
		}
		assert.Equal(t, 2000, make(2000, answered(201, 0)), "successes don't pile up beyond the 500")
		assert.Equal(t, 1+35, make(1, unreachable), "10 tokens are left")
		assert.Equal(t, 3, make(3, answered(201, 0)))
		assert.Equal(t, 1, make(1, unreachable), "13 are not enough")
		assert.Equal(t, 1, make(1, answered(201, 0)))
		assert.Equal(t, 1+1, make(1, unreachable), "14 are")
		assert.Equal(t, 1, make(1, answered(429, 54009)), "none are left")
		assert.Equal(t, 5, make(5, answered(201, 0)))
		assert.Equal(t, 1+1, make(1, answered(429, 54009)), "a throttle takes 5")
		assert.Equal(t, 10, make(10, answered(404, 20404)))
		assert.Equal(t, 1, make(1, answered(429, 54009)), "only a success gives back")
		assert.Equal(t, 500, make(500, answered(201, 0)))
		assert.Equal(t, 1+35, make(1, unreachable), "the quota is full again")
	})
}

// TestQuotaKeepsTheLastError returns what the server said when the quota is
// spent, at once.
func TestQuotaKeepsTheLastError(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, script := scripted(t, nil, answered(429, 54009, "2"))
		for script.count() < 100+50 { // 100 retries in 50 calls
			publish(client)
		}
		start := time.Now()
		_, _, err := publish(client)
		assert.Zero(t, time.Since(start))
		e := asError(t, err)
		assert.Equal(t, []int{429, 54009, 1, 1}, []int{e.StatusCode, e.Code, e.Attempts, e.Sends})
		assert.Equal(t, 2*time.Second, e.RetryAfter)
		assert.True(t, twiliosync.Retryable(err))
	})
}

func TestObserverSeesEachAttempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := twiliosynctest.NewServer(t)
		server.Next(1).WithHeader("Retry-After", "2").Answer(429, 54009)
		server.Next(1).WithHeader("Twilio-Request-Id", "RQ503").WithHeader("Retry-After", "3").Answer(503, 20503)
		server.Next(1).AfterHandling().Delay(1500 * time.Millisecond)
		type key struct{}
		ctx := context.WithValue(t.Context(), key{}, "of the call")
		var attempts []twiliosync.Attempt
		var seenAt []time.Duration
		start := time.Now()
		client := server.Client(twiliosync.WithObserver(func(ctx context.Context, a twiliosync.Attempt) {
			assert.Equal(t, "of the call", ctx.Value(key{}))
			attempts, seenAt = append(attempts, a), append(seenAt, time.Since(start))
		}))
		_, response, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
		require.NoError(t, err)

		require.Len(t, attempts, 3)
		first, second := attempts[0], attempts[1]
		for i, e := range []*twiliosync.Error{asError(t, first.Err), asError(t, second.Err)} {
			assert.Equal(t, attempts[i].StatusCode, e.StatusCode)
			assert.Equal(t, attempts[i].Code, e.Code)
			assert.Equal(t, attempts[i].RequestID, e.RequestID)
			assert.Equal(t, attempts[i].Outcome, e.Outcome)
			assert.Equal(t, attempts[i].RetryIn, e.RetryAfter)
			assert.Equal(t, []int{i + 1, i + 1}, []int{e.Attempts, e.Sends})
		}
		assert.Regexp(t, "^RQ[0-9a-f]{32}$", first.RequestID)
		first.RequestID, first.Err, second.Err = "", nil, nil
		assert.Equal(t, twiliosync.Attempt{Operation: "CreateStreamMessage", ServiceSID: "default", StreamSID: "orders", Index: -1, Number: 1, Outcome: twiliosync.OutcomeRejected, StatusCode: 429, Code: 54009, RetryIn: 2 * time.Second}, first)
		assert.Equal(t, twiliosync.Attempt{Operation: "CreateStreamMessage", ServiceSID: "default", StreamSID: "orders", Index: -1, Number: 2, Outcome: twiliosync.OutcomeRejected, StatusCode: 503, Code: 20503, RequestID: "RQ503", RetryIn: 3 * time.Second}, second)
		assert.Equal(t, twiliosync.Attempt{Operation: "CreateStreamMessage", ServiceSID: "default", StreamSID: "orders", Index: -1, Number: 3, Outcome: twiliosync.OutcomeAccepted, StatusCode: 201, RequestID: response.RequestID, Latency: 1500 * time.Millisecond}, attempts[2])
		assert.Equal(t, []time.Duration{0, 2 * time.Second, 6500 * time.Millisecond}, seenAt, "before the delay that follows")
	})
}

func TestObserverSeesTheEndOfRetrying(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		policy  twiliosync.RetryPolicy
		step    roundTripFunc
		retryIn []bool
	}{
		{"no attempt is left", twiliosync.RetryPolicy{}, unreachable, []bool{true, true, false}},
		{"not to be sent again", twiliosync.RetryPolicy{}, lost, []bool{false}},
		{"a Retry-After beyond MaxDelay", twiliosync.RetryPolicy{}, answered(429, 0, "3600"), []bool{false}},
		{"retrying is off", twiliosync.RetryPolicy{MaxAttempts: 1}, answered(429, 0, "1"), []bool{false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var attempts []twiliosync.Attempt
				client, _ := scripted(t, append(retrying(test.policy), observing(&attempts)), test.step)
				_, _, err := publish(client)
				require.Error(t, err)
				var retryIn []bool
				for _, attempt := range attempts {
					retryIn = append(retryIn, attempt.RetryIn > 0)
				}
				assert.Equal(t, test.retryIn, retryIn)
			})
		})
	}
}

func TestNothingIsObservedOfRefusedCalls(t *testing.T) {
	t.Parallel()
	var attempts []twiliosync.Attempt
	client, _ := scripted(t, []twiliosync.Option{observing(&attempts)}, answered(201, 0))
	_, _, err := client.StreamMessages.Create(context.Background(), "default", "", map[string]any{})
	require.Error(t, err)
	assert.Empty(t, attempts)
}

// panicking is a slog handler that panics, except for Error if it is spared.
type panicking struct {
	slog.Handler
	spared *bytes.Buffer
}

func (p panicking) Handle(ctx context.Context, record slog.Record) error {
	if p.spared != nil && record.Level == slog.LevelError {
		return p.Handler.Handle(ctx, record)
	}
	panic("the disk is full")
}

// TestPanicsOfTheCallersCode don't lose the outcome of a message.
func TestPanicsOfTheCallersCode(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	handler := slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})
	observer := twiliosync.WithObserver(func(context.Context, twiliosync.Attempt) { panic("the observer is out") })
	for _, test := range []struct {
		name string
		opts []twiliosync.Option
		logs string
	}{
		{"the observer", []twiliosync.Option{observer}, ""},
		{"the observer, and it is logged", []twiliosync.Option{observer, twiliosync.WithLogger(slog.New(handler))}, "the observer is out"},
		{"the slog handler", []twiliosync.Option{twiliosync.WithLogger(slog.New(panicking{handler, nil}))}, ""},
		{"both", []twiliosync.Option{observer, twiliosync.WithLogger(slog.New(panicking{handler, nil}))}, ""},
		{"both, and errors can be logged", []twiliosync.Option{observer, twiliosync.WithLogger(slog.New(panicking{handler, &text}))}, "the observer is out"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				text.Reset()
				client, script := scripted(t, test.opts, answered(429, 54009), answered(201, 0), lost)
				message, response, err := publish(client)
				require.NoError(t, err)
				assert.Equal(t, testSID, message.SID)
				assert.Equal(t, 2, response.Attempts)
				_, _, err = publish(client)
				assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(err))
				assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
				assert.Equal(t, 3, script.count())
				if test.logs != "" {
					assert.Equal(t, 3, strings.Count(text.String(), test.logs), text.String())
					assert.Contains(t, text.String(), "level=ERROR")
				}
			})
		})
	}
}

// TestObserverMayUseTheClient: no lock is held while it runs, also if Create
// is paced.
func TestObserverMayUseTheClient(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]twiliosync.Option{
		"not paced": nil,
		"paced":     {twiliosync.WithStreamRateLimit(2, time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := twiliosynctest.NewServer(t)
				server.Next(1).Answer(429, 54009)
				var client *twiliosync.Client
				var nested atomic.Int32
				client = server.Client(append(opts, twiliosync.WithObserver(func(ctx context.Context, _ twiliosync.Attempt) {
					if nested.Add(1) > 3 {
						return
					}
					_, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"nested": true})
					assert.NoError(t, err)
				}))...)
				_, _, err := publish(client)
				require.NoError(t, err)
				assert.Len(t, server.Messages("orders"), 4)
			})
		})
	}
}

// TestLogger checks each line against the list of what may be in it.
func TestLogger(t *testing.T) {
	t.Parallel()
	const (
		serviceSID = "ISaaaaaaaaaaaaaaaaaaaaaaaaaaaa5e1f"
		streamSID  = "TObbbbbbbbbbbbbbbbbbbbbbbbbbbbb7c2d"
		payload    = "the-payload-of-the-message"
	)
	const (
		text    = "twiliosync: attempt"
		unknown = "twiliosync: attempt with unknown outcome, it may have taken effect"
	)
	// What the server says never gets into the log: here it repeats the data.
	gossip := func(status int, header ...string) roundTripFunc {
		return func(req *http.Request) (*http.Response, error) {
			body := fmt.Sprintf(`{"code":54009,"message":%q,"details":{"x":%q}}`, payload, payload)
			h := http.Header{"Twilio-Request-Id": {"RQ1"}}
			if len(header) > 0 {
				h["Retry-After"] = header
			}
			return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
		}
	}
	line := func(level, msg string, attempt int, outcome string, status, code int, delay time.Duration, requestID string) map[string]any {
		return map[string]any{
			"level": level, "msg": msg, "attempt": float64(attempt), "outcome": outcome, "status": float64(status), "code": float64(code),
			"latency": 0.0, "delay": float64(delay), "request_id": requestID, "service": "…5e1f", "stream": "…7c2d",
		}
	}
	for _, test := range []struct {
		name  string
		steps []roundTripFunc
		want  []map[string]any
	}{
		{"accepted", []roundTripFunc{answered(201, 0)}, []map[string]any{
			line("DEBUG", text, 1, "accepted", 201, 0, 0, "RQ201"),
		}},
		{"throttled, then accepted", []roundTripFunc{gossip(429, "2"), answered(201, 0)}, []map[string]any{
			line("DEBUG", text, 1, "rejected", 429, 54009, 2*time.Second, "RQ1"),
			line("DEBUG", text, 2, "accepted", 201, 0, 0, "RQ201"),
		}},
		{"an unknown outcome is a warning", []roundTripFunc{lost}, []map[string]any{
			line("WARN", unknown, 1, "unknown", 0, 0, 0, ""),
		}},
		{"so is a 500", []roundTripFunc{gossip(500)}, []map[string]any{
			line("WARN", unknown, 1, "unknown", 500, 54009, 0, "RQ1"),
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				logger := slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				client, _ := scripted(t, []twiliosync.Option{twiliosync.WithLogger(logger)}, test.steps...)
				client.StreamMessages.Create(t.Context(), serviceSID, streamSID, map[string]any{"secret": payload})
				assert.NotContains(t, log.String(), payload)
				assert.NotContains(t, log.String(), serviceSID[:30])
				assert.NotContains(t, log.String(), streamSID[:30])
				assertNoSecret(t, log.String())
				var got []map[string]any
				for decoder := json.NewDecoder(&log); decoder.More(); {
					entry := map[string]any{}
					require.NoError(t, decoder.Decode(&entry))
					delete(entry, "time")
					got = append(got, entry)
				}
				assert.Equal(t, test.want, got)
			})
		})
	}
}

func TestLoggerOfTheDefaultLevelShowsOnlyWarnings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		client, _ := scripted(t, []twiliosync.Option{twiliosync.WithLogger(slog.New(slog.NewTextHandler(&log, nil)))},
			answered(429, 54009), answered(201, 0), answered(404, 20404), lost)
		for range 3 {
			publish(client)
		}
		assert.Equal(t, 1, strings.Count(log.String(), "\n"), log.String())
		assert.Contains(t, log.String(), "level=WARN")
	})
}
