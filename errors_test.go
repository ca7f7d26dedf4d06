package twiliosync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

func TestErrorBodies(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       twiliosync.Error
	}{
		{
			"the classic shape", `{"code":54009,"message":"Rate limit exceeded","more_info":"https://www.twilio.com/docs/errors/54009","status":429,"details":{"limit":30}}`,
			twiliosync.Error{Code: 54009, Message: "Rate limit exceeded", MoreInfo: "https://www.twilio.com/docs/errors/54009", Details: map[string]any{"limit": 30.0}},
		},
		{
			"the classic shape with a detail string", `{"status":429,"message":"Too many requests","detail":"for the account","code":20429}`,
			twiliosync.Error{Code: 20429, Message: "Too many requests", Details: map[string]any{"detail": "for the account"}},
		},
		{
			"RestErrorV1", `{"code":20001,"message":"Invalid","httpStatusCode":400,"params":{"field":"Data"},"userError":true}`,
			twiliosync.Error{Code: 20001, Message: "Invalid", Details: map[string]any{"field": "Data"}},
		},
		{
			"RFC 9457", `{"type":"https://www.twilio.com/docs/errors/20001","title":"Invalid","status":400,"code":20001,"detail":"Data is missing","errors":[{"detail":"missing","pointer":"/Data"}]}`,
			twiliosync.Error{Code: 20001, Message: "Invalid", MoreInfo: "https://www.twilio.com/docs/errors/20001", Details: map[string]any{
				"detail": "Data is missing", "errors": []any{map[string]any{"detail": "missing", "pointer": "/Data"}},
			}},
		},
		{"a code as text", `{"code":"20404","message":"Not found"}`, twiliosync.Error{Code: 20404, Message: "Not found"}},
		{"a code beyond an int", `{"code":1e300,"message":"x"}`, twiliosync.Error{Message: "x"}},
		{"a negative code", `{"code":-1,"message":"x"}`, twiliosync.Error{Message: "x"}},
		{"fields of other types", `{"code":{},"message":7,"more_info":[],"details":"x","params":null}`, twiliosync.Error{Body: `{"code":{},"details":"x","message":7,"more_info":[],"params":null}`}},
		{"JSON of another kind", `["no"]`, twiliosync.Error{Body: `["no"]`}},
		{"JSON of somebody else", `{"error":"no route"}`, twiliosync.Error{Body: `{"error":"no route"}`}},
		{"null", `null`, twiliosync.Error{Body: "null"}},
		{"HTML", "<html>\r\n\t<h1>Bad\x00 Gateway</h1>\n</html>", twiliosync.Error{Body: "<html> <h1>Bad Gateway</h1> </html>"}},
		{"invalid UTF-8", "caf\xe9", twiliosync.Error{Body: "caf\uFFFD"}},
		{"empty", "", twiliosync.Error{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t)
			server.answer = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("twilio-request-id", "RQ1") // header case varies
				w.WriteHeader(http.StatusTeapot)
				io.WriteString(w, test.body)
			}
			message, response, err := publish(client)
			want := test.want
			want.Outcome, want.StatusCode, want.RequestID, want.Attempts, want.Sends = twiliosync.OutcomeRejected, 418, "RQ1", 1, 1
			assert.Equal(t, want, *asError(t, err))
			assert.Nil(t, message)
			require.NotNil(t, response)
			assert.Equal(t, 418, response.StatusCode)
			assert.Equal(t, "RQ1", response.RequestID)
		})
	}
}

func TestBodyExcerptIsShort(t *testing.T) {
	client, server := setup(t)
	server.answer = answer(http.StatusBadRequest, strings.Repeat("日本 ", 20_000))
	_, _, err := publish(client)
	body := asError(t, err).Body
	assert.LessOrEqual(t, len(body), 1024)
	assert.Greater(t, len(body), 1000)
	assert.True(t, utf8.ValidString(body))
}

func TestSentinels(t *testing.T) {
	sentinels := map[string]error{
		"ErrUnauthorized": twiliosync.ErrUnauthorized, "ErrForbidden": twiliosync.ErrForbidden, "ErrNotFound": twiliosync.ErrNotFound,
		"ErrTooLarge": twiliosync.ErrTooLarge, "ErrRateLimited": twiliosync.ErrRateLimited, "ErrInvalidParameter": twiliosync.ErrInvalidParameter,
	}
	for _, test := range []struct {
		status, code int
		want         string
	}{
		{400, 20001, "ErrInvalidParameter"},
		{401, 20003, "ErrUnauthorized"},
		{403, 20008, "ErrForbidden"},
		{404, 20404, "ErrNotFound"},
		{404, 0, "ErrNotFound"},
		{413, 54006, "ErrTooLarge"},
		{429, 54009, "ErrRateLimited"},
		{429, 20429, "ErrRateLimited"},
		{422, 54251, "ErrInvalidParameter"},
		{422, 54300, "ErrNotFound"},
		{422, 54006, "ErrTooLarge"},
		{422, 54056, "ErrForbidden"},
		{500, 20500, ""},
		{409, 0, ""},
	} {
		t.Run(fmt.Sprint(test.status, " ", test.code), func(t *testing.T) {
			client, server := setup(t, twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
			server.answer = answer(test.status, fmt.Sprintf(`{"code":%d,"message":"x"}`, test.code))
			_, _, err := publish(client)
			for name, sentinel := range sentinels {
				assert.Equal(t, name == test.want, errors.Is(err, sentinel), name)
			}
		})
	}
}

func TestErrorTextIsOneShortLine(t *testing.T) {
	nasty := strings.Repeat("\"line\"\r\n\x1b[31m\u202e\u2028日本", 200)
	for _, test := range []struct {
		name string
		err  error
	}{
		{"nothing known", &twiliosync.Error{}},
		{"nil", (*twiliosync.Error)(nil)},
		{"a nil ParameterError", (*twiliosync.ParameterError)(nil)},
		{"an empty ParameterError", &twiliosync.ParameterError{}},
		{"an outcome that doesn't exist", &twiliosync.Error{Outcome: 42}},
		{"everything nasty and long", &twiliosync.Error{
			Outcome: twiliosync.OutcomeUnknown, StatusCode: 503, Code: 20503, Message: nasty, MoreInfo: nasty, RequestID: nasty, Body: nasty,
			Err: errors.New(nasty), Attempts: 3, RetryAfter: time.Hour,
		}},
		{"a nasty excerpt", &twiliosync.Error{StatusCode: 401, Body: nasty}},
		{"a nasty cause", &twiliosync.Error{Outcome: twiliosync.OutcomeAccepted, Err: errors.New(nasty)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := test.err.Error()
			assert.NotEmpty(t, text)
			assert.LessOrEqual(t, len(text), 512)
			assert.True(t, utf8.ValidString(text))
			assert.NotRegexp(t, `[[:cntrl:]\x{202e}\x{2028}]`, text)
			assert.True(t, strings.HasPrefix(text, "twiliosync: "), text)
		})
	}
}

func TestErrorTextSaysWhatToDo(t *testing.T) {
	for _, test := range []struct {
		name string
		err  twiliosync.Error
		want string
	}{
		{
			"rejected by Twilio",
			twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 404, Code: 20404, Message: "The requested resource was not found", RequestID: "RQ1"},
			`twiliosync: rejected: "The requested resource was not found" (status 404, code 20404, request RQ1); check service and stream, a stream must be created before messages are published to it`,
		},
		{
			"wrong credentials", twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 401, Code: 20003, Message: "Authenticate"},
			`twiliosync: rejected: "Authenticate" (status 401, code 20003); check the account SID and auth token or the API key and secret, and their region`,
		},
		{
			"unknown", twiliosync.Error{StatusCode: 502, Body: "<h1>Bad Gateway</h1>", Attempts: 3},
			`twiliosync: unknown: the answer is not Twilio's: "<h1>Bad Gateway</h1>" (status 502, 3 attempts); the message may have been published, sending it again may publish it twice`,
		},
		{
			"an empty answer", twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 409},
			`twiliosync: rejected: answer without explanation Conflict (status 409)`,
		},
		{
			"a network failure", twiliosync.Error{Outcome: twiliosync.OutcomeNotSent, Err: errors.New("connection refused"), Attempts: 3},
			`twiliosync: not sent: connection refused (3 attempts)`,
		},
	} {
		t.Run(test.name, func(t *testing.T) { assert.Equal(t, test.want, test.err.Error()) })
	}
}

func TestErrorTextHoldsNoData(t *testing.T) {
	client, server := setup(t)
	private := map[string]any{"card": "4111-1111-1111-1111"}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
	}{
		{"an error page that shows the data", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, "<pre>%s</pre>", `{"card":"4111-1111-1111-1111"}`)
		}},
		{"a JSON error that shows the data", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"code":54008,"message":"Invalid Data: {\"card\":\"4111-1111-1111-1111\"}","details":{"got":["{\"card\":\"4111-1111-1111-1111\"}"]}}`)
		}},
		{"JSON of somebody else that shows the data", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"error":"{\"card\":\"4111-1111-1111-1111\"}"}`)
		}},
		{"an HTML page that shows the data", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `<pre>{&#34;card&#34;:&#34;4111-1111-1111-1111&#34;}</pre>`)
		}},
		{"an echo that is an array", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `[{"card": "4111-1111-1111-1111"}]`)
		}},
		{"an error page that shows the form", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, "Data=%7B%22card%22%3A%224111-1111-1111-1111%22%7D")
		}},
		{"an echo that is cut", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusCreated)
			io.WriteString(w, `{"sid":"TZ1","data":{"card":"4111-1111-1111-1111"`)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server.answer = test.answer
			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", private)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "4111")
			assert.NotContains(t, fmt.Sprintf("%+v", *asError(t, err)), "4111")
		})
	}
}

func TestErrorBodyHoldsNoDataHoweverAPageEscapesIt(t *testing.T) {
	each := func(format string) func(string) string {
		return func(text string) string {
			var escaped strings.Builder
			for _, r := range text {
				fmt.Fprintf(&escaped, format, r)
			}
			return escaped.String()
		}
	}
	client, server := setup(t)
	private := json.RawMessage(`{"card":"4111-1111-1111-1111","owner":"Zoë <O'Hara> & \"sons\" 🙂 &amp;"}`)
	for name, escape := range map[string]func(string) string{
		"as Go does":                         html.EscapeString,
		"by the five names of XML":           strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;").Replace,
		"as PHP does":                        strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&#039;").Replace,
		"every character in decimal":         each("&#%d;"),
		"every character in hexadecimal":     each("&#x%x;"),
		"every character in upper case":      each("&#X%X;"),
		"every character with leading zeros": each("&#x%06x;"),
	} {
		t.Run(name, func(t *testing.T) {
			page := "<p>R&D 1 & 2, &; ?a=1&b=2;&nbsp;: " + escape(string(private)) + " & more</p>&"
			server.answer = func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(http.StatusBadGateway)
				io.WriteString(w, page)
			}

			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", private)

			assert.Equal(t, "<p>R&D 1 & 2, &; ?a=1&b=2; : [redacted] & more</p>&", asError(t, err).Body)
		})
	}
}

func TestErrorBodyIsNotShownIfItCouldHideTheData(t *testing.T) {
	client, server := setup(t)
	for _, page := range []string{
		`Zo&euml; O&#39;Hara, Zo&euml;`, `{&NotSquareSupersetEqual;`, "&#0;", "&#x110000000;", "&#;", "&#x;", "&D;",
		"&CounterClockwiseContourIntegral;", "&nbsp;&lbrace;",
	} {
		t.Run(page, func(t *testing.T) {
			server.answer = answer(http.StatusBadGateway, "<p>"+page+"</p>")

			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"owner": "Zoë O'Hara, Zoë"})

			assert.Equal(t, "[not shown: it has HTML character references that could hide the request]", asError(t, err).Body)
			assert.Equal(t, http.StatusBadGateway, asError(t, err).StatusCode)
		})
	}
}

func TestOutcomeOfAndRetryable(t *testing.T) {
	for _, test := range []struct {
		name      string
		err       error
		outcome   twiliosync.Outcome
		retryable bool
	}{
		{"nil", nil, twiliosync.OutcomeAccepted, false},
		{"a foreign error", io.EOF, twiliosync.OutcomeUnknown, false},
		{"a foreign context error", context.Canceled, twiliosync.OutcomeUnknown, false},
		{"a zero Error", &twiliosync.Error{}, twiliosync.OutcomeUnknown, false},
		{"a nil Error", (*twiliosync.Error)(nil), twiliosync.OutcomeUnknown, false},
		{"wrapped", fmt.Errorf("publish: %w", &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 429}), twiliosync.OutcomeRejected, true},
		{"joined", errors.Join(io.EOF, &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 503}), twiliosync.OutcomeRejected, true},
		{"the stream's rate", &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 429, Code: 54009}, twiliosync.OutcomeRejected, true},
		{"a 429 with another code", &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 429, Code: 12345}, twiliosync.OutcomeRejected, false},
		{"not found", &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 404}, twiliosync.OutcomeRejected, false},
		{"a 429 after an unknown attempt", &twiliosync.Error{Outcome: twiliosync.OutcomeUnknown, StatusCode: 429}, twiliosync.OutcomeUnknown, false},
		{"accepted, but the answer was cut", &twiliosync.Error{Outcome: twiliosync.OutcomeAccepted, StatusCode: 201}, twiliosync.OutcomeAccepted, false},
		{"not sent, without cause", &twiliosync.Error{Outcome: twiliosync.OutcomeNotSent}, twiliosync.OutcomeNotSent, false},
		{"refused locally", &twiliosync.Error{Outcome: twiliosync.OutcomeNotSent, Err: &twiliosync.ParameterError{}}, twiliosync.OutcomeNotSent, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, test.outcome, twiliosync.OutcomeOf(test.err))
			assert.Equal(t, test.retryable, twiliosync.Retryable(test.err))
		})
	}
}

func TestOutcomeString(t *testing.T) {
	for outcome, want := range map[twiliosync.Outcome]string{
		twiliosync.OutcomeUnknown: "unknown", twiliosync.OutcomeNotSent: "not sent", twiliosync.OutcomeRejected: "rejected",
		twiliosync.OutcomeAccepted: "accepted", 7: "Outcome(7)",
	} {
		assert.Equal(t, want, outcome.String())
	}
	var zero twiliosync.Outcome
	assert.Equal(t, twiliosync.OutcomeUnknown, zero)
}
