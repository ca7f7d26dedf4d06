package intermediaries

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

const messages = 2000

type scenario struct {
	name   string
	proxy  func(*testing.T, string) *proxy
	then   func(http.ResponseWriter, int)
	reload bool // the proxy, again and again
	must   twiliosync.Outcome
}

// The errorfile and error_page of the maintenance pages have the Retry-After
// that Varnish's own has.
var scenarios = []scenario{
	{"nginx is reloaded", nginx(""), slowly, true, twiliosync.OutcomeAccepted},
	{"HAProxy is reloaded", haproxy(""), slowly, true, twiliosync.OutcomeAccepted},
	{"nginx, the service dies", nginx(""), every(5, die), false, twiliosync.OutcomeUnknown},
	{"HAProxy, the service dies", haproxy(""), every(5, die), false, twiliosync.OutcomeUnknown},
	{"Varnish, the service dies, its page has a Retry-After", varnish, every(5, die), false, twiliosync.OutcomeUnknown},
	{"nginx, the service dies, a maintenance page", nginx("error_page 502 504 =503 /page; add_header Retry-After 1 always;"), every(5, die), false, twiliosync.OutcomeUnknown},
	{"HAProxy, the service dies, a maintenance page", haproxy(`http-error status 502 content-type text/html string "<html>maintenance</html>" hdr Retry-After 1`), every(5, die), false, twiliosync.OutcomeUnknown},
	{"HAProxy, the service is too slow", haproxy(""), every(50, dawdle), false, twiliosync.OutcomeUnknown},
	{"nginx turns the service's errors into a 403", nginx("proxy_intercept_errors on; error_page 500 =403 /page;"), every(5, fail), false, twiliosync.OutcomeUnknown},
	{"nginx turns the service's errors into a 404", nginx("proxy_intercept_errors on; error_page 500 =404 /page;"), every(5, fail), false, twiliosync.OutcomeUnknown},
	{"Squid's reply filter denies what the service has answered", squid("http_port 127.0.0.1:{port} accel defaultsite=sync.example no-vhost\ncache_peer {peer}\nhttp_access allow all\nhttp_reply_access deny all"), accept, false, twiliosync.OutcomeUnknown},
	{"nginx limits the rate with 503", nginx("limit_req zone=all burst=5 nodelay;"), accept, false, twiliosync.OutcomeUnknown},
	{"nginx limits the rate with 429", nginx("limit_req zone=all burst=5 nodelay; limit_req_status 429;"), accept, false, twiliosync.OutcomeAccepted},
	{"nginx limits the body", nginx("client_max_body_size 10;"), accept, false, twiliosync.OutcomeUnknown},
}

func TestPublishingThroughIntermediaries(t *testing.T) {
	for _, test := range scenarios {
		t.Run(test.name, func(t *testing.T) {
			behind := newService(t, false, test.then)
			proxy := test.proxy(t, strings.TrimPrefix(behind.URL, "http://"))
			client := newClient(t, twiliosync.WithBaseURL("http://"+proxy.address))
			stop := make(chan struct{})
			if test.reload {
				go func() {
					for range 20 {
						select {
						case <-stop:
							return
						case <-time.After(40 * time.Millisecond):
							proxy.process.Signal(proxy.reload)
						}
					}
				}()
			}
			outcomes := publish(t, client, behind)
			close(stop)
			assert.NotZero(t, outcomes[test.must], "else the scenario tries nothing")
		})
	}
}

func TestTunnels(t *testing.T) {
	const rules = `
auth_param basic program /usr/lib/squid/basic_ncsa_auth {dir}/users
acl known proxy_auth REQUIRED
http_port 127.0.0.1:{port}
`
	for _, test := range []struct {
		name, rules string
		user        *url.Userinfo
		must        twiliosync.Outcome
	}{
		{"Squid opens the tunnel", "http_port 127.0.0.1:{port}\nhttp_access allow all", nil, twiliosync.OutcomeAccepted},
		{"Squid asks for a password: 407", rules + "http_access allow known\nhttp_access deny all", nil, twiliosync.OutcomeNotSent},
		{"Squid forbids the target: 403", "http_port 127.0.0.1:{port}\nhttp_access deny all", nil, twiliosync.OutcomeNotSent},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := os.Stat("/usr/lib/squid/basic_ncsa_auth"); err != nil {
				t.Skip("squid is not installed")
			}
			behind := newService(t, true, accept)
			proxy := squid(test.rules)(t, strings.TrimPrefix(behind.URL, "https://"))
			transport := &http.Transport{
				Proxy:           http.ProxyURL(&url.URL{Scheme: "http", Host: proxy.address, User: test.user}),
				TLSClientConfig: behind.Client().Transport.(*http.Transport).TLSClientConfig.Clone(),
				Protocols:       new(http.Protocols), MaxIdleConnsPerHost: 64,
			}
			transport.Protocols.SetHTTP1(true)
			transport.TLSClientConfig.MinVersion = tls.VersionTLS12
			outcomes := publish(t, newClient(t, twiliosync.WithBaseURL(behind.URL), twiliosync.WithHTTPClient(&http.Client{Transport: transport})), behind)
			assert.Equal(t, messages, outcomes[test.must])
		})
	}
}

func newClient(t *testing.T, opts ...twiliosync.Option) *twiliosync.Client {
	t.Helper()
	client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC0123456789abcdef0123456789abcdef", "secret"), append(opts,
		twiliosync.WithTimeout(5*time.Second), twiliosync.WithStreamRateLimit(100_000, time.Second),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Millisecond, MaxDelay: 2 * time.Second}))...)
	require.NoError(t, err)
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// publish sends the messages with the default rules, and compares each outcome
// with what the service has handled.
func publish(t *testing.T, client *twiliosync.Client, behind *service) map[twiliosync.Outcome]int {
	t.Helper()
	input := func(yield func(twiliosync.StreamMessageRequest) bool) {
		for id := 1; id <= messages; id++ {
			if !yield(twiliosync.StreamMessageRequest{StreamSID: fmt.Sprint("stream-", id%20), Data: map[string]int{"id": id}}) {
				return
			}
		}
	}
	outcomes := map[twiliosync.Outcome]int{}
	duplicates, wrong := 0, 0
	var examples []error
	for result := range client.StreamMessages.CreateAll(context.Background(), "default", input, &twiliosync.CreateAllOptions{Concurrency: 32}) {
		outcome := twiliosync.OutcomeOf(result.Err)
		outcomes[outcome]++
		handled := behind.count(result.Index + 1)
		if handled > 1 {
			duplicates++
		}
		if claimsNothing := outcome == twiliosync.OutcomeNotSent || outcome == twiliosync.OutcomeRejected; claimsNothing && handled > 0 || outcome == twiliosync.OutcomeAccepted && handled == 0 {
			wrong++
			examples = append(examples, result.Err)
		}
	}
	t.Logf("| %s | %d | accepted %d | rejected %d | not sent %d | unknown %d | duplicates %d | wrong %d |", t.Name(), messages,
		outcomes[twiliosync.OutcomeAccepted], outcomes[twiliosync.OutcomeRejected], outcomes[twiliosync.OutcomeNotSent], outcomes[twiliosync.OutcomeUnknown], duplicates, wrong)
	assert.Zero(t, duplicates, "duplicates")
	assert.Zero(t, wrong, "called not sent or rejected, but handled, or accepted, but never handled: %v", examples[:min(len(examples), 3)])
	return outcomes
}
