package twiliosync_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// resent says when an attempt with an answer is made again.
type resent int

const (
	resentNever resent = iota
	resentIfAtLeastOnce
	resentByDefault
)

// promise is a row of the table in docs/delivery.md. Of the rows that fit an
// answer the first counts.
type promise struct {
	name     string
	from, to int // statuses
	only     func(status int, body matrixBody) bool
	outcome  twiliosync.Outcome
	resent   resent
}

var promises = []promise{
	{"201 is an acceptance, whatever its body", 201, 201, nil, twiliosync.OutcomeAccepted, resentNever},
	{"another 2xx with a sid is one too", 200, 299, withSID, twiliosync.OutcomeAccepted, resentNever},
	{"a 2xx of something that is not Sync proves nothing", 200, 299, nil, twiliosync.OutcomeUnknown, resentNever},
	{"redirects that turn a POST into a GET prove nothing", 301, 303, nil, twiliosync.OutcomeUnknown, resentNever},
	{"redirects that keep the POST mean that it was not taken", 307, 308, nil, twiliosync.OutcomeRejected, resentNever},
	{"the rest of 3xx is unexpected", 300, 399, nil, twiliosync.OutcomeUnknown, resentIfAtLeastOnce},
	{"429 is a refusal for now, whoever says so", 429, 429, nil, twiliosync.OutcomeRejected, resentByDefault},
	{"408, 444, 449, 460 and 499 may come after the message was taken", 400, 499, clientGone, twiliosync.OutcomeUnknown, resentIfAtLeastOnce},
	{"4xx in Twilio's own words is a refusal", 400, 499, inTwiliosWords, twiliosync.OutcomeRejected, resentNever},
	{"4xx in somebody else's words may come after the message was taken", 400, 499, nil, twiliosync.OutcomeUnknown, resentNever},
	{"503 with the code of Twilio's own overload", 503, 503, withCode(20503), twiliosync.OutcomeRejected, resentByDefault},
	{"5xx proves nothing, also with a Retry-After", 500, 599, nil, twiliosync.OutcomeUnknown, resentIfAtLeastOnce},
}

func withSID(_ int, body matrixBody) bool { return body.hasSID }

func clientGone(status int, _ matrixBody) bool {
	return slices.Contains([]int{408, 444, 449, 460, 499}, status)
}

func inTwiliosWords(_ int, body matrixBody) bool { return body.code != 0 }

func withCode(code int) func(int, matrixBody) bool {
	return func(_ int, body matrixBody) bool { return body.code == code }
}

func promised(status int, body matrixBody) promise {
	for _, row := range promises {
		if row.from <= status && status <= row.to && (row.only == nil || row.only(status, body)) {
			return row
		}
	}
	panic(fmt.Sprintf("no promise for status %d", status))
}

// matrixBody is what an answer holds, and what is to be understood of it.
type matrixBody struct {
	name   string
	text   string
	cut    bool // the connection breaks after text
	code   int
	hasSID bool
}

var matrixBodies = []matrixBody{
	{name: "classic, rate of the stream", text: `{"code":54009,"message":"Rate limit exceeded","more_info":"https://www.twilio.com/docs/errors/54009","status":429}`, code: 54009},
	{name: "classic, service unavailable", text: `{"code":20503,"message":"Service unavailable","more_info":"https://www.twilio.com/docs/errors/20503","status":503}`, code: 20503},
	{name: "RestErrorV1, rate of the account", text: `{"code":20429,"message":"Too many requests","httpStatusCode":429,"params":{"a":1},"userError":true}`, code: 20429},
	{name: "RFC 9457, internal error", text: `{"type":"about:blank","title":"Internal Server Error","status":500,"code":20500,"detail":"oops"}`, code: 20500},
	{name: "a gateway's own code", text: `{"code":"900802","message":"Message throttled out","description":"quota"}`},
	{name: "the status as a code", text: `{"code":429,"message":"Too many requests"}`},
	{name: "HTML", text: "<html><body>Bad gateway</body></html>"},
	{name: "empty"},
	{name: "cut classic", text: `{"code":20404,"mess`, cut: true},
}

// messageBodies are sent with 2xx only.
var messageBodies = []matrixBody{
	{name: "a message", text: testAnswer, hasSID: true},
	{name: "an empty object", text: `{}`},
	{name: "a null sid", text: `{"sid":null,"data":{}}`},
	{name: "a cut message", text: testAnswer[:20], cut: true},
	{name: "a message without its end", text: testAnswer, cut: true},
}

// matrixRetryAfter is a Retry-After header and what it means.
type matrixRetryAfter struct {
	name, value string // value "date": the date that is later by dateAhead
	says        int
}

const (
	saysNothing = iota // not valid: the backoff counts
	saysSevenSeconds
	saysDate
	saysForever // beyond what a Duration holds
)

const dateAhead = 5 * time.Second

var matrixRetryAfters = []matrixRetryAfter{
	{"none", "", saysNothing},
	{"seconds", "7", saysSevenSeconds},
	{"a date", "date", saysDate},
	{"junk", "soon", saysNothing},
	{"negative", "-5", saysNothing},
	{"eleven digits", "10000000000", saysForever},
	{"2^63", "9223372036854775808", saysForever},
	{"scientific", "1e10", saysNothing},
	{"not a number", "NaN", saysNothing},
}

// matrixTransport answers each request alike, without a network, and keeps
// count. It fires no httptrace events, so that every request counts as sent.
type matrixTransport struct {
	status     int
	body       matrixBody
	retryAfter matrixRetryAfter

	arrivals []time.Time
	asked    []time.Duration // the wait that each answer asked for
}

func (m *matrixTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	now := time.Now()
	req.Body.Close()
	header := http.Header{"Twilio-Request-Id": {"RQ1"}, "Location": {"https://elsewhere.example/"}}
	var asked time.Duration
	switch m.retryAfter.says {
	case saysSevenSeconds:
		asked = 7 * time.Second
	case saysDate:
		date := now.Add(dateAhead).Truncate(time.Second)
		header.Set("Retry-After", date.UTC().Format(http.TimeFormat))
		asked = date.Sub(now)
	case saysForever:
		asked = math.MaxInt64
	}
	if m.retryAfter.value != "" && m.retryAfter.value != "date" {
		header.Set("Retry-After", m.retryAfter.value)
	}
	m.arrivals, m.asked = append(m.arrivals, now), append(m.asked, asked)
	var body io.Reader = strings.NewReader(m.body.text)
	if m.body.cut {
		body = io.MultiReader(body, brokenBody{})
	}
	return &http.Response{StatusCode: m.status, Header: header, Body: io.NopCloser(body), ContentLength: -1, Request: req}, nil
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// matrixResult is what a caller learns of a call, in a form that == compares.
type matrixResult struct {
	outcome         twiliosync.Outcome
	failed          bool
	status, code    int
	attempts, sends int
	retryAfter      time.Duration
	retryable       bool
}

// TestEveryStatusRetryAfterAndBody goes through the whole matrix of answers:
// outcome, requests sent and delays are those of the table above.
func TestEveryStatusRetryAfterAndBody(t *testing.T) {
	for _, policy := range []struct {
		name        string
		atLeastOnce bool
	}{{"default policy", false}, {"at-least-once", true}} {
		for _, body := range slices.Concat(matrixBodies, messageBodies) {
			t.Run(policy.name+", "+body.name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					everyStatus(t, policy.atLeastOnce, body)
				})
			})
		}
	}
}

func everyStatus(t *testing.T, atLeastOnce bool, body matrixBody) {
	last, faults := 599, 0
	if slices.Contains(messageBodies, body) {
		last = 299
	}
	for status := 200; status <= last; status++ {
		for _, retryAfter := range matrixRetryAfters {
			server := &matrixTransport{status: status, body: body, retryAfter: retryAfter}
			row := promised(status, body)
			if fault := server.faultOfCall(t, row, atLeastOnce); fault != "" {
				t.Errorf("status %d, %s, Retry-After %q (%s): %s", status, body.name, retryAfter.value, row.name, fault)
				faults++
			}
			if faults == 10 {
				t.Fatal("stopped here")
			}
		}
	}
}

// faultOfCall makes one call and says what is not as the row promises.
func (m *matrixTransport) faultOfCall(t *testing.T, row promise, atLeastOnce bool) string {
	var attempts []twiliosync.Attempt
	client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "token"),
		twiliosync.WithHTTPClient(&http.Client{Transport: m}),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{AtLeastOnce: atLeastOnce}),
		twiliosync.WithObserver(func(_ context.Context, a twiliosync.Attempt) { attempts = append(attempts, a) }))
	require.NoError(t, err)
	start := time.Now()
	message, response, err := publish(client)
	elapsed := time.Since(start)

	want := m.wanted(row, atLeastOnce)
	got := matrixResult{
		outcome: twiliosync.OutcomeOf(err), failed: err != nil, retryable: twiliosync.Retryable(err),
		status: response.StatusCode, attempts: response.Attempts, sends: response.Sends,
	}
	if failure := new(twiliosync.Error); errors.As(err, &failure) {
		got.code, got.retryAfter = failure.Code, failure.RetryAfter
		if failure.StatusCode != response.StatusCode || failure.Attempts != response.Attempts || failure.Sends != response.Sends {
			return fmt.Sprintf("the error and the response differ: %+v, %+v", failure, response)
		}
	}
	switch {
	case got != want:
		return fmt.Sprintf("got %+v, want %+v", got, want)
	case len(m.arrivals) != want.sends:
		return fmt.Sprintf("%d requests arrived, want %d", len(m.arrivals), want.sends)
	case len(attempts) != want.attempts:
		return fmt.Sprintf("%d attempts were observed, want %d", len(attempts), want.attempts)
	case (message == nil) != want.failed || message != nil && message.SID != testSID:
		return fmt.Sprintf("the message is %+v", message)
	}
	return m.faultOfDelays(attempts, row, elapsed)
}

func (m *matrixTransport) wanted(row promise, atLeastOnce bool) matrixResult {
	want := matrixResult{
		outcome: row.outcome, status: m.status, attempts: 1, sends: 1,
		failed:    row.outcome != twiliosync.OutcomeAccepted || !m.body.hasSID,
		retryable: row.outcome == twiliosync.OutcomeRejected && row.resent == resentByDefault,
	}
	if resent := row.resent == resentByDefault || row.resent == resentIfAtLeastOnce && atLeastOnce; resent && m.retryAfter.says != saysForever {
		want.attempts, want.sends = 3, 3
	}
	if m.status >= 300 { // a Retry-After or a code on 2xx means saysNothing
		want.code, want.retryAfter = m.body.code, m.asked[len(m.asked)-1]
	}
	return want
}

func (m *matrixTransport) faultOfDelays(attempts []twiliosync.Attempt, row promise, elapsed time.Duration) string {
	base := 100 * time.Millisecond
	if m.status == http.StatusTooManyRequests {
		base = time.Second
	}
	var waited time.Duration
	for i, attempt := range attempts {
		if attempt.Number != i+1 || attempt.Outcome != row.outcome || attempt.StatusCode != m.status {
			return fmt.Sprintf("attempt %d was observed as %+v", i+1, attempt)
		}
		if i == len(attempts)-1 {
			if attempt.RetryIn != 0 {
				return fmt.Sprintf("the last attempt announces another one in %v", attempt.RetryIn)
			}
			break
		}
		wait := m.arrivals[i+1].Sub(m.arrivals[i])
		waited += wait
		switch {
		case wait != attempt.RetryIn:
			return fmt.Sprintf("waited %v where %v was announced", wait, attempt.RetryIn)
		case m.asked[i] > 0 && wait != m.asked[i]:
			return fmt.Sprintf("waited %v where the server asked for %v", wait, m.asked[i])
		case m.asked[i] == 0 && (wait <= 0 || wait > base<<i):
			return fmt.Sprintf("backoff %d is %v, not between 0 and %v", i+1, wait, base<<i)
		}
	}
	if elapsed != waited {
		return fmt.Sprintf("the call took %v, its waits %v", elapsed, waited)
	}
	return ""
}

// TestEveryStatusOverAConnection takes the same table over a real net/http
// client and server, to compare Sends with what a server counted.
func TestEveryStatusOverAConnection(t *testing.T) {
	t.Parallel()
	for _, body := range []matrixBody{matrixBodies[2], {name: "a message", text: testAnswer, hasSID: true}} {
		t.Run(body.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				for status := 200; status <= 599; status++ {
					server := twiliosynctest.NewServer(t)
					server.Every().Respond(status, body.text)
					client := server.Client()
					_, response, err := publish(client)

					seen := body
					if status == http.StatusNoContent || status == http.StatusNotModified {
						seen = matrixBody{} // such answers have no body
					}
					row := promised(status, seen)
					assert.Equal(t, row.outcome, twiliosync.OutcomeOf(err), "status %d: %v", status, err)
					require.NotNil(t, response, "status %d: %v", status, err)
					requests := len(server.Requests())
					assert.Equal(t, row.resent == resentByDefault, requests == 3, "status %d: %d requests", status, requests)
					assert.Equal(t, requests, response.Sends, "status %d", status)
					assert.Equal(t, requests, response.Attempts, "status %d", status)
					server.Close()
				}
			})
		})
	}
}
