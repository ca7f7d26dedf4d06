package twiliosynctest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// bubbleEra ends before this package was written. A testing/synctest bubble starts at the beginning of the year 2000.
var bubbleEra = time.Date(2020, time.January, 1, 0, 0, 0, 0, time.UTC)

// network is what connects a server to its clients.
type network struct {
	server  *http.Server
	ctx     context.Context // ends with the server, and ends the requests being served
	cancel  context.CancelFunc
	running sync.WaitGroup // connections, handlers and the accepting loop

	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: sockets
}

// start makes the server listen and sets its URL.
func (s *Server) start() error {
	n := new(network)
	var listener net.Listener
	if time.Now().Before(bubbleEra) {
		pipes := newPipeListener()
		listener, n.dial, s.URL = pipes, pipes.dial, "http://localhost"
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

func (n *network) close() {
	n.cancel()
	_ = n.server.Close()
	n.running.Wait()
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

func (l *pipeListener) dial(_ context.Context, network, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, &net.OpError{Op: "dial", Net: network, Addr: l.Addr(), Err: net.ErrClosed}
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
