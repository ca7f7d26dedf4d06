// Command opentelemetry publishes messages, and exports a trace of each and the
// metrics of all by OTLP:
//
//	cd examples/opentelemetry
//	OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 go run .
//
// Credentials come from the environment, as in examples/create_stream_message;
// without any, it publishes to the fake service.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/otel"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
	global "go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// setUp sends what the program does to the collector that OTEL_EXPORTER_OTLP_ENDPOINT names.
func setUp(ctx context.Context) (shutdown func(context.Context) error, err error) {
	spans, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	measurements, err := otlpmetrichttp.New(ctx)
	if err != nil {
		return nil, err
	}
	tracers := trace.NewTracerProvider(trace.WithBatcher(spans))
	meters := metric.NewMeterProvider(metric.WithReader(metric.NewPeriodicReader(measurements)))
	global.SetTracerProvider(tracers)
	global.SetMeterProvider(meters)
	return func(ctx context.Context) error { return errors.Join(tracers.Shutdown(ctx), meters.Shutdown(ctx)) }, nil
}

func run(ctx context.Context, stdout io.Writer) (err error) {
	shutdown, err := setUp(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutdown(ctx)) }()
	tracer, err := otel.New()
	if err != nil {
		return err
	}
	client, stop, err := connect(stdout, twiliosync.WithTracer(tracer))
	if err != nil {
		return err
	}
	defer stop()
	for n := range 10 {
		message, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]int{"n": n})
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, "published", message.SID)
	}
	return nil
}

func connect(stdout io.Writer, opts ...twiliosync.Option) (client *twiliosync.Client, stop func(), err error) {
	for _, name := range []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"} {
		if os.Getenv(name) != "" {
			client, err = twiliosync.NewClientFromEnv(opts...)
			return client, func() {}, err
		}
	}
	fmt.Fprintln(stdout, "no TWILIO_* variables: publishing to the fake service")
	fake := twiliosynctest.New()
	server := httptest.NewServer(fake)
	fake.URL = server.URL
	return fake.Client(opts...), server.Close, nil
}
