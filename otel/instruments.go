package otel

import (
	"errors"

	"github.com/twiliosync/twiliosync-go"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Attributes of every message.
var (
	system        = attribute.String("messaging.system", "twilio_sync")
	operationName = attribute.String("messaging.operation.name", "send")
	operationType = attribute.String("messaging.operation.type", "send")
)

func outcomeOf(outcome twiliosync.Outcome) attribute.KeyValue {
	return attribute.String("twiliosync.outcome", outcome.String())
}

type instruments struct {
	requestDuration   metric.Float64Histogram
	sent              metric.Int64Counter
	operationDuration metric.Float64Histogram
	paceDuration      metric.Float64Histogram
	active            metric.Int64UpDownCounter
}

func newInstruments(meter metric.Meter) (*instruments, error) {
	// The buckets of the HTTP conventions, in seconds.
	buckets := metric.WithExplicitBucketBoundaries(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
	var i instruments
	var errs [5]error
	i.requestDuration, errs[0] = meter.Float64Histogram("http.client.request.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of HTTP client requests."))
	i.sent, errs[1] = meter.Int64Counter("messaging.client.sent.messages", metric.WithUnit("{message}"),
		metric.WithDescription("Messages that were to be published, by outcome."))
	i.operationDuration, errs[2] = meter.Float64Histogram("messaging.client.operation.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Duration of calls, with their attempts and waits, by outcome."))
	i.paceDuration, errs[3] = meter.Float64Histogram("twiliosync.client.pace.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(0.1, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300),
		metric.WithDescription("Time that attempts waited for the pace of their stream; those that did not wait are not counted."))
	i.active, errs[4] = meter.Int64UpDownCounter("twiliosync.client.attempts.active", metric.WithUnit("{attempt}"),
		metric.WithDescription("Attempts that are in flight."))
	return &i, errors.Join(errs[:]...)
}

// measurement is what tells one series of a metric from another.
type measurement struct {
	operation, failure string
	outcome            twiliosync.Outcome
	attempt            bool
	status, port       int
	address            string
}

// attributeSet is one as the instruments take it: slices, which are made once.
type attributeSet struct {
	record []metric.RecordOption
	add    []metric.AddOption
}

// set returns the attributes of a measurement, made once.
func (t *tracer) set(m measurement) attributeSet {
	t.mu.Lock()
	defer t.mu.Unlock()
	known, ok := t.sets[m]
	if !ok {
		option := attributesOf(m)
		known = attributeSet{[]metric.RecordOption{option}, []metric.AddOption{option}}
		t.sets[m] = known
	}
	return known
}

func attributesOf(m measurement) metric.MeasurementOption {
	var attributes []attribute.KeyValue
	switch {
	case m.attempt:
		operation := operations[m.operation]
		attributes = append(attributes, attribute.String("http.request.method", operation.method), attribute.String("url.template", operation.template),
			attribute.String("server.address", m.address), attribute.Int("server.port", m.port))
		if m.status != 0 {
			attributes = append(attributes, attribute.Int("http.response.status_code", m.status))
		}
	case isMessage(m.operation):
		attributes = append(attributes, system, operationName, operationType, outcomeOf(m.outcome))
	default:
		attributes = append(attributes, system, attribute.String("messaging.operation.name", m.operation), outcomeOf(m.outcome))
	}
	if m.failure != "" {
		attributes = append(attributes, attribute.String("error.type", m.failure))
	}
	return metric.WithAttributeSet(attribute.NewSet(attributes...))
}
