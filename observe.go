package twiliosync

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

// Attempt is what [WithObserver] and [Tracer] are told after each attempt of a call.
type Attempt struct {
	// Operation is the id of Twilio's OpenAPI description, such as "CreateStreamMessage".
	Operation string
	// ServiceSID and StreamSID are what the caller gave: SIDs or unique names. StreamSID is empty for a list of streams.
	ServiceSID, StreamSID string
	// Index is the position in the input of CreateAll or a Publisher, from 0; -1 for single calls.
	Index int
	// Number counts the attempts of the call, from 1.
	Number int
	// Outcome is that of this attempt alone; the call's can be OutcomeUnknown because of an earlier one.
	Outcome Outcome
	// StatusCode is the HTTP status, 0 if no answer arrived.
	StatusCode int
	// Code is Twilio's error code, 0 if there is none.
	Code int
	// RequestID is the header Twilio-Request-Id.
	RequestID string
	// Latency is the time from the start of the attempt to the last byte of the answer's body.
	Latency time.Duration
	// RetryIn is the delay before the next attempt; 0: this was the last.
	RetryIn time.Duration
	// Waited is how long this attempt waited for the pace of its stream before it started.
	Waited time.Duration
	// Err is the attempt's *Error, nil if it was accepted.
	Err error
}

// Tracer brackets calls and attempts, also calls that are refused before the
// first attempt. What a Start returns is the context of all that follows up to
// its End: attempts, the Authenticator, the transport, the logger. Each Start
// has exactly one End. A nil context is ignored. A panic is caught, and logged
// if there is a logger. Calls may run concurrently.
type Tracer interface {
	TraceCallStart(ctx context.Context, call CallStart) context.Context
	TraceCallEnd(ctx context.Context, call CallEnd)
	TraceAttemptStart(ctx context.Context, attempt AttemptStart) context.Context
	TraceAttemptEnd(ctx context.Context, attempt Attempt)
}

// CallStart is what a [Tracer] is told when a call begins.
type CallStart struct {
	// Operation, ServiceSID, StreamSID and Index are as in Attempt.
	Operation, ServiceSID, StreamSID string
	Index                            int
	// DataSize is the size of the message in bytes of JSON; 0 where there is none, or where it was refused.
	DataSize int
}

// CallEnd is what a [Tracer] is told when a call has ended.
type CallEnd struct {
	// Outcome is the call's.
	Outcome Outcome
	// Attempts and Sends are as in Error and Response.
	Attempts, Sends int
	// Waited is how long the call waited for the pace of its stream, over all attempts.
	Waited time.Duration
	// MessageSID is the SID of the accepted message, empty for other operations and failures.
	MessageSID string
	// Err is the call's *Error, nil if it succeeded.
	Err error
}

// AttemptStart is what a [Tracer] is told before an attempt.
type AttemptStart struct {
	// Number counts the attempts of the call, from 1.
	Number int
	// Waited is as in Attempt.
	Waited time.Duration
	// URL is a copy of the request's address.
	URL *url.URL
	// Header is empty. What is added to it is sent, unless the SDK or the Authenticator sets the same header, or it is an
	// Idempotency-Key.
	Header http.Header
}

// watchers are those who are told about calls and attempts. No lock is held
// while they run, and a panic in the user's code must not cost the caller the
// outcome of a message that may be published already: it is caught, and logged
// if it can be.
type watchers struct {
	log     callLog
	observe func(context.Context, Attempt)
	tracer  Tracer
}

// watchesAttempts tells whether anybody looks at attempts.
func (w *watchers) watchesAttempts() bool { return w.log != nil || w.observe != nil || w.tracer != nil }

func (w *watchers) callStart(ctx context.Context, call CallStart) context.Context {
	if w.tracer == nil {
		return ctx
	}
	return w.start(ctx, func() context.Context { return w.tracer.TraceCallStart(ctx, call) })
}

func (w *watchers) callEnd(ctx context.Context, call CallEnd) {
	if w.tracer != nil {
		w.guard(ctx, "tracer", func() { w.tracer.TraceCallEnd(ctx, call) })
	}
}

func (w *watchers) attemptStart(ctx context.Context, attempt AttemptStart) context.Context {
	return w.start(ctx, func() context.Context { return w.tracer.TraceAttemptStart(ctx, attempt) })
}

// attemptEnd tells the tracer last, so that what the others do belongs to the attempt; it is told even if they end the
// goroutine. They get the context of the call, but for the logger, whose records belong to the attempt.
func (w *watchers) attemptEnd(callCtx, attemptCtx context.Context, attempt Attempt) {
	if w.tracer != nil {
		defer w.guard(attemptCtx, "tracer", func() { w.tracer.TraceAttemptEnd(attemptCtx, attempt) })
	}
	if w.log != nil {
		w.guard(attemptCtx, "logger", func() { w.log.attempt(attemptCtx, attempt) })
	}
	if w.observe != nil {
		w.guard(callCtx, "observer", func() { w.observe(callCtx, attempt) })
	}
}

// start runs a Start of the tracer, whose context is used if there is one.
func (w *watchers) start(ctx context.Context, start func() context.Context) context.Context {
	var traced context.Context
	w.guard(ctx, "tracer", func() { traced = start() })
	if traced == nil {
		return ctx
	}
	return traced
}

func (w *watchers) guard(ctx context.Context, who string, userCode func()) {
	if panicked := caught(userCode); panicked != nil && w.log != nil {
		caught(func() { w.log.panicked(ctx, who, panicked) })
	}
}

func caught(userCode func()) (panicked any) {
	defer func() { panicked = recover() }()
	userCode()
	return nil
}

// callLog is slogLog behind an interface: that only WithLogger names the type
// keeps log/slog, 70 KB, out of programs without a logger.
type callLog interface {
	attempt(ctx context.Context, a Attempt)
	panicked(ctx context.Context, who string, value any)
}

type slogLog struct{ logger *slog.Logger }

// attempt writes only the fields listed here: never data, text of the server,
// or a whole identifier.
func (l slogLog) attempt(ctx context.Context, a Attempt) {
	level, text := slog.LevelDebug, "twiliosync: attempt"
	if a.Outcome == OutcomeUnknown {
		level, text = slog.LevelWarn, "twiliosync: attempt with unknown outcome, it may have taken effect"
	}
	l.logger.LogAttrs(ctx, level, text,
		slog.Int("attempt", a.Number),
		slog.String("outcome", a.Outcome.String()),
		slog.Int("status", a.StatusCode),
		slog.Int("code", a.Code),
		slog.Duration("latency", a.Latency),
		slog.Duration("delay", a.RetryIn),
		slog.String("request_id", a.RequestID),
		slog.String("service", lastFour(a.ServiceSID)),
		slog.String("stream", lastFour(a.StreamSID)))
}

func (l slogLog) panicked(ctx context.Context, who string, value any) {
	l.logger.ErrorContext(ctx, "twiliosync: the "+who+" panicked", "panic", value)
}

func lastFour(identifier string) string {
	runes := []rune(identifier)
	if len(runes) <= 4 {
		return "…"
	}
	return "…" + string(runes[len(runes)-4:])
}
