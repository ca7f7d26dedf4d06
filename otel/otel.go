// Package otel tells OpenTelemetry what package twiliosync does: a span for
// each call and each attempt, and metrics by outcome.
//
//	tracer, err := otel.New()
//	client, err := twiliosync.NewClientFromEnv(twiliosync.WithTracer(tracer))
//
// docs/observability.md in the repository lists every name, unit and attribute.
// Neither data, credentials, addresses with identifiers, nor text of the server
// is in any of them; names of streams only with [WithStreamNames].
package otel

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/twiliosync/twiliosync-go"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/twiliosync/twiliosync-go/otel"

// Option changes a setting of [New].
type Option func(*settings) error

type settings struct {
	tracers     trace.TracerProvider
	meters      metric.MeterProvider
	streamNames bool
	propagates  bool
}

// WithTracerProvider uses these tracers. The default is OpenTelemetry's global
// provider.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("otel: WithTracerProvider: the provider is nil; leave the option out")
		}
		s.tracers = p
		return nil
	}
}

// WithMeterProvider uses these meters. The default is OpenTelemetry's global
// provider.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(s *settings) error {
		if p == nil {
			return errors.New("otel: WithMeterProvider: the provider is nil; leave the option out")
		}
		s.meters = p
		return nil
	}
}

// WithStreamNames puts the stream of a call into its span, as
// messaging.destination.name. It is off by default: names can be personal. It
// is never in a metric, where each name would be a series of its own.
func WithStreamNames() Option {
	return func(s *settings) error {
		s.streamNames = true
		return nil
	}
}

// WithPropagation sends the trace with each request, by OpenTelemetry's global
// propagator, such as the header traceparent. It is off by default: nothing at
// Twilio is known to read it.
func WithPropagation() Option {
	return func(s *settings) error {
		s.propagates = true
		return nil
	}
}

// New returns a tracer for [twiliosync.WithTracer]. An error says which option
// or instrument is wrong.
func New(opts ...Option) (twiliosync.Tracer, error) {
	s := settings{tracers: otel.GetTracerProvider(), meters: otel.GetMeterProvider()}
	for i, opt := range opts {
		if opt == nil {
			return nil, fmt.Errorf("otel: option %d is nil; leave it out", i+1)
		}
		if err := opt(&s); err != nil {
			return nil, err
		}
	}
	instruments, err := newInstruments(s.meters.Meter(scope))
	if err != nil {
		return nil, fmt.Errorf("otel: %w", err)
	}
	t := &tracer{settings: s, tracer: s.tracers.Tracer(scope), instruments: instruments, sets: map[measurement]attributeSet{}}
	if s.propagates {
		t.propagator = otel.GetTextMapPropagator()
	}
	return t, nil
}

// operations are what a span says of an operation beyond its id.
var operations = map[string]struct{ method, template string }{
	"CreateStreamMessage": {http.MethodPost, "/v1/Services/{ServiceSid}/Streams/{StreamSid}/Messages"},
	"CreateSyncStream":    {http.MethodPost, "/v1/Services/{ServiceSid}/Streams"},
	"FetchSyncStream":     {http.MethodGet, "/v1/Services/{ServiceSid}/Streams/{Sid}"},
	"UpdateSyncStream":    {http.MethodPost, "/v1/Services/{ServiceSid}/Streams/{Sid}"},
	"DeleteSyncStream":    {http.MethodDelete, "/v1/Services/{ServiceSid}/Streams/{Sid}"},
	"ListSyncStream":      {http.MethodGet, "/v1/Services/{ServiceSid}/Streams"},
}

// The kinds of spans, as slices that are made once.
var (
	internal = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindInternal)}
	producer = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindProducer)}
	client   = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
)

type tracer struct {
	settings
	*instruments
	tracer     trace.Tracer
	propagator propagation.TextMapPropagator // nil: none

	mu   sync.Mutex
	sets map[measurement]attributeSet // the same few again and again
}

// call is what is known of a call between its start and its end.
type call struct {
	operation string
	start     time.Time
	address   attribute.KeyValue // of the server, from the first attempt
	port      attribute.KeyValue
}

type callKey struct{}

// TraceCallStart begins the span of a call.
func (t *tracer) TraceCallStart(ctx context.Context, start twiliosync.CallStart) context.Context {
	name, kind := start.Operation, internal
	if isMessage(start.Operation) {
		name, kind = "send", producer
	}
	ctx = context.WithValue(ctx, callKey{}, &call{operation: start.Operation, start: time.Now()})
	ctx, span := t.tracer.Start(ctx, name, kind...)
	if !span.IsRecording() {
		return ctx
	}
	if isMessage(start.Operation) {
		span.SetAttributes(system, operationName, operationType, attribute.Int("messaging.message.body.size", start.DataSize))
	}
	if t.streamNames && start.StreamSID != "" {
		span.SetAttributes(attribute.String("messaging.destination.name", start.StreamSID))
	}
	return ctx
}

// TraceCallEnd ends the span of a call, and counts the call.
func (t *tracer) TraceCallEnd(ctx context.Context, end twiliosync.CallEnd) {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		return
	}
	failure, code := "", 0
	if end.Err != nil {
		failure, code = failureOf(end.Err)
	}
	set := t.set(measurement{operation: c.operation, outcome: end.Outcome, failure: failure})
	if isMessage(c.operation) {
		t.sent.Add(ctx, 1, set.add...)
	}
	t.operationDuration.Record(ctx, time.Since(c.start).Seconds(), set.record...)

	span := trace.SpanFromContext(ctx)
	defer span.End()
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(outcomeOf(end.Outcome), attribute.Int("twiliosync.attempts", end.Attempts))
	if end.MessageSID != "" {
		span.SetAttributes(attribute.String("messaging.message.id", end.MessageSID))
	}
	fail(span, end.Outcome, code, failure)
}

// TraceAttemptStart begins the span of an attempt.
func (t *tracer) TraceAttemptStart(ctx context.Context, start twiliosync.AttemptStart) context.Context {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		c = &call{} // of a context that somebody else has made
		ctx = context.WithValue(ctx, callKey{}, c)
	}
	if !c.address.Valid() {
		c.address, c.port = attribute.String("server.address", start.URL.Hostname()), attribute.Int("server.port", portOf(start.URL.Scheme, start.URL.Port()))
	}
	t.active.Add(ctx, 1)
	if start.Waited > 0 {
		t.paceDuration.Record(ctx, start.Waited.Seconds())
	}
	if trace.SpanFromContext(ctx).IsRecording() { // else its attempts are not sampled either
		operation := operations[c.operation]
		var span trace.Span
		ctx, span = t.tracer.Start(ctx, operation.method, client...)
		span.SetAttributes(attribute.String("http.request.method", operation.method), attribute.String("url.template", operation.template), c.address, c.port)
		if start.Number > 1 {
			span.SetAttributes(attribute.Int("http.request.resend_count", start.Number-1))
		}
	}
	if t.propagator != nil {
		t.propagator.Inject(ctx, propagation.HeaderCarrier(start.Header))
	}
	return ctx
}

// TraceAttemptEnd ends the span of an attempt, and measures it.
func (t *tracer) TraceAttemptEnd(ctx context.Context, end twiliosync.Attempt) {
	c, _ := ctx.Value(callKey{}).(*call)
	if c == nil {
		return
	}
	failure := errorType(end.Err, end.StatusCode)
	t.active.Add(ctx, -1)
	t.requestDuration.Record(ctx, end.Latency.Seconds(), t.set(measurement{
		operation: end.Operation, status: end.StatusCode, failure: failure, address: c.address.Value.AsString(), port: int(c.port.Value.AsInt64()), attempt: true,
	}).record...)

	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	defer span.End()
	span.SetAttributes(outcomeOf(end.Outcome))
	if end.StatusCode != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", end.StatusCode))
	}
	if end.RequestID != "" {
		span.SetAttributes(attribute.String("twilio.request_id", end.RequestID))
	}
	fail(span, end.Outcome, end.Code, failure)
}

// fail notes a failure on a span. Its description has the outcome and Twilio's code only.
func fail(span trace.Span, outcome twiliosync.Outcome, code int, failure string) {
	if code != 0 {
		span.SetAttributes(attribute.Int("twilio.code", code))
	}
	if failure == "" {
		return
	}
	span.SetAttributes(attribute.String("error.type", failure))
	description := outcome.String()
	if code != 0 {
		description += " " + strconv.Itoa(code)
	}
	span.SetStatus(codes.Error, description)
}

func isMessage(operation string) bool { return operation == "CreateStreamMessage" }

func portOf(scheme, port string) int {
	if port != "" {
		n, _ := strconv.Atoi(port) // of a URL, which has checked it
		return n
	}
	if scheme == "http" {
		return 80
	}
	return 443
}

// failureOf is the error type of a call, with Twilio's code.
func failureOf(err error) (failure string, code int) {
	var e *twiliosync.Error
	if errors.As(err, &e) {
		return errorType(err, e.StatusCode), e.Code
	}
	return errorType(err, 0), 0
}

// errorType is a word from a small set for what went wrong; empty if nothing did.
func errorType(err error, status int) string {
	if err == nil {
		return ""
	}
	return typeOf(err, status)
}

func typeOf(err error, status int) string {
	var timeout interface{ Timeout() bool }
	var parameter *twiliosync.ParameterError
	switch {
	case errors.Is(err, twiliosync.ErrExpired):
		return "expired"
	case errors.Is(err, twiliosync.ErrDropped):
		return "dropped"
	case errors.Is(err, twiliosync.ErrBufferFull):
		return "buffer_full"
	case errors.Is(err, twiliosync.ErrClosed):
		return "closed"
	case errors.As(err, &parameter):
		return "invalid_parameter"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline_exceeded"
	case status != 0:
		return strconv.Itoa(status)
	case errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	}
	return "_OTHER"
}
