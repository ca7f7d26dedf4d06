package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// proxy stands before a fake service and holds everything that passes against
// the contract. It changes nothing.
type proxy struct {
	URL      string
	contract *contract
	forward  *httputil.ReverseProxy

	mu        sync.Mutex
	exchanges []*exchange // in order of arrival
}

type exchangeKey struct{}

// setup starts a fake service and a proxy before it. At the end of the test,
// what passed the proxy is counted in the tally.
func setup(t *testing.T, contract *contract, tally *tally, opts ...twiliosynctest.Option) (*twiliosynctest.Server, *proxy) {
	t.Helper()
	fake := twiliosynctest.NewServer(t, opts...)
	target, err := url.Parse(fake.URL)
	require.NoError(t, err)
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	p := &proxy{contract: contract}
	p.forward = &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
		},
		ModifyResponse: p.inspect,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // no answer from the fake, so none from here
		},
	}
	listening := httptest.NewServer(p)
	t.Cleanup(listening.Close)
	p.URL = listening.URL
	t.Cleanup(func() { tally.add(t, p.all()) })
	return fake, p
}

// ServeHTTP validates the request and passes it on.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	x := &exchange{method: r.Method, requestURI: r.RequestURI, header: r.Header.Clone(), body: string(body)}
	p.contract.checkRequest(x)
	p.mu.Lock()
	p.exchanges = append(p.exchanges, x)
	p.mu.Unlock()
	p.forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x)))
}

// inspect validates an answer before it is passed back.
func (p *proxy) inspect(res *http.Response) error {
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	p.mu.Lock()
	defer p.mu.Unlock()
	x := res.Request.Context().Value(exchangeKey{}).(*exchange)
	x.status, x.answerHeader, x.answer = res.StatusCode, res.Header.Clone(), body
	p.contract.checkAnswer(x)
	return nil
}

// all returns the exchanges so far. Those whose answer a client has are
// complete.
func (p *proxy) all() []exchange {
	p.mu.Lock()
	defer p.mu.Unlock()
	exchanges := make([]exchange, len(p.exchanges))
	for i, x := range p.exchanges {
		exchanges[i] = *x
	}
	return exchanges
}

// client returns a client that reaches the fake through the proxy.
func (p *proxy) client(fake *twiliosynctest.Server, opts ...twiliosync.Option) *twiliosync.Client {
	return fake.Client(append(opts, twiliosync.WithBaseURL(p.URL))...)
}

// answer is the status of an answer and Twilio's code in it, 0 if there is none.
type answer struct{ status, code int }

// last returns the last exchange and its answer.
func (p *proxy) last(t *testing.T) (exchange, answer) {
	t.Helper()
	exchanges := p.all()
	require.NotEmpty(t, exchanges)
	x := exchanges[len(exchanges)-1]
	var body struct{ Code int }
	require.NoError(t, json.Unmarshal(x.answer, &body))
	return x, answer{x.status, body.Code}
}

// tally counts what was validated.
type tally struct {
	mu                sync.Mutex
	described, others int // requests
	encoded           int // of the described ones, those with a percent-encoded path
	successes, errors int // answers
	brokenOff         int // requests whose client did not wait for an answer
}

// newTally reports its counts when the test and its subtests have ended.
func newTally(t *testing.T) *tally {
	n := new(tally)
	t.Cleanup(func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		t.Logf("requests validated: %d; %d are as described (the router of kin-openapi found the operation for each, of which %d have a percent-encoded path), %d are not, and were refused",
			n.described+n.others, n.described, n.encoded, n.others)
		t.Logf("answers validated: %d; %d successes against the description, %d errors against the classic shape; %d requests were broken off before the answer",
			n.successes+n.errors, n.successes, n.errors, n.brokenOff)
		assert.Positive(t, n.described+n.others, "no request was validated")
		assert.Positive(t, n.successes+n.errors, "no answer was validated")
	})
	return n
}

// add counts exchanges whose answer has passed validation; for the others the
// test fails.
func (n *tally) add(t *testing.T, exchanges []exchange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range exchanges {
		switch path, _, _ := strings.Cut(x.requestURI, "?"); {
		case x.requestErr != nil:
			n.others++
		case strings.Contains(path, "%"):
			n.encoded++
			n.described++
		default:
			n.described++
		}
		switch {
		case x.status == 0:
			n.brokenOff++
		case !assert.NoError(t, x.answerErr, "the answer %d to %s %s: %s", x.status, x.method, x.requestURI, x.answer):
		case isSuccess(x.status):
			n.successes++
		default:
			n.errors++
		}
	}
}
