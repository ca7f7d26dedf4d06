package conformance

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

type identifier struct{ name, id string }

var serviceSIDs = []identifier{
	{"a SID", "IS0123456789abcdef0123456789abcdef"},
	{"a SID with capital digits", "IS0123456789ABCDEF0123456789ABCDEF"},
}

var streamSIDs = []identifier{
	{"a SID", "TO0123456789abcdef0123456789abcdef"},
	{"a SID with capital digits", "TO0123456789ABCDEF0123456789ABCDEF"},
}

// uniqueNames are used for the service and for the stream.
var uniqueNames = []identifier{
	{"the default service's", "default"},
	{"a word", "orders"},
	{"one character", "x"},
	{"almost a SID", "TO0123456789abcdef0123456789abcde"},
	{"unreserved characters", "a-b_c.d~e"},
	{"a slash", "orders/2024"},
	{"slashes only", "//"},
	{"a path that seems to lead elsewhere", ".../..Services"},
	{"a question mark", "orders?state=paid&x"},
	{"a hash", "orders#1"},
	{"a percent sign", "100%"},
	{"what looks encoded", "a%2Fb"},
	{"what looks encoded twice", "a%252Fb"},
	{"a backslash", `a\b`},
	{"a space", "my stream"},
	{"a plus", "a+b"},
	{"sub-delimiters", "a;b,c=d&e!f$g'h(i)j*k"},
	{"a colon and an at sign", "user:name@host"},
	{"quotes and angle brackets", `"<a>'`},
	{"braces, brackets, pipe, caret, backtick", "{StreamSid}[0]|^`"},
	{"three dots", "..."},
	{"dots inside and around", ".hidden..name."},
	{"accents, composed and not", "caf\u00e9 cafe\u0301"},
	{"Chinese", "订单"},
	{"Arabic and Hebrew", "طلبات הזמנות"},
	{"an emoji of several code points", "👩\u200d🚀🇺🇳"},
	{"the highest code point", "a\U0010FFFF"},
	{"a segment of the path", "Messages"},
	{"320 characters", strings.Repeat("n", 320)},
	{"320 characters of four bytes", strings.Repeat("😀", 320)},
	{"320 characters that need encoding", strings.Repeat("%/", 160)},
}

const worldText = "值 caf\u00e9 cafe\u0301 👩\u200d🚀 \U0010FFFF"

type order struct {
	ID    int      `json:"id"`
	Notes []string `json:"notes"`
	Inner *order   `json:"inner,omitempty"`
}

// payload is data and the JSON that has to arrive, byte for byte.
type payload struct {
	name string
	data any
	want string
}

var payloads = []payload{
	{"an empty object", map[string]any{}, `{}`},
	{"a struct", order{ID: 1, Notes: []string{"a"}}, `{"id":1,"notes":["a"]}`},
	{"a pointer to a struct in a struct", &order{ID: 1, Inner: &order{ID: 2}}, `{"id":1,"notes":null,"inner":{"id":2,"notes":null}}`},
	{"a map with sorted keys", map[string]int{"b": 2, "a": 1}, `{"a":1,"b":2}`},
	{"a map with numbers for keys", map[int]bool{10: true}, `{"10":true}`},
	{"values of every kind", map[string]any{"a": []any{nil, true, false, 1.5, "x", map[string]any{}}}, `{"a":[null,true,false,1.5,"x",{}]}`},
	{"an empty key", map[string]string{"": ""}, `{"":""}`},
	{"the characters that forms treat specially", map[string]string{"a": "a+b c&d=e;f%20g?h#i/j"}, `{"a":"a+b c&d=e;f%20g?h#i/j"}`},
	{"the characters that HTML treats specially", map[string]string{"<b>": "R&D </script>"}, `{"<b>":"R&D </script>"}`},
	{"quotes, backslashes, control characters", map[string]string{"a": "\"\\\n\t\x00\x1f\x7f"}, `{"a":"\"\\\n\t\u0000\u001f` + "\x7f" + `"}`},
	{"Unicode", map[string]string{"ключ": worldText}, `{"ключ":"` + worldText + `"}`},
	{"the line separators that encoding/json escapes", map[string]string{"a": "\u2028\u2029"}, `{"a":"\u2028\u2029"}`},
	{"an object in 400 others", nested(400), string(nested(400))},
	{"arrays in an object", map[string]any{"a": [][]int{{}, {1}, {1, 2}}}, `{"a":[[],[1],[1,2]]}`},
	{"a time and bytes", map[string]any{"at": time.Unix(0, 1).UTC(), "b": []byte("\xff")}, `{"at":"1970-01-01T00:00:00.000000001Z","b":"/w=="}`},
	{"the largest integers", map[string]any{"a": int64(-1 << 63), "b": ^uint64(0)}, `{"a":-9223372036854775808,"b":18446744073709551615}`},
	{"a json.Number with many digits", map[string]any{"a": json.Number("1234567890.12345678901234567890")}, `{"a":1234567890.12345678901234567890}`},
	raw("numbers beyond float64", `{"a":1e400,"b":-0,"c":1E-999,"d":123456789012345678901234567890123456789012345678901234567890.5}`),
	raw("white space of every kind", "\r\n\t { \"a\" :\n[ 1 ,\t2 ] }\r\n "),
	raw("escapes as they are written", `{"\u0061":"\/\u00e9\ud83d\ude00<\u003c"}`),
	raw("a lone surrogate", `{"a":"\ud800"}`),
	raw("a key that is there twice", `{"a":1,"a":{"b":2}}`),
	raw("the names of the answer's properties", `{"sid":null,"data":{"sid":"TZ"},"code":20404,"status":500}`),
	raw("exactly 4096 bytes", `{"a":"`+strings.Repeat("x", 4096-8)+`"}`),
	raw("exactly 4096 bytes that a form makes three times as long", `{"a":"`+strings.Repeat("&", 4096-8)+`"}`),
	raw("exactly 4096 bytes of four-byte characters", `{"a":"`+strings.Repeat("😀", 1022)+`"}`),
	raw("exactly 4096 bytes of white space and an empty object", strings.Repeat(" ", 4094)+`{}`),
	{"exactly 4096 bytes, encoded here", map[string]string{"a": strings.Repeat("<", 4096-8)}, `{"a":"` + strings.Repeat("<", 4096-8) + `"}`},
}

func raw(name, text string) payload { return payload{name, json.RawMessage(text), text} }

func nested(depth int) json.RawMessage {
	return json.RawMessage(strings.Repeat(`{"a":`, depth) + `{}` + strings.Repeat(`}`, depth))
}

func TestSDKAndFake(t *testing.T) {
	t.Parallel()
	contract := readContract(t)
	tally := newTally(t)
	for _, stream := range slices.Concat(streamSIDs, uniqueNames) {
		t.Run("the stream is "+stream.name, func(t *testing.T) {
			t.Parallel()
			publishAll(t, contract, tally, "default", stream.id)
		})
	}
	for _, service := range slices.Concat(serviceSIDs, uniqueNames) {
		t.Run("the service is "+service.name, func(t *testing.T) {
			t.Parallel()
			publishAll(t, contract, tally, service.id, "orders")
		})
	}
}

// publishAll publishes each payload and compares what passed the proxy with
// what went in.
func publishAll(t *testing.T, contract *contract, tally *tally, service, stream string) {
	fake, proxy := setup(t, contract, tally)
	client := proxy.client(fake)
	for i, payload := range payloads {
		message, response, err := client.StreamMessages.Create(context.Background(), service, stream, payload.data)
		require.NoError(t, err, payload.name)

		require.Len(t, proxy.all(), i+1, payload.name)
		x := proxy.all()[i]
		require.NoError(t, x.requestErr, payload.name)
		require.NoError(t, x.answerErr, payload.name)
		assert.Equal(t, []string{service, stream}, []string{x.serviceSID, x.streamSID}, payload.name)
		assert.NotContains(t, x.requestURI, "?", payload.name)
		assert.Equal(t, []string{"application/json"}, x.header["Accept"], payload.name)
		form, err := url.ParseQuery(x.body)
		require.NoError(t, err, payload.name)
		assert.Equal(t, url.Values{"Data": {payload.want}}, form, payload.name)

		assert.Equal(t, http.StatusCreated, response.StatusCode, payload.name)
		assert.Equal(t, x.answerHeader.Get("Twilio-Request-Id"), response.RequestID, payload.name)
		assert.Equal(t, `{"sid":"`+message.SID+`","data":`+payload.want+`}`, string(x.answer), payload.name)
		assert.Equal(t, strings.TrimSpace(payload.want), string(message.Data), payload.name)
	}

	published := fake.Messages(stream)
	require.Len(t, published, len(payloads))
	sids := map[string]bool{}
	for i, message := range published {
		assert.Equal(t, payloads[i].want, string(message.Data), payloads[i].name)
		assert.Equal(t, []string{service, stream}, []string{message.ServiceSID, message.Stream}, payloads[i].name)
		sids[message.SID] = true
	}
	assert.Len(t, sids, len(payloads), "two messages share a SID")
	for i, request := range fake.Requests() {
		x := proxy.all()[i]
		assert.Equal(t, []string{x.requestURI, x.body}, []string{request.Path, request.Body}, "the proxy changed the request")
	}
}

func TestCreateAllAndFake(t *testing.T) {
	t.Parallel()
	fake, proxy := setup(t, readContract(t), newTally(t))
	var requests []twiliosync.StreamMessageRequest
	for _, stream := range slices.Concat(streamSIDs, uniqueNames) {
		requests = append(requests, twiliosync.StreamMessageRequest{StreamSID: stream.id, Data: map[string]any{"to": stream.name}})
	}
	for result := range proxy.client(fake).StreamMessages.CreateAll(context.Background(), "default", slices.Values(requests), nil) {
		assert.NoError(t, result.Err, result.Request.StreamSID)
	}
	require.Len(t, proxy.all(), len(requests))
	for _, x := range proxy.all() {
		assert.NoError(t, x.requestErr)
	}
}

func TestErrorAnswersToTheSDK(t *testing.T) {
	t.Parallel()
	contract := readContract(t)
	tally := newTally(t)
	tooLarge := json.RawMessage(`{"a":"` + strings.Repeat("x", 4096-7) + `"}`)
	for _, test := range []struct {
		name    string
		fake    []twiliosynctest.Option
		opts    []twiliosync.Option
		prepare func(*testing.T, *twiliosynctest.Server, *twiliosync.Client)
		data    any
		want    answer
	}{
		{name: "the stream does not exist", fake: []twiliosynctest.Option{twiliosynctest.WithStreams("invoices")}, want: answer{404, 20404}},
		{name: "4097 bytes", opts: []twiliosync.Option{twiliosync.WithMaxDataSize(0)}, data: tooLarge, want: answer{413, 54006}},
		{name: "the stream's rate is exceeded", fake: []twiliosynctest.Option{twiliosynctest.WithStreamRateLimit(1, time.Hour)}, prepare: publishOne, want: answer{429, 54009}},
		{name: "the account's concurrency is exceeded", fake: []twiliosynctest.Option{twiliosynctest.WithConcurrencyLimit(1)}, prepare: occupy, want: answer{429, 20429}},
		{name: "a script says 429", prepare: script(429, 54009), want: answer{429, 54009}},
		{name: "a script says 429 without a code", prepare: script(429, 0), want: answer{429, 0}},
		{name: "a script says 400", prepare: script(400, 54010), want: answer{400, 54010}},
		{name: "a script says 401", prepare: script(401, 20003), want: answer{401, 20003}},
		{name: "a script says 403", prepare: script(403, 54056), want: answer{403, 54056}},
		{name: "a script says 404", prepare: script(404, 54300), want: answer{404, 54300}},
		{name: "a script says 405", prepare: script(405, 20004), want: answer{405, 20004}},
		{name: "a script says 500", prepare: script(500, 20500), want: answer{500, 20500}},
		{name: "a script says 502 without a code", prepare: script(502, 0), want: answer{502, 0}},
		{name: "a script says 503", prepare: script(503, 20503), want: answer{503, 20503}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			fake, proxy := setup(t, contract, tally, test.fake...)
			client := proxy.client(fake, append(test.opts, twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))...)
			if test.prepare != nil {
				test.prepare(t, fake, client)
			}
			data := test.data
			if data == nil {
				data = map[string]any{"a": 1}
			}
			_, response, err := client.StreamMessages.Create(context.Background(), "default", "orders", data)

			for _, x := range proxy.all() {
				assert.NoError(t, x.requestErr)
			}
			last, got := proxy.last(t)
			assert.Equal(t, test.want, got)
			var apiError *twiliosync.Error
			require.ErrorAs(t, err, &apiError)
			assert.Equal(t, test.want, answer{apiError.StatusCode, apiError.Code})
			assert.Equal(t, last.answerHeader.Get("Twilio-Request-Id"), response.RequestID)
		})
	}
}

func publishOne(t *testing.T, _ *twiliosynctest.Server, client *twiliosync.Client) {
	_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"a": 1})
	require.NoError(t, err)
}

func script(status, code int) func(*testing.T, *twiliosynctest.Server, *twiliosync.Client) {
	return func(_ *testing.T, fake *twiliosynctest.Server, _ *twiliosync.Client) {
		fake.Next(1).Answer(status, code)
	}
}

// occupy leaves a call in flight until the end of the test.
func occupy(t *testing.T, fake *twiliosynctest.Server, client *twiliosync.Client) {
	arrived, ended := make(chan struct{}), make(chan struct{})
	fake.Next(1).Matching(func(twiliosynctest.Request) bool { close(arrived); return true }).NeverAnswer()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(ended)
		_, _, _ = client.StreamMessages.Create(ctx, "default", "other", map[string]any{"a": 1})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	<-arrived
}

func TestEveryAttemptOfARetriedMessage(t *testing.T) {
	t.Parallel()
	fake, proxy := setup(t, readContract(t), newTally(t))
	fake.Next(2).WithHeader("Retry-After", "0").Answer(503, 20503)
	client := proxy.client(fake, twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Nanosecond}))
	_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders#1", map[string]any{"a": 1})
	require.NoError(t, err)
	require.Len(t, proxy.all(), 3)
	for _, x := range proxy.all() {
		assert.NoError(t, x.requestErr)
		assert.Equal(t, proxy.all()[0].requestURI+" "+proxy.all()[0].body, x.requestURI+" "+x.body)
	}
}
