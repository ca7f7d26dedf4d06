package emulator

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFrameIsReadAsItWasWritten(t *testing.T) {
	for name, f := range map[string]frame{
		"without a payload": {header: frameHeader{Method: "ping", ID: "TM1"}},
		"with a payload":    {header: frameHeader{Method: "message", ID: "TM2"}, payload: []byte(`{"ä":"\r\n"}`)},
		"with all of its header": {header: frameHeader{
			Method: "reply", ID: "TM3", Status: &frameStatus{200, "OK", ""}, HTTPStatus: &frameStatus{404, "Not Found", "x"}, HTTPHeaders: &struct{}{},
		}, payload: []byte("{}")},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseFrame(f.bytes())
			require.NoError(t, err)
			f.header.PayloadSize = len(f.payload)
			if len(f.payload) > 0 {
				f.header.PayloadType = "application/json"
			}
			assert.Equal(t, f.header, got.header)
			assert.Equal(t, string(f.payload), string(got.payload))
		})
	}
}

func TestFrameOfTheSDKIsRead(t *testing.T) {
	got, err := parseFrame([]byte("TWILSOCK V3.0 159\r\n" +
		`{"id":"TM1","method":"message","payload_type":"application/json","http_request":{"host":"h","path":"/v3/Streams","method":"POST","headers":{}},"payload_size":19}` +
		"\r\n" + `{"unique_name":"ä"}`))
	require.ErrorContains(t, err, "CRLF", "the length is in bytes")
	assert.Zero(t, got)

	header := `{"id":"TM1","method":"message","http_request":{"host":"h","path":"/v3/Streams","method":"POST","headers":{}},"payload_size":20}`
	got, err = parseFrame(fmt.Appendf(nil, "TWILSOCK V3.0 %d\r\n%s\r\n%s", len(header), header, `{"unique_name":"ä"}`))
	require.NoError(t, err)
	assert.Equal(t, &httpRequest{"POST", "h", "/v3/Streams"}, got.header.HTTPRequest)
	assert.Equal(t, `{"unique_name":"ä"}`, string(got.payload))
}

func TestFrameThatIsWrongIsRefused(t *testing.T) {
	for _, tt := range []struct{ name, message, reason string }{
		{"nothing", "", "begins with"},
		{"another protocol", "GET / HTTP/1.1\r\n\r\n", "begins with"},
		{"another version", "TWILSOCK V4.0 2\r\n{}\r\n", "begins with"},
		{"no length", "TWILSOCK V3.0 \r\n{}\r\n", "length of the header"},
		{"a length without an end", "TWILSOCK V3.0 2", "length of the header"},
		{"a length that is no number", "TWILSOCK V3.0 x\r\n{}\r\n", "not a number"},
		{"a negative length", "TWILSOCK V3.0 -2\r\n{}\r\n", "not a number"},
		{"a length with a sign", "TWILSOCK V3.0 +2\r\n{}\r\n", "not a number"},
		{"a length of many digits", "TWILSOCK V3.0 00000002\r\n{}\r\n", "at most 7 digits"},
		{"a header larger than allowed", "TWILSOCK V3.0 9999999\r\n{}\r\n", "larger than 65536"},
		{"half a header", "TWILSOCK V3.0 40\r\n{\"method\":", "ends within its header"},
		{"a header without CRLF", "TWILSOCK V3.0 2\r\n{}", "ends within its header"},
		{"a length that is too small", "TWILSOCK V3.0 1\r\n{}\r\n", "no CRLF"},
		{"a header that is not JSON", "TWILSOCK V3.0 2\r\nxx\r\n", "not a JSON object"},
		{"a header of another type", "TWILSOCK V3.0 2\r\n[]\r\n", "not a JSON object"},
		{"a field of another type", "TWILSOCK V3.0 12\r\n{\"method\":1}\r\n", "not a JSON object"},
		{"a payload that is not announced", "TWILSOCK V3.0 2\r\n{}\r\nx", "payload_size is 0, the payload has 1"},
		{"a payload that is not there", "TWILSOCK V3.0 18\r\n{\"payload_size\":2}\r\nx", "payload_size is 2, the payload has 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseFrame([]byte(tt.message))
			assert.ErrorContains(t, err, tt.reason)
		})
	}
}

// FuzzFrame looks for messages that break the parser, and for frames that are not read again as they were written.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("TWILSOCK V3.0 12\r\n{\"method\":\"\"}\r\n"))
	f.Add(frame{header: frameHeader{Method: "message", HTTPRequest: &httpRequest{"GET", "h", "/"}}, payload: []byte(`{"a":1}`)}.bytes())
	f.Add([]byte("TWILSOCK V3.0 " + strings.Repeat("9", 30) + "\r\n"))
	f.Fuzz(func(t *testing.T, message []byte) {
		first, err := parseFrame(message)
		if err != nil {
			return
		}
		second, err := parseFrame(first.bytes())
		require.NoError(t, err)
		assert.Equal(t, string(first.payload), string(second.payload))
		assert.Equal(t, string(first.bytes()), string(second.bytes()))
	})
}
