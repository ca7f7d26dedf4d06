package otel_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	global "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/otel"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// telemetry is what OpenTelemetry's SDK has got.
type telemetry struct {
	spans  *tracetest.SpanRecorder
	reader *sdkmetric.ManualReader
	tracer twiliosync.Tracer
}

func record(t testing.TB, opts ...otel.Option) *telemetry {
	t.Helper()
	r := &telemetry{spans: tracetest.NewSpanRecorder(), reader: sdkmetric.NewManualReader()}
	var err error
	r.tracer, err = otel.New(append([]otel.Option{
		otel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))),
		otel.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))),
	}, opts...)...)
	require.NoError(t, err)
	return r
}

func (r *telemetry) metrics(t testing.TB) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, r.reader.Collect(context.Background(), &all))
	found := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			found[m.Name] = m
		}
	}
	return found
}

// requireBalance checks that each span was ended, once.
func (r *telemetry) requireBalance(t *testing.T) {
	t.Helper()
	require.Len(t, r.spans.Ended(), len(r.spans.Started()))
	ended := map[trace.SpanID]int{}
	for _, span := range r.spans.Ended() {
		ended[span.SpanContext().SpanID()]++
	}
	for _, n := range ended {
		require.Equal(t, 1, n)
	}
}

const (
	canaryData   = "card-4111-1111-1111-1111"
	canarySecret = "s3cr3t-0123456789abcdef"
	canaryStream = "orders-of-alice"
	canaryText   = "text-of-the-server"
)

// everything makes calls that end in every way.
func everything(t *testing.T, r *telemetry, opts ...twiliosync.Option) {
	t.Helper()
	srv := twiliosynctest.NewServer(t, twiliosynctest.WithCredentials("AC0123456789abcdef0123456789abcdef", canarySecret))
	client := srv.Client(append([]twiliosync.Option{twiliosync.WithTracer(r.tracer), twiliosync.WithStreamRateLimit(1000, 50*time.Millisecond),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond})}, opts...)...)
	ctx := context.Background()
	publish := func() { client.StreamMessages.Create(ctx, "default", canaryStream, map[string]any{"text": canaryData}) }
	publish()
	srv.Next(1).Answer(429, 54009)
	publish()
	srv.Next(1).LoseAnswer()
	publish()
	srv.Next(1).Respond(403, canaryText)
	publish()
	srv.Next(1).Respond(400, `{"code":54008,"message":"`+canaryText+`"}`)
	publish()
	client.StreamMessages.Create(ctx, "default", "", map[string]any{"text": canaryData})
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	client.StreamMessages.Create(cancelled, "default", canaryStream, map[string]any{"text": canaryData})
	client.Streams.Ensure(ctx, "default", canaryStream, nil)
	client.Streams.List(ctx, "default", nil)
	client.Streams.Delete(ctx, "default", canaryStream)
	slow := srv.Client(twiliosync.WithTracer(r.tracer), twiliosync.WithStreamRateLimit(1, 20*time.Millisecond))
	for range slow.StreamMessages.CreateAll(ctx, "default", slices.Values([]twiliosync.StreamMessageRequest{
		{StreamSID: canaryStream, Data: map[string]any{"text": canaryData}}, {StreamSID: canaryStream, Data: map[string]any{"text": canaryData}},
		{StreamSID: canaryStream, Data: map[string]any{"text": canaryData}, NotAfter: time.Now().Add(-time.Second)},
	}), nil) {
		continue
	}
}

// TestTheTablesOfTheDocsAreWhatIsEmitted, no more and no less.
func TestTheTablesOfTheDocsAreWhatIsEmitted(t *testing.T) {
	text, err := os.ReadFile("../docs/observability.md")
	require.NoError(t, err)
	spans, metrics, _ := strings.Cut(string(text), "## Metrics")
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([\\w.]+)` \\|").FindAllStringSubmatch(spans, -1) {
		documented[row[1]] = true
	}
	r := record(t, otel.WithStreamNames())
	everything(t, r)
	r.requireBalance(t)
	emitted := map[string]bool{}
	for _, span := range r.spans.Ended() {
		for _, attribute := range span.Attributes() {
			emitted[string(attribute.Key)] = true
		}
	}
	assert.Equal(t, documented, emitted)

	found := r.metrics(t)
	rows := regexp.MustCompile("(?m)^\\| `([\\w.]+)` \\| [\\w -]+, (\\S+) \\| ([^|]*) \\|").FindAllStringSubmatch(metrics, -1)
	require.Len(t, rows, len(found))
	for _, row := range rows {
		m, ok := found[row[1]]
		require.True(t, ok, row[1])
		assert.Equal(t, row[2], m.Unit, row[1])
		assert.Equal(t, attributesIn(row[3]), attributesOf(m), row[1])
	}
	dashboard, err := os.ReadFile("../docs/grafana.json")
	require.NoError(t, err)
	require.True(t, json.Valid(dashboard))
	for _, name := range regexp.MustCompile(`(?:messaging|http|twiliosync)_client_\w+`).FindAllString(string(dashboard)+metrics, -1) {
		known := false
		for metric := range found {
			known = known || strings.HasPrefix(name, strings.ReplaceAll(metric, ".", "_"))
		}
		assert.True(t, known, name)
	}
}

func attributesIn(cell string) map[string]bool {
	names := map[string]bool{}
	for _, name := range regexp.MustCompile("`([\\w.]+)`").FindAllStringSubmatch(cell, -1) {
		names[name[1]] = true
	}
	return names
}

func attributesOf(m metricdata.Metrics) map[string]bool {
	names := map[string]bool{}
	switch data := m.Data.(type) {
	case metricdata.Histogram[float64]:
		for _, point := range data.DataPoints {
			for _, a := range point.Attributes.ToSlice() {
				names[string(a.Key)] = true
			}
		}
	case metricdata.Sum[int64]:
		for _, point := range data.DataPoints {
			for _, a := range point.Attributes.ToSlice() {
				names[string(a.Key)] = true
			}
		}
	}
	return names
}

func TestNothingPrivateIsTold(t *testing.T) {
	r := record(t)
	everything(t, r)
	var all strings.Builder
	for _, span := range r.spans.Ended() {
		fmt.Fprintln(&all, span.Name(), span.Attributes(), span.Status(), span.Events(), span.Links())
	}
	fmt.Fprintln(&all, r.metrics(t))
	for _, canary := range []string{canaryData, canarySecret, canaryStream, canaryText, "4111", "Streams/" + canaryStream, "QUMwMTIz"} {
		assert.NotContains(t, all.String(), canary)
	}
}

func TestSpansNestAndSayWhatHappened(t *testing.T) {
	r := record(t)
	srv := twiliosynctest.NewServer(t)
	srv.Next(1).Answer(429, 54009)
	client := srv.Client(twiliosync.WithTracer(r.tracer), twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Millisecond}),
		twiliosync.WithTransportWrapper(func(own http.RoundTripper) http.RoundTripper {
			return otelhttp.NewTransport(own, otelhttp.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r.spans))))
		}))
	_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"a": 1})
	require.NoError(t, err)
	r.requireBalance(t)
	spans := r.spans.Ended()
	require.Len(t, spans, 5, "otelhttp, attempt, otelhttp, attempt, call")
	call := spans[4]
	assert.Equal(t, "send", call.Name())
	assert.Equal(t, trace.SpanKindProducer, call.SpanKind())
	for _, i := range []int{1, 3} {
		assert.Equal(t, "POST", spans[i].Name())
		assert.Equal(t, trace.SpanKindClient, spans[i].SpanKind())
		assert.Equal(t, call.SpanContext().SpanID(), spans[i].Parent().SpanID())
		assert.Equal(t, spans[i].SpanContext().SpanID(), spans[i-1].Parent().SpanID(), "otelhttp nests below the attempt")
	}
	assert.Equal(t, sdktrace.Status{Code: codes.Error, Description: "rejected 54009"}, spans[1].Status())
	assert.Equal(t, codes.Unset, call.Status().Code)
}

// TestOutcomesAreTheSameThroughOtelhttp for every status and kind of body.
func TestOutcomesAreTheSameThroughOtelhttp(t *testing.T) {
	r := record(t)
	wrapped := twiliosync.WithTransportWrapper(func(own http.RoundTripper) http.RoundTripper {
		return otelhttp.NewTransport(own, otelhttp.WithTracerProvider(sdktrace.NewTracerProvider()))
	})
	srv := twiliosynctest.NewServer(t)
	once := twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1})
	plain, traced := srv.Client(once), srv.Client(once, wrapped, twiliosync.WithTracer(r.tracer))
	for status := 200; status < 600; status += 1 {
		for _, body := range []string{"", "<html>", `{"code":20503,"message":"no"}`, `{"sid":"TZ1","data":{}}`} {
			var outcomes []twiliosync.Outcome
			for _, client := range []*twiliosync.Client{plain, traced} {
				srv.Next(1).Respond(status, body)
				_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"a": 1})
				outcomes = append(outcomes, twiliosync.OutcomeOf(err))
			}
			require.Equal(t, outcomes[0], outcomes[1], "status %d, %s", status, body)
		}
	}
	for _, fault := range []func(twiliosynctest.Fault){twiliosynctest.Fault.Reset, twiliosynctest.Fault.LoseAnswer, twiliosynctest.Fault.CutHeader, twiliosynctest.Fault.CutBody, twiliosynctest.Fault.AnswerGarbage} {
		var outcomes []twiliosync.Outcome
		for _, client := range []*twiliosync.Client{plain, traced} {
			fault(srv.Next(1))
			_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"a": 1})
			outcomes = append(outcomes, twiliosync.OutcomeOf(err))
		}
		assert.Equal(t, outcomes[0], outcomes[1])
	}
	r.requireBalance(t)
}

type auth func(*http.Request)

func (a auth) Authenticate(_ context.Context, req *http.Request) error { a(req); return nil }

func TestEverySpanEndsOnceHoweverACallEnds(t *testing.T) {
	for name, misbehave := range map[string]func(){"panic": func() { panic("bang") }, "Goexit": runtime.Goexit, "nothing": func() {}} {
		t.Run(name, func(t *testing.T) {
			r := record(t)
			srv := twiliosynctest.NewServer(t)
			client, err := twiliosync.NewClient(auth(func(req *http.Request) {
				req.SetBasicAuth(srv.Credentials())
				if strings.Contains(req.URL.Path, "bad") {
					misbehave()
				}
			}), twiliosync.WithBaseURL(srv.URL), twiliosync.WithTracer(r.tracer))
			require.NoError(t, err)
			defer client.CloseIdleConnections()
			var done sync.WaitGroup
			done.Go(func() {
				defer func() { _ = recover() }()
				client.StreamMessages.Create(t.Context(), "default", "bad", map[string]any{"a": 1})
			})
			done.Go(func() {
				defer func() { _ = recover() }()
				requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
					for i := 0; yield(twiliosync.StreamMessageRequest{StreamSID: []string{"good", "good", "bad"}[i%3], Data: map[string]any{"i": i}}) && i < 500; i++ {
						continue
					}
				}
				n := 0
				for range client.StreamMessages.CreateAll(t.Context(), "default", requests, nil) {
					if n++; n == 100 {
						break
					}
				}
			})
			done.Wait()
			require.Eventually(t, func() bool { return len(r.spans.Ended()) == len(r.spans.Started()) }, 10*time.Second, time.Millisecond)
			r.requireBalance(t)
			for _, point := range r.metrics(t)["twiliosync.client.attempts.active"].Data.(metricdata.Sum[int64]).DataPoints {
				assert.Zero(t, point.Value, "attempts in flight")
			}
		})
	}
}

func TestPropagationIsOffByDefault(t *testing.T) {
	before := global.GetTextMapPropagator()
	global.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	defer global.SetTextMapPropagator(before)
	for name, opts := range map[string][]otel.Option{"off": nil, "on": {otel.WithPropagation()}} {
		r := record(t, opts...)
		srv := twiliosynctest.NewServer(t)
		_, _, err := srv.Client(twiliosync.WithTracer(r.tracer)).StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"a": 1})
		require.NoError(t, err)
		assert.Equal(t, name == "on", srv.Requests()[0].Header.Get("Traceparent") != "", name)
	}
}

func TestRecordsOfTheLoggerBelongToTheAttempt(t *testing.T) {
	r := record(t)
	handler := &spanHandler{Handler: slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelDebug})}
	srv := twiliosynctest.NewServer(t)
	_, _, err := srv.Client(twiliosync.WithTracer(r.tracer), twiliosync.WithLogger(slog.New(handler))).StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"a": 1})
	require.NoError(t, err)
	assert.Equal(t, []trace.SpanID{r.spans.Ended()[0].SpanContext().SpanID()}, handler.seen)
}

type spanHandler struct {
	slog.Handler
	seen []trace.SpanID
}

func (h *spanHandler) Handle(ctx context.Context, record slog.Record) error {
	h.seen = append(h.seen, trace.SpanContextFromContext(ctx).SpanID())
	return h.Handler.Handle(ctx, record)
}

// TestBaggageIsLeftAlone: it stays in the context, and goes to nobody unless propagation is on.
func TestBaggageIsLeftAlone(t *testing.T) {
	global.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	t.Cleanup(func() { global.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator()) })
	member, err := baggage.NewMember("tenant", "blue")
	require.NoError(t, err)
	bag, err := baggage.New(member)
	require.NoError(t, err)
	ctx := baggage.ContextWithBaggage(t.Context(), bag)
	for _, test := range []struct {
		name string
		opts []otel.Option
		sent string
	}{{"without propagation", nil, ""}, {"with it", []otel.Option{otel.WithPropagation()}, "tenant=blue"}} {
		t.Run(test.name, func(t *testing.T) {
			tracer, err := otel.New(append(test.opts, otel.WithTracerProvider(sdktrace.NewTracerProvider()))...)
			require.NoError(t, err)
			var sent, inContext string
			client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "secret"), twiliosync.WithTracer(tracer),
				twiliosync.WithHTTPClient(&http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
					sent, inContext = r.Header.Get("Baggage"), baggage.FromContext(r.Context()).String()
					return accepting{}.RoundTrip(r)
				})}))
			require.NoError(t, err)
			_, _, err = client.StreamMessages.Create(ctx, "default", "orders", map[string]int{"n": 1})
			require.NoError(t, err)
			assert.Equal(t, test.sent, sent)
			assert.Equal(t, "tenant=blue", inContext)
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestOptionsThatMakeNoSense(t *testing.T) {
	for _, opt := range []otel.Option{nil, otel.WithTracerProvider(nil), otel.WithMeterProvider(nil)} {
		_, err := otel.New(opt)
		assert.ErrorContains(t, err, "leave")
	}
	_, err := otel.New()
	assert.NoError(t, err, "the global providers do nothing by default")
}

// inMemory accepts every message without a network.
func inMemory(t testing.TB, opts ...twiliosync.Option) *twiliosync.Client {
	client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC1", "secret"), append(opts, twiliosync.WithHTTPClient(&http.Client{Transport: accepting{}}))...)
	require.NoError(t, err)
	return client
}

type accepting struct{}

func (accepting) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 201, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(`{"sid":"TZ1","data":{}}`)), Request: req}, req.Body.Close()
}

func ways(t testing.TB) map[string][]twiliosync.Option {
	tracerOf := func(sampler sdktrace.Sampler, meters metric.MeterProvider) twiliosync.Option {
		tracer, err := otel.New(otel.WithTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSampler(sampler))), otel.WithMeterProvider(meters))
		require.NoError(t, err)
		return twiliosync.WithTracer(tracer)
	}
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	return map[string][]twiliosync.Option{
		"none":                    nil,
		"sampled out, no metrics": {tracerOf(sdktrace.NeverSample(), noop.NewMeterProvider())},
		"sampled out":             {tracerOf(sdktrace.NeverSample(), meters)},
		"sampled":                 {tracerOf(sdktrace.AlwaysSample(), meters)},
	}
}

func TestWhatATraceAllocates(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector changes what is allocated")
	}
	allocations := map[string]float64{}
	var data any = json.RawMessage(`{"a":1}`)
	for name, opts := range ways(t) {
		client := inMemory(t, opts...)
		allocations[name] = testing.AllocsPerRun(500, func() { client.StreamMessages.Create(context.Background(), "default", "orders", data) })
	}
	t.Logf("allocations of a call: %v", allocations)
	assert.LessOrEqual(t, allocations["sampled out"]-allocations["none"], 8.0)
	assert.LessOrEqual(t, allocations["sampled"]-allocations["none"], 20.0)
}

func BenchmarkCreate(b *testing.B) {
	var data any = json.RawMessage(`{"a":1}`)
	for name, opts := range ways(b) {
		b.Run(name, func(b *testing.B) {
			client := inMemory(b, opts...)
			b.ReportAllocs()
			for b.Loop() {
				client.StreamMessages.Create(context.Background(), "default", "orders", data)
			}
		})
	}
}
