package twiliosync

import (
	"crypto/tls"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The numbers of the retry rules; the package comment explains them.
const (
	defaultMaxAttempts    = 3
	defaultBaseDelay      = 100 * time.Millisecond
	defaultThrottledDelay = time.Second
	defaultMaxDelay       = 20 * time.Second

	quotaTokens       = 500
	quotaPerRetry     = 14
	quotaPerThrottled = 5
	quotaPerSuccess   = 1
)

// Twilio's codes that decide about a retry.
// Source: https://www.twilio.com/docs/api/errors
const (
	codeTooManyRequests    = 20429 // the account's concurrency; "not processed, safe to retry"
	codeServiceUnavailable = 20503
	codeRateLimitExceeded  = 54009 // the stream's rate
)

// RetryPolicy says how often a message is attempted. Zero fields take the
// defaults; negative ones, and a BaseDelay above MaxDelay, are refused by
// [NewClient].
type RetryPolicy struct {
	// MaxAttempts counts all attempts, the first included. Default 3; 1 switches retrying off.
	MaxAttempts int
	// BaseDelay is the bound of the first random delay; each further one doubles it. Default 100 ms, and 1 s after a 429.
	BaseDelay time.Duration
	// MaxDelay caps the delays. A Retry-After beyond it is not waited for: the error is returned at once. Default 20 s, or
	// BaseDelay where that is longer.
	MaxDelay time.Duration
	// AtLeastOnce also repeats attempts whose outcome is unknown: duplicates possible. Put an id into the message,
	// {"id": "7f3a…", …}, and let subscribers drop the ids they have seen.
	AtLeastOnce bool
}

func (p RetryPolicy) validate() error {
	switch {
	case p.MaxAttempts < 0:
		return errors.New("RetryPolicy.MaxAttempts is negative; use 1 to switch retrying off, or 0 for the default of 3")
	case p.BaseDelay < 0 || p.MaxDelay < 0:
		return errors.New("a delay of the RetryPolicy is negative; use 0 for the default")
	case p.MaxDelay > 0 && p.BaseDelay > p.MaxDelay:
		return errors.New("RetryPolicy.BaseDelay is longer than MaxDelay; swap them or leave one out")
	}
	return nil
}

func (p RetryPolicy) withDefaults() RetryPolicy {
	if p.MaxAttempts == 0 {
		p.MaxAttempts = defaultMaxAttempts
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(defaultMaxDelay, p.BaseDelay)
	}
	return p
}

// evidence is all that is known about one attempt.
type evidence struct {
	status     int  // 0: no answer
	code       int  // Twilio's
	hasSID     bool // the body is a message with a SID
	retryAfter bool // a valid Retry-After came with it
	sent       bool // the header block may have been handed to a connection
	err        error
}

// resend says when an attempt may be repeated.
type resend int

const (
	resendNever resend = iota
	resendIfAtLeastOnce
	resendAlways
)

// judge is the delivery promise: what an attempt proves, and what follows. It
// is the table of docs/delivery.md, row by row.
func judge(e evidence) (Outcome, resend) {
	switch s := e.status; {
	case s == 0 && e.sent:
		return OutcomeUnknown, resendIfAtLeastOnce
	case s == 0 && networkCause(e.err):
		return OutcomeNotSent, resendAlways
	case s == 0:
		return OutcomeNotSent, resendNever
	case s == http.StatusCreated, s >= 200 && s < 300 && e.hasSID:
		return OutcomeAccepted, resendNever
	case s >= 200 && s < 300:
		return OutcomeUnknown, resendNever // a captive portal, or something that is not Sync
	case s == http.StatusServiceUnavailable && !e.retryAfter && e.code != codeServiceUnavailable:
		return OutcomeUnknown, resendIfAtLeastOnce
	case throttled(s, e.code):
		return OutcomeRejected, resendAlways
	case s == http.StatusRequestTimeout:
		return OutcomeUnknown, resendIfAtLeastOnce
	case s >= 400 && s < 500, s == http.StatusTemporaryRedirect, s == http.StatusPermanentRedirect:
		return OutcomeRejected, resendNever
	case s == http.StatusSwitchingProtocols, s == http.StatusMovedPermanently, s == http.StatusFound, s == http.StatusSeeOther:
		return OutcomeUnknown, resendNever
	}
	return OutcomeUnknown, resendIfAtLeastOnce
}

// throttled tells whether a rejected message may be sent again later.
func throttled(status, code int) bool {
	switch status {
	case http.StatusTooManyRequests:
		return code == 0 || code == codeTooManyRequests || code == codeRateLimitExceeded
	case http.StatusServiceUnavailable:
		return true
	}
	return false
}

// networkCause tells whether a request that was not sent may get through
// later: everything that keeps net/http from a connection, except what the
// next attempt will meet again.
func networkCause(err error) bool {
	var (
		parameter   *ParameterError
		local       *localError
		dns         *net.DNSError
		proxy       *proxyError
		handshake   *handshakeError
		certificate *tls.CertificateVerificationError
	)
	switch {
	case err == nil, errors.As(err, &parameter), errors.As(err, &local), endedByContext(err), errors.As(err, &certificate):
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &proxy):
		return proxy.statusCode >= 500
	case errors.As(err, &handshake):
		return brokenConnection(handshake.err)
	}
	return true
}

// brokenConnection tells a connection that failed from a peer that refused.
func brokenConnection(err error) bool {
	var (
		timeout net.Error
		errno   syscall.Errno
	)
	return errors.As(err, &timeout) && timeout.Timeout() || errors.As(err, &errno) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// backoff returns the delay after attempt number n (from 1): the server's
// Retry-After if it named one, else full jitter over the doubling base.
func (p RetryPolicy) backoff(n, status int, retryAfter time.Duration) time.Duration {
	if retryAfter > 0 {
		return retryAfter
	}
	base := p.BaseDelay
	if base == 0 {
		base = defaultBaseDelay
		if status == http.StatusTooManyRequests {
			base = defaultThrottledDelay
		}
	}
	ceiling := min(base, p.MaxDelay)
	for range n - 1 {
		if ceiling > p.MaxDelay/2 {
			ceiling = p.MaxDelay
			break
		}
		ceiling *= 2
	}
	return 1 + rand.N(ceiling)
}

// parseRetryAfter reads a Retry-After in seconds or as an HTTP date. What is
// neither is not valid; what is too large for a Duration is the longest one.
func parseRetryAfter(value string, now time.Time) (wait time.Duration, valid bool) {
	if digitsOnly(value) {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(math.MaxInt64/time.Second) {
			return math.MaxInt64, true
		}
		return time.Duration(seconds) * time.Second, true
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(0, date.Sub(now)), true
}

func digitsOnly(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// retryQuota is a token bucket that retries draw from and successes refill.
type retryQuota struct {
	mu    sync.Mutex
	spent int // counts from full, so that the zero value is ready
}

func (q *retryQuota) take(rejected bool) bool {
	cost := quotaPerRetry
	if rejected {
		cost = quotaPerThrottled
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.spent+cost > quotaTokens {
		return false
	}
	q.spent += cost
	return true
}

func (q *retryQuota) refill() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spent = max(0, q.spent-quotaPerSuccess)
}
