package twiliosync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"
)

// version is part of the User-Agent.
const version = "0.1.0"

const (
	defaultBaseURL     = "https://sync.twilio.com"
	defaultTimeout     = 10 * time.Second
	defaultMaxDataSize = 4096
)

// The documented publish rate of a stream: 30 messages a second over a burst
// window of 10 s.
// Source: https://www.twilio.com/docs/sync/limits
const (
	documentedBurst  = 300
	documentedWindow = 10 * time.Second
)

// Client publishes to Twilio Sync. It is reusable and safe for concurrent use;
// make one and keep it, since it holds the connections. Create it with
// [NewClient] or [NewClientFromEnv]: the zero value only returns errors.
type Client struct {
	// StreamMessages publishes messages to the Message Streams of a Sync service.
	StreamMessages *StreamMessageService

	baseURL      *url.URL
	http         *http.Client
	ownTransport bool // then HTTP/1 only is certain
	auth         Authenticator
	header       http.Header // of every request, before authentication
	timeout      time.Duration
	maxDataSize  int
	retry        RetryPolicy
	quota        retryQuota
	limiter      *streamLimiter
	pacesCreate  bool
	log          attemptLog
	observer     func(context.Context, Attempt)
}

// Option changes a setting of a new [Client]; see the functions that begin
// with With. Each refuses nonsense with an error of the constructor.
type Option func(*settings) error

// settings is what options write to, before anything is built from it.
type settings struct {
	baseURL       *url.URL
	region, edge  string
	plaintextHTTP bool
	httpClient    *http.Client
	timeout       time.Duration
	userAgent     string
	maxDataSize   int
	retry         RetryPolicy
	rateLimited   bool
	rateLimit     int
	rateWindow    time.Duration
	log           attemptLog
	observer      func(context.Context, Attempt)
}

// NewClient returns a Client that authenticates with auth, usually [BasicAuth].
// It needs neither network nor environment (except for the proxy variables,
// which the default transport honours as net/http does). An error says which
// argument is wrong and what to do; it never shows a credential.
func NewClient(auth Authenticator, opts ...Option) (*Client, error) {
	s, err := apply(opts)
	if err != nil {
		return nil, err
	}
	return s.client(auth)
}

// NewClientFromEnv returns a Client with the credentials of [BasicAuthFromEnv]
// and with TWILIO_REGION and TWILIO_EDGE as defaults of [WithRegion] and
// [WithEdge]. Options win over the environment; with [WithBaseURL], region and
// edge of the environment are not used.
func NewClientFromEnv(opts ...Option) (*Client, error) {
	auth, err := BasicAuthFromEnv()
	if err != nil {
		return nil, err
	}
	s, err := apply(opts)
	if err != nil {
		return nil, err
	}
	if s.baseURL == nil {
		if err := s.regionFromEnv(); err != nil {
			return nil, err
		}
	}
	return s.client(auth)
}

func (s *settings) regionFromEnv() error {
	for _, variable := range []struct {
		name   string
		field  *string
		option func(string) Option
	}{
		{"TWILIO_REGION", &s.region, WithRegion},
		{"TWILIO_EDGE", &s.edge, WithEdge},
	} {
		value := os.Getenv(variable.name)
		if value == "" || *variable.field != "" {
			continue
		}
		if err := variable.option(value)(s); err != nil {
			return fmt.Errorf("twiliosync: environment variable %s: %w", variable.name, err)
		}
	}
	return nil
}

func apply(opts []Option) (*settings, error) {
	s := &settings{timeout: defaultTimeout, maxDataSize: defaultMaxDataSize, rateLimit: documentedBurst, rateWindow: documentedWindow}
	for i, option := range opts {
		if option == nil {
			return nil, fmt.Errorf("twiliosync: option %d is nil; leave it out", i+1)
		}
		if err := option(s); err != nil {
			return nil, fmt.Errorf("twiliosync: %w", err)
		}
	}
	return s, nil
}

func (s *settings) client(auth Authenticator) (*Client, error) {
	if auth == nil {
		return nil, errors.New("twiliosync: the Authenticator is nil; pass BasicAuth(username, password)")
	}
	if basic, ok := auth.(*basicAuth); ok && basic.reason != "" {
		return nil, fmt.Errorf("twiliosync: BasicAuth: %s", basic.reason)
	}
	base, err := s.base()
	if err != nil {
		return nil, fmt.Errorf("twiliosync: %w", err)
	}
	httpClient, own := s.transport()
	c := &Client{
		baseURL:      base,
		http:         httpClient,
		ownTransport: own,
		auth:         auth,
		header: http.Header{
			"Accept":       {"application/json"},
			"Content-Type": {"application/x-www-form-urlencoded"},
			"User-Agent":   {s.fullUserAgent()},
		},
		timeout:     s.timeout,
		maxDataSize: s.maxDataSize,
		retry:       s.retry.withDefaults(),
		limiter:     newStreamLimiter(s.rateLimit, s.rateWindow),
		pacesCreate: s.rateLimited,
		log:         s.log,
		observer:    s.observer,
	}
	c.StreamMessages = &StreamMessageService{client: c}
	return c, nil
}

func (s *settings) base() (*url.URL, error) {
	if s.baseURL != nil {
		if s.region != "" || s.edge != "" {
			return nil, errors.New("WithBaseURL can't be combined with WithRegion or WithEdge; the base URL names the host already")
		}
		if s.baseURL.Scheme == "http" && !s.plaintextHTTP && !isLoopback(s.baseURL.Hostname()) {
			return nil, errors.New("WithBaseURL: http sends credentials in the clear; use https, or WithPlaintextHTTP if that is what you want")
		}
		return s.baseURL, nil
	}
	region := s.region
	if region == "" && s.edge != "" {
		region = "us1"
	}
	host := "sync."
	for _, label := range []string{s.edge, region} {
		if label != "" {
			host += label + "."
		}
	}
	return url.Parse("https://" + host + "twilio.com")
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
}

// transport returns a copy of the caller's http.Client, or our own, and
// whether its transport is ours.
func (s *settings) transport() (*http.Client, bool) {
	httpClient := &http.Client{}
	if s.httpClient != nil {
		*httpClient = *s.httpClient
	}
	httpClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own := httpClient.Transport == nil
	if own {
		httpClient.Transport = newTransport()
	}
	httpClient.Transport = readableRedirects{httpClient.Transport}
	return httpClient, own
}

// readableRedirects takes an unreadable Location off a redirect: [http.Client]
// would report an error in place of the answer, although it is not to follow.
type readableRedirects struct{ http.RoundTripper }

func (t readableRedirects) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.RoundTripper.RoundTrip(req)
	if err == nil && res != nil && res.StatusCode >= 300 && res.StatusCode < 400 {
		if _, unreadable := req.URL.Parse(res.Header.Get("Location")); unreadable != nil {
			res.Header.Del("Location")
		}
	}
	return res, err
}

// CloseIdleConnections passes on what http.Client asks for.
func (t readableRedirects) CloseIdleConnections() {
	if closer, ok := t.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

// newTransport is made for many small POSTs to one host. HTTP/1 only: on
// HTTP/2, net/http (up to Go 1.26) sends a POST again when the peer reports a
// PROTOCOL_ERROR.
func newTransport() *http.Transport {
	const connections = 256 // idle ones kept; fewer than the callers' concurrency would mean reconnecting all the time
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		Protocols:              protocols,
		MaxIdleConns:           connections,
		MaxIdleConnsPerHost:    connections,
		IdleConnTimeout:        30 * time.Second, // before a load balancer closes them under our hands
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
}

func (s *settings) fullUserAgent() string {
	goVersion := strings.ReplaceAll(strings.TrimPrefix(runtime.Version(), "go"), " ", "-")
	userAgent := fmt.Sprintf("twiliosync-go/%s (%s; %s) go/%s", version, runtime.GOOS, runtime.GOARCH, goVersion)
	if s.userAgent != "" {
		userAgent += " " + s.userAgent
	}
	return userAgent
}

// CloseIdleConnections closes the connections that no call is using, as
// [http.Client.CloseIdleConnections] does. The Client stays usable.
func (c *Client) CloseIdleConnections() {
	if c != nil && c.http != nil {
		c.http.CloseIdleConnections()
	}
}

// attemptContext bounds one attempt.
func (c *Client) attemptContext(ctx context.Context) (context.Context, context.CancelFunc) {
	if c.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.timeout)
}

// WithBaseURL replaces the address of the API, by default
// https://sync.twilio.com. A path is a prefix of every request's path. User
// info, a query, a fragment, and plain http to anything but the own machine
// (see [WithPlaintextHTTP]) are refused.
func WithBaseURL(rawURL string) Option {
	return func(s *settings) error {
		base, err := url.Parse(rawURL)
		if err != nil { // whose text may show credentials
			return errors.New("WithBaseURL: this is not a URL; use the form https://host or https://host/prefix")
		}
		switch {
		case base.Scheme != "https" && base.Scheme != "http":
			return errors.New("WithBaseURL: the URL must begin with https://")
		case base.Hostname() == "":
			return errors.New("WithBaseURL: the URL has no host; use the form https://host or https://host/prefix")
		case base.User != nil:
			return errors.New("WithBaseURL: credentials don't belong into the URL; pass them to BasicAuth")
		case strings.ContainsAny(rawURL, "?#"):
			return errors.New("WithBaseURL: the URL has a query or a fragment; leave it out")
		}
		base.RawPath = strings.TrimRight(base.EscapedPath(), "/")
		base.Path, err = url.PathUnescape(base.RawPath)
		s.baseURL = base
		return err
	}
}

// isDNSLabel does without package regexp, which adds 250 KB to a program.
func isDNSLabel(s string) bool {
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-"
	return s != "" && len(s) <= 63 && strings.Trim(s, allowed) == "" && s == strings.Trim(s, "-")
}

// WithRegion chooses the processing region, as in
// https://sync.{edge}.{region}.twilio.com. It must be one DNS label, and can't
// be combined with [WithBaseURL]. Twilio lists Sync for us1 only.
//
// Source: https://www.twilio.com/docs/global-infrastructure/regional-product-and-feature-availability
func WithRegion(region string) Option {
	return func(s *settings) error {
		if !isDNSLabel(region) {
			return errors.New(`WithRegion: a region is one DNS label such as "us1"`)
		}
		s.region = region
		return nil
	}
}

// WithEdge chooses the edge location, as in
// https://sync.{edge}.{region}.twilio.com. Without a region it implies us1. It
// must be one DNS label, and can't be combined with [WithBaseURL].
//
// Source: https://www.twilio.com/docs/global-infrastructure/edge-locations
func WithEdge(edge string) Option {
	return func(s *settings) error {
		if !isDNSLabel(edge) {
			return errors.New(`WithEdge: an edge is one DNS label such as "ashburn"`)
		}
		s.edge = edge
		return nil
	}
}

// WithPlaintextHTTP allows a base URL with http:// beyond the own machine. It
// sends credentials and data in the clear.
func WithPlaintextHTTP() Option {
	return func(s *settings) error {
		s.plaintextHTTP = true
		return nil
	}
}

// WithHTTPClient sends through a copy of c, which itself is never changed. Its
// Transport, Jar and Timeout are used, its CheckRedirect is not: redirects stay
// off. A nil Transport means the SDK's own.
//
// The own transport proves more: it speaks HTTP/1 only and keeps 256 idle
// connections. With a transport that speaks HTTP/2, net/http may send a message
// again by itself; with one that sends again, adds an Idempotency-Key, or
// reports no httptrace events, outcomes can only be as certain as it allows. It
// also can't tell a proxy's 407 from other failures, which are tried again.
func WithHTTPClient(c *http.Client) Option {
	return func(s *settings) error {
		if c == nil {
			return errors.New("WithHTTPClient: the client is nil; leave the option out")
		}
		s.httpClient = c
		return nil
	}
}

// WithTimeout bounds each attempt, from authentication to the last byte of the
// answer. Default 10 s; 0 leaves the bound to the context, which always covers
// the whole call with its waits.
func WithTimeout(perAttempt time.Duration) Option {
	return func(s *settings) error {
		if perAttempt < 0 {
			return errors.New("WithTimeout: the timeout is negative; use 0 for none")
		}
		s.timeout = perAttempt
		return nil
	}
}

// WithUserAgent appends suffix, such as "orders-api/2.1", to the User-Agent
// header. It must be printable ASCII.
func WithUserAgent(suffix string) Option {
	return func(s *settings) error {
		if suffix == "" || suffix != strings.TrimSpace(suffix) || strings.ContainsFunc(suffix, func(r rune) bool { return r < ' ' || r > '~' }) {
			return errors.New(`WithUserAgent: the suffix must be printable ASCII such as "orders-api/2.1"`)
		}
		s.userAgent = suffix
		return nil
	}
}

// WithMaxDataSize replaces the limit for a message, in bytes of JSON. Default
// 4096, Twilio's documented 4 KiB "as serialized JSON"; 0 leaves the check to
// the server.
func WithMaxDataSize(bytes int) Option {
	return func(s *settings) error {
		if bytes < 0 {
			return errors.New("WithMaxDataSize: the size is negative; use 0 to leave the check to the server")
		}
		s.maxDataSize = bytes
		return nil
	}
}

// WithRetryPolicy replaces the retry rules; see [RetryPolicy].
func WithRetryPolicy(p RetryPolicy) Option {
	return func(s *settings) error {
		if err := p.validate(); err != nil {
			return fmt.Errorf("WithRetryPolicy: %w", err)
		}
		s.retry = p
		return nil
	}
}

// WithStreamRateLimit paces Create, which by default is not paced: at most
// messages attempts start in any window of a stream, further ones wait for
// their turn. If the turn would come after the context's deadline, Create
// returns at once with [OutcomeNotSent] and an error that matches
// context.DeadlineExceeded. A 429 pauses its stream. CreateAll uses this limit
// in place of 300 messages in 10 s, as which it reads the documented 30 per
// second with a burst window of 10 s. The longest window is a day.
//
// Source: https://www.twilio.com/docs/sync/limits
func WithStreamRateLimit(messages int, window time.Duration) Option {
	return func(s *settings) error {
		const longest = 24 * time.Hour
		if messages <= 0 || window <= 0 || window > longest {
			return errors.New("WithStreamRateLimit: messages and window must be above zero, and the window at most a day, such as 300 and 10*time.Second")
		}
		s.rateLimited, s.rateLimit, s.rateWindow = true, messages, window
		return nil
	}
}

// WithLogger logs every attempt at level Debug, and at Warn if its outcome is
// unknown. The fields are attempt, outcome, status, code, latency, delay,
// request_id, and of service and stream the last four characters, if there are
// more; never data.
func WithLogger(l *slog.Logger) Option {
	return func(s *settings) error {
		if l == nil {
			return errors.New("WithLogger: the logger is nil; leave the option out")
		}
		s.log = slogLog{l}
		return nil
	}
}

// WithObserver calls observe after each attempt, with the context of the call,
// before the delay that follows. It may be called concurrently. A panic in it
// is caught, and logged if there is a logger.
func WithObserver(observe func(context.Context, Attempt)) Option {
	return func(s *settings) error {
		if observe == nil {
			return errors.New("WithObserver: the function is nil; leave the option out")
		}
		s.observer = observe
		return nil
	}
}
