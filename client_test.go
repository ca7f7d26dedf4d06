package twiliosync_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

const (
	testUser   = "SK0123456789abcdef0123456789abcdef"
	testSecret = "s3cr3t/with+signs=0123456789abcdef"
	testSID    = "TZ00000000000000000000000000000000"
	testAnswer = `{"sid":"` + testSID + `","data":{"a":1}}`
)

// recorder is a server below a base path that keeps what arrives as it
// arrives, and answers what a test wants.
type recorder struct {
	mu       sync.Mutex
	requests []recorded
	answer   http.HandlerFunc
}

type recorded struct {
	requestURI string
	method     string
	host       string
	header     http.Header
	body       string
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	r.requests = append(r.requests, recorded{req.RequestURI, req.Method, req.Host, req.Header, string(body)})
	r.mu.Unlock()
	r.answer(w, req)
}

func (r *recorder) all() []recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// setup returns a client of a recording server below a path prefix. It answers
// 201 unless the test changes server.answer.
func setup(t *testing.T, opts ...twiliosync.Option) (*twiliosync.Client, *recorder) {
	t.Helper()
	server := &recorder{answer: answer(http.StatusCreated, testAnswer)}
	return clientOf(t, server, twiliosync.BasicAuth(testUser, testSecret), opts...), server
}

// clientOf returns a client of a handler, for tests about authentication.
func clientOf(t *testing.T, handler http.Handler, auth twiliosync.Authenticator, opts ...twiliosync.Option) *twiliosync.Client {
	t.Helper()
	listening := httptest.NewServer(handler)
	t.Cleanup(listening.Close)
	client, err := twiliosync.NewClient(auth, append(opts, twiliosync.WithBaseURL(listening.URL+"/prefix/"))...)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// publish makes the call of tests that are about something else.
func publish(client *twiliosync.Client) (*twiliosync.StreamMessage, *twiliosync.Response, error) {
	return client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"a": 1})
}

func asError(t *testing.T, err error) *twiliosync.Error {
	t.Helper()
	var e *twiliosync.Error
	require.ErrorAs(t, err, &e)
	return e
}

func TestRequestOnTheWireByteForByte(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	received := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		var wire bytes.Buffer
		req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &wire)))
		if err == nil {
			io.Copy(io.Discard, req.Body)
			fmt.Fprintf(conn, "HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s", len(testAnswer), testAnswer)
		}
		received <- wire.String()
	}()
	client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "token"), twiliosync.WithBaseURL("http://"+listener.Addr().String()), twiliosync.WithUserAgent("orders-api/2.1"))
	require.NoError(t, err)
	defer client.CloseIdleConnections()

	_, _, err = client.StreamMessages.Create(context.Background(), "default", "orders#1", map[string]any{"text": "a & <b>"})

	require.NoError(t, err)
	body := "Data=%7B%22text%22%3A%22a+%26+%3Cb%3E%22%7D"
	assert.Equal(t, strings.Join([]string{
		"POST /v1/Services/default/Streams/orders%231/Messages HTTP/1.1",
		"Host: " + listener.Addr().String(),
		"User-Agent: twiliosync-go/0.1.0 (" + runtime.GOOS + "; " + runtime.GOARCH + ") go/" + strings.TrimPrefix(runtime.Version(), "go") + " orders-api/2.1",
		fmt.Sprintf("Content-Length: %d", len(body)),
		"Accept: application/json",
		"Accept-Encoding: identity",
		"Authorization: Basic QUMxOnRva2Vu",
		"Content-Type: application/x-www-form-urlencoded",
		"", body,
	}, "\r\n"), <-received)
}

func TestEachIdentifierIsOnePathSegment(t *testing.T) {
	longest := strings.Repeat("ü", 320)
	for _, identifier := range []string{
		"IS0123456789abcdef0123456789abcdef", "default", "orders#1", "a/b", "a?b=c", "50%", "%2F", "a\\b", "two words",
		"a+b", "a&b=c;d,e", "user@host:8080", "it's \"quoted\"", "<tag>", "[0]", "^`{|}~", "...", ".hidden", "a/..b", "//", "?", "#",
		"日本語", "😀", "e\u0301", "a\u200bb", "A\u00a0B", longest,
	} {
		t.Run(identifier[:min(len(identifier), 20)], func(t *testing.T) {
			client, server := setup(t)
			_, _, err := client.StreamMessages.Create(context.Background(), identifier, identifier, map[string]any{"a": 1})
			require.NoError(t, err)
			require.Len(t, server.all(), 1)

			segments := strings.Split(server.all()[0].requestURI, "/")
			require.Len(t, segments, 8, server.all()[0].requestURI)
			for i, want := range []string{"", "prefix", "v1", "Services", identifier, "Streams", identifier, "Messages"} {
				got, err := url.PathUnescape(segments[i])
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
			assert.NotContains(t, server.all()[0].requestURI, "?")
		})
	}
}

func TestBaseURL(t *testing.T) {
	for _, test := range []struct{ name, base, path string }{
		{"no path", "", "/v1/Services/default/Streams/orders/Messages"},
		{"a slash", "/", "/v1/Services/default/Streams/orders/Messages"},
		{"a prefix", "/a/b", "/a/b/v1/Services/default/Streams/orders/Messages"},
		{"a prefix with a trailing slash", "/a/", "/a/v1/Services/default/Streams/orders/Messages"},
		{"an encoded slash in the prefix stays encoded", "/a%2Fb%2F", "/a%2Fb%2F/v1/Services/default/Streams/orders/Messages"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := &recorder{answer: answer(201, testAnswer)}
			listening := httptest.NewServer(server)
			defer listening.Close()
			client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "token"), twiliosync.WithBaseURL(listening.URL+test.base))
			require.NoError(t, err)
			_, _, err = publish(client)
			require.NoError(t, err)
			assert.Equal(t, test.path, server.all()[0].requestURI)
		})
	}
}

func TestConstructorRefusesNonsense(t *testing.T) {
	auth := twiliosync.BasicAuth("AC1", "token")
	with := func(opts ...twiliosync.Option) func() (*twiliosync.Client, error) {
		return func() (*twiliosync.Client, error) { return twiliosync.NewClient(auth, opts...) }
	}
	withAuth := func(username, password string) func() (*twiliosync.Client, error) {
		return func() (*twiliosync.Client, error) {
			return twiliosync.NewClient(twiliosync.BasicAuth(username, password))
		}
	}
	for _, test := range []struct {
		name  string
		build func() (*twiliosync.Client, error)
		says  string
	}{
		{"no Authenticator", func() (*twiliosync.Client, error) { return twiliosync.NewClient(nil) }, "BasicAuth"},
		{"a nil option", with(nil), "option 1 is nil"},
		{"an empty user name", withAuth("", "token"), "user name is empty"},
		{"an empty password", withAuth("AC1", ""), "password is empty"},
		{"a user name with a colon", withAuth("AC1:x", "token"), "colon"},
		{"a user name with a line break", withAuth("AC1\n", "token"), "line break"},
		{"a password with a trailing space", withAuth("AC1", "token "), "space"},
		{"a password with a control character", withAuth("AC1", "to\x00ken"), "control character"},
		{"an empty base URL", with(twiliosync.WithBaseURL("")), "https://"},
		{"a base URL without scheme", with(twiliosync.WithBaseURL("sync.twilio.com")), "https://"},
		{"a base URL without host", with(twiliosync.WithBaseURL("https:///v1")), "no host"},
		{"an opaque base URL", with(twiliosync.WithBaseURL("https:sync.twilio.com")), "no host"},
		{"a base URL with only a port", with(twiliosync.WithBaseURL("https://:443")), "no host"},
		{"another scheme", with(twiliosync.WithBaseURL("ftp://sync.twilio.com")), "https://"},
		{"a base URL with user info", with(twiliosync.WithBaseURL("https://AC1:token@sync.twilio.com")), "BasicAuth"},
		{"a base URL with a query", with(twiliosync.WithBaseURL("https://sync.twilio.com?x=1")), "query"},
		{"a base URL with an empty query", with(twiliosync.WithBaseURL("https://sync.twilio.com?")), "query"},
		{"a base URL with a fragment", with(twiliosync.WithBaseURL("https://sync.twilio.com#")), "fragment"},
		{"plain http beyond loopback", with(twiliosync.WithBaseURL("http://sync.twilio.com")), "WithPlaintextHTTP"},
		{"plain http to a name that only begins like loopback", with(twiliosync.WithBaseURL("http://127.0.0.1.example.com")), "WithPlaintextHTTP"},
		{"an empty region", with(twiliosync.WithRegion("")), "us1"},
		{"a region that is two labels", with(twiliosync.WithRegion("us1.evil")), "us1"},
		{"a region with a slash", with(twiliosync.WithRegion("us1/")), "us1"},
		{"an edge that begins with a hyphen", with(twiliosync.WithEdge("-x")), "ashburn"},
		{"an edge of 64 characters", with(twiliosync.WithEdge(strings.Repeat("a", 64))), "ashburn"},
		{"a base URL and an edge", with(twiliosync.WithBaseURL("https://example.com"), twiliosync.WithEdge("ashburn")), "WithBaseURL"},
		{"a region and a base URL", with(twiliosync.WithRegion("us1"), twiliosync.WithBaseURL("https://example.com")), "WithBaseURL"},
		{"a nil http.Client", with(twiliosync.WithHTTPClient(nil)), "WithHTTPClient"},
		{"a nil logger", with(twiliosync.WithLogger(nil)), "WithLogger"},
		{"a nil observer", with(twiliosync.WithObserver(nil)), "WithObserver"},
		{"a negative timeout", with(twiliosync.WithTimeout(-1)), "negative"},
		{"a negative data size", with(twiliosync.WithMaxDataSize(-1)), "negative"},
		{"negative attempts", with(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: -1})), "negative"},
		{"a negative delay", with(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: -1})), "negative"},
		{"a negative largest delay", with(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxDelay: -1})), "negative"},
		{"a base delay above the largest", with(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: 2, MaxDelay: 1})), "MaxDelay"},
		{"a rate of no messages", with(twiliosync.WithStreamRateLimit(0, time.Second)), "above zero"},
		{"a rate without window", with(twiliosync.WithStreamRateLimit(1, 0)), "above zero"},
		{"a rate over a year", with(twiliosync.WithStreamRateLimit(1, 365*24*time.Hour)), "at most a day"},
		{"an empty User-Agent", with(twiliosync.WithUserAgent("")), "WithUserAgent"},
		{"a User-Agent with a line break", with(twiliosync.WithUserAgent("a\r\nX-Evil: 1")), "WithUserAgent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, err := test.build()
			require.Error(t, err)
			assert.Nil(t, client)
			assert.Contains(t, err.Error(), test.says)
			assert.True(t, strings.HasPrefix(err.Error(), "twiliosync: "), err.Error())
			assert.NotContains(t, err.Error(), "AC1:", "the value must not be shown")
		})
	}
}

func TestConstructorAccepts(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []twiliosync.Option
	}{
		{"plain http to localhost", []twiliosync.Option{twiliosync.WithBaseURL("http://localhost:8080")}},
		{"plain http to the whole 127.0.0.0/8", []twiliosync.Option{twiliosync.WithBaseURL("http://127.1.2.3")}},
		{"plain http to ::1", []twiliosync.Option{twiliosync.WithBaseURL("http://[::1]:8080")}},
		{"plain http anywhere if asked for, in any order", []twiliosync.Option{twiliosync.WithBaseURL("http://example.com"), twiliosync.WithPlaintextHTTP()}},
		{"zero for everything that has a zero", []twiliosync.Option{twiliosync.WithTimeout(0), twiliosync.WithMaxDataSize(0), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{})}},
		{"a base delay above the default of the largest", []twiliosync.Option{twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Minute})}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "token"), test.opts...)
			assert.NoError(t, err)
		})
	}
}

// roundTripFunc is a transport in memory.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestHostOfRegionAndEdge(t *testing.T) {
	for _, test := range []struct {
		name, wantHost string
		env            map[string]string
		opts           []twiliosync.Option
	}{
		{name: "neither", wantHost: "sync.twilio.com"},
		{name: "a region", wantHost: "sync.us1.twilio.com", opts: []twiliosync.Option{twiliosync.WithRegion("us1")}},
		{name: "an edge implies us1", wantHost: "sync.ashburn.us1.twilio.com", opts: []twiliosync.Option{twiliosync.WithEdge("ashburn")}},
		{name: "both", wantHost: "sync.sydney.au1.twilio.com", opts: []twiliosync.Option{twiliosync.WithRegion("au1"), twiliosync.WithEdge("sydney")}},
		{name: "the environment", wantHost: "sync.dublin.ie1.twilio.com", env: map[string]string{"TWILIO_REGION": "ie1", "TWILIO_EDGE": "dublin"}},
		{name: "an option wins over its variable", wantHost: "sync.dublin.us1.twilio.com", env: map[string]string{"TWILIO_REGION": "ie1", "TWILIO_EDGE": "dublin"}, opts: []twiliosync.Option{twiliosync.WithRegion("us1")}},
		{name: "a base URL wins over the environment", wantHost: "example.com", env: map[string]string{"TWILIO_REGION": "ie1", "TWILIO_EDGE": "not a label"}, opts: []twiliosync.Option{twiliosync.WithBaseURL("https://example.com")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			setEnvironment(t, test.env)
			t.Setenv("TWILIO_API_KEY", "SK1")
			t.Setenv("TWILIO_API_SECRET", "secret")
			var host string
			transport := roundTripFunc(func(req *http.Request) (*http.Response, error) {
				host = req.URL.Host
				return &http.Response{StatusCode: 201, Body: io.NopCloser(strings.NewReader(testAnswer))}, nil
			})
			client, err := twiliosync.NewClientFromEnv(append(test.opts, twiliosync.WithHTTPClient(&http.Client{Transport: transport}))...)
			require.NoError(t, err)
			_, _, err = publish(client)
			require.NoError(t, err)
			assert.Equal(t, test.wantHost, host)
		})
	}
}

// setEnvironment clears the variables that the SDK reads and sets those given.
func setEnvironment(t *testing.T, env map[string]string) {
	for _, name := range []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_REGION", "TWILIO_EDGE"} {
		t.Setenv(name, env[name])
	}
}

func TestRegionOfTheEnvironmentIsChecked(t *testing.T) {
	setEnvironment(t, map[string]string{"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "secret", "TWILIO_EDGE": "a.b"})
	_, err := twiliosync.NewClientFromEnv()
	require.Error(t, err)
	assert.Contains(t, err.Error(), "TWILIO_EDGE")
}

func TestZeroValuesReturnErrors(t *testing.T) {
	var (
		noClient  *twiliosync.Client
		noService *twiliosync.StreamMessageService
		client    = &twiliosync.Client{}
		working   = func() *twiliosync.Client { c, _ := setup(t); return c }()
	)
	noClient.CloseIdleConnections()
	client.CloseIdleConnections()
	for _, test := range []struct {
		name      string
		service   *twiliosync.StreamMessageService
		ctx       context.Context
		parameter string
	}{
		{"a nil service", noService, context.Background(), "client"},
		{"the service of a zero client", client.StreamMessages, context.Background(), "client"},
		{"a zero service", &twiliosync.StreamMessageService{}, context.Background(), "client"},
		{"a nil context", working.StreamMessages, nil, "ctx"},
	} {
		t.Run(test.name, func(t *testing.T) {
			message, response, err := test.service.Create(test.ctx, "default", "orders", map[string]any{})
			assert.Nil(t, message)
			assert.Nil(t, response)
			var parameter *twiliosync.ParameterError
			require.ErrorAs(t, err, &parameter)
			assert.Equal(t, test.parameter, parameter.Parameter)
			assert.Equal(t, twiliosync.OutcomeNotSent, twiliosync.OutcomeOf(err))
		})
	}
}

func TestCallersHTTPClientIsCopied(t *testing.T) {
	redirects := 0
	own := &http.Client{
		Transport:     http.DefaultTransport,
		CheckRedirect: func(*http.Request, []*http.Request) error { redirects++; return nil },
		Timeout:       time.Minute,
	}
	client, server := setup(t, twiliosync.WithHTTPClient(own))
	server.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}

	_, _, err := publish(client)

	assert.Equal(t, 307, asError(t, err).StatusCode)
	assert.Len(t, server.all(), 1, "the redirect must not be followed")
	assert.Zero(t, redirects)
	assert.NotNil(t, own.CheckRedirect)
	assert.Equal(t, time.Minute, own.Timeout)
	assert.Equal(t, http.DefaultTransport, own.Transport)
}

func TestDefaultTransportWithACallersClientWithoutTransport(t *testing.T) {
	own := &http.Client{}
	client, server := setup(t, twiliosync.WithHTTPClient(own))
	_, response, err := publish(client)
	require.NoError(t, err)
	assert.Nil(t, own.Transport)
	assert.Equal(t, 1, response.Sends)
	assert.Equal(t, []string{"identity"}, server.all()[0].header["Accept-Encoding"], "no compression is asked for")
}

// TestProxyOfTheEnvironment needs a process of its own: net/http reads the
// variables once.
func TestProxyOfTheEnvironment(t *testing.T) {
	if os.Getenv("TWILIOSYNC_TEST_PROXY") != "" {
		client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "token"), twiliosync.WithBaseURL("http://sync.example.invalid"), twiliosync.WithPlaintextHTTP())
		require.NoError(t, err)
		_, _, err = publish(client)
		require.NoError(t, err)
		return
	}
	proxy := &recorder{answer: answer(201, testAnswer)}
	listening := httptest.NewServer(proxy)
	defer listening.Close()
	child := exec.Command(os.Args[0], "-test.run=^TestProxyOfTheEnvironment$")
	child.Env = append(os.Environ(), "TWILIOSYNC_TEST_PROXY=1", "HTTP_PROXY="+listening.URL, "NO_PROXY=")
	output, err := child.CombinedOutput()
	require.NoError(t, err, string(output))
	require.Len(t, proxy.all(), 1)
	assert.Equal(t, "http://sync.example.invalid/v1/Services/default/Streams/orders/Messages", proxy.all()[0].requestURI)
}
