package twiliosynctest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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
	// URL is the base URL of the server, such as "http://127.0.0.1:41234". In a testing/synctest bubble it is
	// "http://localhost", and only clients made by [Server.Client] reach it. For a server made by New it is empty;
	// set it to where the server is mounted if you want to use Client.
	URL string

	username, password string
	existing           map[string]bool // stream SIDs; nil: every stream exists
	concurrencyLimit   int             // 0: none
	rate               rateLimit
	onMessage          func(Message)

	script  script
	network *network // nil for a server made by New

	mu       sync.Mutex // guards what follows, and the Requests that are pointed to
	requests []*Request
	streams  map[string]*stream // by SID
	windows  map[windowKey]*window
	active   int // requests that hold one of the account's concurrency slots
}

// Message is a message that the server accepted. Its Data and Header are shared with the server: do not change them.
type Message struct {
	SID        string          // "TZ" and 32 hexadecimal digits
	ServiceSID string          // as in the request
	StreamSID  string          // "TO" and 32 hexadecimal digits, see [Server.StreamSID]
	Stream     string          // as in the request: a unique name or a SID
	Data       json.RawMessage // byte for byte
	Time       time.Time
	Header     http.Header // of the request, with Authorization masked
}

// Request is a request that the server received, accepted or not. Its Header and Data are shared with the server: do not
// change them.
type Request struct {
	Method     string
	Path       string // the request URI, percent-encoded as it came
	ServiceSID string // from the path; empty if the path is not the one to publish to
	Stream     string // from the path: a unique name or a SID
	Header     http.Header
	Body       string          // empty if a fault cut the connection before reading
	Data       json.RawMessage // the form field; nil if there is none
	Time       time.Time       // of arrival
	Status     int             // of the answer; 0 before it, and if there was none
	Handled    bool            // the message was accepted and is among Messages, whatever was answered
}

// Option configures a [Server].
type Option func(*Server)

// WithStreams makes the server strict: of all streams only these exist, by unique name or SID. Publishing to any other
// is answered with 404 and code 20404.
func WithStreams(streams ...string) Option {
	return func(s *Server) {
		if s.existing == nil {
			s.existing = make(map[string]bool)
		}
		for _, stream := range streams {
			s.existing[streamSID(stream)] = true
		}
	}
}

// WithCredentials sets the account SID and auth token, or the API key's SID and secret, that the server accepts instead
// of those it makes up. Clients of [Server.Client] use them.
func WithCredentials(username, password string) Option {
	return func(s *Server) { s.username, s.password = username, password }
}

// WithStreamRateLimit refuses a stream's messages beyond this number in any window of this length, with 429 and code
// 54009. Twilio documents 30 messages per second and a window of ten seconds: WithStreamRateLimit(300, 10*time.Second).
// It panics if one of the values is not positive.
func WithStreamRateLimit(messages int, window time.Duration) Option {
	if messages <= 0 || window <= 0 {
		panic(fmt.Sprintf("twiliosynctest: WithStreamRateLimit(%d, %v): both values must be positive", messages, window))
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

// OnMessage calls observe with each accepted message, before the message is answered. Messages that arrive at the same
// time are observed at the same time.
func OnMessage(observe func(Message)) Option {
	return func(s *Server) { s.onMessage = observe }
}

// NewServer starts a server that closes itself at the end of the test. It listens on a loopback address, or on an
// in-memory network if the test runs in a testing/synctest bubble. The test fails if a fault of the script was never met,
// see [Fault].
func NewServer(t testing.TB, opts ...Option) *Server {
	t.Helper()
	s := New(opts...)
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
		streams:   make(map[string]*stream),
		windows:   make(map[windowKey]*window),
	}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Close stops the server: it cuts all connections, also those of requests being served, and waits for the end of its
// goroutines. Later requests fail; on a connection that the client still keeps, their outcome can be unknown, so call
// CloseIdleConnections first where a test is about "not sent". Servers made by [NewServer] close by themselves.
func (s *Server) Close() {
	if s.network != nil {
		s.network.close()
	}
}

// Client returns a client that publishes to the server. The options are applied after those that lead to the server, one
// of which, in a testing/synctest bubble, is WithHTTPClient. It panics if the options are refused, or if the server has no
// URL.
func (s *Server) Client(opts ...twiliosync.Option) *twiliosync.Client {
	if s.URL == "" {
		panic("twiliosynctest: Client needs the server's URL: use NewServer, or set URL to where the handler is mounted")
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

// StreamSID returns the SID of the stream with this unique name. A message published to the SID is a message of the
// stream, and the other way round.
func (s *Server) StreamSID(uniqueName string) string { return streamSID(uniqueName) }

// Messages returns the messages accepted for a stream, given by unique name or SID, in order of arrival.
func (s *Server) Messages(stream string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.stream(stream).messages)
}

// WaitForMessages waits until a stream has n messages or more, and returns all it has. If ctx ends first, it returns
// those that are there and an error which wraps ctx.Err().
func (s *Server) WaitForMessages(ctx context.Context, stream string, n int) ([]Message, error) {
	for {
		messages, more := s.messagesAndNotice(stream)
		if len(messages) >= n {
			return slices.Clone(messages), nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			err := fmt.Errorf("twiliosynctest: %d of %d messages on stream %q: %w", len(messages), n, stream, ctx.Err())
			return slices.Clone(messages), err
		}
	}
}

// messagesAndNotice returns the messages of a stream and a channel that is closed when there is one more.
func (s *Server) messagesAndNotice(stream string) ([]Message, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stream(stream)
	if st.changed == nil {
		st.changed = make(chan struct{})
	}
	return st.messages, st.changed
}

// Requests returns all requests in order of arrival: also those which were refused, which met a fault or which are still
// being served.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := make([]Request, len(s.requests))
	for i, request := range s.requests {
		requests[i] = *request
	}
	return requests
}
