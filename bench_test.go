package twiliosync_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twiliosync/twiliosync-go"
)

// The benchmarks publish in memory: what they show is the SDK's own work.
// script/bench measures it beside others, over TLS.

// benchmarkClient has an unlimited pace: what is measured is not to wait.
func benchmarkClient(b *testing.B, opts ...twiliosync.Option) (*twiliosync.Client, any) {
	b.Helper()
	message := json.RawMessage(`{"text":"` + strings.Repeat("x", 190) + `"}`)
	answer := `{"sid":"TZ0123456789abcdef0123456789abcdef","data":` + string(message) + `}`
	client, err := twiliosync.NewClient(twiliosync.BasicAuth("AC0123456789abcdef0123456789abcdef", "secret"),
		append(opts, twiliosync.WithHTTPClient(&http.Client{Transport: answering(answer)}), twiliosync.WithStreamRateLimit(1<<20, 100*time.Millisecond))...)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	return client, message
}

// quiet is a tracer that does nothing.
type quiet struct{}

func (quiet) TraceCallStart(ctx context.Context, _ twiliosync.CallStart) context.Context { return ctx }
func (quiet) TraceCallEnd(context.Context, twiliosync.CallEnd)                           {}
func (quiet) TraceAttemptStart(ctx context.Context, _ twiliosync.AttemptStart) context.Context {
	return ctx
}
func (quiet) TraceAttemptEnd(context.Context, twiliosync.Attempt) {}

func BenchmarkCreate(b *testing.B) {
	for name, opts := range map[string][]twiliosync.Option{"plain": nil, "tracer": {twiliosync.WithTracer(quiet{})}} {
		b.Run(name, func(b *testing.B) {
			client, data := benchmarkClient(b, opts...)
			for b.Loop() {
				if _, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCreateAll(b *testing.B) {
	client, data := benchmarkClient(b)
	requests := slices.Repeat([]twiliosync.StreamMessageRequest{{StreamSID: "orders", Data: data}}, b.N)
	b.ResetTimer()
	for result := range client.StreamMessages.CreateAll(context.Background(), "default", slices.Values(requests), nil) {
		if result.Err != nil {
			b.Fatal(result.Err)
		}
	}
}

func BenchmarkPublisher(b *testing.B) {
	client, data := benchmarkClient(b)
	publisher := newPublisher(b, client, func(bulkResult) {}, nil)
	request := twiliosync.StreamMessageRequest{StreamSID: "orders", Data: data}
	for b.Loop() {
		if err := publisher.Publish(context.Background(), request); err != nil {
			b.Fatal(err)
		}
	}
	if err := publisher.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
}
