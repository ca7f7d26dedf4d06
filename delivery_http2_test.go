package twiliosync_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// What the tests need of HTTP/2.
// Source: https://www.rfc-editor.org/rfc/rfc9113
const (
	h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	h2Data         = 0x0
	h2Headers      = 0x1
	h2Reset        = 0x3
	h2Settings     = 0x4
	h2Ping         = 0x6
	h2GoAway       = 0x7
	h2Continuation = 0x9

	h2FlagAck        = 0x1
	h2FlagEndStream  = 0x1
	h2FlagEndHeaders = 0x4

	h2NoError       = 0x0
	h2ProtocolError = 0x1
	h2InternalError = 0x2
	h2RefusedStream = 0x7
	h2Cancel        = 0x8
	h2EnhanceCalm   = 0xb
	h2HTTP11        = 0xd
)

type h2Frame struct {
	kind, flags byte
	stream      uint32
	payload     []byte
}

func readH2Frame(r io.Reader) (frame h2Frame, err error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame, err
	}
	frame = h2Frame{head[3], head[4], binary.BigEndian.Uint32(head[5:]) & (1<<31 - 1), make([]byte, int(head[0])<<16|int(head[1])<<8|int(head[2]))}
	_, err = io.ReadFull(r, frame.payload)
	return frame, err
}

func (f h2Frame) bytes() []byte {
	n := len(f.payload)
	b := []byte{byte(n >> 16), byte(n >> 8), byte(n), f.kind, f.flags}
	return append(binary.BigEndian.AppendUint32(b, f.stream), f.payload...)
}

// h2Reaction is what a server does to a message that it has taken. Frames
// without a stream of their own go to the message's.
type h2Reaction struct {
	frames []h2Frame
	close  bool // the connection, afterwards
}

func resetWith(code uint32) h2Reaction {
	return h2Reaction{frames: []h2Frame{{kind: h2Reset, payload: binary.BigEndian.AppendUint32(nil, code)}}}
}

// goAway says that the streams up to last may have been processed.
func goAway(last, code uint32) h2Frame {
	return h2Frame{kind: h2GoAway, payload: binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last), code)}
}

func h2Status(status int, flags byte) h2Frame {
	const literalStatus = "\x08\x03" // HPACK: a literal of three bytes, with the name of static entry 8
	return h2Frame{kind: h2Headers, flags: flags | h2FlagEndHeaders, payload: fmt.Appendf(nil, literalStatus+"%d", status)}
}

func h2Answer(status int, body string) h2Reaction {
	return h2Reaction{frames: []h2Frame{h2Status(status, 0), {kind: h2Data, flags: h2FlagEndStream, payload: []byte(body)}}}
}

// h2Server is a TLS server that takes messages over HTTP/2 and HTTP/1.1, by
// hand, and reacts to them as a test wants.
type h2Server struct {
	tls   *tls.Config
	react func(nth int, stream uint32) h2Reaction // nth message, from 1
	see   func(h2Frame)                           // each frame as it arrives, if not nil

	running    sync.WaitGroup
	mu         sync.Mutex
	conns      []net.Conn
	negotiated []string // protocols, by connection
	headers    int      // complete header blocks
	taken      map[string]int
}

func newH2Server(t *testing.T, trusted *authority, react func(nth int, stream uint32) h2Reaction) *h2Server {
	t.Helper()
	issued := trusted.issue(t, "127.0.0.1", trusted.certificate.NotBefore, trusted.certificate.NotAfter)
	return &h2Server{
		tls:   &tls.Config{Certificates: []tls.Certificate{issued}, NextProtos: []string{"h2", "http/1.1"}},
		react: react,
		taken: map[string]int{},
	}
}

// listen serves on loopback until the test ends.
func (s *h2Server) listen(t *testing.T) (baseURL string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(30 * time.Second))
			s.running.Go(func() { s.serve(conn) })
		}
	}()
	return "https://" + listener.Addr().String()
}

// dial is a network in memory that leads to the server.
func (s *h2Server) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	s.running.Go(func() { s.serve(server) })
	return client, nil
}

// stop closes all connections.
func (s *h2Server) stop() {
	s.mu.Lock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *h2Server) serve(raw net.Conn) {
	defer raw.Close()
	s.mu.Lock()
	s.conns = append(s.conns, raw)
	s.mu.Unlock()
	conn := tls.Server(raw, s.tls)
	if conn.Handshake() != nil {
		return
	}
	protocol := conn.ConnectionState().NegotiatedProtocol
	s.mu.Lock()
	s.negotiated = append(s.negotiated, protocol)
	s.mu.Unlock()
	if protocol == "h2" {
		s.serveH2(conn, raw)
	} else {
		s.serveH1(conn)
	}
}

// serveH1 takes messages and breaks the connection.
func (s *h2Server) serveH1(conn net.Conn) {
	reader := bufio.NewReader(conn)
	_, length, err := readHead(reader)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.headers++
	s.mu.Unlock()
	body := make([]byte, length)
	if _, err := io.ReadFull(reader, body); err == nil {
		s.take(string(body))
	}
}

func (s *h2Server) take(form string) (nth int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[messageID(form)]++
	for _, times := range s.taken {
		nth += times
	}
	return nth
}

func (s *h2Server) serveH2(conn, raw net.Conn) {
	// A goroutine of its own writes: over a pipe, two sides that write wait for each other.
	outgoing := make(chan []byte, 64) // nil: close the connection
	written := make(chan struct{})
	go func() {
		defer close(written)
		for frame := range outgoing {
			if frame == nil {
				raw.Close()
			} else if _, err := conn.Write(frame); err != nil {
				raw.Close()
			}
		}
	}()
	defer func() {
		close(outgoing)
		<-written
	}()
	preface := make([]byte, len(h2Preface))
	if _, err := io.ReadFull(conn, preface); err != nil || string(preface) != h2Preface {
		return
	}
	outgoing <- h2Frame{kind: h2Settings}.bytes()
	forms := map[uint32]string{}
	for {
		frame, err := readH2Frame(conn)
		if err != nil {
			return
		}
		if s.see != nil {
			s.see(frame)
		}
		switch {
		case (frame.kind == h2Settings || frame.kind == h2Ping) && frame.flags&h2FlagAck == 0:
			reply := h2Frame{kind: frame.kind, flags: h2FlagAck}
			if frame.kind == h2Ping {
				reply.payload = frame.payload
			}
			outgoing <- reply.bytes()
		case (frame.kind == h2Headers || frame.kind == h2Continuation) && frame.flags&h2FlagEndHeaders != 0:
			s.mu.Lock()
			s.headers++
			s.mu.Unlock()
		case frame.kind == h2Data:
			forms[frame.stream] += string(frame.payload)
			if frame.flags&h2FlagEndStream == 0 {
				continue
			}
			reaction := s.react(s.take(forms[frame.stream]), frame.stream)
			for _, answer := range reaction.frames {
				if answer.kind != h2GoAway {
					answer.stream = frame.stream
				}
				outgoing <- answer.bytes()
			}
			if reaction.close {
				outgoing <- nil
			}
		}
	}
}

// counts returns how many header blocks arrived, and how often a message did.
func (s *h2Server) counts(id string) (headers, taken int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.headers, s.taken[id]
}

// h2Transport is a transport of the caller that speaks HTTP/2.
func h2Transport(trusted *authority, dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	return &http.Transport{ForceAttemptHTTP2: true, DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: trusted.pool()}}
}

func publishID(ctx context.Context, client *twiliosync.Client, id string) (outcome twiliosync.Outcome, attempts, sends int, err error) {
	_, response, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]string{"id": id})
	var e *twiliosync.Error
	if errors.As(err, &e) {
		return e.Outcome, e.Attempts, e.Sends, err
	}
	return twiliosync.OutcomeOf(err), response.Attempts, response.Sends, err
}

// TestOwnTransportSpeaksHTTP1Only: on HTTP/2, net/http sends a message again
// that the server took before it reset the stream with PROTOCOL_ERROR.
func TestOwnTransportSpeaksHTTP1Only(t *testing.T) {
	alone(t, func(t *testing.T, trusted *authority) {
		server := newH2Server(t, trusted, func(nth int, _ uint32) h2Reaction {
			if nth <= 10 {
				return resetWith(h2ProtocolError)
			}
			return h2Answer(http.StatusCreated, testAnswer) // so that the test ends if it is to fail
		})
		client := clientFor(t, server.listen(t), hurried()...)
		outcome, attempts, sends, err := publishID(context.Background(), client, "once")
		client.CloseIdleConnections()
		server.running.Wait()
		headers, taken := server.counts("once")
		require.Len(t, server.negotiated, 1)
		assert.NotEqual(t, "h2", server.negotiated[0])
		assert.Equal(t, 1, taken, "published")
		assert.Equal(t, 1, headers)
		assert.Equal(t, twiliosync.OutcomeUnknown, outcome, "%v", err)
		assert.Equal(t, []int{1, 1}, []int{attempts, sends})
	})
}

// resendsAfterProtocolError tells what net/http does with a POST up to Go 1.26.
var resendsAfterProtocolError = strings.HasPrefix(runtime.Version(), "go1.26")

// TestCallersHTTP2 shows what is promised, and what can't be, if the caller's
// transport speaks HTTP/2: net/http may publish a message several times within
// one attempt. The outcome is still true, and Sends tells.
func TestCallersHTTP2(t *testing.T) {
	t.Parallel()
	trusted := newAuthority(t)
	// always reacts in the same way, up to the twentieth time: without an end, net/http's resends have none either.
	always := func(reaction h2Reaction) func(int, uint32) h2Reaction {
		return func(nth int, _ uint32) h2Reaction {
			if nth > 20 {
				return h2Reaction{}
			}
			return reaction
		}
	}
	first := func(reaction h2Reaction) func(int, uint32) h2Reaction {
		return func(nth int, _ uint32) h2Reaction {
			if nth == 1 {
				return reaction
			}
			return h2Answer(http.StatusCreated, testAnswer)
		}
	}
	nothing := h2Reaction{}
	protocolErrorOnce := twiliosync.OutcomeUnknown
	if resendsAfterProtocolError {
		protocolErrorOnce = twiliosync.OutcomeAccepted
	}
	for _, test := range []struct {
		name    string
		react   func(nth int, stream uint32) h2Reaction
		outcome twiliosync.Outcome
		once    bool // net/http doesn't resend
	}{
		{"an answer", always(h2Answer(201, testAnswer)), twiliosync.OutcomeAccepted, true},
		{"an answer without its body", always(h2Reaction{frames: []h2Frame{h2Status(201, 0)}, close: true}), twiliosync.OutcomeAccepted, true},
		{"an answer whose stream is reset", always(h2Reaction{frames: append([]h2Frame{h2Status(201, 0)}, resetWith(h2ProtocolError).frames...)}), twiliosync.OutcomeAccepted, true},
		{"no answer", always(nothing), twiliosync.OutcomeUnknown, true},
		{"PROTOCOL_ERROR, each time", always(resetWith(h2ProtocolError)), twiliosync.OutcomeUnknown, false},
		{"PROTOCOL_ERROR, once", first(resetWith(h2ProtocolError)), protocolErrorOnce, false},
		{"REFUSED_STREAM by a server that lies, each time", always(resetWith(h2RefusedStream)), twiliosync.OutcomeUnknown, false},
		{"REFUSED_STREAM by a server that lies, once", first(resetWith(h2RefusedStream)), twiliosync.OutcomeAccepted, false},
		{"INTERNAL_ERROR", always(resetWith(h2InternalError)), twiliosync.OutcomeUnknown, true},
		{"CANCEL", always(resetWith(h2Cancel)), twiliosync.OutcomeUnknown, true},
		{"NO_ERROR", always(resetWith(h2NoError)), twiliosync.OutcomeUnknown, true},
		{"ENHANCE_YOUR_CALM", always(resetWith(h2EnhanceCalm)), twiliosync.OutcomeUnknown, true},
		{"HTTP_1_1_REQUIRED", always(resetWith(h2HTTP11)), twiliosync.OutcomeUnknown, true},
		{"the connection closed", always(h2Reaction{close: true}), twiliosync.OutcomeUnknown, true},
		{"GOAWAY by a server that lies, each time", always(h2Reaction{frames: []h2Frame{goAway(0, h2NoError)}, close: true}), twiliosync.OutcomeUnknown, false},
		{"GOAWAY by a server that lies, once", first(h2Reaction{frames: []h2Frame{goAway(0, h2NoError)}, close: true}), twiliosync.OutcomeAccepted, false},
		{"GOAWAY by a server that processes the message, and closes", func(_ int, stream uint32) h2Reaction {
			return h2Reaction{frames: []h2Frame{goAway(stream, h2NoError)}, close: true}
		}, twiliosync.OutcomeUnknown, true},
		{"GOAWAY by a server that processes the message, and answers", func(_ int, stream uint32) h2Reaction {
			return h2Reaction{frames: append([]h2Frame{goAway(stream, h2NoError)}, h2Answer(201, testAnswer).frames...)}
		}, twiliosync.OutcomeAccepted, true},
		{"GOAWAY with an error", always(h2Reaction{frames: []h2Frame{goAway(0, h2InternalError)}, close: true}), twiliosync.OutcomeUnknown, false},
		{"a frame that HTTP/2 forbids", always(h2Reaction{frames: []h2Frame{{kind: h2Continuation}}}), twiliosync.OutcomeUnknown, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// In virtual time, since net/http waits between its resends.
			synctest.Test(t, func(t *testing.T) {
				server := newH2Server(t, trusted, test.react)
				client := clientFor(t, "https://127.0.0.1", twiliosync.WithHTTPClient(&http.Client{Transport: h2Transport(trusted, server.dial)}))
				start := time.Now()
				outcome, attempts, sends, err := publishID(t.Context(), client, "a")
				took := time.Since(start)
				client.CloseIdleConnections()
				server.stop()
				headers, taken := server.counts("a")

				t.Logf("outcome %q after %v: %d attempts, %d sends; published %d times: %v", outcome, took, attempts, sends, taken, err)
				assert.Equal(t, test.outcome, outcome, "%v", err)
				assert.Equal(t, 1, attempts)
				assert.Equal(t, headers, sends, "Sends is what the server counted")
				assert.NotZero(t, taken)
				if test.once {
					assert.Equal(t, 1, taken)
				}
				for _, protocol := range server.negotiated {
					assert.Equal(t, "h2", protocol)
				}
			})
		})
	}
}

// h2GotConn cancels the call when it gets its nth connection.
func h2GotConn(nth int) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	got := 0
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		if got++; got == nth {
			cancel()
		}
	}}), cancel
}

// heldConn holds back a write until it is released.
type heldConn struct {
	net.Conn
	hold func(p []byte)
}

func (c *heldConn) Write(p []byte) (int, error) {
	c.hold(p)
	return c.Conn.Write(p)
}

// TestCallersHTTP2IsCancelled at the moments when net/http returns before its
// goroutine has written the request.
func TestCallersHTTP2IsCancelled(t *testing.T) {
	t.Parallel()
	trusted := newAuthority(t)
	refusals := func(int, uint32) h2Reaction { return resetWith(h2RefusedStream) }

	for nth := 1; nth <= 3; nth++ {
		t.Run(fmt.Sprintf("when it got a connection %d times", nth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := newH2Server(t, trusted, refusals)
				client := clientFor(t, "https://127.0.0.1", twiliosync.WithHTTPClient(&http.Client{Transport: h2Transport(trusted, server.dial)}))
				ctx, cancel := h2GotConn(nth)
				defer cancel()
				outcome, _, sends, err := publishID(ctx, client, "a")
				synctest.Wait()
				client.CloseIdleConnections()
				server.stop()
				headers, taken := server.counts("a")
				t.Logf("outcome %q, %d sends, %d header blocks, published %d times", outcome, sends, headers, taken)
				assert.ErrorIs(t, err, context.Canceled)
				assert.Equal(t, twiliosync.OutcomeUnknown, outcome)
				assert.GreaterOrEqual(t, sends, headers)
			})
		})
	}

	blocks := 2
	if !resendsAfterProtocolError {
		blocks = 1
	}
	for nth := 1; nth <= blocks; nth++ {
		t.Run(fmt.Sprintf("while header block %d is being written", nth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				returned := make(chan struct{})
				var armed atomic.Bool
				server := newH2Server(t, trusted, func(int, uint32) h2Reaction {
					armed.Store(true) // for the second header block
					return resetWith(h2ProtocolError)
				})
				armed.Store(nth == 1)
				const tlsOverhead, headerBlock = 5 + 16 + 1, 200 // the smallest that it is
				var once sync.Once
				transport := h2Transport(trusted, func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := server.dial(ctx, network, address)
					return &heldConn{conn, func(p []byte) {
						if applicationData := p[0] == 23; applicationData && armed.Load() && len(p) > headerBlock+tlsOverhead {
							once.Do(func() {
								cancel()
								<-returned
							})
						}
					}}, err
				})
				client := clientFor(t, "https://127.0.0.1", twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
				outcome, _, sends, err := publishID(ctx, client, "a")
				close(returned)
				synctest.Wait()
				client.CloseIdleConnections()
				server.stop()
				headers, taken := server.counts("a")
				t.Logf("outcome %q, %d sends, %d header blocks, published %d times", outcome, sends, headers, taken)
				assert.ErrorIs(t, err, context.Canceled)
				assert.Equal(t, twiliosync.OutcomeUnknown, outcome)
				assert.Equal(t, nth, headers, "else the wrong write was held")
				assert.GreaterOrEqual(t, sends, headers)
			})
		})
	}
}

// TestCallersHTTP2CancelRaces cancels calls at every moment of their life, on
// real sockets.
func TestCallersHTTP2CancelRaces(t *testing.T) {
	const calls = 2000
	trusted := newAuthority(t)
	server := newH2Server(t, trusted, func(int, uint32) h2Reaction { return h2Answer(http.StatusCreated, testAnswer) })
	client := clientFor(t, server.listen(t), hurried(twiliosync.WithHTTPClient(&http.Client{Transport: h2Transport(trusted, nil)}))...)
	outcomes := map[twiliosync.Outcome]int{}
	results := map[string]twiliosync.Outcome{}
	allSends, usual := 0, 500*time.Microsecond
	for i := range calls {
		ctx, cancel := context.WithCancel(context.Background())
		start := time.Now()
		time.AfterFunc(rand.N(3*usual/2), cancel)
		id := fmt.Sprint("m", i)
		outcome, _, sends, _ := publishID(ctx, client, id)
		if ctx.Err() == nil {
			usual = (7*usual + time.Since(start)) / 8
		}
		cancel()
		outcomes[outcome]++
		results[id] = outcome
		allSends += sends
	}
	// The connection carries one message after the other: with the last one, all that arrived are read.
	_, _, _, err := publishID(context.Background(), client, "last")
	require.NoError(t, err)
	client.CloseIdleConnections()
	server.stop()
	wrong, unknownTaken := 0, 0
	for id, outcome := range results {
		_, taken := server.counts(id)
		if outcome == twiliosync.OutcomeUnknown {
			unknownTaken += taken
		}
		if fault := brokenPromise(outcome, taken, false); fault != "" {
			wrong++
			assert.Fail(t, fault, id)
		}
	}
	headers, _ := server.counts("")
	assert.GreaterOrEqual(t, allSends, headers)
	t.Logf("%d calls: accepted %d, unknown %d (of which published %d), not sent %d; wrong %d", calls, outcomes[twiliosync.OutcomeAccepted],
		outcomes[twiliosync.OutcomeUnknown], unknownTaken, outcomes[twiliosync.OutcomeNotSent], wrong)
	assert.NotZero(t, outcomes[twiliosync.OutcomeUnknown])
	assert.NotZero(t, outcomes[twiliosync.OutcomeAccepted])
	assert.Equal(t, "h2", server.negotiated[0])
}
