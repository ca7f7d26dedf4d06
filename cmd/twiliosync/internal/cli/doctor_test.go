package cli

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const (
	doctorKey    = "SK0123456789abcdef0123456789abcdef"
	doctorSecret = "a-secret-that-nobody-may-see"
	proxyLogin   = "clerk:hunter-2-hunter"
)

// net/http reads the proxies once in a process, so they are taken away before
// any test begins. Tests that need one run in a process of their own.
func init() {
	for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"} {
		os.Unsetenv(name)
	}
}

// alone runs the test again in a process of its own, and reports whether this
// is that process.
func alone(t *testing.T) bool {
	t.Helper()
	const mark = "DOCTOR_TEST_ALONE"
	if os.Getenv(mark) != "" {
		return true
	}
	process := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	process.Env = append(os.Environ(), mark+"=1")
	output, err := process.CombinedOutput()
	assert.NoError(t, err, "%s", output)
	assert.Contains(t, string(output), "--- PASS: "+t.Name())
	return false
}

// authority is a CA.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(name string) *authority {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	key, der := sign(template, nil)
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{certificate, key}
}

// sign makes a key and the certificate for it; without a CA it is its own.
func sign(template *x509.Certificate, by *authority) (*ecdsa.PrivateKey, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		panic(err)
	}
	return key, der
}

// issue makes the certificate of a server at 127.0.0.1 and sync.example.test.
func (a *authority) issue(change func(*x509.Certificate)) tls.Certificate {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(74*24*time.Hour + time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"sync.example.test"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	change(template)
	key, der := sign(template, a)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func unchanged(*x509.Certificate) {}

// trusted is the only CA that this process trusts, on every platform.
var trusted = sync.OnceValue(func() *authority {
	a := newAuthority("A CA for tests")
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	os.Setenv("GODEBUG", "x509usefallbackroots=1")
	x509.SetFallbackRoots(roots)
	return a
})

// serve runs a handler with TLS and returns its base URL.
func serve(t *testing.T, handler http.Handler, certificate tls.Certificate) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL
}

// fakeSync is one that has the stream orders.
func fakeSync() *twiliosynctest.Server {
	return twiliosynctest.New(twiliosynctest.WithCredentials(doctorKey, doctorSecret), twiliosynctest.WithStreams("orders"))
}

// page is what a portal or a proxy answers.
func page(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Location", "https://portal.example.test/")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<h1>Welcome</h1>")
	})
}

// dated changes the Date of a handler's answers; none if it is empty.
func dated(handler http.Handler, date string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if w.Header()["Date"] = nil; date != "" {
			w.Header().Set("Date", date)
		}
		handler.ServeHTTP(w, r)
	})
}

// setUp sets the environment that the doctor looks at.
func setUp(t *testing.T, baseURL string) {
	t.Helper()
	withoutEnvironment(t)
	t.Setenv("TWILIO_API_KEY", doctorKey)
	t.Setenv("TWILIO_API_SECRET", doctorSecret)
	t.Setenv("TWILIO_SYNC_BASE_URL", baseURL)
}

var varying = regexp.MustCompile(`127\.0\.0\.1:\d+|p50 [^"\n]*|request RQ\w+|published TZ\w+|\b[01]s (ahead of|behind)|59m59s|1h0m[01]s`)

// doctorSays runs the command and returns its status and what it prints, with a
// mark where that varies. No credential may be in it.
func doctorSays(t *testing.T, args ...string) (int, string) {
	t.Helper()
	got := command("", append([]string{"doctor"}, args...)...)
	assert.Empty(t, got.err)
	login, password, _ := strings.Cut(proxyLogin, ":")
	for _, secret := range []string{
		os.Getenv("TWILIO_API_KEY"), os.Getenv("TWILIO_API_SECRET"), os.Getenv("TWILIO_ACCOUNT_SID"), os.Getenv("TWILIO_AUTH_TOKEN"),
		doctorKey, doctorSecret, base64.StdEncoding.EncodeToString([]byte(doctorKey + ":" + doctorSecret)),
		login, password, base64.StdEncoding.EncodeToString([]byte(proxyLogin)),
	} {
		if secret = strings.TrimSpace(secret); secret != "" {
			assert.NotContains(t, got.out, secret)
		}
	}
	return got.status, varying.ReplaceAllStringFunc(got.out, func(found string) string {
		switch {
		case strings.HasPrefix(found, "127"):
			return "ADDRESS"
		case strings.HasPrefix(found, "request"):
			return "request ID"
		case strings.HasPrefix(found, "published"):
			return "published SID"
		case strings.HasPrefix(found, "p50"):
			return "p50"
		case strings.Contains(found, "m"):
			return "an hour"
		}
		return "in time with"
	})
}

// notOK leaves out the lines of what is in order.
func notOK(output string) string {
	var rest strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "ok ") {
			rest.WriteString(line)
		}
	}
	return rest.String()
}

func TestDoctorFindsAllInOrder(t *testing.T) {
	const after = `ok       HTTP         Sync answers (status 200, request ID)
ok       access       the credentials are accepted
ok       service      "default" exists
ok       stream       "orders" exists and never expires
ok       clock        this machine is in time with the answer's Date
ok       latency      p50
`
	t.Run("over HTTP on this machine, without publishing", func(t *testing.T) {
		fake := fakeSync()
		server := httptest.NewServer(fake)
		defer server.Close()
		setUp(t, server.URL)
		status, out := doctorSays(t, "orders")
		assert.Equal(t, `ok       credentials  an API key (SK…) in TWILIO_API_KEY and TWILIO_API_SECRET
ok       base URL     http://ADDRESS, by TWILIO_SYNC_BASE_URL
ok       proxy        none
ok       DNS          127.0.0.1 is an address
ok       TCP          connected to ADDRESS
ok       TLS          none, http:// is for this machine only
`+after+`skipped  publish      publishes only with --publish
`, out)
		assert.Zero(t, status)
		assert.Empty(t, fake.Messages("orders"))
		assert.Len(t, fake.Requests(), 7, "the check of the connection sends nothing")
	})
	t.Run("with TLS, publishing one message", func(t *testing.T) {
		fake := fakeSync()
		setUp(t, serve(t, fake, trusted().issue(unchanged))+"/")
		status, out := doctorSays(t, "orders", "--publish")
		assert.Equal(t, `ok       credentials  an API key (SK…) in TWILIO_API_KEY and TWILIO_API_SECRET
ok       base URL     https://ADDRESS, by TWILIO_SYNC_BASE_URL
ok       proxy        none
ok       DNS          127.0.0.1 is an address
ok       TCP          connected to ADDRESS
ok       TLS          TLS 1.3, the certificates for 127.0.0.1 are valid for another 74 days
`+after+`ok       publish      published SID to "orders"
`, out)
		assert.Zero(t, status)
		require.Len(t, fake.Messages("orders"), 1)
		assert.JSONEq(t, `{"twiliosync":"doctor"}`, string(fake.Messages("orders")[0].Data))
	})
}

func TestDoctorSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	const (
		afterHTTP = `skipped  access       HTTP failed
skipped  service      HTTP failed
skipped  stream       HTTP failed
skipped  clock        HTTP failed
skipped  latency      HTTP failed
skipped  publish      publishes only with --publish
`
		afterTLS = `skipped  HTTP         TLS failed
skipped  access       TLS failed
skipped  service      TLS failed
skipped  stream       TLS failed
skipped  clock        TLS failed
skipped  latency      TLS failed
skipped  publish      publishes only with --publish
`
		afterAccess = `skipped  service      access failed
skipped  stream       access failed
skipped  latency      access failed
skipped  publish      publishes only with --publish
`
		notSync = "                      Log in to this network if it wants that, and check the base URL and the proxies in between, since what answers is not Sync.\n"
	)
	plain := func(handler http.Handler) func(*testing.T) string {
		return func(t *testing.T) string {
			server := httptest.NewServer(handler)
			t.Cleanup(server.Close)
			return server.URL
		}
	}
	answering := func(status, code int) func(*testing.T) string {
		fake := fakeSync()
		fake.Every().Answer(status, code)
		return plain(fake)
	}
	certified := func(by *authority, change func(*x509.Certificate)) func(*testing.T) string {
		return func(t *testing.T) string { return serve(t, fakeSync(), by.issue(change)) }
	}
	for _, row := range []struct {
		name    string
		baseURL func(*testing.T) string
		args    string
		says    string
	}{
		{"wrong credentials", plain(twiliosynctest.New(twiliosynctest.WithCredentials(doctorKey, "another"))), "orders",
			`failed   access       Sync refuses the credentials (status 401, code 20003)
                      Set the credentials anew without quotes, and check that they belong to this region, the key still exists and the account is active.
` + afterAccess},
		{"test credentials", answering(403, 20008), "orders",
			`failed   access       these are test credentials, which Sync does not take (status 403, code 20008)
                      Use live credentials, or --emulator for tests.
` + afterAccess},
		{"the service of another account", answering(403, 54056), "orders",
			`failed   access       the service belongs to another account (status 403, code 54056)
                      Use the credentials of the account that the service belongs to, or another --service.
` + afterAccess},
		{"another refusal", answering(403, 20403), "orders",
			`failed   access       "Forbidden" (status 403, code 20403, request ID)
                      Do what https://www.twilio.com/docs/api/errors/20403 says.
` + afterAccess},
		{"no such service", plain(fakeSync()), "orders --service TO0123456789abcdef0123456789abcdef",
			`failed   service      there is no service "TO0123456789abcdef0123456789abcdef" for these credentials at http://ADDRESS (status 404, code 20404)
                      Pass the SID (IS…) or unique name of a service of this account and region with --service.
skipped  stream       service failed
skipped  latency      service failed
skipped  publish      publishes only with --publish
`},
		{"no such stream, which therefore isn't published to", plain(fakeSync()), "shipments --publish",
			`failed   stream       there is no stream "shipments" in the service "default" (status 404, code 20404)
                      Check the name, or create the stream with twiliosync streams create: publishing does not.
skipped  publish      stream failed
`},
		{"no stream given", plain(fakeSync()), "",
			`skipped  stream       no STREAM is given
skipped  publish      publishes only with --publish
`},
		{"a rate that was exceeded", answering(429, 20429), "orders",
			`failed   HTTP         "Too many requests" (status 429, code 20429, request ID)
                      Wait a minute, and run doctor again.
` + afterHTTP},
		{"an outage", answering(503, 20503), "orders",
			`failed   HTTP         "Service unavailable" (status 503, code 20503, request ID)
                      Try again in some minutes, and if it fails again look at https://status.twilio.com and at the proxies in between.
` + afterHTTP},
		{"a page of a portal", plain(page(200)), "orders",
			`failed   HTTP         the answer is not Twilio's: text/html, 16 bytes: the answer is not JSON (status 200)
` + notSync + afterHTTP},
		{"a redirect to a portal", plain(page(302)), "orders",
			`failed   HTTP         the answer is not Twilio's: text/html, 16 bytes (status 302)
` + notSync + afterHTTP},
		{"a page that refuses somebody's credentials", plain(page(401)), "orders",
			`failed   HTTP         the answer is not Twilio's: text/html, 16 bytes (status 401)
` + notSync + afterHTTP},
		{"a page that does not exist", plain(page(404)), "orders",
			`failed   HTTP         the answer is not Twilio's: text/html, 16 bytes (status 404)
` + notSync + afterHTTP},
		{"a 407 in the answer's place", plain(page(407)), "orders",
			`failed   HTTP         the answer is not Twilio's: text/html, 16 bytes (status 407)
                      Put the user name and password of the proxy into HTTPS_PROXY, in the form http://user:password@host:port.
` + afterHTTP},
		{"a clock that is an hour ahead", plain(dated(fakeSync(), time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))), "orders",
			`failed   clock        this machine is an hour ahead of the answer's Date, more than 5m0s
                      Set this machine's clock, and let it follow a time server (NTP).
skipped  publish      publishes only with --publish
`},
		{"a clock that is an hour behind", plain(dated(fakeSync(), time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))), "orders",
			`failed   clock        this machine is an hour behind the answer's Date, more than 5m0s
                      Set this machine's clock, and let it follow a time server (NTP).
skipped  publish      publishes only with --publish
`},
		{"an answer without a date", plain(dated(fakeSync(), "")), "orders",
			`skipped  clock        the answer has no Date
skipped  publish      publishes only with --publish
`},
		{"a certificate that expired", certified(trusted(), func(c *x509.Certificate) {
			c.NotAfter = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
			c.NotBefore = c.NotAfter.AddDate(-1, 0, 0)
		}), "orders",
			`failed   TLS          the certificate of 127.0.0.1 expired on 2026-01-02
                      Have the certificate renewed, or set this machine's clock if it is wrong.
` + afterTLS},
		{"a certificate that isn't valid yet", certified(trusted(), func(c *x509.Certificate) {
			c.NotBefore = time.Date(2222, 2, 2, 0, 0, 0, 0, time.UTC)
			c.NotAfter = c.NotBefore.AddDate(1, 0, 0)
		}), "orders",
			`failed   TLS          the certificate of 127.0.0.1 is valid only from 2222-02-02
                      Set this machine's clock, or have the certificate replaced if the clock is right.
` + afterTLS},
		{"a certificate of an unknown CA", certified(newAuthority("Inspector"), unchanged), "orders",
			`failed   TLS          the certificate of 127.0.0.1 comes from "CN=Inspector", which this machine does not trust
                      If that is the CA of your own server or proxy, add it to the trusted certificates of this machine, else don't use this network.
` + afterTLS},
		{"a certificate of another host", certified(trusted(), func(c *x509.Certificate) { c.IPAddresses = nil }), "orders",
			`failed   TLS          the certificate is for ["sync.example.test"], not for 127.0.0.1
                      Check the host name in TWILIO_SYNC_BASE_URL, and that nothing in this network answers in its place.
` + afterTLS},
		{"a server that doesn't speak TLS", func(t *testing.T) string { return strings.Replace(plain(fakeSync())(t), "http:", "https:", 1) }, "orders",
			`failed   TLS          what answers for ADDRESS does not speak TLS
                      Check the port in TWILIO_SYNC_BASE_URL, and that nothing in this network answers in its place.
` + afterTLS},
		{"a server that hangs up during the handshake", hangsUp, "orders",
			`failed   TLS          the connection was closed
                      Look for a firewall or proxy that cuts TLS connections to ADDRESS.
` + afterTLS},
		{"a base URL with a password", func(*testing.T) string { return "https://clerk:hunter-2-hunter@sync.example.test" }, "orders",
			`failed   base URL     TWILIO_SYNC_BASE_URL: credentials don't belong into the URL
                      Set TWILIO_SYNC_BASE_URL to the form https://host or https://host/prefix, or unset it to use https://sync.twilio.com.
` + skippedAfter("base URL", "proxy", "DNS", "TCP", "TLS", "HTTP", "access", "service", "stream", "clock", "latency")},
		{"a base URL with a password that has a slash", func(*testing.T) string { return "https://localhost:1/hunter-2-hunter@sync.example.test" }, "orders",
			`failed   base URL     TWILIO_SYNC_BASE_URL: the path has an @
                      Leave user name and password out of TWILIO_SYNC_BASE_URL, and write an @ that belongs to the path as %40.
` + skippedAfter("base URL", "proxy", "DNS", "TCP", "TLS", "HTTP", "access", "service", "stream", "clock", "latency")},
		{"a host that DNS doesn't know", func(*testing.T) string { return "https://" + nowhere }, "orders",
			`failed   DNS          ` + nowhere + `: no such host
                      Check the host name in TWILIO_SYNC_BASE_URL, and this machine's network and DNS server.
` + skippedAfter("DNS", "TCP", "TLS", "HTTP", "access", "service", "stream", "clock", "latency")},
	} {
		t.Run(row.name, func(t *testing.T) {
			trusted()
			setUp(t, row.baseURL(t))
			status, out := doctorSays(t, strings.Fields(row.args)...)
			assert.Equal(t, row.says, notOK(out))
			if strings.Contains(row.says, "failed ") {
				assert.Equal(t, 1, status)
			} else {
				assert.Zero(t, status)
			}
		})
	}
}

// nowhere is no name at all, since a part of it has 64 letters, so that nobody is asked.
var nowhere = strings.Repeat("n", 64) + ".invalid"

func skippedAfter(failed string, names ...string) string {
	var lines strings.Builder
	for _, name := range names {
		fmt.Fprintf(&lines, "skipped  %-11s  %s failed\n", name, failed)
	}
	return lines.String() + "skipped  publish      publishes only with --publish\n"
}

// hangsUp is a server that closes each connection after the first record.
func hangsUp(t *testing.T) string {
	return "https://" + listen(t, func(conn net.Conn) {
		header := make([]byte, 5) // what follows would reset the connection if it weren't read
		_, _ = io.ReadFull(conn, header)
		_, _ = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint16(header[3:])))
	})
}

// listen gives each connection to a function, and closes it then.
func listen(t *testing.T, handle func(net.Conn)) string {
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
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// closedPort is where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

func TestDoctorFindsAClosedPort(t *testing.T) {
	setUp(t, "http://"+closedPort(t))
	status, out := doctorSays(t, "orders")
	assert.Regexp(t, `^failed   TCP          ADDRESS: .*refused.*
                      Check the host and port in TWILIO_SYNC_BASE_URL, and that no firewall keeps this machine from ADDRESS.
`, notOK(out))
	assert.True(t, strings.HasSuffix(out, skippedAfter("TCP", "TLS", "HTTP", "access", "service", "stream", "clock", "latency")), "%s", out)
	assert.Equal(t, 1, status)
}

func TestDoctorOfAnEmulatorThatDoesNotRun(t *testing.T) {
	d := &doctor{app: &app{emulator: true}}
	assert.Equal(t, foundFailed("127.0.0.1:8080: refused", "Start the emulator with: twiliosync emulator"),
		d.tcp(reached{stage: atTCP, address: "127.0.0.1:8080", err: errors.New("refused")}))
	assert.Equal(t, foundOK("those of the emulator"), d.credentials())
}

func TestDoctorWithoutUsableCredentialsStillLooksAtTheNetwork(t *testing.T) {
	const pairs = "\n                      Set both TWILIO_API_KEY and TWILIO_API_SECRET, or both TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, each as the Console shows it.\n"
	const account = "AC0123456789abcdef0123456789abcdef"
	for _, row := range []struct {
		name                       string
		key, secret, account, auth string
		says                       string
	}{
		{"none", "", "", "", "", "no credentials in the environment" + pairs},
		{"a key without secret", doctorKey, "", "", "", "TWILIO_API_KEY is set but TWILIO_API_SECRET is not" + pairs},
		{"a secret without key", "", doctorSecret, "", "", "TWILIO_API_SECRET is set but TWILIO_API_KEY is not" + pairs},
		{"half a key beside a whole account", doctorKey, "", account, doctorSecret, "TWILIO_API_KEY is set but TWILIO_API_SECRET is not" + pairs},
		{"an account without token", "", "", account, "", "TWILIO_ACCOUNT_SID is set but has no secret" + pairs},
		{"swapped", doctorSecret, doctorKey, "", "", "TWILIO_API_KEY and TWILIO_API_SECRET: the password is a SID and the user name is not" + pairs},
		{"a secret with its line break", doctorKey, doctorSecret + "\n", "", "", "TWILIO_API_KEY and TWILIO_API_SECRET: the password ends with a line break" + pairs},
		{"a key that is no SID", "orders-key", doctorSecret, "", "", `TWILIO_API_KEY is neither the SID of an API key nor that of an account
                      Set TWILIO_API_KEY to SK or AC and 32 hexadecimal digits, as the Console shows it, and TWILIO_API_SECRET to what belongs to it.
`},
		{"an account that is the SID of a service", "", "", "IS" + account[2:], doctorSecret, `TWILIO_ACCOUNT_SID is neither the SID of an API key nor that of an account
                      Set TWILIO_ACCOUNT_SID to SK or AC and 32 hexadecimal digits, as the Console shows it, and TWILIO_AUTH_TOKEN to what belongs to it.
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			fake := fakeSync()
			setUp(t, serve(t, fake, trusted().issue(unchanged)))
			t.Setenv("TWILIO_API_KEY", row.key)
			t.Setenv("TWILIO_API_SECRET", row.secret)
			t.Setenv("TWILIO_ACCOUNT_SID", row.account)
			t.Setenv("TWILIO_AUTH_TOKEN", row.auth)
			status, out := doctorSays(t, "orders", "--publish")
			assert.Equal(t, "failed   credentials  "+row.says+
				strings.Replace(skippedAfter("credentials", "HTTP", "access", "service", "stream", "clock", "latency"), "publishes only with --publish", "credentials failed", 1), notOK(out))
			assert.Contains(t, out, "ok       TLS          TLS 1.3, ")
			assert.Equal(t, 1, status)
			assert.Empty(t, fake.Requests(), "nothing is sent without credentials")
		})
	}
	t.Run("but an account's will do", func(t *testing.T) {
		server := httptest.NewServer(twiliosynctest.New(twiliosynctest.WithCredentials(account, doctorSecret)))
		defer server.Close()
		setUp(t, server.URL)
		t.Setenv("TWILIO_API_KEY", "")
		t.Setenv("TWILIO_API_SECRET", "")
		t.Setenv("TWILIO_ACCOUNT_SID", account)
		t.Setenv("TWILIO_AUTH_TOKEN", doctorSecret)
		status, out := doctorSays(t)
		assert.Zero(t, status)
		assert.Contains(t, out, "ok       credentials  an account SID (AC…) in TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN\n")
	})
}

func TestDoctorSaysWhereTheBaseURLComesFrom(t *testing.T) {
	for _, row := range []struct {
		name               string
		base, region, edge string
		emulator           bool
		says               finding
	}{
		{"nothing is set", "", "", "", false, foundOK("https://sync.twilio.com, the default")},
		{"a base URL, which wins over region and edge", "https://h.example.test/a%2Fb/", "ie1", "dublin", false, foundOK("https://h.example.test/a%%2Fb, by TWILIO_SYNC_BASE_URL")},
		{"a region", "", "ie1", "", false, foundOK("https://sync.ie1.twilio.com, by TWILIO_REGION")},
		{"an edge", "", "", "dublin", false, foundOK("https://sync.dublin.us1.twilio.com, by TWILIO_EDGE")},
		{"both", "", "ie1", "dublin", false, foundOK("https://sync.dublin.ie1.twilio.com, by TWILIO_REGION and TWILIO_EDGE")},
		{"the flag wins over all", "https://h.example.test", "ie1", "dublin", true, foundOK("http://127.0.0.1:8080, by --emulator")},
		{"a region that is none", "", "ie1.twilio.com", "", false, foundFailed(`TWILIO_REGION: a region is one DNS label such as "us1"`,
			"Set TWILIO_REGION to one DNS label, such as us1 for a region and ashburn for an edge, or unset it.")},
		{"http beyond this machine", "http://h.example.test", "", "", false, foundFailed("TWILIO_SYNC_BASE_URL: http sends credentials in the clear",
			"Set TWILIO_SYNC_BASE_URL to the form https://host or https://host/prefix, or unset it to use https://sync.twilio.com.")},
	} {
		t.Run(row.name, func(t *testing.T) {
			setUp(t, row.base)
			t.Setenv("TWILIO_REGION", row.region)
			t.Setenv("TWILIO_EDGE", row.edge)
			d := &doctor{app: &app{emulator: row.emulator}, service: "default"}
			assert.Equal(t, row.says, d.address(d.locate()))
		})
	}
}

func TestDoctorBehindAProxy(t *testing.T) {
	answer := make(chan int, 10)
	var target string
	proxy := listen(t, func(conn net.Conn) {
		req, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return
		}
		status := 200
		select {
		case status = <-answer:
			answer <- status
		default:
		}
		if req.Method != http.MethodConnect || req.Host != "sync.example.test:443" ||
			req.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(proxyLogin)) {
			status = 400
		}
		fmt.Fprintf(conn, "HTTP/1.1 %d Status\r\n\r\n", status)
		if status != 200 {
			return
		}
		server, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer server.Close()
		go func() { _, _ = io.Copy(server, conn) }()
		_, _ = io.Copy(conn, server)
	})
	if !alone(t) {
		return
	}
	t.Setenv("HTTPS_PROXY", "http://"+proxyLogin+"@"+proxy)
	target = strings.TrimPrefix(serve(t, fakeSync(), trusted().issue(unchanged)), "https://")
	setUp(t, "https://sync.example.test")

	t.Run("that opens the tunnel, all is in order", func(t *testing.T) {
		status, out := doctorSays(t, "orders")
		assert.Zero(t, status)
		assert.Equal(t, "skipped  publish      publishes only with --publish\n", notOK(out))
		assert.Contains(t, out, `ok       proxy        http://ADDRESS
ok       DNS          127.0.0.1 is an address
ok       TCP          connected to ADDRESS
ok       TLS          TLS 1.3, the certificates for sync.example.test are valid for another 74 days
`)
	})
	for _, row := range []struct {
		name   string
		status int
		says   string
	}{
		{"that wants another login", 407, `http://ADDRESS wants a login (status 407)
                      Put the user name and password of the proxy into HTTPS_PROXY, in the form http://user:password@host:port.
`},
		{"that does not allow it", 403, `http://ADDRESS refuses a tunnel to sync.example.test with status 403
                      Ask whoever runs the proxy to allow tunnels to sync.example.test, or put it into NO_PROXY if this machine can do without.
`},
	} {
		t.Run(row.name, func(t *testing.T) {
			answer <- row.status
			defer func() { <-answer }()
			status, out := doctorSays(t, "orders")
			assert.Equal(t, 1, status)
			assert.Equal(t, "failed   proxy        "+row.says+skippedAfter("proxy", "TLS", "HTTP", "access", "service", "stream", "clock", "latency"), notOK(out))
			assert.Contains(t, out, "ok       TCP          connected to ADDRESS\n")
		})
	}
}

func TestDoctorBehindAProxyThatDoesNotRun(t *testing.T) {
	closed := closedPort(t)
	if !alone(t) {
		return
	}
	t.Setenv("HTTPS_PROXY", "http://"+proxyLogin+"@"+closed)
	setUp(t, "https://sync.example.test")
	status, out := doctorSays(t, "orders")
	assert.Equal(t, 1, status)
	assert.Regexp(t, `^failed   TCP          ADDRESS: .*refused.*
                      Check the host and port in HTTPS_PROXY, and that no firewall keeps this machine from ADDRESS.
`, notOK(out))
	assert.Contains(t, out, "ok       proxy        http://ADDRESS\n")
}

func TestDoctorBehindAProxyThatIsReachedWithTLSAndHangsUp(t *testing.T) {
	if !alone(t) {
		return
	}
	t.Setenv("HTTPS_PROXY", strings.Replace(hangsUp(t), "//", "//"+proxyLogin+"@", 1))
	setUp(t, "https://sync.example.test")
	_, out := doctorSays(t, "orders")
	assert.Equal(t, `failed   proxy        https://ADDRESS opens no tunnel to sync.example.test: the connection was closed
                      Check HTTPS_PROXY, and that a proxy is what listens there.
`+skippedAfter("proxy", "TLS", "HTTP", "access", "service", "stream", "clock", "latency"), notOK(out))
}

func TestDoctorNeverShowsAPasswordThatMakesTheProxyAnotherURL(t *testing.T) {
	if !alone(t) {
		return
	}
	t.Setenv("HTTPS_PROXY", "http://clerk:12/hunter-2-hunter@proxy.example.test")
	setUp(t, "https://sync.example.test")
	status, out := doctorSays(t, "orders")
	assert.Equal(t, 1, status)
	assert.Equal(t, `failed   proxy        HTTPS_PROXY is not the URL of a proxy
                      Set HTTPS_PROXY to the form http://host:port or http://user:password@host:port, in which a / or @ of the password is %2F or %40.
`+skippedAfter("proxy", "DNS", "TCP", "TLS", "HTTP", "access", "service", "stream", "clock", "latency"), notOK(out))
}

func TestDoctorSaysThatAProxyIsNotUsed(t *testing.T) {
	if !alone(t) {
		return
	}
	t.Setenv("HTTPS_PROXY", "http://"+proxyLogin+"%@proxy.example.test") // which net/http ignores
	setUp(t, "https://"+nowhere)
	_, out := doctorSays(t, "orders")
	assert.Contains(t, out, "ok       proxy        none for "+nowhere+", although HTTPS_PROXY is set: it is not a URL, or an exception holds\nfailed   DNS ")
}

func TestDoctorSaysOfAMessageOnlyWhatIsProven(t *testing.T) {
	fake := fakeSync()
	server := httptest.NewServer(fake)
	defer server.Close()
	setUp(t, server.URL)
	fake.Next(1).ToOperation("CreateStreamMessage").LoseAnswer()
	status, out := doctorSays(t, "orders", "--publish")
	assert.Equal(t, 1, status)
	assert.Regexp(t, `^failed   publish      unknown: .*; the message may have been published, sending it again may publish it twice
                      Run doctor again, and if it fails again look for a firewall or proxy that cuts connections to ADDRESS.
$`, notOK(out))
	assert.Len(t, fake.Messages("orders"), 1)
}

func TestDoctorEndsWithASignal(t *testing.T) {
	fake := fakeSync()
	server := httptest.NewServer(fake)
	defer server.Close()
	setUp(t, server.URL)
	signals := make(chan os.Signal, 1)
	fake.Next(1).Matching(func(twiliosynctest.Request) bool { signals <- os.Interrupt; return true }).NeverAnswer()
	var out bytes.Buffer
	status := Run([]string{"doctor", "orders"}, Streams{Out: &out, Err: io.Discard}, heard(signals))
	assert.Equal(t, 1, status)
	assert.Equal(t, strings.ReplaceAll(skippedAfter("HTTP", "HTTP", "access", "service", "stream", "clock", "latency", "publish"), "HTTP failed", "interrupted"), notOK(out.String())+"skipped  publish      publishes only with --publish\n")
}

func TestDoctorPublishesNothingAfterASignal(t *testing.T) {
	fake := fakeSync()
	server := httptest.NewServer(fake)
	defer server.Close()
	setUp(t, server.URL)
	signals := make(chan os.Signal, 1)
	reads := 0
	fake.Next(1).ToOperation("ListSyncStream").Matching(func(twiliosynctest.Request) bool {
		if reads++; reads == 3 { // the second of the latency
			signals <- os.Interrupt
		}
		return reads == 3
	}).NeverAnswer()
	var out bytes.Buffer
	status := Run([]string{"doctor", "orders", "--publish"}, Streams{Out: &out, Err: io.Discard}, heard(signals))
	assert.Equal(t, 1, status)
	assert.Equal(t, "skipped  latency      interrupted\nskipped  publish      interrupted\n", notOK(out.String()))
	assert.Empty(t, fake.Messages("orders"))
}

func TestDoctorKeepsTheTerminalFromWhatAServerSays(t *testing.T) {
	fake := fakeSync()
	server := httptest.NewServer(fake)
	defer server.Close()
	setUp(t, server.URL)
	fake.Next(1).ToOperation("CreateStreamMessage").Respond(201, `{"sid":"TZ\u001b[2J\n","data":{}}`)
	_, out := doctorSays(t, "orders", "--publish")
	assert.Contains(t, out, "published TZ [2J  to \"orders\"\n")
}

func TestDoctorPrintsJSONForScripts(t *testing.T) {
	server := httptest.NewServer(fakeSync())
	defer server.Close()
	setUp(t, server.URL)
	status, out := doctorSays(t, "shipments", "-o", "json")
	assert.Equal(t, 1, status)
	found := map[string]map[string]string{}
	for line := range strings.Lines(out) {
		var check map[string]string
		require.NoError(t, json.Unmarshal([]byte(line), &check))
		found[check["check"]] = check
	}
	assert.Len(t, found, 13)
	assert.Equal(t, map[string]string{"check": "access", "result": "ok", "detail": "the credentials are accepted"}, found["access"])
	assert.Equal(t, map[string]string{
		"check": "stream", "result": "failed", "detail": `there is no stream "shipments" in the service "default" (status 404, code 20404)`,
		"remedy": "Check the name, or create the stream with twiliosync streams create: publishing does not.",
	}, found["stream"])
}

func TestDoctorRefusesWrongUsage(t *testing.T) {
	setUp(t, "")
	for _, row := range []struct {
		name string
		args []string
		says string
	}{
		{"publishing to nothing", []string{"--publish"}, "--publish needs a STREAM; the form is: twiliosync doctor [STREAM] [flags]"},
		{"an empty stream", []string{""}, "STREAM is empty; pass a SID or a unique name"},
		{"a stream that can't be one", []string{".."}, "STREAM: a dot segment changes the path of the request; pass a SID or a unique name"},
		{"no service", []string{"-s", ""}, "--service: it is empty; pass a SID or a unique name"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := command("", append([]string{"doctor"}, row.args...)...)
			assert.Equal(t, result{2, "", row.says + "\nSee twiliosync doctor --help\n"}, got)
		})
	}
}
