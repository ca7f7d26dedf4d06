package twiliosync

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// sender is what all services share. It sends operations, knows none of them
// by name, and is the only place that touches the network.
type sender struct {
	exchanger
	watchers

	settings    callSettings
	quota       retryQuota
	limiter     *streamLimiter
	pacesSingle bool // single calls wait for the pace of their stream too
	maxDataSize int  // bytes of JSON; 0: the server checks
}

// send makes one call: it waits for the pace, attempts, classifies what came
// of it, and waits to attempt again, until the outcome is settled.
func (s *sender) send(ctx context.Context, op *operation, opts []CallOption) (*Response, *Error) {
	if refusal := s.checkCaller(ctx); refusal != nil {
		return nil, notSent(refusal)
	}
	settings, refusal := s.settings.with(opts)
	if op.refusal == nil {
		op.refusal = refusal
	}
	c := &call{sender: s, op: op, settings: settings, index: -1}
	ctx = c.begin(ctx)
	defer c.end(ctx)
	for again := c.failure == nil; again; {
		if err := c.awaitPace(ctx); err != nil {
			c.stop(err)
			break
		}
		var delay time.Duration
		if delay, again = c.attempt(ctx); again {
			if err := sleep(ctx, delay); err != nil {
				c.stop(err)
				break
			}
		}
	}
	return c.response, c.failure
}

func (s *sender) checkCaller(ctx context.Context) *ParameterError {
	switch {
	case s == nil:
		return &ParameterError{Parameter: "client", Reason: "this Client is nil or a zero value; make one with NewClient or NewClientFromEnv"}
	case ctx == nil:
		return &ParameterError{Parameter: "ctx", Reason: "the context is nil; pass context.Background() if there is none"}
	}
	return nil
}

func (s *sender) dataLimit() int {
	if s == nil {
		return defaultMaxDataSize
	}
	return s.maxDataSize
}

// call is one operation on its way: what its attempts have shown so far. Only
// one goroutine at a time works on it.
type call struct {
	sender   *sender
	op       *operation
	settings callSettings
	index    int       // in the input of many; -1 for a single call
	notAfter time.Time // no attempt starts later; zero: no limit

	attempts       int
	counted        int           // attempts that the policy counts
	throttles      int           // 429s that it doesn't
	sends          int           // requests that may have reached the wire
	maybeEffective bool          // an attempt may have taken effect
	waited         time.Duration // for the pace, before the attempt to come
	waitedInAll    time.Duration // for the pace, over all attempts
	placed         bool          // holds a place of its stream, until the attempt has ended

	accepted bool
	failure  *Error // of the last attempt, or why there was none
	response *Response
}

// begin tells the tracer, whose context the call goes on with, and refuses
// what can't be sent.
func (c *call) begin(ctx context.Context) context.Context {
	traced := c.sender.callStart(ctx, CallStart{
		Operation: c.op.id, ServiceSID: c.op.serviceSID, StreamSID: c.op.streamSID, Index: c.index, DataSize: c.op.dataSize,
	})
	switch {
	case c.op.refusal != nil:
		c.failure = notSent(c.op.refusal)
		c.failure.subject = c.op.subject
	case ctx.Err() != nil:
		c.failure = notSent(newContextError(ctx))
	}
	return traced
}

// end tells the tracer, once, how the call has ended; also if it did not return.
func (c *call) end(ctx context.Context) {
	c.leavePlace(false) // of an attempt that was never made
	c.conclude()
	if c.sender.tracer == nil {
		return
	}
	end := CallEnd{Attempts: c.attempts, Sends: c.sends, Waited: c.waitedInAll, Outcome: OutcomeAccepted}
	if c.failure != nil {
		end.Outcome, end.Err = c.failure.Outcome, c.failure
	} else if c.op.messageSID != nil {
		end.MessageSID = *c.op.messageSID
	}
	c.sender.callEnd(ctx, end)
}

// conclude makes sure that the call has a result, also if user code ended its
// goroutine in the middle.
func (c *call) conclude() {
	if c.accepted || c.failure != nil {
		return
	}
	c.failure = &Error{Attempts: c.attempts, Sends: c.sends, Err: errors.New("the call did not return"), subject: c.op.subject}
	if c.attempts == 0 {
		c.failure.Outcome = OutcomeNotSent
	}
}

// paced tells whether the call's attempts hold a place of their stream.
func (c *call) paced() bool { return c.op.paced && (c.index >= 0 || c.sender.pacesSingle) }

func (c *call) awaitPace(ctx context.Context) error {
	if !c.paced() {
		return nil
	}
	asked := time.Now()
	if err := c.sender.limiter.wait(ctx, c.op.key()); err != nil {
		return err
	}
	c.placed, c.waited = true, time.Since(asked)
	return nil
}

// leavePlace gives the place in the stream's pace back, if there is one.
func (c *call) leavePlace(counted bool) {
	if c.placed {
		c.placed = false
		c.sender.limiter.release(c.op.key(), counted)
	}
}

// attempt sends the operation once, keeps what came of it, and returns the
// delay before the next attempt, if there should be one.
func (c *call) attempt(ctx context.Context) (delay time.Duration, again bool) {
	c.attempts++
	c.waitedInAll += c.waited
	c.failure, c.response = nil, nil
	if c.sender.watchesAttempts() {
		return c.watchedAttempt(ctx)
	}
	outcome, rule := c.exchange(ctx, nil)
	return c.next(ctx, outcome, rule)
}

// watchedAttempt is attempt with those who are told about it.
func (c *call) watchedAttempt(ctx context.Context) (delay time.Duration, again bool) {
	a := Attempt{
		Operation: c.op.id, ServiceSID: c.op.serviceSID, StreamSID: c.op.streamSID, Index: c.index,
		Number: c.attempts, Waited: c.waited, Err: &Error{Err: errors.New("the attempt did not return")},
	}
	attemptCtx, added := ctx, http.Header(nil)
	if c.sender.tracer != nil {
		added = http.Header{}
		target := c.op.target(c.sender.baseURL)
		attemptCtx = c.sender.attemptStart(ctx, AttemptStart{Number: a.Number, Waited: a.Waited, URL: &target, Header: added})
	}
	start := time.Now()
	defer func() { c.sender.attemptEnd(ctx, attemptCtx, a) }()

	outcome, rule := c.exchange(attemptCtx, added)
	a.Latency, a.Outcome, a.Err = time.Since(start), outcome, nil
	delay, again = c.next(ctx, outcome, rule)
	a.RetryIn = delay
	if c.response != nil {
		a.StatusCode, a.RequestID = c.response.StatusCode, c.response.RequestID
	}
	if c.failure != nil {
		failure := *c.failure
		failure.Outcome = outcome // of the attempt alone
		a.Code, a.Err = failure.Code, &failure
	}
	return delay, again
}

// exchange makes the exchange, gives its place in the pace back, and keeps
// the answer or the error as the call's.
func (c *call) exchange(ctx context.Context, added http.Header) (Outcome, resend) {
	got := reply{evidence: evidence{sent: true}} // if it does not return
	defer func() { c.leavePlace(got.sent) }()
	got = c.sender.exchange(ctx, c.op, c.settings.timeout, c.notAfter, added)

	outcome, rule := classify(got.evidence)
	c.sends += got.sends
	if got.response != nil {
		c.response = c.newResponse(got)
	}
	c.accepted = outcome == OutcomeAccepted && got.err == nil ||
		c.maybeEffective && outcome == OutcomeRejected && got.status == c.op.doneBy
	if c.accepted {
		return outcome, rule
	}
	failure := got.failure
	c.failure = &failure
	c.failure.Outcome, c.failure.Err, c.failure.subject = outcome, got.err, c.op.subject
	c.failure.Attempts, c.failure.Sends = c.attempts, c.sends
	c.failure.StatusCode, c.failure.RequestID = got.status, got.requestID
	c.maybeEffective = c.maybeEffective || outcome == OutcomeUnknown && c.op.subject != readsOnly
	if c.maybeEffective && outcome != OutcomeAccepted {
		c.failure.Outcome = OutcomeUnknown
	}
	return outcome, rule
}

// newResponse makes the Response, with a request that has neither header nor
// body.
func (c *call) newResponse(got reply) *Response {
	shown := &struct { // in one piece
		response Response
		request  http.Request
		url      url.URL
	}{
		response: Response{Response: got.response, RequestID: got.requestID, Attempts: c.attempts, Sends: c.sends},
		url:      c.op.target(c.sender.baseURL),
	}
	shown.request = http.Request{Method: c.op.method, URL: &shown.url, Host: shown.url.Host}
	shown.response.Request = &shown.request
	return &shown.response
}

// next decides whether there is another attempt, and when. There is one draw
// for each wait: what the observer is told, what the stream is paused for and
// what is slept are the same.
func (c *call) next(ctx context.Context, outcome Outcome, rule resend) (delay time.Duration, again bool) {
	policy := c.settings.retry
	if outcome == OutcomeAccepted || c.accepted {
		c.sender.quota.refill()
		return 0, false
	}
	throttled := c.failure.StatusCode == http.StatusTooManyRequests
	free := throttled && c.paced() && c.index >= 0 // a service that throttles loses none of many messages
	n := &c.counted
	if free {
		n = &c.throttles
	}
	*n++
	if rule == resendNever || rule == resendIfAtLeastOnce && !policy.AtLeastOnce {
		return 0, false
	}
	delay = policy.backoff(*n, c.failure.StatusCode, c.failure.RetryAfter)
	if throttled && c.paced() {
		c.sender.limiter.pause(c.op.key(), min(delay, policy.MaxDelay))
	}
	switch deadline, hasDeadline := ctx.Deadline(); {
	case ctx.Err() != nil, c.counted >= policy.MaxAttempts && !free:
		return 0, false
	case delay > policy.MaxDelay, hasDeadline && delay >= time.Until(deadline):
		c.failure.RetryAfter = delay
		return 0, false
	case !c.notAfter.IsZero() && delay > time.Until(c.notAfter):
		c.failure.RetryAfter = delay
		c.stop(ErrExpired)
		return 0, false
	case !free && !c.sender.quota.take(outcome == OutcomeRejected):
		c.failure.Err = alongside(c.failure.Err, ErrRetryQuota)
		return 0, false
	}
	return delay, true
}

// stop ends the call between two attempts, or before the first: what is known
// from the last answer stays, and the error matches the cause too.
func (c *call) stop(cause error) {
	var ended *contextError
	retryAfter := time.Duration(0)
	if errors.As(cause, &ended) {
		retryAfter = ended.retryAfter
	}
	if c.failure == nil {
		c.failure = &Error{Outcome: OutcomeNotSent, Err: cause, RetryAfter: retryAfter, subject: c.op.subject}
		return
	}
	failure := *c.failure // an observer may have the other
	failure.RetryAfter = max(failure.RetryAfter, retryAfter)
	if failure.Err != nil {
		cause = fmt.Errorf("%w while waiting to send again after: %w", cause, failure.Err)
	}
	failure.Err = cause
	c.failure = &failure
}

// alongside adds a fact to a cause, which may be nil.
func alongside(cause, fact error) error {
	if cause == nil {
		return fact
	}
	return fmt.Errorf("%w; %w", cause, fact)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return newContextError(ctx)
	}
}
