package twiliosync

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
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

// RetryPolicy says how often a message is attempted. Zero fields take the
// defaults; negative ones, and a BaseDelay above MaxDelay, are refused.
type RetryPolicy struct {
	// MaxAttempts counts all attempts, the first included. Default 3; 1 switches retrying off. A 429 to a message that
	// CreateAll or a Publisher paces does not count.
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
	status    int  // 0: no answer
	code      int  // Twilio's
	proves    bool // the status alone says that the operation took effect
	readable  bool // the body is what the operation answers
	cut       bool // the body could not be read to its end
	ownWords  bool // the body is an error in Twilio's own words
	sent      bool // the header block may have been handed to a connection
	mayRepeat bool // repeating the operation is harmless
	err       error
}

// resend says when an attempt may be repeated.
type resend int

const (
	resendNever resend = iota
	resendIfAtLeastOnce
	resendAlways
)

// classify is the delivery promise: what an attempt proves, and what follows.
// It is the table of docs/delivery.md, row by row.
func classify(e evidence) (Outcome, resend) {
	unknown := resendIfAtLeastOnce
	if e.mayRepeat {
		unknown = resendAlways
	}
	switch s := e.status; {
	case s == 0 && e.sent:
		return OutcomeUnknown, unknown
	case s == 0 && mayPassLater(e.err):
		return OutcomeNotSent, resendAlways
	case s == 0:
		return OutcomeNotSent, resendNever
	case e.proves, s >= 200 && s < 300 && e.readable:
		return OutcomeAccepted, resendNever
	case s >= 200 && s < 300 && e.cut && e.mayRepeat:
		return OutcomeUnknown, resendAlways
	case s >= 200 && s < 300:
		return OutcomeUnknown, resendNever // a captive portal, or something that is not Sync
	case throttled(s, e.code):
		return OutcomeRejected, resendAlways
	case clientGone(s):
		return OutcomeUnknown, unknown
	case s >= 400 && s < 500 && e.ownWords, s == http.StatusTemporaryRedirect, s == http.StatusPermanentRedirect:
		return OutcomeRejected, resendNever
	case s >= 400 && s < 500:
		return OutcomeUnknown, resendNever // a proxy's, perhaps after the service took the message
	case s == http.StatusSwitchingProtocols, s == http.StatusMovedPermanently, s == http.StatusFound, s == http.StatusSeeOther:
		return OutcomeUnknown, resendNever
	}
	return OutcomeUnknown, unknown
}

// clientGone tells the statuses with which servers and proxies note that the
// request or the connection ended early, which says nothing of the message:
// request timeout, nginx's 444 and 499, IIS' 449, and the load balancers' 460.
func clientGone(status int) bool {
	switch status {
	case http.StatusRequestTimeout, 444, 449, 460, 499:
		return true
	}
	return false
}

// backoff returns the delay after failure number n (from 1): the server's
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
