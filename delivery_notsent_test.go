package twiliosync_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

// proof is what the error of a call must say about it.
type proof struct {
	outcome   twiliosync.Outcome
	attempts  int
	sends     int
	retryable bool
}

var (
	notSentAndRetried   = proof{twiliosync.OutcomeNotSent, 3, 0, true}
	notSentAndFinal     = proof{twiliosync.OutcomeNotSent, 1, 0, false}
	notSentByTheCaller  = proof{twiliosync.OutcomeNotSent, 1, 0, true}
	unknownAndNotResent = proof{twiliosync.OutcomeUnknown, 1, 1, false}
)

func assertProof(t *testing.T, want proof, err error) {
	t.Helper()
	e := asError(t, err)
	assert.Equal(t, want, proof{e.Outcome, e.Attempts, e.Sends, twiliosync.Retryable(err)}, "%v", err)
	assert.Zero(t, e.StatusCode)
	assert.Zero(t, e.Code)
	if assert.Error(t, e.Err, "the cause is missing") {
		assert.NotContains(t, err.Error(), "\n")
	}
}

// hurried makes tests with real sockets retry without waiting. The bounds are
// out of reach of a slow machine.
func hurried(opts ...twiliosync.Option) []twiliosync.Option {
	return append([]twiliosync.Option{
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Microsecond}),
		twiliosync.WithTimeout(time.Minute),
	}, opts...)
}

func clientFor(t *testing.T, baseURL string, opts ...twiliosync.Option) *twiliosync.Client {
	t.Helper()
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret),
		append([]twiliosync.Option{twiliosync.WithBaseURL(baseURL)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// dialing is a client whose transport gets its connections from dial.
func dialing(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool()}}}
}

// TestNotSentBecauseOfDNS asks a name server on loopback.
func TestNotSentBecauseOfDNS(t *testing.T) {
	t.Parallel()
	const (
		serverFailure = 2
		noSuchName    = 3
	)
	resolvedBy := func(responseCode byte) func(t *testing.T) *http.Client {
		return func(t *testing.T) *http.Client {
			server := nameServer(t, responseCode)
			resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "udp", server)
			}}
			return dialing((&net.Dialer{Resolver: resolver}).DialContext)
		}
	}
	failingWith := func(failure net.DNSError) func(t *testing.T) *http.Client {
		return func(*testing.T) *http.Client {
			return dialing(func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &failure}
			})
		}
	}
	for _, test := range []struct {
		name   string
		client func(t *testing.T) *http.Client
		want   proof
	}{
		{"the name does not exist", resolvedBy(noSuchName), notSentAndRetried},
		{"the name server fails", resolvedBy(serverFailure), notSentAndRetried},
		{"the resolver says that there is no such host", failingWith(net.DNSError{Err: "no such host", IsNotFound: true}), notSentAndRetried},
		{"the resolver says that there is no such host, for now", failingWith(net.DNSError{Err: "no such host", IsNotFound: true, IsTemporary: true}), notSentAndRetried},
		{"the resolver times out", failingWith(net.DNSError{Err: "i/o timeout", IsTimeout: true, IsTemporary: true}), notSentAndRetried},
		{"the resolver fails for now", failingWith(net.DNSError{Err: "server misbehaving", IsTemporary: true}), notSentAndRetried},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, response, err := publish(clientFor(t, "https://sync.example.invalid.", hurried(twiliosync.WithHTTPClient(test.client(t)))...))
			assert.Nil(t, response)
			assertProof(t, test.want, err)
			var cause *net.DNSError
			assert.ErrorAs(t, err, &cause)
		})
	}
}

// nameServer answers every question with the same response code.
func nameServer(t *testing.T, responseCode byte) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	go func() {
		message := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(message)
			if err != nil {
				return
			}
			if n > 4 {
				message[2] |= 0x80               // a response
				message[3] = 0x80 | responseCode // recursion available
				conn.WriteTo(message[:n], from)
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestNotSentBecauseNothingListens(t *testing.T) {
	t.Parallel()
	_, response, err := publish(clientFor(t, closedURL(t), hurried()...))
	assert.Nil(t, response)
	assertProof(t, notSentAndRetried, err)
	var cause *net.OpError
	require.ErrorAs(t, err, &cause)
	assert.Equal(t, "dial", cause.Op)
	if runtime.GOOS != "windows" {
		assert.ErrorIs(t, err, errRefused)
	}
}

// closedURL is an address on which nothing listens any more.
func closedURL(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return "http://" + listener.Addr().String()
}

// TestNotSentBecauseOfTimeouts has a connection that never comes to be, in
// virtual time.
func TestNotSentBecauseOfTimeouts(t *testing.T) {
	t.Parallel()
	blockedDial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	const dialTimeout, handshakeTimeout = 3 * time.Second, 2 * time.Second
	for _, test := range []struct {
		name      string
		transport *http.Transport
		took      time.Duration // of each attempt
	}{
		{"the dialer never returns", &http.Transport{DialContext: blockedDial}, 10 * time.Second},
		{"the dialer has a timeout of its own", &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			return blockedDial(ctx, network, address)
		}}, dialTimeout},
		{"the TLS handshake never ends", &http.Transport{DialContext: silentPeer}, 10 * time.Second},
		{"the TLS handshake has a timeout of its own", &http.Transport{DialContext: silentPeer, TLSHandshakeTimeout: handshakeTimeout}, handshakeTimeout},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var took []time.Duration
				client := clientFor(t, "https://sync.example.invalid", twiliosync.WithHTTPClient(&http.Client{Transport: test.transport}),
					twiliosync.WithObserver(func(_ context.Context, a twiliosync.Attempt) { took = append(took, a.Latency) }))
				_, _, err := publish(client)
				assertProof(t, notSentAndRetried, err)
				var cause net.Error
				if assert.ErrorAs(t, err, &cause) {
					assert.True(t, cause.Timeout())
				}
				assert.Equal(t, []time.Duration{test.took, test.took, test.took}, took)
			})
		})
	}
}

// silentPeer is a connection to somebody who reads, and never answers.
func silentPeer(context.Context, string, string) (net.Conn, error) {
	client, peer := net.Pipe()
	go func() {
		defer peer.Close()
		io.Copy(io.Discard, peer)
	}()
	return client, nil
}

func TestNotSentBecauseADialTimesOutForReal(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	client := clientFor(t, "http://"+listener.Addr().String(), hurried(twiliosync.WithHTTPClient(dialing((&net.Dialer{Timeout: time.Nanosecond}).DialContext)))...)
	_, _, err = publish(client)
	assertProof(t, notSentAndRetried, err)
	var cause *net.OpError
	require.ErrorAs(t, err, &cause)
	assert.True(t, cause.Timeout())
	assert.NotErrorIs(t, err, context.DeadlineExceeded, "that is the caller's own deadline")
}

// TestNotSentBecauseOfTheTLSPeer uses the SDK's own transport, which needs no
// certificate that it trusts to fail like this.
func TestNotSentBecauseOfTheTLSPeer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		peer func(t *testing.T, handler http.Handler) (baseURL string)
		want proof
		is   func(error) bool
	}{
		{"the peer resets the connection in the handshake", handshakePeer(func(conn *net.TCPConn) {
			readRecord(conn)
			conn.SetLinger(0)
		}), notSentAndRetried, func(err error) bool {
			var cause *os.SyscallError
			return errors.As(err, &cause)
		}},
		{"the peer closes the connection in the handshake", handshakePeer(func(conn *net.TCPConn) { readRecord(conn) }),
			notSentAndRetried, func(err error) bool { return errors.Is(err, io.EOF) }},
		{"the peer sends half a handshake record", handshakePeer(func(conn *net.TCPConn) {
			readRecord(conn)
			conn.Write([]byte{22, 3, 3, 0, 99, 2})
		}), notSentAndRetried, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"the peer speaks plain HTTP", func(t *testing.T, handler http.Handler) string {
			server := unstartedServer(t, handler)
			server.Start()
			return "https" + strings.TrimPrefix(server.URL, "http")
		}, notSentAndFinal, func(err error) bool { return errors.Is(err, http.ErrSchemeMismatch) }},
		{"the peer speaks something else", handshakePeer(func(conn *net.TCPConn) {
			readRecord(conn)
			conn.Write([]byte("SSH-2.0-OpenSSH_9.9\r\n"))
		}), notSentAndFinal, func(err error) bool {
			var cause tls.RecordHeaderError
			return errors.As(err, &cause)
		}},
		{"the peer speaks TLS 1.1 at most", func(t *testing.T, handler http.Handler) string {
			server := unstartedServer(t, handler)
			server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
			server.StartTLS()
			return server.URL
		}, notSentAndFinal, func(err error) bool {
			var cause *net.OpError
			return errors.As(err, &cause) && cause.Op == "remote error"
		}},
		{"the certificate is of an unknown authority", func(t *testing.T, handler http.Handler) string {
			server := unstartedServer(t, handler)
			server.StartTLS()
			return server.URL
		}, notSentAndFinal, func(err error) bool {
			var cause *tls.CertificateVerificationError
			return errors.As(err, &cause)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := &recorder{answer: answer(201, testAnswer)}
			_, response, err := publish(clientFor(t, test.peer(t, server), hurried()...))
			assert.Nil(t, response)
			assertProof(t, test.want, err)
			assert.True(t, test.is(err), "%v: %#v", err, asError(t, err).Err)
			assert.Empty(t, server.all())
		})
	}
}

// TestNotSentBecauseOfACertificateThatTheCallersDialerRefused is without the
// trace of a handshake: only the error tells.
func TestNotSentBecauseOfACertificateThatTheCallersDialerRefused(t *testing.T) {
	t.Parallel()
	server := &recorder{answer: answer(201, testAnswer)}
	listening := unstartedServer(t, server)
	listening.StartTLS()
	transport := &http.Transport{DialTLSContext: new(tls.Dialer).DialContext}
	_, _, err := publish(clientFor(t, listening.URL, hurried(twiliosync.WithHTTPClient(&http.Client{Transport: transport}))...))
	assertProof(t, notSentAndFinal, err)
	var cause *tls.CertificateVerificationError
	assert.ErrorAs(t, err, &cause)
	assert.Empty(t, server.all())
}

func unstartedServer(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	return server
}

// handshakePeer is a server that does this instead of a handshake.
func handshakePeer(instead func(*net.TCPConn)) func(*testing.T, http.Handler) string {
	return func(t *testing.T, _ http.Handler) string {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				instead(conn.(*net.TCPConn))
				conn.Close()
			}
		}()
		return "https://" + listener.Addr().String()
	}
}

// readRecord reads one TLS record, so that closing does not reset.
func readRecord(conn net.Conn) {
	header := make([]byte, 5)
	if _, err := io.ReadFull(conn, header); err == nil {
		io.CopyN(io.Discard, conn, int64(header[3])<<8|int64(header[4]))
	}
}

// TestNotSentByTheOwnTransport needs a process of its own: the proxy variables
// and SSL_CERT_FILE are read once, before the first connection.
func TestNotSentByTheOwnTransport(t *testing.T) {
	const child = "TWILIOSYNC_TEST_OWN_TRANSPORT"
	if os.Getenv(child) != "" {
		notSentByTheOwnTransport(t)
		return
	}
	t.Parallel()
	switch runtime.GOOS {
	case "windows", "darwin", "ios":
		t.Skip("crypto/x509 reads no SSL_CERT_FILE on this system")
	}
	command := exec.Command(os.Args[0], "-test.run=^TestNotSentByTheOwnTransport$", "-test.timeout=60s")
	command.Env = append(os.Environ(), child+"=1")
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
	assert.Contains(t, string(output), "PASS")
}

func notSentByTheOwnTransport(t *testing.T) {
	const proxied = "https://sync.example.invalid"
	authority := newAuthority(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, authority.pem(), 0o600))
	t.Setenv("SSL_CERT_FILE", file)
	proxy := &tunnelProxy{}
	listening := httptest.NewServer(proxy)
	defer listening.Close()
	t.Setenv("HTTPS_PROXY", listening.URL)
	t.Setenv("https_proxy", "")
	t.Setenv("NO_PROXY", "")
	t.Setenv("no_proxy", "")

	year := 365 * 24 * time.Hour
	secured := func(host string, from, to time.Duration) (*recorder, *httptest.Server) {
		handler := &recorder{answer: answer(201, testAnswer)}
		server := unstartedServer(t, handler)
		server.TLS = &tls.Config{Certificates: []tls.Certificate{authority.issue(t, host, time.Now().Add(from), time.Now().Add(to))}}
		server.StartTLS()
		return handler, server
	}

	t.Run("certificates", func(t *testing.T) {
		for _, test := range []struct {
			name     string
			host     string
			from, to time.Duration
			want     *proof // nil: accepted
			is       func(error) bool
		}{
			{"a certificate that is in order is accepted", "127.0.0.1", -year, year, nil, nil},
			{"a certificate of another host", "sync.twilio.com", -year, year, &notSentAndFinal, func(err error) bool {
				var cause x509.HostnameError
				return errors.As(err, &cause)
			}},
			{"an expired certificate", "127.0.0.1", -2 * year, -year, &notSentAndFinal, func(err error) bool {
				var cause x509.CertificateInvalidError
				return errors.As(err, &cause) && cause.Reason == x509.Expired
			}},
			{"a certificate that is not valid yet", "127.0.0.1", year, 2 * year, &notSentAndFinal, func(err error) bool {
				var cause x509.CertificateInvalidError
				return errors.As(err, &cause) && cause.Reason == x509.Expired
			}},
		} {
			t.Run(test.name, func(t *testing.T) {
				handler, server := secured(test.host, test.from, test.to)
				_, _, err := publish(clientFor(t, server.URL, hurried()...))
				if test.want == nil {
					require.NoError(t, err)
					assert.Len(t, handler.all(), 1)
					return
				}
				assertProof(t, *test.want, err)
				assert.True(t, test.is(err), "%v", err)
				assert.Empty(t, handler.all())
			})
		}
	})

	t.Run("proxies", func(t *testing.T) {
		for _, test := range []struct {
			status   int
			want     proof
			connects int32
		}{
			{http.StatusProxyAuthRequired, notSentAndFinal, 1},
			{http.StatusForbidden, notSentAndFinal, 1},
			{http.StatusFound, notSentAndFinal, 1},
			{http.StatusRequestTimeout, notSentAndRetried, 3},
			{http.StatusTooManyRequests, notSentAndRetried, 3},
			{http.StatusBadGateway, notSentAndRetried, 3},
			{http.StatusServiceUnavailable, notSentAndRetried, 3},
			{http.StatusGatewayTimeout, notSentAndRetried, 3},
		} {
			t.Run(fmt.Sprintf("a proxy that answers %d to CONNECT", test.status), func(t *testing.T) {
				proxy.connects.Store(0)
				proxy.status = test.status
				_, response, err := publish(clientFor(t, proxied, hurried()...))
				assert.Nil(t, response)
				assertProof(t, test.want, err)
				assert.Contains(t, err.Error(), fmt.Sprintf("status %d", test.status))
				assert.NotContains(t, err.Error(), "invitation", "what the proxy says is not shown")
				assert.Equal(t, test.connects, proxy.connects.Load())
			})
		}
		t.Run("a proxy that opens the tunnel", func(t *testing.T) {
			handler, server := secured("sync.example.invalid", -year, year)
			proxy.connects.Store(0)
			proxy.status, proxy.target = http.StatusOK, server.Listener.Addr().String()
			_, response, err := publish(clientFor(t, proxied, hurried()...))
			require.NoError(t, err)
			assert.Equal(t, 1, response.Sends)
			assert.Len(t, handler.all(), 1)
			assert.EqualValues(t, 1, proxy.connects.Load())
		})
		t.Run("a proxy that is gone", func(t *testing.T) {
			listening.Close()
			_, _, err := publish(clientFor(t, proxied, hurried()...))
			assertProof(t, notSentAndRetried, err)
			assert.ErrorIs(t, err, errRefused)
		})
	})
}

// tunnelProxy answers each CONNECT with its status, and opens the tunnel if
// that is 200. It is changed between calls only.
type tunnelProxy struct {
	status   int
	target   string
	connects atomic.Int32
}

func (p *tunnelProxy) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	p.connects.Add(1)
	if p.status != http.StatusOK {
		w.Header().Set("Location", "https://elsewhere.example/")
		w.WriteHeader(p.status)
		io.WriteString(w, "an invitation to log in")
		return
	}
	upstream, err := net.Dial("tcp", p.target)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer upstream.Close()
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go io.Copy(upstream, client)
	io.Copy(client, upstream)
}

// authority issues certificates for tests.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2090, 1, 1, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{certificate, key}
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

func (a *authority) issue(t *testing.T, host string, from, to time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// authFunc is an Authenticator made of a function.
type authFunc func(context.Context, *http.Request) error

func (f authFunc) Authenticate(ctx context.Context, req *http.Request) error { return f(ctx, req) }

func TestNotSentBecauseOfTheAuthenticator(t *testing.T) {
	t.Parallel()
	broken := errors.New("the vault is sealed")
	setting := func(header string) authFunc {
		return func(_ context.Context, req *http.Request) error {
			req.Header[header] = []string{"a-key"}
			return nil
		}
	}
	for _, test := range []struct {
		name string
		auth authFunc
		is   error
		says string
	}{
		{"it fails", func(context.Context, *http.Request) error { return broken }, broken, "authenticate: the vault is sealed"},
		{"it fails in a way that the network could, too", func(context.Context, *http.Request) error {
			return &net.OpError{Op: "dial", Err: errRefused}
		}, errRefused, "authenticate: "},
		{"it sets Idempotency-Key", setting("Idempotency-Key"), nil, "Idempotency-Key"},
		{"it sets idempotency-key", setting("idempotency-key"), nil, "Idempotency-Key"},
		{"it sets IDEMPOTENCY-KEY", setting("IDEMPOTENCY-KEY"), nil, "Idempotency-Key"},
		{"it sets X-Idempotency-Key", setting("X-Idempotency-Key"), nil, "X-Idempotency-Key"},
		{"it sets x-idempotency-key", setting("x-idempotency-key"), nil, "X-Idempotency-Key"},
		{"it sets x-Idempotency-KEY", setting("x-Idempotency-KEY"), nil, "X-Idempotency-Key"},
		{"it sets Idempotency-Key without a value", func(_ context.Context, req *http.Request) error {
			req.Header["Idempotency-Key"] = []string{} // enough for net/http
			return nil
		}, nil, "Idempotency-Key"},
		{"it sets a header that HTTP has not", setting("a header"), nil, "invalid header"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := &recorder{answer: answer(201, testAnswer)}
			_, response, err := publish(clientOf(t, server, test.auth, hurried()...))
			assert.Nil(t, response)
			assertProof(t, notSentAndFinal, err)
			assert.Contains(t, err.Error(), test.says)
			assert.NotContains(t, err.Error(), "a-key")
			if test.is != nil {
				assert.ErrorIs(t, err, test.is)
			}
			assert.Empty(t, server.all())
		})
	}
}

// TestAuthenticatorThatFetchesAToken with the context it is given: its own
// request is not the message.
func TestAuthenticatorThatFetchesAToken(t *testing.T) {
	t.Parallel()
	tokens := httptest.NewServer(answer(200, "a-token"))
	defer tokens.Close()
	fetching := func(value string) authFunc {
		return func(ctx context.Context, req *http.Request) error {
			fetch, err := http.NewRequestWithContext(ctx, http.MethodGet, tokens.URL, nil)
			if err != nil {
				return err
			}
			res, err := tokens.Client().Do(fetch)
			if err != nil {
				return err
			}
			res.Body.Close()
			req.Header["Authorization"] = []string{value}
			return nil
		}
	}
	for name, opts := range map[string][]twiliosync.Option{
		"the own transport":    nil,
		"a caller's transport": {twiliosync.WithHTTPClient(&http.Client{Transport: &http.Transport{}})},
	} {
		t.Run(name, func(t *testing.T) {
			server := &recorder{answer: answer(201, testAnswer)}
			_, response, err := publish(clientOf(t, server, fetching("Bearer a-token"), hurried(opts...)...))
			require.NoError(t, err)
			assert.Equal(t, []int{1, 1}, []int{response.Attempts, response.Sends})
			assert.Len(t, server.all(), 1)

			refusing, err := twiliosync.NewClient(fetching("Bearer a-token"), hurried(append(opts, twiliosync.WithBaseURL(closedURL(t)))...)...)
			require.NoError(t, err)
			_, _, err = publish(refusing)
			assertProof(t, notSentAndRetried, err)
		})
	}
	t.Run("and makes a header of it that HTTP has not", func(t *testing.T) {
		server := &recorder{answer: answer(201, testAnswer)}
		_, _, err := publish(clientOf(t, server, fetching("Bearer a-token\n"), hurried()...))
		assertProof(t, notSentAndFinal, err)
		assert.Empty(t, server.all())
	})
}

// TestNotSentBecauseTheCallerCancels cancels at every point before the header
// is written.
func TestNotSentBecauseTheCallerCancels(t *testing.T) {
	t.Parallel()
	left := errors.New("the user left")
	assertCancelled := func(t *testing.T, want proof, err error) {
		t.Helper()
		assertProof(t, want, err)
		assert.ErrorIs(t, err, context.Canceled)
		assert.NotErrorIs(t, err, left, "the cause may be about another call")
		assert.ErrorContains(t, err, "the user left")
		assert.NotErrorIs(t, err, context.DeadlineExceeded)
	}

	t.Run("before the call", func(t *testing.T) {
		client, server := setup(t)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(left)
		_, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
		assertCancelled(t, proof{twiliosync.OutcomeNotSent, 0, 0, true}, err)
		assert.Empty(t, server.all())
	})
	for name, transport := range map[string]http.RoundTripper{"the own transport": nil, "a caller's transport": &http.Transport{}, "one without trace events": roundTripFunc(lost)} {
		for ending, failure := range map[string]error{"and an error": errors.New("gave up"), "and no error": nil} {
			t.Run("in the Authenticator, "+name+", "+ending, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(context.Background())
				server := &recorder{answer: answer(201, testAnswer)}
				client := clientOf(t, server, authFunc(func(context.Context, *http.Request) error {
					cancel(left)
					return failure
				}), twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
				_, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
				assertCancelled(t, notSentByTheCaller, err)
				assert.Empty(t, server.all())
			})
		}
	}
	for name, transport := range map[string]*http.Transport{
		"while dialing": {DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}},
		"in the TLS handshake": {DialContext: silentPeer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(4*time.Second, func() { cancel(left) })
				client := clientFor(t, "https://sync.example.invalid", twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
				start := time.Now()
				_, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
				assert.Equal(t, 4*time.Second, time.Since(start))
				assertCancelled(t, notSentByTheCaller, err)
			})
		})
	}
	t.Run("in the TLS handshake of the SDK's own transport", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(context.Background())
		url := handshakePeer(func(conn *net.TCPConn) {
			readRecord(conn)
			cancel(left)
			io.Copy(io.Discard, conn) // until the client is gone
		})(t, nil)
		_, _, err := clientFor(t, url, hurried()...).StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
		assertCancelled(t, notSentByTheCaller, err)
	})
}

// dyingConnection is a context in which the connection that the next request
// got dies before the request is written. kill must be noticed by the client's
// goroutines without help.
func dyingConnection(kill func(net.Conn), when func(httptrace.GotConnInfo) bool) context.Context {
	return httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if when(info) {
			kill(info.Conn)
			synctest.Wait() // net/http's goroutines of the connection end
		}
	}})
}

// dyingWrite is a context in which that connection dies when net/http has put
// the header into its buffer, and not yet written a byte of it.
func dyingWrite(kill func(net.Conn), when func(httptrace.GotConnInfo) bool) context.Context {
	var conn net.Conn
	return httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if conn = nil; when(info) {
				conn = info.Conn
			}
		},
		WroteHeaders: func() {
			if conn != nil {
				kill(conn)
			}
		},
	})
}

func reused(info httptrace.GotConnInfo) bool { return info.Reused }
func fresh(info httptrace.GotConnInfo) bool  { return !info.Reused }

// wireServer serves HTTP by hand, outside of any bubble, and can cut all its
// connections.
type wireServer struct {
	address  string
	requests atomic.Int32
	cut      func() // closes the connections, politely
	stop     func() // and the listener
}

func newWireServer(t *testing.T) *wireServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.2:0") // where no other test takes over the port of a server that has stopped
	if err != nil {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	require.NoError(t, err)
	conns := make(chan net.Conn, 16)
	server := &wireServer{address: listener.Addr().String()}
	server.cut = func() {
		for {
			select {
			case conn := <-conns:
				conn.Close()
			default:
				return
			}
		}
	}
	server.stop = func() {
		listener.Close()
		server.cut()
	}
	t.Cleanup(server.stop)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns <- conn
			go func() {
				for reader := bufio.NewReader(conn); ; {
					req, err := http.ReadRequest(reader)
					if err != nil {
						return
					}
					io.Copy(io.Discard, req.Body)
					server.requests.Add(1)
					fmt.Fprintf(conn, "HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s", len(testAnswer), testAnswer)
				}
			}()
		}
	}()
	return server
}

// TestDeadPooledConnection takes a connection out of the pool that dies before
// a byte of the request is written, with the SDK's own transport.
func TestDeadPooledConnection(t *testing.T) {
	t.Parallel()
	cut := func(server *wireServer, _ net.Conn) { server.cut() }
	closeHere := func(_ *wireServer, conn net.Conn) { conn.Close() }
	closeHereAndStop := func(server *wireServer, conn net.Conn) {
		conn.Close()
		server.stop()
	}
	for _, test := range []struct {
		name     string
		dying    func(func(net.Conn), func(httptrace.GotConnInfo) bool) context.Context
		kill     func(*wireServer, net.Conn)
		attempts int // of an accepted call; 0: the server is gone, and it fails
	}{
		{"closed by the server: made again by the SDK", dyingConnection, cut, 2},
		{"closed on this side: made again by net/http", dyingConnection, closeHere, 1},
		{"closed by the server, which is gone", dyingConnection, func(server *wireServer, _ net.Conn) { server.stop() }, 0},
		{"closed on this side, and the server is gone", dyingConnection, closeHereAndStop, 0},
		{"closed with the header in the buffer: made again by net/http", dyingWrite, closeHere, 1},
		{"closed with the header in the buffer, and the server is gone", dyingWrite, closeHereAndStop, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newWireServer(t)
			synctest.Test(t, func(t *testing.T) {
				client := clientFor(t, "http://"+server.address)
				_, response, err := publish(client)
				require.NoError(t, err)
				require.Equal(t, 1, response.Sends)

				ctx := test.dying(func(conn net.Conn) { test.kill(server, conn) }, reused)
				_, response, err = client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
				client.CloseIdleConnections()

				if test.attempts == 0 {
					assertProof(t, notSentAndRetried, err)
					assert.EqualValues(t, 1, server.requests.Load())
					return
				}
				require.NoError(t, err)
				assert.Equal(t, test.attempts, response.Attempts)
				assert.Equal(t, 1, response.Sends)
				assert.EqualValues(t, 2, server.requests.Load())
			})
		})
	}
}

// TestDeadFreshConnection is about transports of the caller: without a trace of
// the write, only TLS with HTTP/1 proves that nothing was written.
func TestDeadFreshConnection(t *testing.T) {
	t.Parallel()
	authority := newAuthority(t)
	certificate := authority.issue(t, "sync.example.invalid", authority.certificate.NotBefore, authority.certificate.NotAfter)
	for _, test := range []struct {
		name   string
		scheme string
		want   proof
	}{
		{"TLS", "https", notSentAndRetried},
		{"plain HTTP", "http", unknownAndNotResent},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				transport := &http.Transport{
					TLSClientConfig: &tls.Config{RootCAs: authority.pool()},
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						client, peer := net.Pipe()
						go func() {
							defer peer.Close()
							if test.scheme == "https" {
								peer = tls.Server(peer, &tls.Config{Certificates: []tls.Certificate{certificate}})
							}
							n, _ := io.Copy(io.Discard, peer)
							assert.Zero(t, n, "a byte of a request arrived")
						}()
						return client, nil
					},
				}
				client := clientFor(t, test.scheme+"://sync.example.invalid", twiliosync.WithPlaintextHTTP(), twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
				ctx := dyingConnection(func(conn net.Conn) { conn.Close() }, fresh)
				_, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"a": 1})
				assertProof(t, test.want, err)
			})
		})
	}
}

// TestTransportsWithoutProof are RoundTrippers that fail: what their trace
// events don't prove is unknown.
func TestTransportsWithoutProof(t *testing.T) {
	t.Parallel()
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errRefused}
	fires := func(events ...func(*httptrace.ClientTrace)) roundTripFunc {
		return func(req *http.Request) (*http.Response, error) {
			for _, event := range events {
				event(httptrace.ContextClientTrace(req.Context()))
			}
			return nil, refused
		}
	}
	getConn := func(trace *httptrace.ClientTrace) { trace.GetConn("sync.example.invalid:443") }
	gotConn := func(trace *httptrace.ClientTrace) { trace.GotConn(httptrace.GotConnInfo{Conn: &net.TCPConn{}}) }
	wroteHeaders := func(trace *httptrace.ClientTrace) { trace.WroteHeaders() }
	for _, test := range []struct {
		name        string
		transport   http.RoundTripper
		atLeastOnce bool
		want        proof
	}{
		{"no trace event, even with an error that looks like a failed dial", fires(), false, unknownAndNotResent},
		{"no trace event, at least once", fires(), true, proof{twiliosync.OutcomeUnknown, 3, 3, false}},
		{"a connection asked for and not got", fires(getConn), false, notSentAndRetried},
		{"a connection got that is not TLS", fires(getConn, gotConn), false, unknownAndNotResent},
		{"a header written", fires(getConn, gotConn, wroteHeaders), false, unknownAndNotResent},
		{"a header written, then a connection not got", fires(getConn, wroteHeaders, getConn), false, unknownAndNotResent},
		{"two headers written", fires(getConn, wroteHeaders, getConn, wroteHeaders), false, proof{twiliosync.OutcomeUnknown, 1, 2, false}},
		{"neither answer nor error", roundTripFunc(func(*http.Request) (*http.Response, error) { return nil, nil }), false, unknownAndNotResent},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client := clientFor(t, "https://sync.example.invalid", twiliosync.WithHTTPClient(&http.Client{Transport: test.transport}),
				twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Microsecond, AtLeastOnce: test.atLeastOnce}))
			_, response, err := publish(client)
			assert.Nil(t, response)
			assertProof(t, test.want, err)
			if test.name != "neither answer nor error" {
				assert.ErrorIs(t, err, errRefused)
			}
		})
	}
}
