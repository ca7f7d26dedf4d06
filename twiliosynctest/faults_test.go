package twiliosynctest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
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

func TestFaults(t *testing.T) {
	const (
		accepted = twiliosync.OutcomeAccepted
		rejected = twiliosync.OutcomeRejected
		unknown  = twiliosync.OutcomeUnknown
	)
	for _, tt := range []struct {
		name    string
		script  func(twiliosynctest.Fault)
		outcome twiliosync.Outcome
		status  int // that the server says it answered
		handled bool
		fails   bool
		waits   bool // until the client gives up
	}{
		{"Answer is an answer without a message", func(f twiliosynctest.Fault) { f.Answer(429, 54009) }, rejected, 429, false, true, false},
		{"Answer after handling is an answer and a message", func(f twiliosynctest.Fault) { f.AfterHandling().Answer(500, 20500) }, unknown, 500, true, true, false},
		{"Respond is an answer without a message", func(f twiliosynctest.Fault) { f.Respond(502, "<html>") }, unknown, 502, false, true, false},
		{"Respond with 201 and garbage", func(f twiliosynctest.Fault) { f.AfterHandling().Respond(201, "garbage") }, accepted, 201, true, true, false},
		{"Respond without a body", func(f twiliosynctest.Fault) { f.Respond(204, "") }, unknown, 204, false, true, false},
		{"Delay lets the request through", func(f twiliosynctest.Fault) { f.Delay(time.Millisecond) }, accepted, 201, true, false, false},
		{"Delay after handling lets the answer through", func(f twiliosynctest.Fault) { f.AfterHandling().Delay(time.Millisecond) }, accepted, 201, true, false, false},
		{"Delay beyond the client's patience handles nothing", func(f twiliosynctest.Fault) { f.Delay(time.Hour) }, unknown, 0, false, true, true},
		{"Delay after handling beyond the client's patience", func(f twiliosynctest.Fault) { f.AfterHandling().Delay(time.Hour) }, unknown, 0, true, true, true},
		{"NeverAnswer handles nothing", func(f twiliosynctest.Fault) { f.NeverAnswer() }, unknown, 0, false, true, true},
		{"NeverAnswer after handling", func(f twiliosynctest.Fault) { f.AfterHandling().NeverAnswer() }, unknown, 0, true, true, true},
		{"Reset handles nothing", func(f twiliosynctest.Fault) { f.Reset() }, unknown, 0, false, true, false},
		{"LoseAnswer handles", func(f twiliosynctest.Fault) { f.LoseAnswer() }, unknown, 0, true, true, false},
		{"CutHeader handles", func(f twiliosynctest.Fault) { f.CutHeader() }, unknown, 0, true, true, false},
		{"CutBody handles, and the client has the status", func(f twiliosynctest.Fault) { f.CutBody() }, accepted, 201, true, true, false},
		{"AnswerGarbage handles nothing", func(f twiliosynctest.Fault) { f.AnswerGarbage() }, unknown, 0, false, true, false},
		{"AnswerGarbage after handling", func(f twiliosynctest.Fault) { f.AfterHandling().AnswerGarbage() }, unknown, 0, true, true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			networks(t, func(t *testing.T) {
				ctx, giveUp := context.WithCancel(t.Context())
				defer giveUp()
				srv := twiliosynctest.NewServer(t, twiliosynctest.OnMessage(func(twiliosynctest.Message) {
					if tt.waits {
						giveUp()
					}
				}))
				var matched atomic.Bool
				tt.script(srv.Next(1).Matching(func(twiliosynctest.Request) bool {
					if tt.waits && !tt.handled {
						first := !matched.Swap(true) // before the second message can come
						giveUp()
						return first
					}
					return true
				}))

				err := create(ctx, srv.Client(once(), twiliosync.WithTimeout(0)), "orders", 1)
				assert.Equal(t, tt.outcome, twiliosync.OutcomeOf(err), err)
				assert.Equal(t, tt.fails, err != nil, err)
				require.Len(t, srv.Requests(), 1)
				assert.Equal(t, tt.status, srv.Requests()[0].Status)
				assert.Equal(t, tt.handled, srv.Requests()[0].Handled)
				assert.Len(t, srv.Messages("orders"), map[bool]int{true: 1}[tt.handled])

				require.NoError(t, create(t.Context(), srv.Client(), "orders", 2), "the fault is used up")
			})
		})
	}
}

func TestFaultsHitWhatTheyName(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script func(*twiliosynctest.Server)
		want   []int // statuses of: a, b, a, b, a
	}{
		{"nothing", func(*twiliosynctest.Server) {}, []int{201, 201, 201, 201, 201}},
		{"the next", func(srv *twiliosynctest.Server) { srv.Next(1).Answer(503, 0) }, []int{503, 201, 201, 201, 201}},
		{"the next three", func(srv *twiliosynctest.Server) { srv.Next(3).Answer(503, 0) }, []int{503, 503, 503, 201, 201}},
		{"the next zero", func(srv *twiliosynctest.Server) { srv.Next(0).Answer(503, 0) }, []int{201, 201, 201, 201, 201}},
		{"one line after the other", func(srv *twiliosynctest.Server) {
			srv.Next(1).Answer(503, 0)
			srv.Next(2).Answer(429, 0)
			srv.Next(1).Answer(500, 0)
		}, []int{503, 429, 429, 500, 201}},
		{"every", func(srv *twiliosynctest.Server) { srv.Every().Answer(503, 0) }, []int{503, 503, 503, 503, 503}},
		{"the next one of a stream", func(srv *twiliosynctest.Server) { srv.Next(1).ToStream("b").Answer(503, 0) }, []int{201, 503, 201, 201, 201}},
		{"all of a stream given by SID", func(srv *twiliosynctest.Server) {
			srv.Every().ToStream(srv.StreamSID("a")).Answer(503, 0)
		}, []int{503, 201, 503, 201, 503}},
		{"those with some data", func(srv *twiliosynctest.Server) {
			srv.Next(2).Matching(func(r twiliosynctest.Request) bool { return strings.Contains(string(r.Data), "3") }).Answer(503, 0)
		}, []int{201, 201, 503, 201, 201}},
		{"those that meet all conditions", func(srv *twiliosynctest.Server) {
			notTheFirst := func(r twiliosynctest.Request) bool { return string(r.Data) != `{"n":1}` }
			notTheLast := func(r twiliosynctest.Request) bool { return string(r.Data) != `{"n":5}` }
			srv.Every().ToStream("a").Matching(notTheFirst).Matching(notTheLast).Answer(503, 0)
		}, []int{201, 201, 503, 201, 201}},
		{"lines that share a beginning are independent", func(srv *twiliosynctest.Server) {
			any := func(twiliosynctest.Request) bool { return true }
			next := srv.Next(1).Matching(any).Matching(any).Matching(any)
			next.ToStream("a").Answer(503, 0)
			next.ToStream("b").Answer(500, 0)
		}, []int{503, 500, 201, 201, 201}},
		{"Next before For before Every", func(srv *twiliosynctest.Server) {
			srv.Every().Answer(500, 0)
			srv.For(time.Hour).ToStream("a").Answer(503, 0)
			srv.Next(1).ToStream("a").Answer(429, 0)
		}, []int{429, 500, 503, 500, 503}},
		{"the first of two equal lines", func(srv *twiliosynctest.Server) {
			srv.Every().Answer(500, 0)
			srv.Every().Answer(503, 0)
		}, []int{500, 500, 500, 500, 500}},
		{"all of an operation", func(srv *twiliosynctest.Server) { srv.Next(1).ToOperation("CreateStreamMessage").Answer(503, 0) }, []int{503, 201, 201, 201, 201}},
		{"none of another operation", func(srv *twiliosynctest.Server) { srv.Every().ToOperation("UpdateSyncStream").Answer(503, 0) }, []int{201, 201, 201, 201, 201}},
		{"requests that would be refused too", func(srv *twiliosynctest.Server) {
			srv.Every().Matching(func(r twiliosynctest.Request) bool { return r.Stream == "a" && r.Method == "POST" }).Answer(503, 0)
		}, []int{503, 201, 503, 201, 503}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newFake()
			tt.script(srv)
			var got []int
			for i := range tt.want {
				path := "/v1/Services/default/Streams/" + string("ab"[i%2]) + "/Messages"
				got = append(got, publish(srv, path, `{"n":`+strconv.Itoa(i+1)+`}`).Code)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestForEndsByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newFake()
		srv.For(time.Hour).Answer(429, 54009)
		assert.Equal(t, 429, publish(srv, orders, `{}`).Code)
		time.Sleep(time.Hour - 1)
		assert.Equal(t, 429, publish(srv, orders, `{}`).Code)
		time.Sleep(1)
		assert.Equal(t, 201, publish(srv, orders, `{}`).Code)
	})
}

func TestRecoverRemovesAllFaults(t *testing.T) {
	srv := newFake()
	srv.Every().Answer(503, 20503)
	srv.Next(5).Answer(429, 54009)
	assert.Equal(t, 429, publish(srv, orders, `{}`).Code)
	srv.Recover()
	assert.Equal(t, 201, publish(srv, orders, `{}`).Code)
}

func TestFaultsComeBeforeTheChecks(t *testing.T) {
	srv := newFake()
	srv.Next(1).Answer(503, 20503)
	r := newRequest(srv, "/nowhere", `null`)
	r.Header.Del("Authorization")
	assertTwilioError(t, serve(srv, r), 503, 20503)
}

func TestAfterHandlingHandlesOnlyWhatTheServerAccepts(t *testing.T) {
	srv := newFake()
	srv.Next(1).AfterHandling().Answer(500, 20500)
	assertTwilioError(t, publish(srv, orders, `null`), 500, 20500)
	assert.Empty(t, srv.Messages("orders"))
}

func TestAnswerLooksLikeTwilio(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script func(*twiliosynctest.Server)
		body   string
		header http.Header
	}{
		{"with a code", func(srv *twiliosynctest.Server) { srv.Next(1).Answer(429, 54009) },
			`{"code":54009,"message":"Rate limit exceeded","more_info":"https://www.twilio.com/docs/errors/54009","status":429}`, nil},
		{"with a code whose words are unknown", func(srv *twiliosynctest.Server) { srv.Next(1).Answer(403, 54056) },
			`{"code":54056,"message":"Forbidden","more_info":"https://www.twilio.com/docs/errors/54056","status":403}`, nil},
		{"without a code", func(srv *twiliosynctest.Server) { srv.Next(1).Answer(503, 0) },
			`{"message":"Service Unavailable","status":503}`, nil},
		{"with headers", func(srv *twiliosynctest.Server) {
			srv.Next(1).WithHeader("retry-after", "2").WithHeader("Content-Type", "application/problem+json").Answer(503, 0)
		}, `{"message":"Service Unavailable","status":503}`, http.Header{"Retry-After": {"2"}, "Content-Type": {"application/problem+json"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newFake()
			tt.script(srv)
			w := publish(srv, orders, `{}`)
			assert.JSONEq(t, tt.body, w.Body.String())
			assert.Regexp(t, `^RQ`, w.Header().Get("Twilio-Request-Id"))
			for name, values := range tt.header {
				assert.Equal(t, values, w.Header()[name])
			}
		})
	}
}

func TestRespondSendsExactlyWhatItIsGiven(t *testing.T) {
	srv := newFake()
	srv.Next(1).WithHeader("Content-Type", "text/html").WithHeader("X-A", "1").WithHeader("X-A", "2").Respond(502, "<html>")
	w := publish(srv, orders, `{}`)
	assert.Equal(t, 502, w.Code)
	assert.Equal(t, "<html>", w.Body.String())
	assert.Equal(t, http.Header{"Content-Type": {"text/html"}, "X-A": {"1", "2"}, "Content-Length": {"6"}}, w.Header())
}

func TestWithHeaderDoesNotReachOtherLines(t *testing.T) {
	srv := newFake()
	base := srv.Next(1).WithHeader("X-A", "1")
	base.WithHeader("X-B", "2").Respond(500, "")
	base.Respond(500, "")
	assert.Equal(t, "2", publish(srv, orders, `{}`).Header().Get("X-B"))
	assert.Empty(t, publish(srv, orders, `{}`).Header().Get("X-B"))
}

func TestStatusesThatAreNoAnswersPanicInTheScript(t *testing.T) {
	for _, status := range []int{0, 99, 100, 103, 1000, -1} {
		assert.Panics(t, func() { newFake().Next(1).Answer(status, 0) }, status)
		assert.Panics(t, func() { newFake().Next(1).Respond(status, "") }, status)
	}
}

func TestOperationsThatDoNotExistPanicInTheScript(t *testing.T) {
	assert.PanicsWithValue(t, `twiliosynctest: there is no operation "CreateStream"; the operations are `+
		`CreateStreamMessage, CreateSyncStream, ListSyncStream, FetchSyncStream, UpdateSyncStream, DeleteSyncStream`,
		func() { newFake().Next(1).ToOperation("CreateStream") })
}

func TestFaultsListsWhatIsInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newFake()
		assert.Empty(t, srv.Faults())
		srv.Every().ToOperation("FetchSyncStream").Reset()
		srv.For(time.Hour).ToStream("bills").Respond(502, "<html>")
		srv.Next(2).WithHeader("Retry-After", "2").Answer(429, 54009)
		publish(srv, orders, `{}`)
		assert.Equal(t, []string{
			`Next(1).WithHeader("Retry-After", "2").Answer(429, 54009)`,
			`For(1h0m0s).ToStream("bills").Respond(502, …)`,
			`Every().ToOperation("FetchSyncStream").Reset()`,
		}, srv.Faults())

		publish(srv, orders, `{}`)
		time.Sleep(time.Hour)
		assert.Equal(t, []string{`Every().ToOperation("FetchSyncStream").Reset()`}, srv.Faults())
	})
}

func TestDelayIsAsLongAsItSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		srv.Next(1).Delay(time.Hour)
		srv.Next(1).AfterHandling().Delay(time.Hour)
		client := srv.Client(twiliosync.WithTimeout(0))

		start := time.Now()
		require.NoError(t, create(t.Context(), client, "late", 1))
		require.NoError(t, create(t.Context(), client, "early", 1))
		assert.Equal(t, 2*time.Hour, time.Since(start))
		assert.Equal(t, start.Add(time.Hour), srv.Messages("late")[0].Time, "handled after the delay")
		assert.Equal(t, start.Add(time.Hour), srv.Messages("early")[0].Time, "handled before the delay")
	})
}

func TestUnansweredRequestsEndWhenTheClientGoesAway(t *testing.T) {
	for name, fault := range map[string]func(twiliosynctest.Fault){
		"never answered": twiliosynctest.Fault.NeverAnswer,
		"delayed":        func(f twiliosynctest.Fault) { f.Delay(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := twiliosynctest.NewServer(t, twiliosynctest.WithConcurrencyLimit(1))
				client := srv.Client(once())
				fault(srv.Next(1))
				require.Error(t, create(t.Context(), client, "orders", 1))
				synctest.Wait()
				assert.NoError(t, create(t.Context(), client, "orders", 2), "the slot is free again")
			})
		})
	}
}

func TestCutConnectionsLookDifferentToTheClient(t *testing.T) {
	srv := twiliosynctest.NewServer(t)
	client := srv.Client(once())

	srv.Next(1).LoseAnswer()
	err := create(t.Context(), client, "orders", 1)
	require.Error(t, err)
	require.NotErrorIs(t, err, io.EOF, "a reset is not an orderly end")

	srv.Next(1).CutBody()
	require.ErrorIs(t, create(t.Context(), client, "orders", 1), io.ErrUnexpectedEOF)

	srv.Next(1).AnswerGarbage()
	require.ErrorContains(t, create(t.Context(), client, "orders", 1), "not a valid HTTP answer")

	synctest.Test(t, func(t *testing.T) { // where a reset cannot overtake what was sent before
		srv := twiliosynctest.NewServer(t)
		srv.Next(1).CutHeader()
		require.ErrorIs(t, create(t.Context(), srv.Client(once()), "orders", 1), io.ErrUnexpectedEOF)
	})
}

func TestResetComesBeforeTheBodyIsRead(t *testing.T) {
	networks(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		srv.Next(1).Reset()
		err := create(t.Context(), srv.Client(once()), "orders", 1)
		require.Error(t, err)
		assert.Empty(t, srv.Requests()[0].Body)
		assert.Equal(t, "orders", srv.Requests()[0].Stream)
	})
}

func TestMatchersMayUseTheServer(t *testing.T) {
	srv := newFake()
	srv.Every().Matching(func(r twiliosynctest.Request) bool {
		if len(srv.Messages("orders")) == 1 {
			srv.Recover()
			srv.Next(1).Answer(500, 0)
		}
		return r.Status == 0 && !r.Handled && len(srv.Requests()) == 1
	}).AfterHandling().Answer(503, 0)

	assert.Equal(t, 503, publish(srv, orders, `{}`).Code)
	assert.Equal(t, 201, publish(srv, orders, `{}`).Code)
	assert.Equal(t, 500, publish(srv, orders, `{}`).Code)
}

func TestFaultsAreUsedUpExactlyOnceByParallelRequests(t *testing.T) {
	const requests, faults = 200, 50
	srv := newFake()
	srv.Next(faults).Matching(func(twiliosynctest.Request) bool { return true }).Answer(429, 54009)
	for range faults {
		srv.Next(1).Answer(503, 20503)
	}
	var throttled, unavailable, accepted atomic.Int32
	var running sync.WaitGroup
	for range requests {
		running.Go(func() {
			switch publish(srv, orders, `{}`).Code {
			case 429:
				throttled.Add(1)
			case 503:
				unavailable.Add(1)
			case 201:
				accepted.Add(1)
			}
		})
	}
	running.Wait()
	assert.EqualValues(t, faults, throttled.Load())
	assert.EqualValues(t, faults, unavailable.Load())
	assert.EqualValues(t, requests-2*faults, accepted.Load())
	assert.Len(t, srv.Messages("orders"), requests-2*faults)
}

func TestRequestsThatMatchTogetherDoNotShareAFault(t *testing.T) {
	srv := newFake()
	var both sync.WaitGroup
	both.Add(2)
	srv.Next(1).Matching(func(twiliosynctest.Request) bool {
		both.Done()
		both.Wait()
		return true
	}).Answer(503, 20503)

	statuses := make(chan int, 2)
	for range 2 {
		go func() { statuses <- publish(srv, orders, `{}`).Code }()
	}
	assert.ElementsMatch(t, []int{201, 503}, []int{<-statuses, <-statuses})
}

func TestFaultsWorkWhereTheConnectionCannotBeTaken(t *testing.T) {
	srv := newFake()
	host := httptest.NewUnstartedServer(srv)
	host.EnableHTTP2 = true
	host.StartTLS()
	defer host.Close()
	srv.URL = host.URL
	client := srv.Client(once(), twiliosync.WithHTTPClient(host.Client()))

	srv.Next(1).LoseAnswer()
	srv.Next(1).CutHeader()
	srv.Next(1).AnswerGarbage()
	srv.Next(1).Reset()
	for range 4 {
		err := create(t.Context(), client, "orders", 1)
		require.Error(t, err)
		assert.False(t, errors.Is(err, context.DeadlineExceeded), err)
	}
	assert.Len(t, srv.Messages("orders"), 2)
}

// recorder stands in for the test of a server, so that its failures can be looked at.
type recorder struct {
	testing.TB
	cleanups []func()
	failures []string
}

func (r *recorder) Helper()           {}
func (r *recorder) Cleanup(f func())  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any) { r.failures = append(r.failures, fmt.Sprint(args...)) }

func (r *recorder) end() {
	for _, cleanup := range r.cleanups {
		cleanup()
	}
}

func TestFaultsNeverMetFailTheirTest(t *testing.T) {
	otherStream := func(r twiliosynctest.Request) bool { return r.Stream == "bills" }
	for _, tt := range []struct {
		name   string
		script func(*twiliosynctest.Server) // of a test with one request, to the stream "orders", if no fault brings more
		want   string                       // the fault complained of
	}{
		{"no fault", func(*twiliosynctest.Server) {}, ""},
		{"a fault met once", func(srv *twiliosynctest.Server) { srv.Next(1).Answer(404, 20404) }, ""},
		{"a fault met less often than it could", func(srv *twiliosynctest.Server) { srv.Next(3).Answer(404, 20404) }, ""},
		{"the next zero", func(srv *twiliosynctest.Server) { srv.Next(0).Answer(404, 20404) }, ""},
		{"a fault for another stream", func(srv *twiliosynctest.Server) { srv.Next(1).ToStream("bills").LoseAnswer() },
			`Next(1).ToStream("bills").LoseAnswer()`},
		{"a fault that matches nothing", func(srv *twiliosynctest.Server) { srv.Every().Matching(otherStream).NeverAnswer() },
			`Every().Matching(…).NeverAnswer()`},
		{"a fault behind another", func(srv *twiliosynctest.Server) {
			srv.Every().Answer(404, 20404)
			srv.Every().AfterHandling().WithHeader("Retry-After", "2").Answer(500, 20500)
		}, `Every().AfterHandling().WithHeader("Retry-After", "2").Answer(500, 20500)`},
		{"a fault whose time was over", func(srv *twiliosynctest.Server) { srv.For(0).Delay(time.Second) }, `For(0s).Delay(1s)`},
		{"a fault removed before a request met it", func(srv *twiliosynctest.Server) {
			srv.Next(2).CutBody()
			srv.Recover()
		}, `Next(2).CutBody()`},
		{"a fault removed after a request met it", func(srv *twiliosynctest.Server) {
			srv.Every().Answer(404, 20404)
			assert.Error(t, create(t.Context(), srv.Client(), "orders", 1))
			srv.Recover()
		}, ""},
		{"a fault that is optional", func(srv *twiliosynctest.Server) { srv.Next(1).ToStream("bills").Optional().CutHeader() }, ""},
		{"an optional fault that was removed", func(srv *twiliosynctest.Server) {
			srv.Every().Optional().AnswerGarbage()
			srv.Recover()
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			networks(t, func(t *testing.T) {
				test := &recorder{TB: t}
				srv := twiliosynctest.NewServer(test)
				tt.script(srv)
				_ = create(t.Context(), srv.Client(), "orders", 1)
				test.end()
				if tt.want == "" {
					assert.Empty(t, test.failures)
					return
				}
				require.Len(t, test.failures, 1)
				assert.Contains(t, test.failures[0], tt.want+" of faults_test.go:")
			})
		})
	}
}

func TestTheComplaintNamesTheLineOfTheVerb(t *testing.T) {
	test := &recorder{TB: t}
	srv := twiliosynctest.NewServer(test)
	fault := srv.Next(1)
	_, _, line, _ := runtime.Caller(0)
	fault.LoseAnswer()
	test.end()
	assert.Equal(t, []string{fmt.Sprintf("twiliosynctest: no request met the fault Next(1).LoseAnswer() of faults_test.go:%d; "+
		"if that is all right, put Optional() before its last verb", line+1)}, test.failures)
}
