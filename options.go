package twiliosync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	defaultBaseURL     = "https://sync.twilio.com"
	defaultTimeout     = 10 * time.Second
	defaultMaxDataSize = 4096
)

// Option changes a setting of a new [Client]; see the functions that begin
// with With. Each refuses nonsense with an error of the constructor.
type Option interface {
	applyToClient(s *settings) error
}

// CallOption is an [Option] that a single call can take too; for that call it
// wins over the client's. It refuses nonsense before anything is sent.
type CallOption interface {
	Option
	applyToCall(s *callSettings) error
}

// settings is what options write to, before anything is built from it.
type settings struct {
	call          callSettings
	baseURL       *url.URL
	region, edge  string
	plaintextHTTP bool
	httpClient    *http.Client
	wrap          func(http.RoundTripper) http.RoundTripper
	userAgent     string
	maxDataSize   int
	rateLimited   bool
	rateLimit     int
	rateWindow    time.Duration
	watchers      watchers
}

// callSettings is what a single call can change.
type callSettings struct {
	timeout time.Duration
	retry   RetryPolicy
}

type clientOption func(*settings) error

func (o clientOption) applyToClient(s *settings) error { return o(s) }

type callOption func(*callSettings) error

func (o callOption) applyToClient(s *settings) error   { return o(&s.call) }
func (o callOption) applyToCall(s *callSettings) error { return o(s) }

// with returns the settings as a call's options change them.
func (s callSettings) with(opts []CallOption) (callSettings, *ParameterError) {
	if len(opts) == 0 {
		return s, nil
	}
	return s.changedBy(opts)
}

func (s callSettings) changedBy(opts []CallOption) (callSettings, *ParameterError) {
	for i, option := range opts {
		if option == nil {
			return s, &ParameterError{Parameter: "opts", Reason: fmt.Sprintf("option %d is nil; leave it out", i+1)}
		}
		if err := option.applyToCall(&s); err != nil {
			return s, &ParameterError{Parameter: "opts", Reason: err.Error()}
		}
	}
	return s, nil
}

// WithBaseURL replaces the address of the API, by default
// https://sync.twilio.com. A path is a prefix of every request's path, without
// the version: /v1 is added. User info, a query, a fragment, and plain http to
// anything but this machine (see [WithPlaintextHTTP]) are refused.
func WithBaseURL(rawURL string) Option {
	return clientOption(func(s *settings) error {
		base, err := url.Parse(rawURL)
		if err != nil { // whose text may show credentials
			return errors.New("WithBaseURL: this is not a URL; use the form https://host or https://host/prefix")
		}
		if err := checkBaseURL(rawURL, base); err != nil {
			return err
		}
		base.RawPath = strings.TrimRight(base.EscapedPath(), "/")
		if strings.HasSuffix(base.RawPath, "/v1") {
			return errors.New("WithBaseURL: the path ends in /v1, which the SDK adds itself; leave it out")
		}
		base.Path, err = url.PathUnescape(base.RawPath)
		s.baseURL = base
		return err
	})
}

func checkBaseURL(rawURL string, base *url.URL) error {
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
	if port := base.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("WithBaseURL: the port must be between 1 and 65535")
		}
	}
	return nil
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
	return clientOption(func(s *settings) error {
		if !isDNSLabel(region) {
			return errors.New(`WithRegion: a region is one DNS label such as "us1"`)
		}
		s.region = region
		return nil
	})
}

// WithEdge chooses the edge location, as in
// https://sync.{edge}.{region}.twilio.com. Without a region it implies us1. It
// must be one DNS label, and can't be combined with [WithBaseURL].
//
// Source: https://www.twilio.com/docs/global-infrastructure/edge-locations
func WithEdge(edge string) Option {
	return clientOption(func(s *settings) error {
		if !isDNSLabel(edge) {
			return errors.New(`WithEdge: an edge is one DNS label such as "ashburn"`)
		}
		s.edge = edge
		return nil
	})
}

// WithPlaintextHTTP allows a base URL with http:// beyond this machine. It
// sends credentials and data in the clear.
func WithPlaintextHTTP() Option {
	return clientOption(func(s *settings) error {
		s.plaintextHTTP = true
		return nil
	})
}

// WithHTTPClient sends through a copy of c, which itself is never changed. Its
// Transport, Jar and Timeout are used (the shorter of Timeout and
// [WithTimeout] bounds an attempt), its CheckRedirect is not: redirects stay
// off. A nil Transport means the SDK's own.
//
// The SDK's own transport proves more: it speaks HTTP/1 only and keeps 256
// idle connections. With a transport that speaks HTTP/2, net/http may send a
// message again by itself; with one that sends again, adds an Idempotency-Key,
// or reports no httptrace events, outcomes can only be as certain as it allows.
// It also can't tell a proxy's 407 from other failures, which are tried again.
// To add tracing or metrics use [WithTransportWrapper], which keeps the proofs.
func WithHTTPClient(c *http.Client) Option {
	return clientOption(func(s *settings) error {
		if c == nil {
			return errors.New("WithHTTPClient: the client is nil; leave the option out")
		}
		s.httpClient = c
		return nil
	})
}

// WithTransportWrapper puts what wrap returns around the SDK's own transport,
// for tracing or metrics of HTTP such as otelhttp. The transport below keeps
// its proofs, its connections and HTTP/1; CloseIdleConnections reaches it. A
// wrapper that returns nil, and one beside a Transport of [WithHTTPClient], are
// refused.
//
// A failure that the wrapper makes up, or gets from another transport, proves
// nothing: the outcome is then OutcomeUnknown.
func WithTransportWrapper(wrap func(http.RoundTripper) http.RoundTripper) Option {
	return clientOption(func(s *settings) error {
		if wrap == nil {
			return errors.New("WithTransportWrapper: the function is nil; leave the option out")
		}
		s.wrap = wrap
		return nil
	})
}

// WithTimeout bounds each attempt, from authentication to the last byte of the
// answer. Default 10 s; 0 leaves the bound to the context, which always covers
// the whole call with its waits. Less than a millisecond is refused: a unit was
// forgotten.
func WithTimeout(perAttempt time.Duration) CallOption {
	return callOption(func(s *callSettings) error {
		switch {
		case perAttempt < 0:
			return errors.New("WithTimeout: the timeout is negative; use 0 for none")
		case perAttempt > 0 && perAttempt < time.Millisecond:
			return errors.New("WithTimeout: the timeout is shorter than a millisecond; give it a unit, such as 10*time.Second")
		}
		s.timeout = perAttempt
		return nil
	})
}

// WithUserAgent appends suffix, such as "orders-api/2.1", to the User-Agent
// header. It must be printable ASCII.
func WithUserAgent(suffix string) Option {
	return clientOption(func(s *settings) error {
		if suffix == "" || suffix != strings.TrimSpace(suffix) || strings.ContainsFunc(suffix, func(r rune) bool { return r < ' ' || r > '~' }) {
			return errors.New(`WithUserAgent: the suffix must be printable ASCII such as "orders-api/2.1"`)
		}
		s.userAgent = suffix
		return nil
	})
}

// WithMaxDataSize replaces the limit for a message, in bytes of JSON. Default
// 4096, Twilio's documented 4 KiB "as serialized JSON"; 0 leaves the check to
// the server.
func WithMaxDataSize(bytes int) Option {
	return clientOption(func(s *settings) error {
		if bytes < 0 {
			return errors.New("WithMaxDataSize: the size is negative; use 0 to leave the check to the server")
		}
		s.maxDataSize = bytes
		return nil
	})
}

// WithRetryPolicy replaces the retry rules; see [RetryPolicy].
func WithRetryPolicy(p RetryPolicy) CallOption {
	return callOption(func(s *callSettings) error {
		if err := p.validate(); err != nil {
			return fmt.Errorf("WithRetryPolicy: %w", err)
		}
		s.retry = p.withDefaults()
		return nil
	})
}

// WithStreamRateLimit paces Create, which by default is not paced: a stream
// has at most messages attempts in flight or ended within any window, so that
// the service never counts more in one; further ones wait for their turn. If
// the turn would come after the context's deadline, Create returns at once
// with [OutcomeNotSent] and an error that matches context.DeadlineExceeded. A
// 429 pauses its stream. CreateAll and Publisher use this limit in place of
// 300 messages in 10 s, which is how the SDK reads the documented 30 per
// second with a burst window of 10 s. The longest window is a day.
//
// Source: https://www.twilio.com/docs/sync/limits
func WithStreamRateLimit(messages int, window time.Duration) Option {
	return clientOption(func(s *settings) error {
		const longest = 24 * time.Hour
		if messages <= 0 || window <= 0 || window > longest {
			return errors.New("WithStreamRateLimit: messages and window must be above zero, and the window at most a day, such as 300 and 10*time.Second")
		}
		s.rateLimited, s.rateLimit, s.rateWindow = true, messages, window
		return nil
	})
}

// WithLogger logs every attempt at level Debug, and at Warn if its outcome is
// unknown. The fields are attempt, outcome, status, code, latency, delay,
// request_id, and of service and stream the last four characters, if there are
// more; never data.
func WithLogger(l *slog.Logger) Option {
	return clientOption(func(s *settings) error {
		if l == nil {
			return errors.New("WithLogger: the logger is nil; leave the option out")
		}
		s.watchers.log = slogLog{l}
		return nil
	})
}

// WithObserver calls observe after each attempt, with the context of the call,
// before the delay that follows. It may be called concurrently. A panic in it
// is caught, and logged if there is a logger.
func WithObserver(observe func(context.Context, Attempt)) Option {
	return clientOption(func(s *settings) error {
		if observe == nil {
			return errors.New("WithObserver: the function is nil; leave the option out")
		}
		s.watchers.observe = observe
		return nil
	})
}

// WithTracer brackets each call and each attempt; see [Tracer].
func WithTracer(t Tracer) Option {
	return clientOption(func(s *settings) error {
		if t == nil {
			return errors.New("WithTracer: the tracer is nil; leave the option out")
		}
		s.watchers.tracer = t
		return nil
	})
}
