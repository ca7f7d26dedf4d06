package twiliosynctest

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twiliosync/twiliosync-go"
)

// The credentials that a server accepts by default.
const (
	defaultUsername = "AC00000000000000000000000000000000"
	defaultPassword = "auth-token"
)

// Server is a fake of Twilio Sync. Make one with [NewServer] or [New]. Its methods are safe for concurrent use.
type Server struct {
	// URL is the base URL of the server, such as "http://127.0.0.1:41234". In a testing/synctest bubble only clients
	// made by [Server.Client] reach the server, and the URL is one where every other client is refused at once. For a
	// server made by New it is empty; set it to where the server is mounted if you want to use Client.
	URL string

	username, password string
	given              []string // streams that exist in every service
	strict             bool     // streams have to exist
	concurrencyLimit   int      // 0: none
	rate               rateLimit
	retention          int // 0: everything
	onMessage          func(Message)
	onRequest          func(Request)

	script  script
	network *network // nil for a server made by New

	mu       sync.Mutex // guards what follows, and the Requests that are pointed to
	requests record[*Request]
	boxes    map[string]*box     // by the streams' SIDs, over all services
	services map[string]*service // by SID
	active   int                 // requests that hold one of the account's concurrency slots
}

// Option configures a [Server].
type Option func(*Server)

// WithStreams makes the server strict: in each service these streams exist, by unique name or SID, and those that
// CreateSyncStream makes. Publishing to any other is answered with 404 and code 20404.
func WithStreams(streams ...string) Option {
	return func(s *Server) {
		s.strict = true
		s.given = append(s.given, streams...)
	}
}

// WithCredentials sets the account SID and auth token, or the API key's SID and secret, that the server accepts instead
// of those it makes up. Clients of [Server.Client] use them.
func WithCredentials(username, password string) Option {
	return func(s *Server) { s.username, s.password = username, password }
}

// WithStreamRateLimit refuses a stream's messages beyond this number in any window of this length, with 429 and code
// 54009. Twilio documents 30 messages per second and a window of ten seconds: WithStreamRateLimit(300, 10*time.Second).
// 0 messages stand for no limit, which is the default. It panics if the values make no sense.
func WithStreamRateLimit(messages int, window time.Duration) Option {
	if messages < 0 || messages > 0 && window <= 0 {
		panic(fmt.Sprintf("twiliosynctest: WithStreamRateLimit(%d, %v): both values must be positive, or the number 0 for no limit", messages, window))
	}
	return func(s *Server) { s.rate = rateLimit{messages, window} }
}

// WithConcurrencyLimit refuses requests that arrive while this number of others are being served, with 429 and code
// 20429, as Twilio does for an account. It panics if requests is not positive.
func WithConcurrencyLimit(requests int) Option {
	if requests <= 0 {
		panic(fmt.Sprintf("twiliosynctest: WithConcurrencyLimit(%d): the value must be positive", requests))
	}
	return func(s *Server) { s.concurrencyLimit = requests }
}

// WithRetention keeps the newest messages of each stream, up to this number, and as many requests, instead of all, so that
// a server can run for days. Of more than 10,000 streams with messages it forgets the ones not used for longest; those made
// by CreateSyncStream or given to [WithStreams] go on existing. It panics if messages is not positive.
func WithRetention(messages int) Option {
	if messages <= 0 {
		panic(fmt.Sprintf("twiliosynctest: WithRetention(%d): the value must be positive", messages))
	}
	return func(s *Server) { s.retention = messages }
}

// OnMessage calls observe with each accepted message, before the message is answered. Messages that arrive at the same
// time are observed at the same time.
func OnMessage(observe func(Message)) Option {
	return func(s *Server) { s.onMessage = observe }
}

// OnRequest calls observe with each request when it is settled: its answer, or that it gets none, is known and not sent
// yet. Requests that arrive at the same time are observed at the same time.
func OnRequest(observe func(Request)) Option {
	return func(s *Server) { s.onRequest = observe }
}

// NewServer starts a server that closes itself at the end of the test. It listens on a loopback address, or on an
// in-memory network if it is made in a testing/synctest bubble; t is then the bubble's. The test fails if a fault of the
// script was never met, see [Fault].
func NewServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := New(opts...)
	s.script.forgets = false
	if err := s.start(); err != nil {
		t.Fatalf("twiliosynctest: cannot listen: %v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		s.Close()
		for _, complaint := range s.script.complaints() {
			t.Error(complaint)
		}
	})
	return s
}

// New returns a server without a network, to be mounted at the root of any HTTP server. It is an [http.Handler].
func New(opts ...Option) *Server {
	s := &Server{
		username:  defaultUsername,
		password:  defaultPassword,
		onMessage: func(Message) {},
		onRequest: func(Request) {},
		script:    script{forgets: true},
	}
	for _, opt := range opts {
		opt(s)
	}
	s.forget()
	return s
}

// Reset makes the server forget its messages, streams, requests and faults, as if it were new. Faults that no request has
// met until then were never met.
func (s *Server) Reset() {
	s.script.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	boxes := s.boxes
	s.forget()
	for _, box := range boxes {
		box.notify() // those who wait for messages begin again
	}
}

// forget empties what the server keeps. It needs the lock.
func (s *Server) forget() {
	s.requests = record[*Request]{limit: s.retention}
	s.boxes = make(map[string]*box)
	s.services = make(map[string]*service)
}

// Close stops the server: it cuts all connections, also those of requests being served, and waits for the end of its
// goroutines, unless a request being served calls it, from within OnMessage or Matching. Later requests fail; on a connection that the client still keeps, their outcome can be unknown, so call
// CloseIdleConnections first where a test is about "not sent". Servers made by [NewServer] close by themselves.
func (s *Server) Close() {
	if s.network != nil {
		s.network.close()
	}
}

// Client returns a client that publishes to the server. The options are applied after those that lead to the server, one
// of which, in a testing/synctest bubble, is WithHTTPClient. It panics if the options are refused, if the server has no
// URL, or if it was made in another bubble or outside of the one that the caller is in.
func (s *Server) Client(opts ...twiliosync.Option) *twiliosync.Client {
	if s.URL == "" {
		panic("twiliosynctest: Client needs the server's URL: use NewServer, or set URL to where the handler is mounted")
	}
	if err := s.network.misuse(); err != nil {
		panic(err.Error())
	}
	own := []twiliosync.Option{twiliosync.WithBaseURL(s.URL)}
	if s.network != nil && s.network.dial != nil {
		own = append(own, twiliosync.WithHTTPClient(s.network.httpClient()))
	}
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(s.username, s.password), append(own, opts...)...)
	if err != nil {
		panic(fmt.Sprintf("twiliosynctest: Client: %v", err))
	}
	return client
}

// Credentials returns the user name and password that the server accepts, for clients not made by [Server.Client].
func (s *Server) Credentials() (username, password string) { return s.username, s.password }
