package emulator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const websocketPath = "/v3/wsconnect"

// Emulator is Twilio Sync's Message Streams on this machine. Make one with [New]. It is an [http.Handler], to be mounted at
// the root of a server. Its methods are safe for concurrent use.
type Emulator struct {
	fake     *twiliosynctest.Server
	handler  http.Handler
	strict   bool
	logger   *slog.Logger
	journal  journal
	hub      *hub
	watchers *watchers
	sessions atomic.Int64

	ctx     context.Context // ends with the emulator
	cancel  context.CancelFunc
	mu      sync.Mutex // guards running against a late request
	running sync.WaitGroup
}

// New returns an emulator. Close it when it is no longer needed.
func New(opts ...Option) *Emulator {
	settings := defaultSettings()
	for _, opt := range opts {
		opt(&settings)
	}
	e := &Emulator{
		strict:   settings.strict,
		logger:   settings.logger,
		journal:  journal{limit: settings.retention},
		watchers: newWatchers(),
	}
	e.hub = newHub(e.watchers, e.logger)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.fake = settings.newFake(e.onMessage, e.onRequest)
	e.handler = guard(e.routes())
	return e
}

// ServeHTTP handles one request. It implements [http.Handler].
func (e *Emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !e.enter() {
		problem(w, http.StatusServiceUnavailable, "", errClosed.Error())
		return
	}
	defer e.running.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(e.ctx, cancel)()
	r = r.WithContext(ctx)
	r.Body = &slowBody{ReadCloser: http.MaxBytesReader(w, r.Body, maxBody), response: http.NewResponseController(w)}
	e.handler.ServeHTTP(w, r)
}

// enter counts a request in, and reports false after Close.
func (e *Emulator) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return false
	}
	e.running.Add(1)
	return true
}

// Close ends all websockets, pages and requests, and waits until that is done. Later requests are answered with 503.
// It returns nil.
func (e *Emulator) Close() error {
	e.mu.Lock()
	e.cancel()
	e.mu.Unlock()
	e.running.Wait()
	return nil
}

// Credentials returns the user name and password that the emulator accepts. They are the same in every emulator, and
// known to everybody.
func (e *Emulator) Credentials() (username, password string) { return e.fake.Credentials() }

// Fake returns the fake service behind the emulator, for programs in the same process: it has the messages, the requests,
// the streams and the fault script.
func (e *Emulator) Fake() *twiliosynctest.Server { return e.fake }

// routes leads what is the emulator's own past the fake, which judges every other path itself: a [http.ServeMux] would
// clean it.
func (e *Emulator) routes() http.Handler {
	admin := e.admin()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case path == websocketPath:
			e.serveWebsocket(w, r)
		case path == "/" || strings.HasPrefix(path, "/_emulator/"):
			admin.ServeHTTP(w, r)
		default:
			e.fake.ServeHTTP(w, r)
		}
	})
}

func (e *Emulator) nextSessionID() string { return fmt.Sprintf("client-%d", e.sessions.Add(1)) }

// newID returns an identifier for a frame.
func newID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return "TM" + hex.EncodeToString(id[:])
}
