package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// output is a terminal that tells when a line was written.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	lines chan string
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines <- string(p)
	return o.text.Write(p)
}

func TestFakeServerPrintsMessagesAndStops(t *testing.T) {
	ctx, interrupt := context.WithCancel(context.Background())
	out := &output{lines: make(chan string, 8)}
	done := make(chan error)
	go func() { done <- run(ctx, "127.0.0.1:0", out) }()
	greeting := <-out.lines
	curl := regexp.MustCompile(`curl -u (\S+):(\S+) .* (http://127\.0\.0\.1:\d+/v1/\S+)`).FindStringSubmatch(greeting)
	require.NotNil(t, curl, greeting)

	req, err := http.NewRequest(http.MethodPost, curl[3], strings.NewReader(url.Values{"Data": {`{ "hello": "world" }`}}.Encode()))
	require.NoError(t, err)
	req.SetBasicAuth(curl[1], curl[2])
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	res.Body.Close()

	assert.Equal(t, http.StatusCreated, res.StatusCode)
	assert.Contains(t, string(body), `"data":{ "hello": "world" }`)
	assert.Regexp(t, `^\d\d:\d\d:\d\d TZ[0-9a-f]{32} "orders" {"hello":"world"}\n$`, <-out.lines)
	interrupt()
	assert.NoError(t, <-done)
	http.DefaultClient.CloseIdleConnections()
}

func TestFakeServerListensOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{":8080", "0.0.0.0:8080", "[::]:8080", "example.com:8080", "8080"} {
		err := run(context.Background(), addr, io.Discard)
		assert.ErrorContains(t, err, "only on a loopback address", addr)
	}
}
