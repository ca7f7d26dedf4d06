package twiliosync_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// inMemory returns a client whose requests are answered by a function.
func inMemory(t testing.TB, status int, answerBody string, see func(uri, body string)) *twiliosync.Client {
	transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		see(req.URL.RequestURI(), string(body))
		return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(answerBody))}, nil
	})
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret), twiliosync.WithHTTPClient(&http.Client{Transport: transport}),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
	require.NoError(t, err)
	return client
}

// FuzzPath: whatever the identifiers, either nothing is sent, or they arrive as
// two segments of this operation's path.
func FuzzPath(f *testing.F) {
	for _, identifier := range []string{"orders#1", "a/b", "..", "%2e%2e", "a?b", "\\", "é", " x", "\xff", "", "a;b", strings.Repeat("x", 321)} {
		f.Add("default", identifier)
		f.Add(identifier, "orders")
	}
	f.Fuzz(func(t *testing.T, service, stream string) {
		var uri string
		client := inMemory(t, 201, testAnswer, func(u, _ string) { uri = u })
		_, _, err := client.StreamMessages.Create(context.Background(), service, stream, json.RawMessage(`{}`))
		if err != nil {
			require.Empty(t, uri)
			require.LessOrEqual(t, len(err.Error()), 512)
			return
		}
		segments := strings.Split(uri, "/")
		require.Len(t, segments, 7, uri)
		for i, want := range []string{"", "v1", "Services", service, "Streams", stream, "Messages"} {
			got, err := url.PathUnescape(segments[i])
			require.NoError(t, err)
			require.Equal(t, want, got)
		}
		require.NotContains(t, uri, "?")
		require.NotContains(t, uri, "#")
	})
}

// FuzzData: raw JSON arrives byte for byte, or is refused and nothing is sent.
func FuzzData(f *testing.F) {
	for _, raw := range []string{`{}`, ` {"a":"+&=%"}`, `null`, `[]`, `{"a":1}{}`, "{\"a\":\"\xff\"}", "", "{\"\\ud800\":1}", `{"a":1e999}`} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		sent := ""
		client := inMemory(t, 201, testAnswer, func(_, body string) { sent = body })
		_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", json.RawMessage(raw))
		var object map[string]json.RawMessage
		isObject := json.Unmarshal(raw, &object) == nil && object != nil
		acceptable := isObject && utf8.Valid(raw) && len(raw) <= 4096
		require.Equal(t, acceptable, err == nil, "%q: %v", raw, err)
		if err != nil {
			require.Empty(t, sent)
			return
		}
		form, err := url.ParseQuery(sent)
		require.NoError(t, err)
		require.Equal(t, url.Values{"Data": {string(raw)}}, form)
	})
}

// FuzzErrorBody: no answer makes the SDK panic, and a 400 is a rejection only
// in Twilio's own words.
func FuzzErrorBody(f *testing.F) {
	for _, body := range []string{
		`{"code":20404,"message":"x","more_info":"y","status":404,"details":{"a":1}}`, `{"code":"1e400"}`, `{"code":-0.5}`, `[]`, `"`, "<html>\x00",
		`{"errors":[{"pointer":"/a"}],"title":"t","type":"u"}`, `{"message":"\u0000\ud800"}`, strings.Repeat("[", 20_000),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		client := inMemory(t, 400, string(body), func(string, string) {})
		_, _, err := publish(client)
		e := asError(t, err)
		require.Equal(t, 400, e.StatusCode)
		require.Equal(t, e.Code != 0, e.Outcome == twiliosync.OutcomeRejected)
		require.Contains(t, []twiliosync.Outcome{twiliosync.OutcomeRejected, twiliosync.OutcomeUnknown}, e.Outcome)
		require.True(t, e.Code == 0 || e.Code >= 10_000 && e.Code <= 99_999, "%d", e.Code)
		require.LessOrEqual(t, len(e.Body), 128)
		require.LessOrEqual(t, len(err.Error()), 512)
		require.True(t, utf8.ValidString(err.Error()))
		require.NotContains(t, err.Error(), "\n")
	})
}

// FuzzForm: the bytes of the form are those of url.Values.Encode.
func FuzzForm(f *testing.F) {
	for _, text := range []string{"", "a b+c&d=e;f%20", "é🙂\x00\xff", "~-_.!*'()", "orders#1/eu?"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		encoded, err := json.Marshal(map[string]string{"text": text})
		require.NoError(t, err)
		sent := ""
		client := inMemory(t, 201, testAnswer, func(_, body string) { sent = body })
		_, _, err = client.StreamMessages.Create(context.Background(), "default", "orders", json.RawMessage(encoded))
		if len(encoded) <= 4096 {
			require.NoError(t, err)
			require.Equal(t, url.Values{"Data": {string(encoded)}}.Encode(), sent)
		}
	})
}
