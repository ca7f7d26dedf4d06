package twiliosync_test

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

const (
	someService = "IS0123456789abcdef0123456789ABCDEF"
	someStream  = "TO0123456789abcdef0123456789ABCDEF"
)

func TestIdentifiersThatAreRefused(t *testing.T) {
	for _, test := range []struct{ name, identifier, says string }{
		{"empty", "", "empty"},
		{"a dot", ".", "dot segment"},
		{"a dot segment between slashes, which nginx and others resolve", "a/../b", "dot segment"},
		{"a byte order mark before it", "\ufefforders", "begins with the invisible character U+FEFF"},
		{"a zero-width space after it", "orders\u200b", "ends with the invisible character U+200B"},
		{"a word joiner after it", "orders\u2060", "ends with the invisible character U+2060"},
		{"a soft hyphen before it", "\u00adorders", "begins with the invisible character U+00AD"},
		{"a mark of direction before it", "\u200eorders", "begins with the invisible character U+200E"},
		{"an embedding of direction after it", "orders\u202e", "ends with the invisible character U+202E"},
		{"two dots", "..", "dot segment"},
		{"leading space", " orders", "begins with a space"},
		{"trailing space", "orders ", "ends with a space"},
		{"a trailing line break", "orders\n", "ends with a line break"},
		{"a trailing no-break space", "orders\u00a0", "ends with a space"},
		{"only space", "  ", "begins with a space"},
		{"a NUL", "or\x00ders", "control character"},
		{"a line break", "or\r\nders", "control character"},
		{"DEL", "or\x7fders", "control character"},
		{"a C1 control character", "or\u0085ders", "control character"},
		{"invalid UTF-8", "or\xffders", "UTF-8"},
		{"321 characters", strings.Repeat("ü", 321), "320"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t)
			for parameter, identifiers := range map[string][2]string{
				"serviceSID": {test.identifier, "orders"},
				"streamSID":  {"default", test.identifier},
			} {
				_, response, err := client.StreamMessages.Create(context.Background(), identifiers[0], identifiers[1], map[string]any{"a": 1})
				refused := refusedParameter(t, err)
				assert.Nil(t, response)
				assert.Equal(t, parameter, refused.Parameter)
				assert.Contains(t, refused.Reason, test.says)
				if len(test.identifier) > 2 {
					assert.NotContains(t, err.Error(), test.identifier, "the value must not be shown")
				}
			}
			assert.Empty(t, server.all())
		})
	}
}

func refusedParameter(t *testing.T, err error) *twiliosync.ParameterError {
	t.Helper()
	var parameter *twiliosync.ParameterError
	require.ErrorAs(t, err, &parameter)
	e := asError(t, err)
	assert.Equal(t, twiliosync.OutcomeNotSent, e.Outcome)
	assert.Zero(t, e.Attempts)
	assert.Zero(t, e.Sends)
	assert.ErrorIs(t, err, twiliosync.ErrInvalidParameter)
	assert.False(t, twiliosync.Retryable(err))
	assert.NotContains(t, err.Error(), "\n")
	return parameter
}

func TestSwappedSIDsAreRefused(t *testing.T) {
	client, server := setup(t)
	_, _, err := client.StreamMessages.Create(context.Background(), someStream, someService, map[string]any{"a": 1})
	assert.Contains(t, refusedParameter(t, err).Reason, "swap")
	_, _, err = client.StreamMessages.Create(context.Background(), someService, someStream, map[string]any{"a": 1})
	assert.NoError(t, err)
	assert.Len(t, server.all(), 1)
}

type jsonText string

type custom struct {
	json string
	err  error
}

func (c custom) MarshalJSON() ([]byte, error) { return []byte(c.json), c.err }

func TestDataThatIsRefused(t *testing.T) {
	cycle := map[string]any{}
	cycle["self"] = cycle
	for _, test := range []struct {
		name string
		data any
		says string
	}{
		{"nil", nil, "it is nil"},
		{"a nil map", map[string]any(nil), "null"},
		{"a nil pointer", (*struct{})(nil), "null"},
		{"a string", `{"a":1}`, "json.RawMessage"},
		{"bytes", []byte(`{"a":1}`), "json.RawMessage"},
		{"a type whose kind is string", jsonText("{}"), "string"},
		{"a reader", strings.NewReader(`{"a":1}`), "json.RawMessage"},
		{"a slice", []int{1}, "array"},
		{"a number", 7, "number"},
		{"a boolean", true, "boolean"},
		{"a type that encodes to a string", custom{json: `"x"`}, "string"},
		{"a channel", make(chan int), "can't encode"},
		{"a number that JSON has not", map[string]any{"a": math.NaN()}, "can't encode"},
		{"a cycle", cycle, "can't encode"},
		{"an error of MarshalJSON", custom{err: errors.New("out of ink")}, "can't encode"},
		{"MarshalJSON with invalid JSON", custom{json: `{"a":`}, "can't encode"},
		{"MarshalJSON with invalid UTF-8", custom{json: "{\"a\":\"\xff\"}"}, "UTF-8"},
		{"no raw JSON", json.RawMessage(nil), "empty"},
		{"empty raw JSON", json.RawMessage{}, "empty"},
		{"raw white space", json.RawMessage(" \n"), "not one JSON value"},
		{"raw JSON with a syntax error", json.RawMessage(`{id:"bob"}`), "not one JSON value"},
		{"raw JSON with a byte order mark", json.RawMessage("\ufeff{}"), "not one JSON value"},
		{"two raw values", json.RawMessage(`{} {}`), "not one JSON value"},
		{"raw null", json.RawMessage(` null`), "null"},
		{"a raw array", json.RawMessage(`[{}]`), "array"},
		{"a raw string", json.RawMessage(`"{}"`), "string"},
		{"a raw number", json.RawMessage(`-1`), "number"},
		{"raw JSON with invalid UTF-8", json.RawMessage("{\"a\":\"\xc3\x28\"}"), "UTF-8"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t)
			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", test.data)
			refused := refusedParameter(t, err)
			assert.Equal(t, "data", refused.Parameter)
			assert.Contains(t, refused.Reason, test.says)
			assert.Empty(t, server.all())
		})
	}
}

func TestErrorsOfTheEncoderAreWrapped(t *testing.T) {
	client, _ := setup(t)
	cause := errors.New("out of ink")
	_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", custom{err: cause})
	assert.ErrorIs(t, err, cause)
	assert.NotContains(t, err.Error(), "ink", "it may quote the data")

	_, _, err = client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"a": json.Number("4111-1111")})
	assert.Error(t, err)
	assert.NotContains(t, err.Error(), "4111")

	_, _, err = client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"a": make(chan int)})
	assert.ErrorContains(t, err, "unsupported type chan int")
}

func TestDataOnTheWire(t *testing.T) {
	raw := json.RawMessage(`{"a":1}`)
	for _, test := range []struct {
		name string
		data any
		want string
	}{
		{"a struct", struct {
			ID   int    `json:"id"`
			Note string `json:"note,omitempty"`
		}{ID: 7}, `{"id":7}`},
		{"a map, with sorted keys", map[string]int{"b": 2, "a": 1}, `{"a":1,"b":2}`},
		{"an empty object", map[string]any{}, `{}`},
		{"no HTML escaping", map[string]string{"h": "<a href='x?y&z'>"}, `{"h":"<a href='x?y&z'>"}`},
		{"Unicode as it is", map[string]string{"u": "é日😀"}, `{"u":"é日😀"}`},
		{"characters that mean something in a form", map[string]string{"f": "a+b=c&d%20;"}, `{"f":"a+b=c&d%20;"}`},
		{"a MarshalJSON object", custom{json: `{ "a" : 1 }`}, `{"a":1}`},
		{"raw JSON, byte for byte", json.RawMessage("{ \"a\":\t1.50,\r\n\"b\":\"\\u00e9<\" }"), "{ \"a\":\t1.50,\r\n\"b\":\"\\u00e9<\" }"},
		{"raw JSON within white space", json.RawMessage("\n{} "), "\n{} "},
		{"raw JSON in a field keeps its digits", map[string]any{"n": json.RawMessage(`12345678901234567890.10`)}, `{"n":12345678901234567890.10}`},
		{"a pointer to raw JSON", &raw, `{"a":1}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t)
			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", test.data)
			require.NoError(t, err)
			form, err := url.ParseQuery(server.all()[0].body)
			require.NoError(t, err)
			assert.Equal(t, url.Values{"Data": {test.want}}, form)
		})
	}
}

func TestSizeOfData(t *testing.T) {
	ofSize := func(n int) json.RawMessage { return json.RawMessage(`{"a":"` + strings.Repeat("<", n-8) + `"}`) }
	for _, test := range []struct {
		name    string
		opts    []twiliosync.Option
		data    any
		size    int
		refused bool
	}{
		{name: "exactly 4096 bytes pass", data: ofSize(4096)},
		{name: "4097 bytes are refused", data: ofSize(4097), size: 4097, refused: true},
		{name: "a value that would be too large only with HTML escaping passes", data: map[string]string{"a": strings.Repeat("<", 4088)}},
		{name: "bytes count, not characters", data: map[string]string{"a": strings.Repeat("é", 2045)}, size: 4098, refused: true},
		{name: "white space counts", data: json.RawMessage(`{}` + strings.Repeat(" ", 4095)), size: 4097, refused: true},
		{name: "another limit", opts: []twiliosync.Option{twiliosync.WithMaxDataSize(10)}, data: ofSize(11), size: 11, refused: true},
		{name: "no limit", opts: []twiliosync.Option{twiliosync.WithMaxDataSize(0)}, data: ofSize(100_000)},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t, test.opts...)
			_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", test.data)
			if !test.refused {
				require.NoError(t, err)
				assert.Len(t, server.all(), 1)
				return
			}
			refused := refusedParameter(t, err)
			assert.Equal(t, test.size, refused.Size)
			assert.Positive(t, refused.Limit)
			assert.ErrorIs(t, err, twiliosync.ErrTooLarge)
			assert.Empty(t, server.all())
		})
	}
}

func TestContextThatIsDoneAlready(t *testing.T) {
	client, server := setup(t)
	cause := errors.New("the user left")
	cancelled, cancel := context.WithCancelCause(context.Background())
	cancel(cause)

	_, response, err := client.StreamMessages.Create(cancelled, "default", "orders", map[string]any{"a": 1})

	assert.Nil(t, response)
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, cause, "it may be about another call")
	assert.ErrorContains(t, err, "the user left")
	assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
	assert.True(t, twiliosync.Retryable(err))
	assert.Zero(t, asError(t, err).Attempts)
	assert.Empty(t, server.all())
}

func TestCallersDataIsNotChanged(t *testing.T) {
	client, _ := setup(t)
	raw := json.RawMessage(`{"a": "b"}`)
	_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", raw)
	require.NoError(t, err)
	assert.Equal(t, `{"a": "b"}`, string(raw))
}
