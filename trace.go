package twiliosync

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
)

// sendTrace watches one attempt through net/http/httptrace, the only place
// that can tell a request that was never written from one that was. Its hooks
// run on net/http's goroutines, some of them late.
type sendTrace struct {
	transport transportKind
	replays   bool // net/http repeats the method by itself on a connection that died
	hooks     httptrace.ClientTrace
	withhold  func() bool // keeps the request from being written, if it is too late for it; nil: it never is

	mu           sync.Mutex
	tries        int  // of a wrapper
	connections  int  // asked for
	writes       int  // header blocks handed to a connection, or, on HTTP/2, about to be
	lastWritten  bool // one was handed to the connection asked for last
	withheld     bool
	countedAhead bool // the next one is in writes already
	unprovable   bool // a connection was got on which a write can come unseen
	handshakeErr error
	failures     []error // what the hooks, and the transport below a wrapper, reported
}

// transportKind says what a trace of it proves.
type transportKind int

const (
	ownTransport     transportKind = iota // HTTP/1 only, and nothing between it and us
	wrappedTransport                      // our own, below a WithTransportWrapper
	callersTransport                      // an http.Transport of the caller, perhaps with HTTP/2
	foreignTransport                      // some other RoundTripper
)

// httpOne tells whether all that is sent through the transport is HTTP/1.
func (k transportKind) httpOne() bool { return k == ownTransport || k == wrappedTransport }

func (t *sendTrace) attach(ctx context.Context) context.Context {
	t.hooks = httptrace.ClientTrace{GetConn: t.getConn, TLSHandshakeDone: t.handshakeDone, WroteHeaders: t.wroteHeaders}
	if !t.transport.httpOne() {
		t.hooks.GotConn = t.gotConn
	}
	if t.transport == foreignTransport {
		t.hooks.DNSDone = func(info httptrace.DNSDoneInfo) { t.failed(info.Err) }
		t.hooks.ConnectDone = func(_, _ string, err error) { t.failed(err) }
	}
	if t.transport == wrappedTransport {
		ctx = context.WithValue(ctx, traceKey{}, t)
	}
	return httptrace.WithClientTrace(ctx, &t.hooks)
}

type traceKey struct{}

// recordingTransport is our own transport below a wrapper. It tells the trace
// what it returned, so that a proof holds for that error alone.
type recordingTransport struct{ *http.Transport }

func (r recordingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	trace, ok := req.Context().Value(traceKey{}).(*sendTrace)
	if ok {
		trace.tried()
	}
	res, err := r.Transport.RoundTrip(req)
	if ok {
		trace.failed(err)
	}
	return res, err
}

func (t *sendTrace) tried() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tries++
}

func (t *sendTrace) failed(err error) {
	if err == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, err)
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
	if err != nil {
		t.failures = append(t.failures, err)
	}
}

func (t *sendTrace) wroteHeaders() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.withheld = t.withhold != nil && t.withhold(); t.withheld {
		return
	}
	if !t.countedAhead {
		t.writes++
	}
	t.countedAhead = false
	t.lastWritten = true
}

func (t *sendTrace) wasWithheld() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.withheld
}

// sent tells whether the request of an exchange that ended with err may have
// left, and how many times; err is nil if there was an answer.
//
// Our own transport speaks HTTP/1 only, and replays a POST only if the
// connection that it tried took not a single byte, so the last connection
// decides, unless a wrapper has tried more than once. Otherwise each write counts, and a failure without a trace event
// proves nothing. Neither does one that no trace event explains, where the
// transport may have sent the request again by itself, untraced.
func (t *sendTrace) sent(err error) (sent bool, sends int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	lastDecides := t.transport.httpOne() && t.tries <= 1 && !t.replays
	switch {
	case lastDecides && t.lastWritten:
		return true, 1
	case !lastDecides && t.writes > 0:
		return true, t.writes
	case t.connections == 0 && t.transport == ownTransport:
		return false, 0 // it refused the request as it is
	case t.connections == 0 || t.unprovable || !t.explains(err):
		return true, 1
	}
	return false, 0
}

// explains tells whether the error at hand is one that the traced parts of the
// exchange reported, if they reported any. Another may be that of a further,
// untraced try.
func (t *sendTrace) explains(err error) bool {
	if t.transport == ownTransport || t.transport == callersTransport || len(t.failures) == 0 {
		return true
	}
	for _, reported := range t.failures {
		if errors.Is(err, reported) || errors.Is(reported, err) { // or: "operation was canceled" of package net
			return true
		}
	}
	return false
}

// refusedHandshake tells whether err is that of a failed TLS handshake, which
// its type alone doesn't tell.
func (t *sendTrace) refusedHandshake(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.handshakeErr != nil && errors.Is(err, t.handshakeErr)
}

// mayPass tells whether a request that failed with err before it was sent may
// get through later: everything that keeps net/http from a connection, except
// what the next attempt will meet again.
func (t *sendTrace) mayPass(err error) bool {
	refused := t.refusedHandshake(err)
	t.mu.Lock()
	defer t.mu.Unlock()
	var (
		proxy       *proxyError
		certificate *tls.CertificateVerificationError
		dns         *net.DNSError
	)
	switch {
	case t.connections == 0:
		return false
	case errors.As(err, &dns):
		return true
	case errors.As(err, &certificate), refusedBySOCKS(err):
		return false
	case errors.As(err, &proxy):
		s := proxy.statusCode
		return s == http.StatusRequestTimeout || s == http.StatusTooManyRequests || s >= 500
	case refused:
		return brokenConnection(err)
	}
	return true
}
