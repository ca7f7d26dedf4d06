package twiliosync

import (
	"context"
	"crypto/tls"
	"net/http/httptrace"
	"sync"
)

// sendTrace watches one attempt through net/http/httptrace, the only place
// that can tell a request that was never written from one that was. Its hooks
// run on net/http's goroutines, some of them late.
type sendTrace struct {
	ownTransport bool
	hooks        httptrace.ClientTrace

	mu           sync.Mutex
	connections  int  // asked for
	writes       int  // header blocks handed to a connection, or, on HTTP/2, about to be
	lastWritten  bool // one was handed to the connection asked for last
	countedAhead bool // the next one is in writes already
	unprovable   bool // a connection was got on which a write can come unseen
	handshakeErr error
}

func (t *sendTrace) attach(ctx context.Context) context.Context {
	t.hooks = httptrace.ClientTrace{
		GetConn:          t.getConn,
		TLSHandshakeDone: t.handshakeDone,
		WroteHeaders:     t.wroteHeaders,
	}
	if !t.ownTransport {
		t.hooks.GotConn = t.gotConn
	}
	return httptrace.WithClientTrace(ctx, &t.hooks)
}

func (t *sendTrace) getConn(string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.connections++
	t.lastWritten = false
}

// gotConn notes connections on which "no WroteHeaders" proves nothing: before
// it reports a failure, net/http waits for the goroutine that writes on
// HTTP/1, but not for the one on HTTP/2, whose write therefore counts from
// here on.
func (t *sendTrace) gotConn(info httptrace.GotConnInfo) {
	conn, isTLS := info.Conn.(*tls.Conn)
	isHTTP2 := isTLS && conn.ConnectionState().NegotiatedProtocol == "h2"
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unprovable = t.unprovable || !isTLS || isHTTP2
	t.countedAhead = isHTTP2
	if isHTTP2 {
		t.writes++
	}
}

func (t *sendTrace) handshakeDone(_ tls.ConnectionState, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.handshakeErr = err
}

func (t *sendTrace) wroteHeaders() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.countedAhead {
		t.writes++
	}
	t.countedAhead = false
	t.lastWritten = true
}

// sent tells whether the message may have left, and how many times.
//
// Our own transport speaks HTTP/1 only, and replays a POST only if the
// connection that it tried took not a single byte, so the last connection
// decides. Of a foreign transport each write counts, and a failure without a
// trace event proves nothing.
func (t *sendTrace) sent() (sent bool, sends int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ownTransport && t.lastWritten:
		return true, 1
	case t.ownTransport:
		return false, 0
	case t.writes > 0:
		return true, t.writes
	case t.connections == 0 || t.unprovable:
		return true, 1
	}
	return false, 0
}

// explain marks the failure of a request that was not sent with the phase it
// happened in, which its type alone doesn't tell.
func (t *sendTrace) explain(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case endedByContext(err):
		return err
	case t.connections == 0:
		return &localError{err}
	case t.handshakeErr != nil:
		return &handshakeError{err}
	}
	return err
}
