package twiliosync

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strings"
)

// version is part of the User-Agent.
const version = "0.1.0"

// Client publishes to Twilio Sync. It is reusable and safe for concurrent use;
// make one and keep it, since it holds the connections. Create it with
// [NewClient] or [NewClientFromEnv]: the zero value only returns errors.
type Client struct {
	// StreamMessages publishes messages to the Message Streams of a Sync service.
	StreamMessages *StreamMessageService
	// Streams manages the Message Streams of a Sync service.
	Streams *StreamService

	sender *sender // what the services share
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
// and with TWILIO_SYNC_BASE_URL, or else TWILIO_REGION and TWILIO_EDGE, as
// defaults of [WithBaseURL], [WithRegion] and [WithEdge]. Options win over the
// environment: with one of these three, none of the variables is used, but
// that region and edge complete each other.
func NewClientFromEnv(opts ...Option) (*Client, error) {
	auth, err := BasicAuthFromEnv()
	if err != nil {
		return nil, err
	}
	s, err := apply(opts)
	if err != nil {
		return nil, err
	}
	if err := s.addressFromEnv(); err != nil {
		return nil, err
	}
	return s.client(auth)
}

func (s *settings) addressFromEnv() error {
	if s.baseURL != nil {
		return nil
	}
	if s.region == "" && s.edge == "" && os.Getenv("TWILIO_SYNC_BASE_URL") != "" {
		return s.fromEnv("TWILIO_SYNC_BASE_URL", WithBaseURL)
	}
	if s.region == "" {
		if err := s.fromEnv("TWILIO_REGION", WithRegion); err != nil {
			return err
		}
	}
	if s.edge == "" {
		return s.fromEnv("TWILIO_EDGE", WithEdge)
	}
	return nil
}

func (s *settings) fromEnv(variable string, option func(string) Option) error {
	value := os.Getenv(variable)
	if value == "" {
		return nil
	}
	if err := option(value).applyToClient(s); err != nil {
		return fmt.Errorf("twiliosync: environment variable %s: %w", variable, err)
	}
	return nil
}

func apply(opts []Option) (*settings, error) {
	s := &settings{
		call:        callSettings{timeout: defaultTimeout, retry: RetryPolicy{}.withDefaults()},
		maxDataSize: defaultMaxDataSize,
		rateLimit:   documentedBurst,
		rateWindow:  documentedWindow,
	}
	for i, option := range opts {
		if option == nil {
			return nil, fmt.Errorf("twiliosync: option %d is nil; leave it out", i+1)
		}
		if err := option.applyToClient(s); err != nil {
			return nil, fmt.Errorf("twiliosync: %w", err)
		}
	}
	return s, nil
}

func (s *settings) client(auth Authenticator) (*Client, error) {
	if auth == nil {
		return nil, errors.New("twiliosync: the Authenticator is nil; pass BasicAuth(username, password)")
	}
	basic, isBasic := auth.(*basicAuth)
	if isBasic && basic.reason != "" {
		return nil, fmt.Errorf("twiliosync: BasicAuth: %s", basic.reason)
	}
	base, err := s.base()
	if err != nil {
		return nil, fmt.Errorf("twiliosync: %w", err)
	}
	shared := &sender{
		exchanger: exchanger{
			baseURL: base,
			auth:    auth.Authenticate,
			header: http.Header{
				"Accept":          {"application/json"},
				"Accept-Encoding": {"identity"}, // an answer has about 4 KiB
				"User-Agent":      {s.fullUserAgent()},
			},
		},
		watchers:    s.watchers,
		settings:    s.call,
		limiter:     newStreamLimiter(s.rateLimit, s.rateWindow),
		pacesSingle: s.rateLimited,
		maxDataSize: s.maxDataSize,
	}
	if err := s.connect(&shared.exchanger); err != nil {
		return nil, fmt.Errorf("twiliosync: %w", err)
	}
	if isBasic {
		header := shared.header.Clone()
		header["Content-Type"] = []string{formType}
		basic.apply(header)
		shared.signed = func() http.Header { return header }
	}
	return &Client{
		StreamMessages: &StreamMessageService{sender: shared},
		Streams:        &StreamService{sender: shared},
		sender:         shared,
	}, nil
}

// connect chooses the transport: the caller's, or our own, perhaps wrapped.
func (s *settings) connect(x *exchanger) error {
	if s.httpClient != nil {
		x.jar, x.timeout = s.httpClient.Jar, s.httpClient.Timeout
		if s.httpClient.Transport == nil {
			s.httpClient = nil
		}
	}
	switch {
	case s.httpClient != nil && s.wrap != nil:
		return errors.New("WithTransportWrapper can't be combined with the Transport of WithHTTPClient; wrap that one yourself, or leave it out")
	case s.httpClient != nil:
		x.transport, x.kind = s.httpClient.Transport, kindOfTransport(s.httpClient.Transport)
	case s.wrap != nil:
		x.own = newTransport()
		x.transport, x.kind = s.wrap(recordingTransport{x.own}), kindOfOwn(true)
		if x.transport == nil {
			return errors.New("WithTransportWrapper: the function returned nil; return a RoundTripper that calls the one it got")
		}
	default:
		x.own = newTransport()
		x.transport, x.kind = x.own, kindOfOwn(false)
	}
	return nil
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
	if region == "" {
		return url.Parse(defaultBaseURL)
	}
	host := "sync."
	if s.edge != "" {
		host += s.edge + "."
	}
	return &url.URL{Scheme: "https", Host: host + region + ".twilio.com"}, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback() || strings.EqualFold(host, "localhost")
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
	if c != nil && c.sender != nil {
		c.sender.closeIdleConnections()
	}
}
