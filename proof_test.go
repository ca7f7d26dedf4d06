package twiliosync_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
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

func TestACausesTypeIsNotThisCalls(t *testing.T) {
	t.Parallel()
	for name, cause := range map[string]error{
		"a sibling's refused parameter": &twiliosync.Error{Outcome: twiliosync.OutcomeNotSent, Err: &twiliosync.ParameterError{Parameter: "data", Reason: "it is nil"}},
		"a sibling's 404":               &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 404, Code: 20404},
		"a sibling's sentinel":          twiliosync.ErrNotFound,
		"a sibling's deadline":          fmt.Errorf("sibling: %w", context.DeadlineExceeded),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				m := &memory{latency: time.Hour}
				time.AfterFunc(time.Second, func() { cancel(cause) })
				_, _, err := m.client(t).StreamMessages.Create(ctx, "default", "orders", json.RawMessage(`{}`))
				assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(err))
				assert.ErrorIs(t, err, context.Canceled)
				assert.NotErrorIs(t, err, context.DeadlineExceeded)
				assert.NotErrorIs(t, err, twiliosync.ErrNotFound)
				assert.NotErrorIs(t, err, twiliosync.ErrInvalidParameter)
				var parameter *twiliosync.ParameterError
				assert.NotErrorAs(t, err, &parameter)
				assert.Contains(t, err.Error(), "cause: ", "its text may name it")
			})
		})
	}
}

func TestErrorsOfOthersLendNoType(t *testing.T) {
	t.Parallel()
	foreign := map[string]error{
		"a context's end":       context.Canceled,
		"a deadline":            fmt.Errorf("token: %w", context.DeadlineExceeded),
		"a sentinel":            fmt.Errorf("cache: %w", twiliosync.ErrNotFound),
		"an Error of our own":   &twiliosync.Error{Outcome: twiliosync.OutcomeAccepted, StatusCode: 429},
		"a refused parameter":   &twiliosync.ParameterError{Parameter: "data"},
		"the end of the buffer": twiliosync.ErrBufferFull,
	}
	for name, cause := range foreign {
		for from, client := range map[string]*twiliosync.Client{
			"an Authenticator": clientOf(t, &recorder{answer: answer(201, testAnswer)}, authFunc(func(context.Context, *http.Request) error { return cause })),
			"a RoundTripper": clientFor(t, "https://sync.example.invalid", twiliosync.WithHTTPClient(&http.Client{Transport: roundTripFunc(func(*http.Request) (*http.Response, error) {
				return nil, cause
			})})),
		} {
			t.Run(name+" from "+from, func(t *testing.T) {
				_, _, err := publish(client)
				e := asError(t, err)
				want := twiliosync.OutcomeUnknown
				if from == "an Authenticator" {
					want = twiliosync.OutcomeNotSent
				}
				assert.Equal(t, want, e.Outcome)
				assert.False(t, twiliosync.Retryable(err))
				for _, sentinel := range []error{context.Canceled, context.DeadlineExceeded, twiliosync.ErrNotFound, twiliosync.ErrRateLimited, twiliosync.ErrBufferFull, twiliosync.ErrInvalidParameter} {
					assert.NotErrorIs(t, err, sentinel)
				}
				var parameter *twiliosync.ParameterError
				assert.NotErrorAs(t, err, &parameter)
				var inner *twiliosync.Error
				assert.NotErrorAs(t, errors.Unwrap(err), &inner)
			})
		}
	}
}

func TestATransportThatFailsOverByItselfProvesNothing(t *testing.T) {
	t.Parallel()
	handled := &recorder{answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }}
	second := httptest.NewServer(handled)
	t.Cleanup(second.Close)
	failover := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if _, err := new(http.Transport).RoundTrip(req); err == nil { // refused
			return nil, errors.New("nobody listens there")
		}
		body, _ := req.GetBody()
		again, _ := http.NewRequest(http.MethodPost, second.URL+req.URL.Path, body) // under a context of its own
		again.Header = req.Header
		return new(http.Transport).RoundTrip(again)
	})
	_, _, err := publish(clientFor(t, closedURL(t), hurried(twiliosync.WithHTTPClient(&http.Client{Transport: failover}))...))
	assertProof(t, unknownAndNotResent, err)
	assert.Len(t, handled.all(), 1)
}

// TestAFailedHandshakeIsForgottenWithItsConnection: a kept connection that died
// is not "a refused TLS handshake" because an earlier dial failed one.
func TestAFailedHandshakeIsForgottenWithItsConnection(t *testing.T) {
	t.Parallel()
	handshakeErr := errors.New("tls: bad certificate")
	transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		trace := httptrace.ContextClientTrace(req.Context())
		trace.GetConn("a")
		trace.TLSHandshakeDone(tls.ConnectionState{}, handshakeErr)
		trace.GetConn("a")
		return nil, &net.OpError{Op: "write", Net: "tcp", Err: errors.New("broken pipe")}
	})
	_, _, err := publish(clientFor(t, "https://sync.example.invalid", twiliosync.WithHTTPClient(&http.Client{Transport: transport})))
	assert.NotContains(t, err.Error(), "TLS handshake")
	assert.Equal(t, twiliosync.OutcomeUnknown, twiliosync.OutcomeOf(err), "nor is it the failure that the trace reported")
}

func TestProxiesThatRefuse(t *testing.T) {
	t.Parallel()
	socks := func(answers ...[]byte) string { // each is the answer to what comes
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					buffer := make([]byte, 512)
					for _, answer := range answers {
						if _, err := conn.Read(buffer); err != nil {
							return
						}
						conn.Write(answer)
					}
				}()
			}
		}()
		return "socks5://user:password@" + listener.Addr().String()
	}
	reply := func(code byte) []byte { return []byte{5, code, 0, 1, 0, 0, 0, 0, 0, 0} }
	for _, test := range []struct {
		name  string
		proxy string
		want  proof
	}{
		{"SOCKS: no acceptable method", socks([]byte{5, 0xFF}), notSentAndFinal},
		{"SOCKS: a wrong password", socks([]byte{5, 2}, []byte{1, 1}), notSentAndFinal},
		{"SOCKS: not allowed by its rules", socks([]byte{5, 0}, reply(2)), notSentAndFinal},
		{"SOCKS: command not supported", socks([]byte{5, 0}, reply(7)), notSentAndFinal},
		{"SOCKS: a general failure", socks([]byte{5, 0}, reply(1)), notSentAndRetried},
		{"SOCKS: network unreachable", socks([]byte{5, 0}, reply(3)), notSentAndRetried},
		{"SOCKS: host unreachable", socks([]byte{5, 0}, reply(4)), notSentAndRetried},
		{"SOCKS: connection refused", socks([]byte{5, 0}, reply(5)), notSentAndRetried},
		{"SOCKS: the connection ends", socks([]byte{5, 0}), notSentAndRetried},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			proxy, err := url.Parse(test.proxy)
			require.NoError(t, err)
			transport := &http.Transport{Proxy: http.ProxyURL(proxy)}
			_, _, err = publish(clientFor(t, "https://sync.example.invalid", hurried(twiliosync.WithHTTPClient(&http.Client{Transport: transport}))...))
			assertProof(t, test.want, err)
			assert.NotContains(t, err.Error(), "password@")
		})
	}
}

func TestARetryThatTheQuotaRefusesIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, _ := scripted(t, retrying(twiliosync.RetryPolicy{MaxAttempts: 2}), answered(503, 20503))
		var last error
		for range 200 {
			_, _, last = publish(client)
		}
		assert.ErrorIs(t, last, twiliosync.ErrRetryQuota)
		assert.ErrorContains(t, last, "retry quota is spent")
		assert.Equal(t, twiliosync.OutcomeRejected, twiliosync.OutcomeOf(last))
		assert.True(t, twiliosync.Retryable(last))
	})
}

func TestTheQuotaIsNotSpentAfterTheContextEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var cancel context.CancelFunc
		refuse := func(req *http.Request) (*http.Response, error) {
			if cancel != nil {
				cancel()
			}
			return answered(503, 20503)(req)
		}
		client, _ := scripted(t, nil, refuse)
		for range 500 {
			var ctx context.Context
			ctx, cancel = context.WithCancel(t.Context())
			client.StreamMessages.Create(ctx, "default", "orders", json.RawMessage(`{}`))
		}
		cancel = nil
		_, _, err := publish(client)
		assert.Equal(t, 3, asError(t, err).Attempts)
	})
}

func TestCredentialsAndAddressesThatAreRefused(t *testing.T) {
	const sid = "AC0123456789abcdef0123456789abcdef"
	client := func(opts ...twiliosync.Option) error {
		_, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret), opts...)
		return err
	}
	auth := func(username, password string) error {
		_, err := twiliosync.NewClient(twiliosync.BasicAuth(username, password))
		return err
	}
	for _, test := range []struct {
		name string
		err  error
		says string
	}{
		{"a byte order mark before the secret", auth(sid, "\ufeffsecret"), "U+FEFF"},
		{"a zero-width space after the secret", auth(sid, "secret\u200b"), "U+200B"},
		{"a mark of direction after the secret", auth(sid, "secret\u200e"), "U+200E"},
		{"a word joiner before the user name", auth("\u2060"+sid, "secret"), "U+2060"},
		{"swapped", auth("secret", sid), "swap"},
		{"swapped, with a key", auth("secret", "SK"+sid[2:]), "swap"},
		{"port 0", client(twiliosync.WithBaseURL("https://127.0.0.1:0")), "port"},
		{"port 65536", client(twiliosync.WithBaseURL("https://127.0.0.1:65536")), "port"},
		{"port 99999", client(twiliosync.WithBaseURL("https://127.0.0.1:99999")), "port"},
		{"the version in the path", client(twiliosync.WithBaseURL("https://sync.twilio.com/v1")), "/v1"},
		{"the version in the path, with a slash", client(twiliosync.WithBaseURL("https://proxy.example.com/twilio/v1/")), "/v1"},
		{"a timeout without its unit", client(twiliosync.WithTimeout(10)), "unit"},
	} {
		t.Run(test.name, func(t *testing.T) {
			require.ErrorContains(t, test.err, test.says)
			assert.NotContains(t, test.err.Error(), "secret\u200b")
			assert.NotContains(t, test.err.Error(), sid)
		})
	}
	t.Run("quotes are taken, and the advice of a 401 reminds of them", func(t *testing.T) {
		server := &recorder{answer: answer(401, `{"code":20003,"message":"Authenticate"}`)}
		_, _, err := publish(clientOf(t, server, twiliosync.BasicAuth(testUser, `"quoted"`)))
		assert.ErrorIs(t, err, twiliosync.ErrUnauthorized)
		assert.ErrorContains(t, err, "quotes")
	})
	t.Run("port 65535 and a timeout of 1 ms are fine", func(t *testing.T) {
		assert.NoError(t, client(twiliosync.WithBaseURL("https://127.0.0.1:65535"), twiliosync.WithTimeout(time.Millisecond)))
	})
}

type (
	rawCopy   json.RawMessage
	hidden    struct{ text string }
	readsJSON struct{ io.Reader }
	embeds    struct{ hidden }
	public    struct{ A int }
	wrapsIt   struct{ public }
)

func (readsJSON) MarshalJSON() ([]byte, error) { return []byte(`{"a":1}`), nil }

func TestDataWhoseTextWouldBeLostIsRefused(t *testing.T) {
	builder := &strings.Builder{}
	builder.WriteString(`{"card":"4111"}`)
	bytesOf := []byte(`{}`)
	var nilMap *map[string]any
	for _, test := range []struct {
		name string
		data any
		says string // empty: it is fine
	}{
		{"a *strings.Builder", builder, "json.RawMessage(b.String())"},
		{"a bytes.Buffer by value", *bytes.NewBufferString(`{}`), "json.RawMessage"},
		{"a *bytes.Buffer", bytes.NewBufferString(`{}`), "json.RawMessage"},
		{"an error", errors.New("out of ink"), "error"},
		{"a struct with unexported fields only", hidden{"x"}, "unexported"},
		{"a pointer to it", &hidden{"x"}, "unexported"},
		{"one that embeds it", embeds{hidden{"x"}}, "unexported"},
		{"sql.RawBytes", sql.RawBytes(`{}`), "json.RawMessage(data)"},
		{"a copy of json.RawMessage's type", rawCopy(`{}`), "json.RawMessage(data)"},
		{"a pointer to bytes", &bytesOf, "json.RawMessage(data)"},
		{"a nil pointer", nilMap, "nil pointer"},
		{"a struct without fields", struct{}{}, ""},
		{"a struct that embeds exported fields", wrapsIt{public{1}}, ""},
		{"a value with both Read and MarshalJSON", readsJSON{strings.NewReader("x")}, ""},
		{"a pointer to json.RawMessage", &[]json.RawMessage{json.RawMessage(`{}`)}[0], ""},
		{"a time is a text", time.Unix(0, 0), "a JSON string"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t)
			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", test.data)
			if test.says == "" {
				require.NoError(t, err)
				assert.Len(t, server.all(), 1)
				return
			}
			assert.Contains(t, refusedParameter(t, err).Reason, test.says)
			if !strings.Contains(test.says, "JSON string") {
				assert.NotContains(t, refusedParameter(t, err).Reason, "wrap it", "that would publish something else")
			}
			assert.Empty(t, server.all())
		})
	}
}

func TestTheKindOfAnEncodersErrorIsToldWithoutData(t *testing.T) {
	client, _ := setup(t)
	cycle := map[string]any{}
	cycle["self"] = cycle
	syntax := json.Unmarshal([]byte(`{"card":4111x}`), new(any))
	for name, test := range map[string]struct {
		data any
		says string
	}{
		"NaN":                      {map[string]any{"a": math.NaN()}, "NaN"},
		"infinity":                 {map[string]any{"a": math.Inf(1)}, "Inf"},
		"a cycle":                  {cycle, "cycle"},
		"a channel":                {map[string]any{"a": make(chan int)}, "chan int"},
		"a marshaler":              {custom{err: errors.New("card 4111 is bad")}, "custom"},
		"one with a syntax error":  {custom{err: fmt.Errorf("card 4111: %w", syntax)}, "custom"},
		"a panicking number, text": {map[string]any{"a": json.Number("4111-x")}, "can't encode"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", test.data)
			assert.Contains(t, refusedParameter(t, err).Reason, test.says)
			for _, shown := range everythingShown(err) {
				assert.NotContains(t, shown, "4111")
			}
		})
	}
}

func TestServersClocksAndCodings(t *testing.T) {
	t.Parallel()
	t.Run("a Retry-After date counts from the answer's own Date", func(t *testing.T) {
		for name, skew := range map[string]time.Duration{"an hour ahead": time.Hour, "an hour behind": -time.Hour, "none": 0} {
			synctest.Test(t, func(t *testing.T) {
				server := twiliosynctest.NewServer(t)
				now := time.Now().Add(skew).UTC()
				server.Next(1).WithHeader("Date", now.Format(http.TimeFormat)).WithHeader("Retry-After", now.Add(2*time.Second).Format(http.TimeFormat)).Answer(429, 54009)
				start := time.Now()
				_, _, err := publish(server.Client())
				require.NoError(t, err, name)
				assert.Equal(t, 2*time.Second, time.Since(start), name)
			})
		}
	})
	zipped := func(text string) string {
		var packed strings.Builder
		writer := gzip.NewWriter(&packed)
		writer.Write([]byte(text))
		writer.Close()
		return packed.String()
	}
	gzipped := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(status)
			io.WriteString(w, zipped(text))
		}
	}
	t.Run("a gzip answer that nobody asked for is read", func(t *testing.T) {
		client, server := setup(t)
		server.answer = gzipped(201, testAnswer)
		message, _, err := publish(client)
		require.NoError(t, err)
		assert.Equal(t, testSID, message.SID)
		server.answer = gzipped(404, `{"code":54250,"message":"no such stream"}`)
		_, _, err = publish(client)
		assert.Equal(t, []int{404, 54250}, []int{asError(t, err).StatusCode, asError(t, err).Code})
	})
	t.Run("a message after a byte order mark is read", func(t *testing.T) {
		client, server := setup(t)
		server.answer = answer(201, "\ufeff"+testAnswer)
		message, _, err := publish(client)
		require.NoError(t, err)
		assert.Equal(t, testSID, message.SID)
	})
}

// TestAnAuthenticatorMayKeepItsRequest, read it later and change it.
func TestAnAuthenticatorMayKeepItsRequest(t *testing.T) {
	var reading sync.WaitGroup
	auth := authFunc(func(_ context.Context, req *http.Request) error {
		req.Header.Set("Authorization", "Bearer token")
		for range 2 {
			reading.Go(func() {
				for name := range req.Header {
					_ = req.Header.Get(name)
				}
			})
		}
		body, err := io.ReadAll(req.Body)
		if err != nil || !strings.HasPrefix(string(body), "Data=") {
			return fmt.Errorf("the body is %q: %w", body, err)
		}
		req.Method, req.URL, req.Body = "DELETE", &url.URL{Host: "elsewhere.example"}, http.NoBody
		return nil
	})
	server := &recorder{answer: answer(201, testAnswer)}
	client := clientOf(t, server, auth)
	for range 20 {
		_, _, err := publish(client)
		require.NoError(t, err)
	}
	reading.Wait()
	for _, request := range server.all() {
		assert.Equal(t, "POST", request.method)
		assert.Equal(t, "Data=%7B%22a%22%3A1%7D", request.body)
		assert.Equal(t, []string{"Bearer token"}, request.header["Authorization"])
	}
}

type valueAuth struct{ Token string }

func (v valueAuth) Authenticate(_ context.Context, req *http.Request) error {
	req.Header.Set("X-Api-Token", v.Token)
	return nil
}

func TestSecretsOfAnAuthenticatorOfTheCallersAreKeptToo(t *testing.T) {
	server := &recorder{answer: func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(400)
		fmt.Fprintf(w, `{"code":54008,"message":"bad token %s"}`, req.Header.Get("X-Api-Token"))
	}}
	client := clientOf(t, server, valueAuth{testSecret})
	_, _, err := publish(client)
	assert.Empty(t, asError(t, err).Message)
	for _, shown := range everythingShown(err) {
		assert.NotContains(t, shown, testSecret)
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		assert.NotContains(t, fmt.Sprintf(verb, client), testSecret)
	}
}

func TestOutcomesAreWordsInJSONAndText(t *testing.T) {
	for outcome, word := range map[twiliosync.Outcome]string{
		twiliosync.OutcomeUnknown: "unknown", twiliosync.OutcomeNotSent: "not sent", twiliosync.OutcomeRejected: "rejected", twiliosync.OutcomeAccepted: "accepted",
	} {
		text, err := json.Marshal(map[string]any{"outcome": outcome})
		require.NoError(t, err)
		assert.JSONEq(t, `{"outcome":"`+word+`"}`, string(text))
		var back struct{ Outcome twiliosync.Outcome }
		require.NoError(t, json.Unmarshal(text, &back))
		assert.Equal(t, outcome, back.Outcome)
	}
	outcome := twiliosync.OutcomeAccepted
	require.Error(t, outcome.UnmarshalText([]byte("published")))
	assert.Equal(t, twiliosync.OutcomeAccepted, outcome, "it is as it was")

	_, _, err := publish(clientFor(t, closedURL(t), hurried()...))
	text, jsonErr := json.Marshal(err)
	require.NoError(t, jsonErr)
	assert.Contains(t, string(text), `"outcome":"not sent"`)
	assert.Contains(t, string(text), "refused")
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Error("failed", "err", err)
	assert.Contains(t, log.String(), `err.outcome="not sent"`)
	assert.Contains(t, log.String(), "err.attempts=3")
}

func TestACallersJarAndTimeoutAreKept(t *testing.T) {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client, server := setup(t, twiliosync.WithHTTPClient(&http.Client{Jar: jar}))
	server.answer = func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "route", Value: "b"})
		w.WriteHeader(201)
		io.WriteString(w, testAnswer)
	}
	for range 2 {
		_, _, err := publish(client)
		require.NoError(t, err)
	}
	assert.Empty(t, server.all()[0].header["Cookie"])
	assert.Equal(t, []string{"route=b"}, server.all()[1].header["Cookie"])
}

func TestMaxDelayIsNoShorterThanTheCallersBaseDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, script := scripted(t, retrying(twiliosync.RetryPolicy{BaseDelay: time.Hour}), answered(503, 20503, "1800"), answered(201, 0))
		_, _, err := publish(client)
		assert.NoError(t, err, "half an hour is waited")
		assert.Equal(t, 2, script.count())
	})
}

func TestARetryAfterInThePastIsNone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := twiliosynctest.NewServer(t)
		now := time.Now().UTC()
		server.Next(1).WithHeader("Date", now.Format(http.TimeFormat)).WithHeader("Retry-After", now.Add(-time.Hour).Format(http.TimeFormat)).Answer(404, 20404)
		_, _, err := publish(server.Client())
		assert.Zero(t, asError(t, err).RetryAfter)
	})
}

// TestStreamsAreForgottenWhenTheyAreWorkedOff looks at the memory of a CreateAll that goes on.
func TestStreamsAreForgottenWhenTheyAreWorkedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &startLog{epoch: time.Now(), starts: map[string][]time.Duration{}}
		client, err := twiliosync.NewClient(authFunc(func(context.Context, *http.Request) error { return errors.New("no token") }), twiliosync.WithHTTPClient(&http.Client{Transport: m}))
		require.NoError(t, err)
		const streams = 30_000
		var before, after int64
		input := func(yield func(bulkRequest) bool) {
			for i := range streams {
				if i == 100 {
					before = heapInUse()
				}
				if !yield(bulkRequest{StreamSID: fmt.Sprintf("stream-%06d", i), Data: json.RawMessage(`{}`)}) {
					return
				}
			}
			time.Sleep(time.Minute) // the limiter forgets them
			synctest.Wait()
			after = heapInUse()
		}
		for range client.StreamMessages.CreateAll(t.Context(), "default", input, nil) {
			continue
		}
		assert.Less(t, after-before, int64(2<<20), "bytes")
		runtime.KeepAlive(client)
	})
}
