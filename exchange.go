package twiliosync

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
)

// operation is one request to the API as a value: what a resource knows and
// the engine doesn't.
type operation struct {
	id                    string // of the OpenAPI description
	serviceSID, streamSID string // as the caller gave them
	dataSize              int    // of a message, in bytes of JSON

	method        string
	path, rawPath string // below the base URL, plain and percent-encoded
	query         string
	form          []byte // encoded once; every attempt sends these bytes
	private       bool   // the form is the caller's data, which no text repeats

	paced     bool // it counts for the rate of its stream, which a 429 pauses
	mayRepeat bool // repeating it is harmless
	proof     int  // the status that alone proves that it took effect; 0: none does
	doneBy    int  // the rejection that, after an attempt in doubt, proves that it took effect; 0: none does

	answer     answer          // where the answer goes
	maxAnswer  int             // bytes of it that are read; 0: maxAnswer
	messageSID *string         // in it, for the tracer; nil if it is no message
	subject    string          // names it in an advice; empty: a message
	refusal    *ParameterError // why it can't be sent; nil if it can
}

// answer reads the body of an answer. An error says that it is not one of this
// operation.
type answer interface{ decode(body []byte) error }

// to sets the path, each segment percent-encoded byte for byte.
func (op *operation) to(segments ...string) {
	op.path = joinPath(segments)
	if op.rawPath = op.path; !slices.ContainsFunc(segments, isReserved) {
		return // as most are
	}
	encoded := make([]string, len(segments))
	for i, segment := range segments {
		encoded[i] = url.PathEscape(segment)
	}
	op.rawPath = joinPath(encoded)
}

func joinPath(segments []string) string {
	var path strings.Builder
	path.Grow(128) // more than most have
	path.WriteString("/v1")
	for _, segment := range segments {
		path.WriteByte('/')
		path.WriteString(segment)
	}
	return path.String()
}

func isReserved(segment string) bool { return !isUnreserved(segment) }

// setForm encodes the parameters of the body.
func (op *operation) setForm(params any) *ParameterError {
	form, err := encodeForm(params)
	if err != nil {
		return &ParameterError{Parameter: "params", Reason: "they can't be encoded as a form", Err: err}
	}
	if form == nil {
		form = []byte{} // also a body without parameters is one
	}
	op.form = form
	return nil
}

func (op *operation) key() streamKey { return streamKey{op.serviceSID, op.streamSID} }

// target is the operation's address below the base URL.
func (op *operation) target(base *url.URL) url.URL {
	target := *base
	target.RawPath += op.rawPath
	if target.Path += op.path; target.Path == target.RawPath {
		target.RawPath = "" // nothing is encoded in it
	}
	target.RawQuery = op.query
	return target
}

// exchanger makes single exchanges: one request, one answer.
type exchanger struct {
	baseURL   *url.URL
	transport http.RoundTripper
	kind      transportKind
	own       *http.Transport // below a wrapper, or the transport itself; nil: the caller's
	jar       http.CookieJar
	timeout   time.Duration                              // of the caller's http.Client; 0: none
	auth      func(context.Context, *http.Request) error // funcs, so that no fmt verb shows the credentials that they hold
	header    http.Header                                // of every request, before authentication
	signed    func() http.Header                         // of a form, with BasicAuth's credentials; nil: auth is asked
}

func (x *exchanger) closeIdleConnections() {
	if x.own != nil {
		x.own.CloseIdleConnections()
	}
	if closer, ok := x.transport.(interface{ CloseIdleConnections() }); ok {
		closer.CloseIdleConnections()
	}
}

const formType = "application/x-www-form-urlencoded"

// reply is what an exchange brought.
type reply struct {
	evidence
	sends     int
	requestID string
	response  *http.Response
	failure   Error // what the answer says, if it isn't a success
}

// exchange sends one request and reads its answer to the end, within ctx and
// the time of an attempt. What is in added is sent where nobody else sets it.
// After notAfter, if that is not zero, our own transport completes no request.
func (x *exchanger) exchange(ctx context.Context, op *operation, timeout time.Duration, notAfter time.Time, added http.Header) reply {
	if x.timeout > 0 && (timeout == 0 || x.timeout < timeout) {
		timeout = x.timeout
	}
	attemptCtx, cancel := attemptContext(ctx, timeout)
	defer cancel()

	out := &outgoing{ctx: ctx, attemptCtx: attemptCtx, timeout: timeout, op: op}
	out.trace.transport, out.trace.replays = x.kind, op.method == http.MethodGet
	if x.kind == ownTransport && !notAfter.IsZero() {
		out.trace.withhold = func() bool { return out.withhold(notAfter) }
	}
	req, err := x.request(out, added)
	switch { // before the transport has it: this is proof enough
	case ctx.Err() != nil:
		err = newContextError(ctx)
	case err == nil && attemptCtx.Err() != nil:
		err = &timeoutError{timeout}
	}
	if err != nil {
		return reply{evidence: evidence{err: err, mayRepeat: op.mayRepeat}}
	}
	res, err := x.transport.RoundTrip(req) //nolint:bodyclose // readAnswer closes it
	if err == nil && res == nil {
		err = errors.New("the RoundTripper returned neither an answer nor an error")
	}
	if err != nil {
		return out.unanswered(req, err, x.secretsOf)
	}
	if x.jar != nil {
		x.jar.SetCookies(req.URL, res.Cookies())
	}
	return out.answered(req, res, x.secretsOf)
}

// attemptContext bounds one attempt.
func attemptContext(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// outgoing is what one exchange hands to net/http, made in one piece and for
// this exchange alone: the transport may still hold it when it is over.
type outgoing struct {
	ctx, attemptCtx context.Context
	timeout         time.Duration
	op              *operation
	url             url.URL
	form            bytes.Reader
	trace           sendTrace
}

var noRequest http.Request

// request makes the request that net/http gets. Its context has the trace,
// which the Authenticator's has not: that may be used for other requests.
func (x *exchanger) request(out *outgoing, added http.Header) (*http.Request, error) {
	header, err := x.signedHeader(out, added)
	if err != nil {
		return nil, err
	}
	out.url = out.op.target(x.baseURL)
	req := noRequest.WithContext(out.trace.attach(out.attemptCtx)) // a copy, which is ours
	req.Method, req.URL, req.Header = out.op.method, &out.url, header
	req.Proto, req.ProtoMajor, req.ProtoMinor = "HTTP/1.1", 1, 1
	if out.op.form != nil {
		out.form.Reset(out.op.form)
		req.Body = io.NopCloser(&out.form) // of these types, net/http writes it together with the header
		if req.GetBody = out.op.body; x.kind == ownTransport {
			req.GetBody = out.body
		}
		req.ContentLength = int64(len(out.op.form))
	}
	if x.jar != nil {
		for _, cookie := range x.jar.Cookies(req.URL) {
			req.AddCookie(cookie)
		}
	}
	return req, nil
}

// withhold makes the request one that can't be completed, if it is too late for
// it: without the form that its header announces, net/http gives it up, mostly
// before anything has left its buffer. It is called between the two, by the
// goroutine that writes them.
func (out *outgoing) withhold(notAfter time.Time) bool {
	if !time.Now().After(notAfter) {
		return false
	}
	out.form.Reset(nil)
	return true
}

// body is what our own transport sends if it begins again on another
// connection: the same form, since the goroutine of the first has ended.
func (out *outgoing) body() (io.ReadCloser, error) {
	if out.trace.wasWithheld() {
		return nil, ErrExpired
	}
	out.form.Reset(out.op.form)
	return io.NopCloser(&out.form), nil
}

// body is the GetBody of requests with a form.
func (op *operation) body() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(op.form)), nil
}

// signedHeader returns the header with credentials. Our own transport never
// writes to it, so all requests can share one.
func (x *exchanger) signedHeader(out *outgoing, added http.Header) (http.Header, error) {
	if x.signed == nil {
		return x.authenticate(out, added)
	}
	header, isForm := x.signed(), out.op.form != nil
	if x.kind == ownTransport && x.jar == nil && isForm && len(added) == 0 {
		return header, nil
	}
	header = header.Clone()
	if !isForm {
		delete(header, "Content-Type")
	}
	addWhereUnset(header, added)
	return header, nil
}

// authenticate asks the Authenticator. It gets a request of its own, of which
// only the header is copied.
func (x *exchanger) authenticate(out *outgoing, added http.Header) (http.Header, error) {
	target := out.op.target(x.baseURL)
	signed := http.Request{
		Method: out.op.method, URL: &target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Host: target.Host, Header: x.header.Clone(),
	}
	if out.op.form != nil {
		signed.Header["Content-Type"] = []string{formType}
		signed.Body, _ = out.op.body()
		signed.GetBody = out.op.body
		signed.ContentLength = int64(len(out.op.form))
	}
	own := signed.WithContext(out.attemptCtx)
	if err := x.auth(out.attemptCtx, own); err != nil {
		return nil, &foreignError{text: "authenticate: " + err.Error(), err: err}
	}
	header := own.Header.Clone() // the Authenticator may still hold its own
	if header == nil {
		header = http.Header{}
	}
	for name := range header {
		if isIdempotencyKey(name) {
			return nil, &foreignError{text: "the Authenticator set " + http.CanonicalHeaderKey(name) +
				", with which net/http may send a message twice; remove it"}
		}
	}
	addWhereUnset(header, added)
	return header, nil
}

// addWhereUnset adds a tracer's headers, but for those that are set already,
// and idempotency keys.
func addWhereUnset(header, added http.Header) {
	for name, values := range added {
		name = http.CanonicalHeaderKey(name)
		if _, set := header[name]; !set && !isIdempotencyKey(name) && plainHeader(name, values) {
			header[name] = values
		}
	}
}

func isIdempotencyKey(name string) bool {
	return strings.EqualFold(name, "Idempotency-Key") || strings.EqualFold(name, "X-Idempotency-Key")
}

// plainHeader tells whether net/http sends these values as they are: it would
// refuse the whole request for an ill-formed one.
func plainHeader(name string, values []string) bool {
	for _, value := range values {
		if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7F }) {
			return false
		}
	}
	return name != "" && strings.Trim(name, "-!#$%&'*+.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

// secretsOf collects what no text may repeat: what the form holds of the
// caller's data, and what the Authenticator added to the header.
func (x *exchanger) secretsOf(op *operation, header http.Header) secrets {
	found := secrets{}
	if op.private {
		values, _ := url.ParseQuery(string(op.form)) // our own form
		for _, list := range values {
			for _, text := range list {
				found.add(text)
				found.add(withoutEscapes(text))
			}
		}
	}
	for name, values := range header {
		for _, value := range values {
			if x.header[name] == nil && value != formType {
				found.add(value)
			}
		}
	}
	if _, password, ok := (&http.Request{Header: header}).BasicAuth(); ok {
		found.add(password)
	}
	return found
}

// withoutEscapes writes JSON text anew, as an echo might show it.
func withoutEscapes(text string) string {
	var value any
	if json.Unmarshal([]byte(text), &value) != nil {
		return ""
	}
	plain, _ := encodeValue(value)
	return plain
}

// unanswered is the reply of an exchange that failed without an answer.
func (out *outgoing) unanswered(req *http.Request, err error, secretsOf func(*operation, http.Header) secrets) reply {
	got := reply{evidence: evidence{mayRepeat: out.op.mayRepeat}}
	got.sent, got.sends = out.trace.sent(err)
	got.err = out.cause(err, func() secrets { return secretsOf(out.op, req.Header) })
	if got.sent && errors.Is(got.err, io.EOF) {
		got.err = fmt.Errorf("the connection was closed before the answer: %w", got.err)
	}
	return got
}

// answered is the reply of an exchange with an answer.
func (out *outgoing) answered(req *http.Request, res *http.Response, secretsOf func(*operation, http.Header) secrets) reply {
	redact := func() secrets { return secretsOf(out.op, req.Header) }
	body, err := readAnswer(res, cmp.Or(out.op.maxAnswer, maxAnswer))
	got := reply{response: res, requestID: requestIDOf(res, redact)}
	got.evidence = evidence{status: res.StatusCode, sent: true, mayRepeat: out.op.mayRepeat, cut: err != nil}
	_, got.sends = out.trace.sent(nil)
	if err != nil {
		got.err = fmt.Errorf("the answer could not be read to its end: %w", out.cause(err, redact))
	}
	if got.status < 200 || got.status > 299 {
		got.failure.RetryAfter = parseRetryAfter(res.Header, time.Now())
		got.ownWords = got.failure.explain(res, body, redact())
		got.code = got.failure.Code
		return got
	}
	if got.err == nil {
		got.err = out.op.answer.decode(bytes.TrimPrefix(body, byteOrderMark))
	}
	got.readable = got.err == nil
	got.proves = got.status == out.op.proof
	if !got.readable && !got.proves { // a captive portal
		got.failure.Body = describe(res, body, redact())
	}
	return got
}

// cause says why an exchange failed: the caller's context first, then the end
// of the attempt's time, then what net/http said, without the URL that it puts
// before it, and without what the server said.
func (out *outgoing) cause(err error, secretsOf func() secrets) error {
	switch {
	case out.ctx.Err() != nil:
		return newContextError(out.ctx)
	case out.attemptCtx.Err() != nil:
		return &timeoutError{out.timeout}
	case out.trace.wasWithheld():
		return ErrExpired
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	cause := &foreignError{text: err.Error(), err: err, later: out.trace.mayPass(err)}
	if speaksPlainHTTP(err) {
		cause.text, cause.err = http.ErrSchemeMismatch.Error(), errors.Join(http.ErrSchemeMismatch, err)
	}
	if quotesServer(err) {
		cause.text, cause.err = "what came is not a valid HTTP answer", nil
	} else if secretsOf().in(cause.text) {
		cause.text, cause.err = "the transport failed, with a text that repeats a part of the request", nil
	}
	if out.trace.refusedHandshake(err) {
		cause.text = "TLS handshake: " + cause.text
	}
	return cause
}

// speaksPlainHTTP tells the failed handshake that http.Client would explain.
func speaksPlainHTTP(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/"
}

// quotesServer tells the errors of net/http that quote what the server sent.
func quotesServer(err error) bool {
	var op *net.OpError
	var protocol textproto.ProtocolError
	if errors.As(err, &protocol) {
		return true
	}
	return strings.HasPrefix(err.Error(), "net/http: HTTP/1.x transport connection broken: ") &&
		!errors.As(err, &op) && !brokenConnection(err)
}
