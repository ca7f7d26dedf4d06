package twiliosync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxAnswer is how much of an answer's body is read.
const maxAnswer = 64 << 10

// maxRequestID is about twice what Twilio sends, "RQ" and 32 digits.
const maxRequestID = 64

// call is one message on its way: prepared once, then attempted until it is
// settled. Only one goroutine at a time works on it.
type call struct {
	client                *Client
	serviceSID, streamSID string
	target                url.URL
	form                  string // encoded once; every attempt sends these bytes

	attempts, sends int
	inDoubt         bool // an attempt may have been published
	message         *StreamMessage
	response        *Response
	failure         *Error // of the last attempt; nil once the message is accepted
}

// run attempts the call until it is settled. Create is this function alone;
// CreateAll does the same waiting outside of its workers.
func (cl *call) run(ctx context.Context) {
	for {
		if cl.client.pacesCreate {
			if err := cl.client.limiter.wait(ctx, cl.stream()); err != nil {
				cl.abandon(err)
				return
			}
		}
		delay, again := cl.attempt(ctx)
		if cl.client.pacesCreate {
			cl.pauseStream(delay)
		}
		if !again {
			return
		}
		if err := sleep(ctx, delay); err != nil {
			cl.abandon(err)
			return
		}
	}
}

// attempt sends the message once, judges what came of it, and returns the
// delay before the next attempt, if there should be one.
func (cl *call) attempt(ctx context.Context) (delay time.Duration, again bool) {
	c := cl.client
	start := time.Now()
	cl.attempts++
	got := cl.exchange(ctx)
	latency := time.Since(start)

	cl.sends += got.sends
	outcome, rule := judge(got.evidence)
	cl.settle(got, outcome)
	if cl.failure == nil {
		c.quota.refill()
	} else {
		delay, again = cl.next(ctx, outcome, rule)
	}
	cl.inDoubt = cl.inDoubt || outcome == OutcomeUnknown

	if c.log != nil || c.observer != nil {
		c.report(ctx, cl, Attempt{
			Number: cl.attempts, Outcome: outcome, StatusCode: got.status, Code: got.code,
			RequestID: got.requestID, Latency: latency, RetryIn: delay, Err: cl.attemptError(outcome),
		})
	}
	return delay, again
}

// settle keeps the attempt's answer or error as the call's.
func (cl *call) settle(got exchange, outcome Outcome) {
	cl.message, cl.failure, cl.response = nil, nil, nil
	if got.response != nil {
		cl.response = cl.show(got)
	}
	if outcome == OutcomeAccepted && got.err == nil {
		cl.message = got.message
		return
	}
	failure := got.failure
	cl.failure = &failure
	cl.failure.Outcome, cl.failure.Err = outcome, got.err
	cl.failure.Attempts, cl.failure.Sends = cl.attempts, cl.sends
	cl.failure.StatusCode, cl.failure.RequestID = got.status, got.requestID
	if cl.inDoubt && outcome != OutcomeAccepted {
		cl.failure.Outcome = OutcomeUnknown
	}
}

// show makes the Response, with a request that has neither header nor body.
func (cl *call) show(got exchange) *Response {
	shown := &struct { // in one piece
		response Response
		request  http.Request
		url      url.URL
	}{
		response: Response{Response: got.response, RequestID: got.requestID, Attempts: cl.attempts, Sends: cl.sends},
		request:  http.Request{Method: http.MethodPost, Host: cl.target.Host},
		url:      cl.target,
	}
	shown.request.URL = &shown.url
	shown.response.Request = &shown.request
	return &shown.response
}

// attemptError is the error the observer sees: with the outcome of the attempt
// alone.
func (cl *call) attemptError(outcome Outcome) error {
	if cl.failure == nil {
		return nil
	}
	e := *cl.failure
	e.Outcome = outcome
	return &e
}

// next decides whether there is another attempt, and when.
func (cl *call) next(ctx context.Context, outcome Outcome, rule resend) (delay time.Duration, again bool) {
	policy := cl.client.retry
	if rule == resendNever || rule == resendIfAtLeastOnce && !policy.AtLeastOnce ||
		cl.attempts >= policy.MaxAttempts || ctx.Err() != nil {
		return 0, false
	}
	delay = policy.backoff(cl.attempts, cl.failure.StatusCode, cl.failure.RetryAfter)
	if deadline, ok := ctx.Deadline(); delay > policy.MaxDelay || ok && delay >= time.Until(deadline) {
		cl.failure.RetryAfter = delay
		return 0, false
	}
	if !cl.client.quota.take(outcome == OutcomeRejected) {
		return 0, false
	}
	return delay, true
}

// pauseStream keeps a stream that answered 429 from being sent to, for all
// calls that are paced.
// delay is that of the next attempt, 0 if there is none.
func (cl *call) pauseStream(delay time.Duration) {
	if cl.failure == nil || cl.failure.StatusCode != http.StatusTooManyRequests {
		return
	}
	policy := cl.client.retry
	pause := delay // of this draw, so that the next attempt starts when the observer was told
	if retryAfter := cl.failure.RetryAfter; retryAfter > 0 || delay == 0 {
		pause = max(retryAfter, policy.backoff(cl.attempts, http.StatusTooManyRequests, 0))
	}
	cl.client.limiter.pause(cl.stream(), min(pause, policy.MaxDelay))
}

// abandon ends the call between two attempts, or before the first: what is
// known from the last answer stays, and the error matches the context's too.
func (cl *call) abandon(cause *contextError) {
	if cl.failure == nil {
		cl.failure = &Error{Outcome: OutcomeNotSent, RetryAfter: cause.retryAfter, Err: cause}
		return
	}
	cl.failure.RetryAfter = max(cl.failure.RetryAfter, cause.retryAfter)
	if last := cl.failure.Err; last != nil {
		cl.failure.Err = fmt.Errorf("%w while waiting to send again after: %w", cause, last)
		return
	}
	cl.failure.Err = cause
}

// result is what Create returns.
func (cl *call) result() (*StreamMessage, *Response, error) {
	if cl.failure != nil {
		return nil, cl.response, cl.failure
	}
	return cl.message, cl.response, nil
}

func sleep(ctx context.Context, d time.Duration) *contextError {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return newContextError(ctx)
	}
}

// exchange is one request and its answer.
type exchange struct {
	evidence
	sends     int
	requestID string
	response  *http.Response
	message   *StreamMessage
	failure   Error // what the answer says, if it isn't a message
}

// exchange sends one request and reads its answer to the end, within ctx and
// the per-attempt timeout.
func (cl *call) exchange(ctx context.Context) exchange {
	c := cl.client
	attemptCtx, cancel := c.attemptContext(ctx)
	defer cancel()

	out := &outgoing{trace: sendTrace{ownTransport: c.ownTransport}}
	req, err := cl.request(attemptCtx, out)
	switch { // before the transport has it: this is proof enough
	case ctx.Err() != nil:
		err = newContextError(ctx)
	case err == nil && attemptCtx.Err() != nil:
		err = &timeoutError{c.timeout}
	}
	if err != nil {
		return exchange{evidence: evidence{err: err}}
	}
	res, err := c.http.Do(req)
	if err != nil {
		got := exchange{evidence: evidence{err: cl.cause(ctx, attemptCtx, req, err)}}
		got.sent, got.sends = out.trace.sent()
		switch {
		case !got.sent:
			got.err = out.trace.explain(got.err)
		case errors.Is(got.err, io.EOF):
			got.err = fmt.Errorf("the connection was closed before the answer: %w", got.err)
		}
		return got
	}
	body, err := readAnswer(res)
	if err != nil {
		err = cl.cause(ctx, attemptCtx, req, err)
	}
	got := exchange{response: res, requestID: clip(res.Header.Get("Twilio-Request-Id"), maxRequestID)}
	got.status, got.sent, got.err = res.StatusCode, true, err
	_, got.sends = out.trace.sent()
	if got.status >= 200 && got.status < 300 {
		got.readMessage(body)
		if got.status != http.StatusCreated && !got.hasSID { // a captive portal; a 201 would echo the data
			got.failure.Body = excerpt(body, cl.redactor(req))
		}
	} else {
		got.readError(body, cl.redactor(req))
	}
	return got
}

func (got *exchange) readError(body []byte, redact func(string) string) {
	got.failure.RetryAfter, got.retryAfter = parseRetryAfter(got.response.Header.Get("Retry-After"), time.Now())
	got.failure.readBody(body, redact)
	got.code = got.failure.Code
}

func (got *exchange) readMessage(body []byte) {
	message := new(StreamMessage)
	err := message.UnmarshalJSON(body)
	switch {
	case got.err != nil:
		got.err = fmt.Errorf("the answer could not be read to its end: %w", got.err)
	case err != nil:
		got.err = fmt.Errorf("the answer is not a message: %w", err)
	case message.SID == "":
		got.err = errors.New("the answer has no message SID")
	default:
		got.hasSID, got.message = true, message
	}
}

// outgoing is what one attempt hands to net/http, made in one piece and for
// this attempt alone: the transport may still hold it when the attempt is over.
type outgoing struct {
	url   url.URL
	form  strings.Reader
	trace sendTrace
}

// request builds the request twice: for the Authenticator, of which only the
// header is taken over, and for net/http, with the trace, since the
// Authenticator may use its context for requests of its own.
func (cl *call) request(ctx context.Context, out *outgoing) (*http.Request, error) {
	request := http.Request{
		Method:        http.MethodPost,
		URL:           &out.url,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Host:          cl.target.Host,
		Header:        maps.Clone(cl.client.header), // Set and Add replace the values, which are shared
		Body:          io.NopCloser(&out.form),      // of these types, net/http writes it together with the header
		GetBody:       cl.body,
		ContentLength: int64(len(cl.form)),
	}
	build := func(ctx context.Context) *http.Request {
		out.url = cl.target
		out.form.Reset(cl.form)
		return request.WithContext(ctx)
	}
	signed := build(ctx)
	if err := cl.client.auth.Authenticate(ctx, signed); err != nil {
		return nil, &localError{fmt.Errorf("authenticate: %w", notContext(err))}
	}
	for name := range signed.Header {
		if strings.EqualFold(name, "Idempotency-Key") || strings.EqualFold(name, "X-Idempotency-Key") {
			return nil, &localError{errors.New("the Authenticator set " + http.CanonicalHeaderKey(name) +
				", with which net/http may send a message twice; remove it")}
		}
	}
	request.Header = signed.Header
	request.Host = "" // that of the URL, which http.Client would copy otherwise
	return build(out.trace.attach(ctx)), nil
}

// body is the GetBody of the requests.
func (cl *call) body() (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(cl.form)), nil
}

// cause says why an exchange failed: the caller's context first, then our own
// timeout, then what net/http said, without the URL that it puts before it.
func (cl *call) cause(ctx, attemptCtx context.Context, req *http.Request, err error) error {
	switch {
	case ctx.Err() != nil:
		return newContextError(ctx)
	case attemptCtx.Err() != nil:
		return &timeoutError{cl.client.timeout}
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	if text := cl.redactor(req)(err.Error()); text != err.Error() {
		err = &redactedError{text, err}
	}
	return notContext(err)
}

// notContext keeps an error from matching those of a context, which here mean
// the caller's own alone.
func notContext(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return &networkError{err}
	}
	return err
}

// redactor returns what removes the credentials and the data from the words of
// a server: some proxies show the request in their error pages. It can't find
// what is shorter than 8 bytes, or cut.
func (cl *call) redactor(req *http.Request) func(string) string {
	const tooShortToTell = 8
	form := strings.TrimPrefix(cl.form, "Data=")
	data, _ := url.QueryUnescape(form)
	secrets := []string{form, data}
	for name, values := range req.Header {
		if cl.client.header[name] == nil {
			secrets = append(secrets, values...)
		}
	}
	if _, credentials, ok := strings.Cut(req.Header.Get("Authorization"), " "); ok {
		secrets = append(secrets, credentials)
	}
	if _, password, ok := req.BasicAuth(); ok {
		secrets = append(secrets, password)
	}
	return func(text string) string {
		for _, secret := range secrets {
			if len(secret) >= tooShortToTell {
				text = strings.ReplaceAll(text, secret, "[redacted]")
			}
		}
		return text
	}
}

// readAnswer reads the body to its end, so that the connection can be used
// again, or up to maxAnswer, after which closing drops the connection.
func readAnswer(res *http.Response) ([]byte, error) {
	defer func() { res.Body = http.NoBody }()
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil // the body is the naked connection, beyond every timeout
	}
	var body bytes.Buffer
	if n := res.ContentLength; n > 0 && n <= maxAnswer {
		body.Grow(int(n) + bytes.MinRead)
	}
	_, err := body.ReadFrom(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && body.Len() > maxAnswer {
		body.Truncate(maxAnswer)
		err = fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	return body.Bytes(), err
}

// localError is a failure inside this process that would happen again.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// handshakeError is a failed TLS handshake.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// proxyError is a proxy's refusal to open a tunnel.
type proxyError struct{ statusCode int }

func (e *proxyError) Error() string {
	return fmt.Sprintf("the proxy refused the tunnel with status %d %s", e.statusCode, http.StatusText(e.statusCode))
}

// timeoutError is the end of WithTimeout. It is a net.Error, and does not match
// context.DeadlineExceeded: that is the caller's own deadline.
type timeoutError struct{ limit time.Duration }

func (e *timeoutError) Error() string {
	return fmt.Sprintf("no complete answer within %v (WithTimeout)", e.limit)
}
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }

// networkError is a timeout of the network, or of an Authenticator, that would
// match the errors of a context.
type networkError struct{ err error }

func (e *networkError) Error() string      { return e.err.Error() }
func (e *networkError) As(target any) bool { return errors.As(e.err, target) }
func (e *networkError) Is(target error) bool {
	return target != context.DeadlineExceeded && target != context.Canceled && errors.Is(e.err, target)
}

// redactedError hides in its text what the original shows.
type redactedError struct {
	text string
	err  error
}

func (e *redactedError) Error() string { return e.text }
func (e *redactedError) Unwrap() error { return e.err }
