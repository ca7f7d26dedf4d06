package relay_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
)

// tracer notes the traces of calls, and how they ended.
type tracer struct {
	mu       sync.Mutex
	started  []trace.TraceID
	outcomes []twiliosync.CallEnd
}

func (tr *tracer) TraceCallStart(ctx context.Context, _ twiliosync.CallStart) context.Context {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.started = append(tr.started, trace.SpanContextFromContext(ctx).TraceID())
	return ctx
}

func (tr *tracer) TraceCallEnd(_ context.Context, end twiliosync.CallEnd) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.outcomes = append(tr.outcomes, end)
}

func (*tracer) TraceAttemptStart(ctx context.Context, _ twiliosync.AttemptStart) context.Context {
	return ctx
}

func (*tracer) TraceAttemptEnd(context.Context, twiliosync.Attempt) {}

func TestTheTraceTravelsThroughTheLog(t *testing.T) { // not parallel: the propagator is global
	otel.SetTextMapPropagator(propagation.TraceContext{})
	t.Cleanup(func() { otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator()) })
	w := newWorld(t)
	w.sync.Next(1).Answer(503, 20503)
	id := trace.TraceID{1, 2, 3}
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: trace.SpanID{4}, TraceFlags: trace.FlagsSampled}))
	require.NoError(t, w.log.Publish(ctx, relay.Message{ID: "1", ServiceSID: "default", StreamSID: "orders", Data: map[string]int{"n": 1}}))
	tr := &tracer{}
	stop := w.run(relay.Options{Tracer: tr})
	w.untilEmpty()
	stop()
	assert.Equal(t, []trace.TraceID{id}, tr.started)
	require.Len(t, tr.outcomes, 1)
	assert.Equal(t, twiliosync.OutcomeAccepted, tr.outcomes[0].Outcome)
	assert.Equal(t, 2, tr.outcomes[0].Attempts)
	assert.NotEmpty(t, tr.outcomes[0].MessageSID)
	assert.NoError(t, tr.outcomes[0].Err)
}
