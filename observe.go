package twiliosync

import (
	"context"
	"log/slog"
	"time"
)

// Attempt is what [WithObserver] is told after each attempt of a call.
type Attempt struct {
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
	// Err is the attempt's *Error, nil if it was accepted.
	Err error
}

// report tells logger and observer about an attempt. No lock is held here, and
// a panic in the user's code must not cost the caller the outcome of a message
// that may be published already: it is caught, and logged if it can be.
func (c *Client) report(ctx context.Context, cl *call, a Attempt) {
	if c.log != nil {
		caught(func() { c.log.attempt(ctx, cl, a) })
	}
	if c.observer == nil {
		return
	}
	if panicked := caught(func() { c.observer(ctx, a) }); panicked != nil && c.log != nil {
		caught(func() { c.log.panicked(ctx, panicked) })
	}
}

func caught(userCode func()) (panicked any) {
	defer func() { panicked = recover() }()
	userCode()
	return nil
}

// attemptLog is slogLog behind an interface: that only WithLogger names the
// type keeps log/slog, 70 KB, out of programs without a logger.
type attemptLog interface {
	attempt(ctx context.Context, cl *call, a Attempt)
	panicked(ctx context.Context, value any)
}

type slogLog struct{ logger *slog.Logger }

// attempt writes only the fields listed here: never data, text of the server,
// or a whole identifier.
func (l slogLog) attempt(ctx context.Context, cl *call, a Attempt) {
	level, text := slog.LevelDebug, "twiliosync: attempt"
	if a.Outcome == OutcomeUnknown {
		level, text = slog.LevelWarn, "twiliosync: attempt with unknown outcome, the message may be published"
	}
	l.logger.LogAttrs(ctx, level, text,
		slog.Int("attempt", a.Number),
		slog.String("outcome", a.Outcome.String()),
		slog.Int("status", a.StatusCode),
		slog.Int("code", a.Code),
		slog.Duration("latency", a.Latency),
		slog.Duration("delay", a.RetryIn),
		slog.String("request_id", a.RequestID),
		slog.String("service", lastFour(cl.serviceSID)),
		slog.String("stream", lastFour(cl.streamSID)))
}

func (l slogLog) panicked(ctx context.Context, value any) {
	l.logger.ErrorContext(ctx, "twiliosync: the observer panicked", "panic", value)
}

func lastFour(identifier string) string {
	runes := []rune(identifier)
	if len(runes) <= 4 {
		return "…"
	}
	return "…" + string(runes[len(runes)-4:])
}
