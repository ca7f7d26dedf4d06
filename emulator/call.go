package emulator

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// clientHeader says which client of the websocket a request comes from.
const clientHeader = "Emulator-Client"

// call makes a REST request in process, for a client of the websocket, and returns the answer. A fault that leaves the
// request without an answer, or with half of one, is status 0.
func (e *Emulator) call(ctx context.Context, client, method, path string, form url.Values) (a socketAnswer) {
	r, err := http.NewRequestWithContext(ctx, method, "http://emulator"+path, strings.NewReader(form.Encode()))
	if err != nil {
		return socketAnswer{http.StatusNotFound, notImplemented(method, path)}
	}
	r.RequestURI = r.URL.RequestURI()
	r.SetBasicAuth(e.fake.Credentials())
	r.Header.Set(clientHeader, client)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	defer func() {
		switch failure := recover(); failure {
		case nil:
		case http.ErrAbortHandler:
			a = socketAnswer{}
		default:
			panic(failure)
		}
	}()
	var w memoryResponse
	e.fake.ServeHTTP(&w, r)
	return socketAnswer{w.status, w.body.Bytes()}
}

// memoryResponse is a response that stays in memory.
type memoryResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements [http.ResponseWriter].
func (w *memoryResponse) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// WriteHeader implements [http.ResponseWriter].
func (w *memoryResponse) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements [http.ResponseWriter].
func (w *memoryResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// bodyTimeout is the time that a client has to send a body.
const bodyTimeout = 30 * time.Second

// slowBody gives up on a body that doesn't come. The deadline ends with the body: what a fault holds up may take longer.
type slowBody struct {
	io.ReadCloser
	response *http.ResponseController
	started  bool
}

// Read implements [io.Reader].
func (b *slowBody) Read(p []byte) (int, error) {
	if !b.started {
		b.started = true
		_ = b.response.SetReadDeadline(time.Now().Add(bodyTimeout)) // not every server has deadlines
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.response.SetReadDeadline(time.Time{})
	}
	return n, err
}
