package twiliosync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Outcome answers the question that follows every failed publish: did it
// happen? Each call of Create ends in exactly one.
type Outcome int

const (
	// OutcomeUnknown means that the request may have reached Sync and no answer says what became of it.
	// Sending the message again may publish it twice. It is the zero value: what isn't proven is unknown.
	OutcomeUnknown Outcome = iota
	// OutcomeNotSent means that no complete request left this process: nothing was published.
	OutcomeNotSent
	// OutcomeRejected means that Sync, or a proxy before it, answered that it did not take the message: nothing was published.
	OutcomeRejected
	// OutcomeAccepted means that Sync took the message. It does not mean that a subscriber received it.
	OutcomeAccepted
)

// String returns "unknown", "not sent", "rejected" or "accepted".
func (o Outcome) String() string {
	switch o {
	case OutcomeUnknown:
		return "unknown"
	case OutcomeNotSent:
		return "not sent"
	case OutcomeRejected:
		return "rejected"
	case OutcomeAccepted:
		return "accepted"
	}
	return fmt.Sprintf("Outcome(%d)", int(o))
}

// OutcomeOf returns the outcome of the call that returned err: OutcomeAccepted
// for nil, the Outcome of an [*Error] anywhere in the chain, and
// OutcomeUnknown for any other error.
func OutcomeOf(err error) Outcome {
	if err == nil {
		return OutcomeAccepted
	}
	if e := asError(err); e != nil {
		return e.Outcome
	}
	return OutcomeUnknown
}

// Retryable reports whether the message was certainly not published and the
// same call may succeed later: after the failures that the SDK itself sends
// again (see the package comment), and when the caller's own context ended
// before anything was sent. It is false for nil, for an unknown outcome, for
// input or credentials that would fail again, and for errors that are not an
// [*Error]. Where the Error has a RetryAfter, wait that long first.
func Retryable(err error) bool {
	e := asError(err)
	if e == nil {
		return false
	}
	switch e.Outcome {
	case OutcomeNotSent:
		return endedByContext(e.Err) || networkCause(e.Err)
	case OutcomeRejected:
		return throttled(e.StatusCode, e.Code)
	}
	return false
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// contextError says that the caller's context ended the call. The type tells
// it from the timeouts of the network, many of which match
// context.DeadlineExceeded too.
type contextError struct {
	err        error
	retryAfter time.Duration // how long the wait would have been that the deadline didn't allow
}

func newContextError(ctx context.Context) *contextError {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause != nil && !errors.Is(cause, err) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	return &contextError{err: err}
}

func (e *contextError) Error() string { return e.err.Error() }
func (e *contextError) Unwrap() error { return e.err }

func endedByContext(err error) bool {
	var ended *contextError
	return errors.As(err, &ended)
}

// The sentinels for errors.Is. They look at the HTTP status, and at Twilio's
// code where the status that comes with it is not documented.
//
// Source of the codes: https://www.twilio.com/docs/api/errors
var (
	// ErrUnauthorized matches status 401: credentials that are wrong, deleted, suspended, or of another region.
	ErrUnauthorized = errors.New("twiliosync: unauthorized")
	// ErrForbidden matches status 403 and code 54056: the credentials may not use this service or account.
	ErrForbidden = errors.New("twiliosync: forbidden")
	// ErrNotFound matches status 404 and codes 54050, 54250, 54300: no such service or stream.
	ErrNotFound = errors.New("twiliosync: not found")
	// ErrTooLarge matches status 413, codes 54006 and 20413, and data refused locally for its size.
	ErrTooLarge = errors.New("twiliosync: too large")
	// ErrRateLimited matches status 429: the stream's or the account's rate was exceeded.
	ErrRateLimited = errors.New("twiliosync: rate limited")
	// ErrInvalidParameter matches every ParameterError, status 400 and codes 54008, 54010, 54251.
	ErrInvalidParameter = errors.New("twiliosync: invalid parameter")
)

var sentinelOfStatus = map[int]error{
	http.StatusBadRequest:            ErrInvalidParameter,
	http.StatusUnauthorized:          ErrUnauthorized,
	http.StatusForbidden:             ErrForbidden,
	http.StatusNotFound:              ErrNotFound,
	http.StatusRequestEntityTooLarge: ErrTooLarge,
	http.StatusTooManyRequests:       ErrRateLimited,
}

var sentinelOfCode = map[int]error{
	20413: ErrTooLarge,
	54006: ErrTooLarge,
	54008: ErrInvalidParameter,
	54010: ErrInvalidParameter,
	54050: ErrNotFound,
	54056: ErrForbidden,
	54250: ErrNotFound,
	54251: ErrInvalidParameter,
	54300: ErrNotFound,
}

// Error is every failure of Create, always as a pointer. Its text is one line
// of at most 512 bytes, with the server's words quoted, and holds neither
// secrets nor data.
//
// After several attempts it is the error of the last one, except that Outcome
// is OutcomeUnknown if any earlier attempt may have been published.
type Error struct {
	// Outcome says whether the message was published.
	Outcome Outcome
	// StatusCode is the HTTP status; 0 if no answer arrived.
	StatusCode int
	// Code is Twilio's error code, explained at https://www.twilio.com/docs/api/errors; 0 if there is none.
	Code int
	// Message is Twilio's description of the error.
	Message string
	// MoreInfo is the address of Twilio's page about the error.
	MoreInfo string
	// Details holds what else Twilio said; nil if nothing.
	Details map[string]any
	// RequestID is the header Twilio-Request-Id ("RQ…"), which Twilio's support asks for.
	RequestID string
	// RetryAfter is how long to wait before sending again: the server's Retry-After, or the delay that would have ended
	// after the context's deadline; 0 if neither.
	RetryAfter time.Duration
	// Attempts counts the attempts of the call; 0 if it was refused before the first.
	Attempts int
	// Sends counts the requests that may have reached the wire.
	Sends int
	// Body is the beginning of an answer that was not Twilio's JSON, white space folded; at most 1 KiB. Of a page with
	// HTML character references that could hide the request's data, it says only that.
	Body string
	// Err is the cause: a *ParameterError, the context's error, or what the network said. Nil if the answer says it all.
	Err error
}

// Unwrap returns Err, so that errors.Is and errors.As find the cause.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Is matches the sentinels of this package: errors.Is(err, twiliosync.ErrNotFound).
func (e *Error) Is(target error) bool {
	if e == nil || target == nil {
		return false
	}
	return target == sentinelOfStatus[e.StatusCode] || target == sentinelOfCode[e.Code]
}

const (
	maxErrorText  = 512  // bytes of Error()
	maxServerText = 200  // bytes of the server's words in it
	maxBodyText   = 1024 // bytes of Error.Body
)

// Error returns one line: outcome, what happened, the numbers to look up, and
// what to do where people usually go wrong.
func (e *Error) Error() string {
	if e == nil {
		return "twiliosync: no error (nil *Error)"
	}
	text := "twiliosync: " + e.Outcome.String() + ": " + e.reason()
	if facts := e.facts(); facts != "" {
		text += " (" + facts + ")"
	}
	advice := e.advice()
	if advice != "" {
		advice = "; " + advice
	}
	return clip(oneLine(text), maxErrorText-len(advice)) + advice
}

func (e *Error) reason() string {
	var reasons []string
	switch {
	case e.Message != "":
		reasons = append(reasons, strconv.Quote(clip(e.Message, maxServerText)))
	case e.Body != "":
		reasons = append(reasons, "the answer is not Twilio's: "+strconv.Quote(clip(e.Body, maxServerText)))
	}
	if e.Err != nil {
		reasons = append(reasons, strings.TrimPrefix(e.Err.Error(), "twiliosync: "))
	}
	if len(reasons) == 0 && e.StatusCode != 0 {
		reasons = append(reasons, strings.TrimSpace("answer without explanation "+http.StatusText(e.StatusCode)))
	}
	if len(reasons) == 0 {
		return "no cause given"
	}
	return strings.Join(reasons, ": ")
}

func (e *Error) facts() string {
	var facts []string
	if e.StatusCode != 0 {
		facts = append(facts, "status "+strconv.Itoa(e.StatusCode))
	}
	if e.Code != 0 {
		facts = append(facts, "code "+strconv.Itoa(e.Code))
	}
	if e.RequestID != "" {
		facts = append(facts, "request "+clip(e.RequestID, maxRequestID))
	}
	if e.Attempts > 1 {
		facts = append(facts, strconv.Itoa(e.Attempts)+" attempts")
	}
	if e.RetryAfter > 0 {
		facts = append(facts, "retry after "+e.RetryAfter.String())
	}
	return strings.Join(facts, ", ")
}

func (e *Error) advice() string {
	switch {
	case e.Outcome == OutcomeUnknown:
		return "the message may have been published, sending it again may publish it twice"
	case e.Outcome == OutcomeAccepted:
		return "the message was published, do not send it again"
	case errors.Is(e, ErrUnauthorized):
		return "check the account SID and auth token or the API key and secret, and their region"
	case errors.Is(e, ErrNotFound):
		return "check service and stream, a stream must be created before messages are published to it"
	case e.StatusCode >= 300 && e.StatusCode < 400:
		return "redirects are not followed, check the base URL"
	}
	return ""
}

// oneLine makes foreign error text safe for a log line.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.Map(printable, strings.ToValidUTF8(s, "\uFFFD"))), " ")
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return ' '
}

// clip shortens s to at most limit bytes, at a character.
func clip(s string, limit int) string {
	const mark = "…"
	if len(s) <= limit {
		return s
	}
	s = s[:limit-len(mark)]
	for len(s) > 0 {
		if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
			break
		}
		s = s[:len(s)-1]
	}
	return s + mark
}

// ParameterError says which parameter was refused before anything was sent,
// and why. It is wrapped in an [*Error] with OutcomeNotSent; use errors.As. The
// refused value itself is never part of it.
type ParameterError struct {
	// Parameter is the name of the refused parameter as in the signature: "serviceSID", "streamSID", "data", "ctx".
	Parameter string
	// Reason is a sentence: what is wrong and what to do.
	Reason string
	// Size and Limit are in bytes of JSON, and set if data is too large.
	Size, Limit int
	// Err is the cause, for example of encoding/json; nil if there is none.
	Err error
}

// Error returns "parameter: reason". It leaves out the text of Err, which may
// quote the data.
func (e *ParameterError) Error() string {
	if e == nil {
		return "twiliosync: no error (nil *ParameterError)"
	}
	return "twiliosync: " + e.Parameter + ": " + e.Reason
}

// Unwrap returns Err.
func (e *ParameterError) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Is matches [ErrInvalidParameter], and [ErrTooLarge] if data was too large.
func (e *ParameterError) Is(target error) bool {
	return target == ErrInvalidParameter || (target == ErrTooLarge && e != nil && e.Limit > 0)
}

// readBody fills e from an error body: Twilio's classic shape, its
// RestErrorV1, RFC 9457, or something else, of which an excerpt is kept.
// The words of the server are redacted as they are meant, without the escapes
// of JSON or HTML.
func (e *Error) readBody(body []byte, redact func(string) string) {
	var fields map[string]any
	if json.Unmarshal(body, &fields) != nil || fields == nil {
		e.Body = excerpt(body, redact)
		return
	}
	redactAll(fields, redact)
	e.Code = codeOf(fields["code"])
	e.Message = firstText(fields, "message", "title", "detail")
	e.MoreInfo = firstText(fields, "more_info", "type")
	e.Details = detailsOf(fields)
	if e.Code == 0 && e.Message == "" {
		rest, _ := encodeJSON(fields) // decoded a moment ago, so it can be encoded
		e.Body = excerpt(rest, redact)
	}
}

// redactAll redacts the texts within decoded JSON, in place.
func redactAll(value any, redact func(string) string) any {
	switch value := value.(type) {
	case string:
		return redact(value)
	case []any:
		for i := range value {
			value[i] = redactAll(value[i], redact)
		}
	case map[string]any:
		for name := range value {
			value[name] = redactAll(value[name], redact)
		}
	}
	return value
}

func codeOf(field any) int {
	var code float64
	switch field := field.(type) {
	case float64:
		code = field
	case string:
		code, _ = strconv.ParseFloat(field, 64)
	}
	if code > 0 && code <= math.MaxInt32 && code == math.Trunc(code) {
		return int(code)
	}
	return 0
}

func firstText(fields map[string]any, names ...string) string {
	for _, name := range names {
		if text, ok := fields[name].(string); ok && text != "" {
			return text
		}
	}
	return ""
}

// detailsOf collects what the shapes add to code and message: the members of
// the objects "details" and "params", and "detail" and "errors" as they are.
func detailsOf(fields map[string]any) map[string]any {
	details := map[string]any{}
	for _, name := range []string{"details", "params"} {
		members, _ := fields[name].(map[string]any)
		maps.Copy(details, members)
	}
	for _, name := range []string{"detail", "errors"} {
		if fields[name] != nil {
			details[name] = fields[name]
		}
	}
	if len(details) == 0 {
		return nil
	}
	return details
}

// excerpt is the beginning of a body on one line.
func excerpt(body []byte, redact func(string) string) string {
	text, resolved := unescapeHTML(string(body))
	if !resolved {
		return "[not shown: it has HTML character references that could hide the request]"
	}
	return clip(oneLine(redact(text)), maxBodyText)
}

// unescapeHTML resolves the character references that escapers write, and tells
// whether all were resolved: numbers, the five names of XML, and nbsp, which is
// in many pages. Package html knows 2,231 names, which would make a program
// 74 KB larger.
func unescapeHTML(text string) (plain string, resolved bool) {
	const longest = len("CounterClockwiseContourIntegral")
	var b strings.Builder
	resolved = true
	for {
		before, after, found := strings.Cut(text, "&")
		b.WriteString(before)
		if !found {
			return b.String(), resolved
		}
		text = after
		reference, _, ended := strings.Cut(after[:min(len(after), longest+1)], ";")
		if !ended || strings.Trim(reference, "#0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || reference == "" {
			b.WriteByte('&') // of the text itself
			continue
		}
		character := referenced(reference)
		resolved = resolved && character != 0
		b.WriteRune(character)
		text = after[len(reference)+1:]
	}
}

// referenced is the character that a reference stands for, 0 if none is known.
func referenced(reference string) rune {
	switch reference {
	case "amp":
		return '&'
	case "lt":
		return '<'
	case "gt":
		return '>'
	case "quot":
		return '"'
	case "apos":
		return '\''
	case "nbsp":
		return ' '
	}
	digits, isNumber := strings.CutPrefix(strings.ToLower(reference), "#")
	base := 10
	if hex, isHex := strings.CutPrefix(digits, "x"); isHex {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 21)
	if !isNumber || err != nil {
		return 0
	}
	return rune(n)
}
