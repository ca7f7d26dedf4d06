package twiliosync_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

var errTooLong = errors.New("the answer is longer than 65536 bytes")

func TestErrorBodies(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       twiliosync.Error
	}{
		{
			"the classic shape", `{"code":54009,"message":"Rate limit exceeded","more_info":"https://www.twilio.com/docs/errors/54009","status":429,"details":{"limit":30}}`,
			twiliosync.Error{Code: 54009, Message: "Rate limit exceeded", MoreInfo: "https://www.twilio.com/docs/errors/54009", Details: map[string]any{"limit": json.Number("30")}},
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
		{"details that are a list", `{"code":20001,"message":"Invalid","details":["a",7]}`, twiliosync.Error{Code: 20001, Message: "Invalid", Details: map[string]any{"details": []any{"a", json.Number("7")}}}},
		{"details that are a text", `{"code":20001,"message":"Invalid","details":"text"}`, twiliosync.Error{Code: 20001, Message: "Invalid", Details: map[string]any{"details": "text"}}},
		{"a number that a float64 can't hold", `{"code":20001,"message":"Invalid","details":{"id":98765432109876543210}}`, twiliosync.Error{Code: 20001, Message: "Invalid", Details: map[string]any{"id": json.Number("98765432109876543210")}}},
		{"a byte order mark before it", "\ufeff" + `{"code":20404,"message":"Not found"}`, twiliosync.Error{Code: 20404, Message: "Not found"}},
		{"a code beyond an int", `{"code":1e300,"message":"x"}`, twiliosync.Error{Body: "text/plain, 28 bytes"}},
		{"a negative code", `{"code":-1,"message":"x"}`, twiliosync.Error{Body: "text/plain, 25 bytes"}},
		{"a code without words", `{"code":20404}`, twiliosync.Error{Code: 20404}},
		{"fields of other types", `{"code":{},"message":7,"more_info":[],"details":"x","params":null}`, twiliosync.Error{Body: "text/plain, 66 bytes"}},
		{"JSON of another kind", `["no"]`, twiliosync.Error{Body: "text/plain, 6 bytes"}},
		{"JSON of somebody else", `{"error":"no route"}`, twiliosync.Error{Body: "text/plain, 20 bytes"}},
		{"JSON with something behind it", `{"code":20404,"message":"Not found"} <html>`, twiliosync.Error{Body: "text/plain, 43 bytes"}},
		{"null", `null`, twiliosync.Error{Body: "text/plain, 4 bytes"}},
		{"HTML", "<html>" + strings.Repeat("<h1>Bad Gateway</h1>\n", 90) + "</html>", twiliosync.Error{Body: "text/html, 1,903 bytes"}},
		{"more than is read", strings.Repeat("<p>", 40_000), twiliosync.Error{Body: "text/html, at least 65,536 bytes", Err: errTooLong}},
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
			want, got := test.want, *asError(t, err)
			want.StatusCode, want.RequestID, want.Attempts, want.Sends = 418, "RQ1", 1, 1
			if want.Code != 0 { // in Twilio's own words
				want.Outcome = twiliosync.OutcomeRejected
			}
			if want.Err != nil {
				assert.ErrorContains(t, got.Err, want.Err.Error())
				want.Err = got.Err
			}
			assert.Equal(t, want, got)
			assert.Nil(t, message)
			require.NotNil(t, response)
			assert.Equal(t, 418, response.StatusCode)
			assert.Equal(t, "RQ1", response.RequestID)
		})
	}
}

func TestSentinels(t *testing.T) {
	sentinels := map[string]error{
		"ErrUnauthorized": twiliosync.ErrUnauthorized, "ErrForbidden": twiliosync.ErrForbidden, "ErrNotFound": twiliosync.ErrNotFound,
		"ErrAlreadyExists": twiliosync.ErrAlreadyExists,
		"ErrTooLarge":      twiliosync.ErrTooLarge, "ErrRateLimited": twiliosync.ErrRateLimited, "ErrInvalidParameter": twiliosync.ErrInvalidParameter,
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
		{409, 54301, "ErrAlreadyExists"},
		{409, 0, "ErrAlreadyExists"},
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
			`twiliosync: rejected: "Authenticate" (status 401, code 20003); check the account SID and auth token or the API key and secret, their region, and whether quotes came with them`,
		},
		{
			"unknown", twiliosync.Error{StatusCode: 502, Body: "text/html, 1,532 bytes", Attempts: 3},
			`twiliosync: unknown: the answer is not Twilio's: text/html, 1,532 bytes (status 502, 3 attempts); the message may have been published, sending it again may publish it twice`,
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

// echoes are the ways in which an answer may show what it was sent.
func echoes(form, data, header string) map[string]string {
	var value any
	json.Unmarshal([]byte(data), &value)
	sorted, _ := json.Marshal(value)
	pretty, _ := json.MarshalIndent(value, "", "\t")
	quoted, _ := json.Marshal(data)
	twice, _ := json.Marshal(string(quoted))
	each := func(format string) string {
		var escaped strings.Builder
		for _, r := range data {
			fmt.Fprintf(&escaped, format, r)
		}
		return escaped.String()
	}
	spaced := strings.Join(strings.Split(data, ""), " ")
	found := map[string]string{
		"as it is": data, "the form": form, "the form in lower case": strings.ToLower(form), "the form in upper case": strings.ToUpper(form),
		"with spaces as %20": strings.ReplaceAll(form, "+", "%20"), "quoted": string(quoted), "quoted twice": string(twice), "with sorted keys": string(sorted),
		"pretty-printed": string(pretty), "with escaped slashes": strings.ReplaceAll(data, "/", `\/`), "as a Python repr": strings.ReplaceAll(data, `"`, "'"),
		"as Go prints a map": fmt.Sprint(value), "as Go quotes": strconv.Quote(data), "as ASCII": strconv.QuoteToASCII(data), "HTML": html.EscapeString(data),
		"the five names of XML": strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;", "'", "&apos;").Replace(data),
		"in a table":            "<tr><td>card</td><td>4111-1111-1111-1111</td></tr>", "cut at the front": data[20:], "cut at the end": data[:len(data)-12], "upper case": strings.ToUpper(data),
		"without punctuation": "card4111111111111111", "with other punctuation": "card: 4111 1111 1111 1111", "one digit a line": strings.Join(strings.Split("4111-1111-1111-1111", ""), "\n"),
		"one character apart": spaced, "a query": "https://x.example/?card=4111-1111-1111-1111", "YAML": "card: '4111-1111-1111-1111'", "CSV": `"card","4111-1111-1111-1111"`,
		"PHP": `array("card" => "4111-1111-1111-1111")`, "a header": "X-Echo: " + data, "a log line": `level=error body="` + data + `"`, "twice": data + data,
		"XML": "<card>4111-1111-1111-1111</card>", "bold": "<b>4111</b>-<b>1111</b>-<b>1111</b>-<b>1111</b>", "decimal references": each("&#%d;"), "hexadecimal references": each("&#x%x;"),
		"JSON escapes": each("\\u%04x"), "percent-encoded whole": each("%%%02X"),
		"credentials": header, "credentials without scheme": strings.TrimPrefix(header, "Basic "), "the secret": testSecret, "the secret in capitals": strings.ToUpper(testSecret),
	}
	return found
}

func TestNoEchoIsEverShown(t *testing.T) {
	client, server := setup(t, twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
	data := `{"owner":"Zoë <O'Hara> & sons","card":"4111-1111-1111-1111","path":"a/b"}`
	form := url.Values{"Data": {data}}.Encode()
	header := "Basic " + base64.StdEncoding.EncodeToString([]byte(testUser+":"+testSecret))
	all := echoes(form, data, header)
	require.GreaterOrEqual(t, len(all), 40)
	for name, echo := range all {
		text, _ := json.Marshal(echo)
		encoded := slices.Contains([]string{"decimal references", "hexadecimal references", "JSON escapes", "percent-encoded whole"}, name)
		for kind, body := range map[string]string{
			"a page":                  "<html>" + echo + "</html>",
			"Twilio's message":        `{"code":54008,"message":` + string(text) + `,"more_info":` + string(text) + `}`,
			"Twilio's details":        `{"code":54008,"message":"Invalid","details":{"got":` + string(text) + `}}`,
			"a key of the details":    `{"code":54008,"message":"Invalid","details":{` + string(text) + `:1}}`,
			"a list in RFC 9457":      `{"type":"about:blank","title":"Invalid","code":54008,"errors":[{"detail":` + string(text) + `}]}`,
			"somebody else's JSON":    `{"error":` + string(text) + `}`,
			"an answer that is a 201": `{"sid":7,"data":` + string(text) + `}`,
		} {
			if encoded && !strings.HasPrefix(kind, "a page") && !strings.HasPrefix(kind, "somebody") {
				continue // not a letter of it is as it was: such words of Twilio's are not recognised
			}
			t.Run(name+" in "+kind, func(t *testing.T) {
				server.answer = func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Twilio-Request-Id", oneHeader(echo))
					w.Header().Set("Content-Type", "text/"+oneHeader(echo))
					w.WriteHeader(map[bool]int{true: 201, false: 400}[strings.HasPrefix(body, `{"sid"`)])
					io.WriteString(w, body)
				}
				_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", json.RawMessage(data))
				require.Error(t, err)
				for shownBy, shown := range everythingShown(err) {
					reduced := strings.ToLower(regexp.MustCompile(`[^\pL\pN]+`).ReplaceAllString(shown, ""))
					for _, secret := range []string{"41111111", "ohara", "3432313131", "u0034u0031", "s3cr3tw", strings.ToLower(header[10:20])} {
						assert.NotContains(t, reduced, secret, "%s: %s", shownBy, shown)
					}
				}
			})
		}
	}
}

func oneHeader(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '.'
		}
		return r
	}, text)
}

// everythingShown is what can be made of an error without knowing its fields.
func everythingShown(err error) map[string]string {
	shown := map[string]string{"Error": err.Error(), "+v": fmt.Sprintf("%+v", err), "#v": fmt.Sprintf("%#v", err)}
	asJSON, jsonErr := json.Marshal(err)
	shown["JSON"] = fmt.Sprint(string(asJSON), jsonErr)
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Error("failed", "err", err)
	slog.New(slog.NewJSONHandler(&log, nil)).Error("failed", "err", err)
	shown["slog"] = log.String()
	var e *twiliosync.Error
	if errors.As(err, &e) {
		shown["fields"] = fmt.Sprintf("%+v", *e)
	}
	for depth := 0; err != nil; depth++ {
		shown[fmt.Sprint("unwrapped ", depth)] = fmt.Sprintf("%v %+v %#v", err, err, err)
		err = errors.Unwrap(err)
	}
	return shown
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
		{"joined", errors.Join(io.EOF, &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 503, Code: 20503}), twiliosync.OutcomeRejected, true},
		{"the stream's rate", &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 429, Code: 54009}, twiliosync.OutcomeRejected, true},
		{"a 429 with another code", &twiliosync.Error{Outcome: twiliosync.OutcomeRejected, StatusCode: 429, Code: 12345}, twiliosync.OutcomeRejected, true},
		{"no room in a Publisher", &twiliosync.Error{Outcome: twiliosync.OutcomeNotSent, Err: twiliosync.ErrBufferFull}, twiliosync.OutcomeNotSent, true},
		{"expired", &twiliosync.Error{Outcome: twiliosync.OutcomeNotSent, Err: twiliosync.ErrExpired}, twiliosync.OutcomeNotSent, false},
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
