package twiliosync_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// ledger is what a server received, by the id of the message.
type ledger struct {
	mu      sync.Mutex
	headers map[string]int // complete header blocks
	taken   map[string]int // messages, counted before they are answered
}

func newLedger() *ledger { return &ledger{headers: map[string]int{}, taken: map[string]int{}} }

// sawHeader notes the header block of a message whose stream is its id.
func (l *ledger) sawHeader(path string) {
	_, id, _ := strings.Cut(strings.TrimSuffix(path, "/Messages"), "/Streams/")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.headers[id]++
}

func (l *ledger) took(form string) {
	id := messageID(form)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.taken[id]++
}

// racingServer answers messages by hand and closes their connections at about
// the moment when the client uses them again: while a request is on its way,
// is being read, handled or answered.
type racingServer struct {
	*ledger
	listener net.Listener
	tls      *tls.Config
	closing  bool
	running  sync.WaitGroup

	gap    atomic.Int64 // nanoseconds from an answer to the next request of the connection, on average
	closed atomic.Int32 // connections
}

func newRacingServer(t *testing.T, certificate *tls.Certificate, closing bool) *racingServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &racingServer{ledger: newLedger(), listener: listener, closing: closing}
	if certificate != nil {
		server.tls = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	}
	server.gap.Store(int64(100 * time.Microsecond))
	server.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			server.running.Go(func() { server.serve(conn.(*net.TCPConn)) })
		}
	})
	return server
}

func (s *racingServer) url() string {
	if s.tls != nil {
		return "https://" + s.listener.Addr().String()
	}
	return "http://" + s.listener.Addr().String()
}

// stop waits until all that arrived is read.
func (s *racingServer) stop() {
	s.listener.Close()
	s.running.Wait()
}

func (s *racingServer) serve(tcp *net.TCPConn) {
	defer tcp.Close()
	tcp.SetDeadline(time.Now().Add(30 * time.Second))
	stream := net.Conn(tcp)
	if s.tls != nil {
		stream = tls.Server(tcp, s.tls)
	}
	reader := bufio.NewReader(stream)
	var closing sync.Once
	for answered := (time.Time{}); ; answered = time.Now() {
		path, length, err := readHead(reader)
		if err != nil {
			return
		}
		if !answered.IsZero() {
			s.gap.Store((7*s.gap.Load() + int64(time.Since(answered))) / 8)
		}
		s.sawHeader(path)
		body := make([]byte, length)
		if _, err := io.ReadFull(reader, body); err != nil {
			return
		}
		s.took(string(body))
		if _, err := io.WriteString(stream, cutCreated.text); err != nil {
			return
		}
		if s.closing {
			s.running.Go(func() { s.race(tcp, stream, &closing) })
		}
	}
}

// race closes the connection in between now and twice the usual time until the
// next request.
func (s *racingServer) race(tcp *net.TCPConn, stream net.Conn, closing *sync.Once) {
	time.Sleep(time.Duration(rand.Int64N(2*s.gap.Load() + 1)))
	closing.Do(func() {
		s.closed.Add(1)
		switch rand.IntN(4) {
		case 0:
			stream.Close() // politely; with TLS, after an alert
		case 1:
			tcp.Close() // FIN, or RST if something arrived that was not read
		case 2:
			tcp.SetLinger(0) // RST
			tcp.Close()
		case 3:
			tcp.CloseWrite() // FIN, but the server goes on to take messages that it can't answer
		}
	})
}

// raceResults are the outcomes of many calls.
type raceResults struct {
	mu          sync.Mutex
	calls       map[string]raceResult
	attempts    int
	outcomes    [4]int
	atLeastOnce bool
	foreign     bool // the transport, which may send more often than there are attempts
}

type raceResult struct {
	outcome         twiliosync.Outcome
	attempts, sends int
	err             error
}

// publishMany publishes n messages over one client, each goroutine one after
// the other.
func publishMany(client *twiliosync.Client, n int, atLeastOnce bool, contextOf func() (context.Context, func())) *raceResults {
	const goroutines = 8
	results := &raceResults{calls: map[string]raceResult{}, atLeastOnce: atLeastOnce}
	var callers sync.WaitGroup
	for g := range goroutines {
		callers.Go(func() {
			for i := range n / goroutines {
				id := fmt.Sprintf("m%d-%d", g, i)
				ctx, done := contextOf()
				_, response, err := client.StreamMessages.Create(ctx, "default", id, map[string]string{"id": id})
				done()
				results.add(id, response, err)
			}
		})
	}
	callers.Wait()
	client.CloseIdleConnections()
	return results
}

func (r *raceResults) add(id string, response *twiliosync.Response, err error) {
	result := raceResult{outcome: twiliosync.OutcomeOf(err), err: err}
	var e *twiliosync.Error
	if errors.As(err, &e) {
		result.attempts, result.sends = e.Attempts, e.Sends
	} else if response != nil {
		result.attempts, result.sends = response.Attempts, response.Sends
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[id] = result
	r.attempts += result.attempts
	r.outcomes[result.outcome]++
}

// check compares what was said of each call with what the server knows.
func (r *raceResults) check(t *testing.T, server *ledger, closed int) {
	t.Helper()
	wrong, duplicates, taken := 0, 0, 0
	for id, call := range r.calls {
		fault := brokenPromise(call.outcome, server.taken[id], r.atLeastOnce)
		if fault == "" && call.sends < server.headers[id] {
			fault = fmt.Sprintf("%d sends reported, but the server got %d headers", call.sends, server.headers[id])
		}
		if fault == "" && call.sends > call.attempts && !r.foreign {
			fault = "more sends than attempts"
		}
		if fault != "" {
			wrong++
			assert.Fail(t, fault, "message %s: outcome %q, %d attempts, %d sends, taken %d times: %v",
				id, call.outcome, call.attempts, call.sends, server.taken[id], call.err)
		}
		taken += min(1, server.taken[id])
		duplicates += max(0, server.taken[id]-1)
	}
	t.Logf("%d calls, %d attempts, %d connections closed: accepted %d, unknown %d (of which published %d), not sent %d; published twice %d, wrong %d",
		len(r.calls), r.attempts, closed, r.outcomes[twiliosync.OutcomeAccepted], r.outcomes[twiliosync.OutcomeUnknown],
		taken-r.outcomes[twiliosync.OutcomeAccepted], r.outcomes[twiliosync.OutcomeNotSent], duplicates, wrong)
}

func undisturbed() (context.Context, func()) { return context.Background(), func() {} }

func (s *racingServer) run(t *testing.T, calls int, policy twiliosync.RetryPolicy, transport *http.Transport) {
	opts := []twiliosync.Option{twiliosync.WithTimeout(time.Minute), twiliosync.WithRetryPolicy(policy)}
	if transport != nil {
		opts = append(opts, twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
	}
	results := publishMany(clientFor(t, s.url(), opts...), calls, policy.AtLeastOnce, undisturbed)
	s.stop()
	results.foreign = transport != nil
	results.check(t, s.ledger, int(s.closed.Load()))
	assert.Greater(t, int(s.closed.Load()), calls/10, "else there were no races")
}

// TestKeepAliveRaces publishes thousands of messages over connections that the
// server closes at the moment when they are used again.
func TestKeepAliveRaces(t *testing.T) {
	quick := twiliosync.RetryPolicy{BaseDelay: time.Microsecond}
	t.Run("plain", func(t *testing.T) {
		newRacingServer(t, nil, true).run(t, 3000, quick, nil)
	})
	t.Run("plain, with the default retry policy", func(t *testing.T) {
		newRacingServer(t, nil, true).run(t, 1000, twiliosync.RetryPolicy{}, nil)
	})
	t.Run("plain, at least once", func(t *testing.T) {
		newRacingServer(t, nil, true).run(t, 1000, twiliosync.RetryPolicy{BaseDelay: time.Microsecond, AtLeastOnce: true}, nil)
	})
	t.Run("plain, over the caller's transport", func(t *testing.T) {
		newRacingServer(t, nil, true).run(t, 1000, quick, &http.Transport{MaxIdleConnsPerHost: 8})
	})
	t.Run("TLS, over the caller's transport", func(t *testing.T) {
		trusted := newAuthority(t)
		issued := trusted.issue(t, "127.0.0.1", trusted.certificate.NotBefore, trusted.certificate.NotAfter)
		newRacingServer(t, &issued, true).run(t, 800, quick, &http.Transport{
			MaxIdleConnsPerHost: 8,
			TLSClientConfig:     &tls.Config{RootCAs: trusted.pool(), CurvePreferences: quickCurves},
		})
	})
}

// TestKeepAliveRacesOfTheOwnTLS does it to the SDK's own transport.
func TestKeepAliveRacesOfTheOwnTLS(t *testing.T) {
	alone(t, func(t *testing.T, trusted *authority) {
		issued := trusted.issue(t, "127.0.0.1", trusted.certificate.NotBefore, trusted.certificate.NotAfter)
		newRacingServer(t, &issued, true).run(t, 800, twiliosync.RetryPolicy{BaseDelay: time.Microsecond}, nil)
	})
}

// TestKeepAliveRacesWithAnIdleTimeout is about Go's own server, which closes
// idle connections whether or not the next request is on its way.
func TestKeepAliveRacesWithAnIdleTimeout(t *testing.T) {
	const calls, idleTimeout = 2000, 200 * time.Microsecond
	var closed atomic.Int32
	server := newLedger()
	listening := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		server.sawHeader(req.URL.Path)
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		server.took(string(body))
		answer(http.StatusCreated, testAnswer)(w, req)
	}))
	listening.Config.IdleTimeout = idleTimeout
	listening.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed.Add(1)
		}
	}
	listening.Start()
	client := clientFor(t, listening.URL, hurried()...)
	results := publishMany(client, calls, false, func() (context.Context, func()) {
		return context.Background(), func() {
			time.Sleep(rand.N(2 * idleTimeout))
		}
	})
	listening.Close() // waits for the handlers
	results.check(t, server, int(closed.Load()))
	assert.Greater(t, int(closed.Load()), calls/10, "else there were no races")
}

// TestCancelRaces cancels calls at every moment of their life, also while the
// request is being written.
func TestCancelRaces(t *testing.T) {
	const calls = 3000
	for _, test := range []struct {
		name    string
		closing bool
	}{
		{"connections that stay open", false},
		{"connections that are closed as well", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newRacingServer(t, nil, test.closing)
			var usual atomic.Int64 // nanoseconds of a call that was not cancelled
			usual.Store(int64(500 * time.Microsecond))
			results := publishMany(clientFor(t, server.url(), hurried()...), calls, false, func() (context.Context, func()) {
				ctx, cancel := context.WithCancel(context.Background())
				start, wait := time.Now(), time.Duration(rand.Int64N(3*usual.Load()/2+1))
				time.AfterFunc(wait, cancel)
				return ctx, func() {
					if ctx.Err() == nil {
						usual.Store((7*usual.Load() + int64(time.Since(start))) / 8)
					}
				}
			})
			server.stop()
			results.check(t, server.ledger, int(server.closed.Load()))
			for _, outcome := range []twiliosync.Outcome{twiliosync.OutcomeUnknown, twiliosync.OutcomeNotSent, twiliosync.OutcomeAccepted} {
				assert.NotZero(t, results.outcomes[outcome], "else the cancellations don't race with all that there is: %v", outcome)
			}
		})
	}
}
