package twiliosync

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"time"
)

// newTransport is made for many small requests to one host. HTTP/1 only: on
// HTTP/2, net/http (up to Go 1.26) sends a POST again when the peer reports a
// PROTOCOL_ERROR.
func newTransport() *http.Transport {
	const connections = 256 // idle ones kept; fewer than the callers' concurrency would mean reconnecting all the time
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		Protocols:              protocols,
		MaxIdleConns:           connections,
		MaxIdleConnsPerHost:    connections,
		IdleConnTimeout:        30 * time.Second, // before a load balancer closes them while they are in use
		WriteBufferSize:        16 << 10,         // a message of 4 KiB, percent-encoded, goes out in one write
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // an answer has about 4 KiB
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, res *http.Response) error {
			if res.StatusCode != http.StatusOK {
				return &proxyError{res.StatusCode}
			}
			return nil
		},
	}
	if runtime.GOOS != "js" { // where net/http uses the browser's fetch only if nobody dials
		transport.DialContext = (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext
	}
	return transport
}

// kindOfTransport says what httptrace proves of a caller's transport.
func kindOfTransport(transport http.RoundTripper) transportKind {
	if _, ok := transport.(*http.Transport); ok {
		return callersTransport
	}
	return foreignTransport
}

// kindOfOwn is that of our own: a browser's fetch fires no trace events.
func kindOfOwn(wrapped bool) transportKind {
	switch {
	case runtime.GOOS == "js":
		return foreignTransport
	case wrapped:
		return wrappedTransport
	}
	return ownTransport
}
