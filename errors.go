package twiliosync

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

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

// Retryable reports whether the call was certainly without effect and the same
// call may succeed later: after the failures that the SDK itself sends again
// (see the package comment), when the caller's own context ended before
// anything was sent, and when a [Publisher] had no room. It is false for nil,
// for an unknown outcome, for input or credentials that would fail again, and
// for errors that are not an [*Error]. Where the Error has a RetryAfter, wait
// that long first.
func Retryable(err error) bool {
	e := asError(err)
	if e == nil {
		return false
	}
	switch e.Outcome {
	case OutcomeNotSent:
		return endedByContext(e.Err) || mayPassLater(e.Err) || errors.Is(e.Err, ErrBufferFull)
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

// asAccepted is the error of a call whose effect is proven all the same. A
// tracer may have err, which is not changed.
func asAccepted(err error, subject string) error {
	failure := asError(err)
	if failure == nil {
		return err
	}
	accepted := *failure
	accepted.Outcome, accepted.subject = OutcomeAccepted, subject
	return &accepted
}

// codeServiceUnavailable is Twilio's for "try again a few times": the only 503
// that says the request was not processed.
// Source: https://www.twilio.com/docs/api/errors/20503
const codeServiceUnavailable = 20503

// throttled tells the answers that refuse a request now and may take it later.
func throttled(status, code int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable && code == codeServiceUnavailable
}

// The errors for errors.Is. The first group looks at the HTTP status, and at
// Twilio's code where the status that comes with it is not documented.
//
// Source of the codes: https://www.twilio.com/docs/api/errors
var (
	// ErrUnauthorized matches status 401: credentials that are wrong, deleted, suspended, or of another region.
	ErrUnauthorized error = &sentinel{"unauthorized"}
	// ErrForbidden matches status 403 and code 54056: the credentials may not use this service or account.
	ErrForbidden error = &sentinel{"forbidden"}
	// ErrNotFound matches status 404 and codes 54050, 54250, 54300: no such service or stream.
	ErrNotFound error = &sentinel{"not found"}
	// ErrAlreadyExists matches status 409 and code 54301: a stream of this unique name exists.
	ErrAlreadyExists error = &sentinel{"already exists"}
	// ErrTooLarge matches status 413, codes 54006 and 20413, and data refused locally for its size.
	ErrTooLarge error = &sentinel{"too large"}
	// ErrRateLimited matches status 429: the stream's or the account's rate was exceeded.
	ErrRateLimited error = &sentinel{"rate limited"}
	// ErrInvalidParameter matches every ParameterError, status 400 and codes 54008, 54010, 54011, 54251, 54302.
	ErrInvalidParameter error = &sentinel{"invalid parameter"}

	// ErrExpired matches a message whose NotAfter passed before it could be sent, or sent again.
	ErrExpired error = &sentinel{"expired: its NotAfter passed before it could start"}
	// ErrDropped matches a message of a Publisher that made room for a newer one.
	ErrDropped error = &sentinel{"dropped: a newer message took its place"}
	// ErrBufferFull matches a message that a Publisher had no room for.
	ErrBufferFull error = &sentinel{"the buffer is full; publish again later, or slow down"}
	// ErrClosed matches a message that came after Publisher.Close.
	ErrClosed error = &sentinel{"the Publisher is closed"}
	// ErrRetryQuota matches, beside its own failure, a call whose next attempt the client's retry quota refused.
	ErrRetryQuota error = &sentinel{"not sent again: the retry quota is spent"}
)

var sentinelOfStatus = map[int]error{
	http.StatusBadRequest:            ErrInvalidParameter,
	http.StatusUnauthorized:          ErrUnauthorized,
	http.StatusForbidden:             ErrForbidden,
	http.StatusNotFound:              ErrNotFound,
	http.StatusConflict:              ErrAlreadyExists,
	http.StatusRequestEntityTooLarge: ErrTooLarge,
	http.StatusTooManyRequests:       ErrRateLimited,
}

var sentinelOfCode = map[int]error{
	20413: ErrTooLarge,
	54006: ErrTooLarge,
	54008: ErrInvalidParameter,
	54010: ErrInvalidParameter,
	54011: ErrInvalidParameter,
	54050: ErrNotFound,
	54056: ErrForbidden,
	54250: ErrNotFound,
	54251: ErrInvalidParameter,
	54300: ErrNotFound,
	54301: ErrAlreadyExists,
	54302: ErrInvalidParameter,
}

// Error is every failure of a call, always as a pointer. Its text is one line
// of at most 512 bytes, with Twilio's words quoted. It holds neither secrets nor
// data; nor do its JSON and its slog value.
//
// After several attempts it is the error of the last one, except that Outcome
// is OutcomeUnknown if any earlier attempt may have taken effect.
type Error struct {
	// Outcome says whether the message was published, or the call took effect.
	Outcome Outcome
	// StatusCode is the HTTP status; 0 if no answer arrived.
	StatusCode int
	// Code is Twilio's error code, explained at https://www.twilio.com/docs/api/errors; 0 if there is none.
	Code int
	// Message is Twilio's description of the error; empty where it repeats a part of the data or the credentials.
	Message string
	// MoreInfo is the address of Twilio's page about the error.
	MoreInfo string
	// Details holds what else Twilio said, numbers as json.Number; nil if nothing. What repeats a part of the data or
	// the credentials is left out.
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
	// Body says what an answer was that is not Twilio's, such as "text/html, 1,532 bytes"; never what it held.
	Body string
	// Err is the cause: a *ParameterError, the context's error, or what the network said. Nil if the answer says it all.
	Err error

	subject string // what the call was about, in the words of the advice; empty: a message
}

// readsOnly is the subject of a call that changes nothing.
const readsOnly = "a read"

// Unwrap returns Err, so that errors.Is and errors.As find the cause.
func (e *Error) Unwrap() error {
	if e == nil {
		return nil
	}
	return e.Err
}

// Is matches the errors of this package: errors.Is(err, twiliosync.ErrNotFound).
func (e *Error) Is(target error) bool {
	if e == nil || target == nil {
		return false
	}
	return target == sentinelOfStatus[e.StatusCode] || target == sentinelOfCode[e.Code]
}

const (
	maxErrorText  = 512 // bytes of Error()
	maxServerText = 200 // bytes of the server's words in it
	maxRequestID  = 64  // bytes; about twice what Twilio sends, "RQ" and 32 digits
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
		reasons = append(reasons, "the answer is not Twilio's: "+clip(e.Body, maxServerText))
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
	case e.subject == readsOnly && (e.Outcome == OutcomeUnknown || e.Outcome == OutcomeAccepted):
		return ""
	case e.Outcome == OutcomeUnknown && e.subject != "":
		return e.subject + " may have taken effect"
	case e.Outcome == OutcomeUnknown:
		return "the message may have been published, sending it again may publish it twice"
	case e.Outcome == OutcomeAccepted && e.subject != "":
		return e.subject + " took effect"
	case e.Outcome == OutcomeAccepted:
		return "the message was published, do not send it again"
	case errors.Is(e, ErrUnauthorized):
		return "check the account SID and auth token or the API key and secret, their region, and whether quotes came with them"
	case errors.Is(e, ErrNotFound):
		return "check service and stream, a stream must be created before messages are published to it"
	case e.StatusCode >= 300 && e.StatusCode < 400:
		return "redirects are not followed, check the base URL"
	}
	return ""
}

// MarshalJSON writes the fields with the outcome as a word and the cause as
// its text.
func (e *Error) MarshalJSON() ([]byte, error) {
	if e == nil {
		return []byte("null"), nil
	}
	fields := struct {
		Outcome    Outcome        `json:"outcome"`
		StatusCode int            `json:"status_code,omitempty"`
		Code       int            `json:"code,omitempty"`
		Message    string         `json:"message,omitempty"`
		MoreInfo   string         `json:"more_info,omitempty"`
		Details    map[string]any `json:"details,omitempty"`
		RequestID  string         `json:"request_id,omitempty"`
		RetryAfter string         `json:"retry_after,omitempty"`
		Attempts   int            `json:"attempts"`
		Sends      int            `json:"sends"`
		Body       string         `json:"body,omitempty"`
		Cause      string         `json:"cause,omitempty"`
	}{
		e.Outcome, e.StatusCode, e.Code, e.Message, e.MoreInfo, e.Details, e.RequestID, "", e.Attempts, e.Sends, e.Body, "",
	}
	if e.RetryAfter > 0 {
		fields.RetryAfter = e.RetryAfter.String()
	}
	if e.Err != nil {
		fields.Cause = clip(oneLine(e.Err.Error()), maxErrorText)
	}
	return json.Marshal(fields)
}

// LogValue shows slog the outcome and the numbers apart from the text.
func (e *Error) LogValue() slog.Value {
	if e == nil {
		return slog.StringValue(e.Error())
	}
	return slog.GroupValue(
		slog.String("outcome", e.Outcome.String()),
		slog.Int("status", e.StatusCode),
		slog.Int("code", e.Code),
		slog.String("request_id", e.RequestID),
		slog.Duration("retry_after", e.RetryAfter),
		slog.Int("attempts", e.Attempts),
		slog.Int("sends", e.Sends),
		slog.String("text", e.Error()))
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
	Err error `json:"-"`
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

// notSent is the failure of a call that ended before its first attempt.
func notSent(cause error) *Error { return &Error{Outcome: OutcomeNotSent, Err: cause} }
