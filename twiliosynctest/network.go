package twiliosynctest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"
)

// bubbleURL is the URL of a server in a testing/synctest bubble. Nobody listens there, so a client that dials it for real
// is refused at once, where it would otherwise reach somebody else's server or hang in the bubble.
const bubbleURL = "http://127.0.0.1:1"

// network is what connects a server to its clients.
type network struct {
	bubble  string // that it was made in
	server  *http.Server
	ctx     context.Context // ends with the server, and ends the requests being served
	cancel  context.CancelFunc
	running sync.WaitGroup // connections, handlers and the accepting loop

	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: sockets
}

// start makes the server listen and sets its URL.
func (s *Server) start() error {
	n := &network{bubble: currentBubble()}
	var listener net.Listener
	if n.bubble != "" {
		pipes := newPipeListener()
		listener, s.URL = pipes, bubbleURL
		n.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			if err := n.misuse(); err != nil {
				return nil, err
			}
			return pipes.dial(ctx, network)
		}
	} else {
		socket, err := listenLoopback()
		if err != nil {
			return err
		}
		listener, s.URL = socket, "http://"+socket.Addr().String()
	}
	n.serve(listener, s)
	s.network = n
	return nil
}

func listenLoopback() (net.Listener, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return net.Listen("tcp", "[::1]:0")
	}
	return listener, nil
}

func (n *network) serve(listener net.Listener, handler http.Handler) {
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.server = &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n.running.Add(1) // also counts the handlers of connections that are cut
			defer n.running.Done()
			handler.ServeHTTP(w, r)
		}),
		BaseContext:       func(net.Listener) context.Context { return n.ctx },
		ConnState:         n.count,
		ReadHeaderTimeout: 0, // none: it would also close connections that a client keeps in reserve, at some moment of a test
	}
	n.running.Go(func() { _ = n.server.Serve(listener) })
}

// count keeps track of the connections that the server still has a goroutine for.
func (n *network) count(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		n.running.Add(1)
		if n.ctx.Err() != nil {
			_ = conn.Close() // it was accepted while the server closed, which closes only what it knew then
		}
	case http.StateClosed, http.StateHijacked:
		n.running.Done()
	}
}

// close cuts all connections and waits for the end of what is running. Called by a handler, as from within OnMessage or
// Matching, it doesn't wait, since it would wait for itself.
func (n *network) close() {
	n.cancel()
	_ = n.server.Close()
	if !calledByHandler() {
		n.running.Wait()
	}
}

// calledByHandler reports whether the caller runs within the handling of a request.
func calledByHandler() bool {
	var pcs [256]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs[:])])
	for {
		frame, more := frames.Next()
		if frame.Function == packagePath+".(*Server).ServeHTTP" {
			return true
		}
		if !more {
			return false
		}
	}
}

// bubbleEra ends before this package was written. A testing/synctest bubble starts at the beginning of the year 2000.
var bubbleEra = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// currentBubble names the testing/synctest bubble of the caller, "" outside of one. The clock tells a bubble from the
// world, and the header of a stack trace tells one bubble from another: "goroutine 7 [running, synctest bubble 5]:".
func currentBubble() string {
	if !time.Now().Before(bubbleEra) {
		return ""
	}
	trace := make([]byte, 128)
	trace = trace[:runtime.Stack(trace, false)]
	header, _, _ := strings.Cut(string(trace), "]:")
	_, number, _ := strings.Cut(header, "synctest ")
	return "a bubble: " + number
}

// misuse returns a sentence if the caller is not where the server was made, in which case the one would wait for the
// other's clock.
func (n *network) misuse() error {
	if n == nil {
		return nil // without a network, the server is wherever its host is
	}
	here := currentBubble()
	const made = "twiliosynctest: the server was made %s a testing/synctest bubble and is used %s: make it where it is used"
	switch {
	case here == n.bubble:
		return nil
	case here == "":
		return fmt.Errorf(made, "inside of", "outside")
	case n.bubble == "":
		return fmt.Errorf(made, "outside of", "inside of one")
	}
	return errors.New("twiliosynctest: the server was made in another testing/synctest bubble: make it where it is used")
}

// httpClient returns a client that reaches the server over the in-memory network.
func (n *network) httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:         n.dial,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 256,
	}}
}

// pipeListener is a network in memory. It makes its connections of channels, which a testing/synctest bubble can see
// waiting, unlike sockets.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context, network string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: network, Addr: l.Addr(), Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements [net.Listener].
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener].
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Net: "pipe", Name: "localhost"} }
