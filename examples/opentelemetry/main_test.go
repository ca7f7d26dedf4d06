package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/otel"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/sdk/metric"
)

// TestTheCollectorGetsTracesAndMetrics runs the program beside the
// OpenTelemetry Collector's own OTLP receiver.
func TestTheCollectorGetsTracesAndMetrics(t *testing.T) {
	traces, metrics := new(consumertest.TracesSink), new(consumertest.MetricsSink)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+collector(t, traces, metrics))
	for _, name := range []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"} {
		t.Setenv(name, "")
	}

	require.NoError(t, run(t.Context(), io.Discard))

	calls, attempts := map[string]ptrace.Span{}, []ptrace.Span(nil)
	for _, batch := range traces.AllTraces() {
		for _, span := range spansOf(batch) {
			switch span.Name() {
			case "send":
				calls[span.SpanID().String()] = span
			case "POST":
				attempts = append(attempts, span)
			}
		}
	}
	assert.Len(t, calls, 10)
	assert.Len(t, attempts, 10)
	for _, attempt := range attempts {
		assert.Equal(t, ptrace.SpanKindClient, attempt.Kind())
		if call, ok := calls[attempt.ParentSpanID().String()]; assert.True(t, ok, "an attempt is below its call") {
			assert.Equal(t, ptrace.SpanKindProducer, call.Kind())
			assert.Equal(t, call.TraceID(), attempt.TraceID())
			outcome, _ := call.Attributes().Get("twiliosync.outcome")
			assert.Equal(t, "accepted", outcome.Str())
		}
	}
	var names []string
	for _, batch := range metrics.AllMetrics() {
		for _, metric := range metricsOf(batch) {
			names = append(names, metric.Name())
			if metric.Name() == "messaging.client.sent.messages" {
				assert.EqualValues(t, 10, metric.Sum().DataPoints().At(0).IntValue())
			}
			if metric.Name() == "http.client.request.duration" {
				exemplars := metric.Histogram().DataPoints().At(0).Exemplars()
				if assert.Positive(t, exemplars.Len(), "exemplars lead to the traces") {
					assert.True(t, slices.ContainsFunc(attempts, func(a ptrace.Span) bool { return a.SpanID() == exemplars.At(0).SpanID() }), "that of an attempt")
				}
			}
		}
	}
	slices.Sort(names)
	assert.Equal(t, []string{"http.client.request.duration", "messaging.client.operation.duration", "messaging.client.sent.messages", "twiliosync.client.attempts.active"}, slices.Compact(names))
}

// collector starts the receiver, and returns its address.
func collector(t *testing.T, traces *consumertest.TracesSink, metrics *consumertest.MetricsSink) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"http": map[string]any{"endpoint": address}}}).Unmarshal(config))
	settings := receivertest.NewNopSettings(factory.Type())
	ctx := context.Background()
	forTraces, err := factory.CreateTraces(ctx, settings, config, traces)
	require.NoError(t, err)
	forMetrics, err := factory.CreateMetrics(ctx, settings, config, metrics)
	require.NoError(t, err)
	require.NoError(t, forTraces.Start(ctx, componenttest.NewNopHost()))
	require.NoError(t, forMetrics.Start(ctx, componenttest.NewNopHost()))
	t.Cleanup(func() {
		assert.NoError(t, forMetrics.Shutdown(ctx))
		assert.NoError(t, forTraces.Shutdown(ctx))
	})
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return address
}

func spansOf(batch ptrace.Traces) (spans []ptrace.Span) {
	for _, resource := range batch.ResourceSpans().All() {
		for _, scope := range resource.ScopeSpans().All() {
			for _, span := range scope.Spans().All() {
				spans = append(spans, span)
			}
		}
	}
	return spans
}

func metricsOf(batch pmetric.Metrics) (metrics []pmetric.Metric) {
	for _, resource := range batch.ResourceMetrics().All() {
		for _, scope := range resource.ScopeMetrics().All() {
			for _, metric := range scope.Metrics().All() {
				metrics = append(metrics, metric)
			}
		}
	}
	return metrics
}

// byExporter is Prometheus by OpenTelemetry's exporter, as docs/observability.md shows it.
func byExporter() (twiliosync.Tracer, error) {
	reader, err := exporter.New() // promhttp.Handler() serves it
	if err != nil {
		return nil, err
	}
	return otel.New(otel.WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
}

// byObserver is Prometheus without OpenTelemetry.
func byObserver() twiliosync.Option {
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "twiliosync_attempts_total", Help: "Attempts by outcome."}, []string{"outcome"})
	waited := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "twiliosync_waited_seconds", Help: "Time that attempts waited for the pace of their stream."})
	prometheus.MustRegister(attempts, waited)
	return twiliosync.WithObserver(func(_ context.Context, a twiliosync.Attempt) {
		attempts.WithLabelValues(a.Outcome.String()).Inc()
		waited.Observe(a.Waited.Seconds())
	})
}

func TestPrometheus(t *testing.T) {
	tracer, err := byExporter()
	require.NoError(t, err)
	client := twiliosynctest.NewServer(t).Client(twiliosync.WithTracer(tracer), byObserver())
	for range 3 {
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", map[string]int{"n": 1})
		require.NoError(t, err)
	}
	answer := httptest.NewRecorder()
	promhttp.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{
		`twiliosync_attempts_total{outcome="accepted"} 3`,
		`twiliosync_waited_seconds_count 3`,
		`twiliosync_outcome="accepted"} 3`,
		"http_client_request_duration_seconds_bucket{",
	} {
		assert.Contains(t, answer.Body.String(), line)
	}
}

// TestThePageShowsWhatIsCompiled compares docs/observability.md with the source here and in otel.
func TestThePageShowsWhatIsCompiled(t *testing.T) {
	var source strings.Builder
	for _, path := range []string{"main.go", "main_test.go", "../../otel/example_test.go"} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		source.WriteString(unindented(string(text)))
	}
	page, err := os.ReadFile("../../docs/observability.md")
	require.NoError(t, err)
	blocks := strings.Split(string(page), "```go\n")[1:]
	require.GreaterOrEqual(t, len(blocks), 4)
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		assert.Contains(t, source.String(), unindented(code))
	}
}

// unindented also takes a return of a function for the end of a program.
func unindented(code string) string {
	var lines strings.Builder
	for line := range strings.Lines(code) {
		lines.WriteString(strings.TrimSpace(line) + "\n")
	}
	return lines.String()
}
