package twiliosync_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// allocationsPerCreate is what one accepted message costs in memory, with a
// transport of the caller's, counted with Go 1.26. By the step that needs them:
//
//	 7  the data and its form, by go-querystring
//	 4  the operation with its path, and the call
//	 4  the context with the timeout of the attempt
//	 6  the request, its body, and a copy of the header with the credentials (3, shared with the SDK's own transport)
//	10  httptrace, and what it adds to the context (6 with the SDK's own transport)
//	 8  the answer: its buffer, and the message, decoded by encoding/json
//	 1  the Response, with the request that it shows
//	 3  the transport below, of the test
//
// A number above it means that something new is made for every message: is it
// worth that? A number below it is to be written here.
const allocationsPerCreate = 43

func TestCreateAllocatesNoMoreThanItNeeds(t *testing.T) {
	if raceEnabled || testing.CoverMode() != "" {
		t.Skip("the race detector and the coverage counters change what is allocated")
	}
	limit := allocationsPerCreate
	switch { // the standard library's share differs from line to line
	case strings.HasPrefix(runtime.Version(), "go1.27"):
		limit -= 6 // encoding/json
	case !strings.HasPrefix(runtime.Version(), "go1.26"):
		t.Skip("the allocations of this Go line are not known; count them, and write them here")
	}
	for name, size := range map[string]int{
		"a message of 200 bytes":                         200,
		"a message of 4 KiB needs larger ones, not more": 4096,
	} {
		t.Run(name, func(t *testing.T) { // not parallel: those of all goroutines are counted
			message := json.RawMessage(`{"text":"` + strings.Repeat("x", size-len(`{"text":""}`)) + `"}`)
			answer := `{"sid":"TZ0123456789abcdef0123456789abcdef","data":` + string(message) + `}`
			client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC0123456789abcdef0123456789abcdef", "secret"),
				twiliosync.WithHTTPClient(&http.Client{Transport: answering(answer)}))
			require.NoError(t, err)
			var data any = message // made once: it is the caller's

			allocations := testing.AllocsPerRun(1000, func() {
				_, _, err = client.StreamMessages.Create(context.Background(), "IS0123456789abcdef0123456789abcdef", "TO0123456789abcdef0123456789abcdef", data)
			})

			require.NoError(t, err)
			assert.LessOrEqual(t, int(allocations), limit)
		})
	}
}

// answering returns a transport that answers each request with 201. For each
// it allocates the response, its body and the body's reader.
func answering(answer string) http.RoundTripper {
	return roundTripFunc(func(req *http.Request) (*http.Response, error) {
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return nil, err
		}
		body := io.NopCloser(strings.NewReader(answer))
		return &http.Response{StatusCode: http.StatusCreated, Body: body, ContentLength: int64(len(answer)), Request: req}, req.Body.Close()
	})
}
