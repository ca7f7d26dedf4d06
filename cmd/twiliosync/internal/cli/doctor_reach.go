package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

// stage is how far a connection came.
type stage int

const (
	notDialled stage = iota
	atDNS
	atTCP
	atProxy // that a tunnel is asked of
	atTLS
	connected
)

// reached is what is known of a connection to the API, or of why there is none.
type reached struct {
	stage     stage
	addresses []string // that DNS gave; none for an address
	address   string   // that was dialled last
	tunnel    int      // status of the proxy's answer, 0 if there was none
	tls       tls.ConnectionState
	err       error
}

// reach opens a connection as the SDK's transport does, and closes it before
// anything is sent. net/http does the work, so that every kind of proxy is met
// as it will be met when publishing.
func reach(ctx context.Context, base, proxy *url.URL) reached {
	const limit = 10 * time.Second // what the SDK gives a whole attempt
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	var mu sync.Mutex // net/http may still be dialling when it has given up
	way := reached{stage: atDNS}
	note := func(change func()) {
		mu.Lock()
		defer mu.Unlock()
		change()
	}
	withProxy := func() bool { return proxy != nil && proxy.Scheme == "https" && way.tunnel == 0 } // whether a handshake is the one with the proxy
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	transport := &http.Transport{
		Proxy: http.ProxyURL(proxy), Protocols: protocols, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
			note(func() { way.tunnel = res.StatusCode })
			return nil
		},
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSDone: func(info httptrace.DNSDoneInfo) {
			note(func() {
				for _, address := range info.Addrs {
					way.addresses = append(way.addresses, address.String())
				}
			})
		},
		ConnectStart: func(_, address string) {
			note(func() {
				if way.stage <= atTCP {
					way.stage, way.address = atTCP, address
				}
			})
		},
		ConnectDone: func(_, address string, err error) {
			note(func() {
				if err != nil || way.stage > atTCP {
					return
				}
				if way.stage, way.address = atTLS, address; proxy != nil {
					way.stage = atProxy
				}
			})
		},
		TLSHandshakeStart: func() {
			note(func() {
				if !withProxy() {
					way.stage = atTLS
				}
			})
		},
		TLSHandshakeDone: func(state tls.ConnectionState, _ error) { note(func() { way.tls = state }) },
		GotConn: func(info httptrace.GotConnInfo) {
			note(func() { way.stage = connected })
			_ = info.Conn.Close()
		},
	}), http.MethodGet, base.String(), nil)
	if err == nil {
		_, err = transport.RoundTrip(req) //nolint:bodyclose // there is no answer on a closed connection
	}
	transport.CloseIdleConnections()
	mu.Lock()
	defer mu.Unlock()
	way.err = err
	way.addresses = slices.Clone(way.addresses)
	return way
}

// why says what ended the connection, without what the stages say already.
func (way reached) why() string {
	var dns *net.DNSError
	var system *os.SyscallError
	switch {
	case errors.Is(way.err, context.DeadlineExceeded):
		return "nothing came within 10s"
	case errors.Is(way.err, io.EOF):
		return "the connection was closed"
	case errors.As(way.err, &dns):
		return dns.Err
	case errors.As(way.err, &system):
		return system.Err.Error()
	}
	return way.err.Error()
}
