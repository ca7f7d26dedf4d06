package emulator_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/emulator"
)

// server is an emulator on a loopback address.
type server struct {
	*emulator.Emulator
	url string
}

// serve starts an emulator, and closes it at the end of the test.
func serve(t *testing.T, opts ...emulator.Option) server {
	t.Helper()
	e := emulator.New(opts...)
	listener := httptest.NewServer(e)
	t.Cleanup(func() {
		require.NoError(t, e.Close())
		listener.Close()
	})
	return server{e, listener.URL}
}

// client returns the Go SDK's client for the emulator.
func (s server) client(t *testing.T, opts ...twiliosync.Option) *twiliosync.Client {
	t.Helper()
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(s.Credentials()), append([]twiliosync.Option{twiliosync.WithBaseURL(s.url)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// call makes a request to the admin API, and returns status and body.
func (s server) call(t *testing.T, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(answer)
}
