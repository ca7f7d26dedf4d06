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
	traced(b, func(b *testing.B, opts ...twiliosync.Option) {
		client, data := benchmarkClient(b, opts...)
		for b.Loop() {
			if _, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", data); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// traced are the same two ways for what publishes many.
func traced(b *testing.B, run func(*testing.B, ...twiliosync.Option)) {
	b.Helper()
	b.Run("plain", func(b *testing.B) { run(b) })
	b.Run("tracer", func(b *testing.B) { run(b, twiliosync.WithTracer(quiet{})) })
}

func BenchmarkCreateAll(b *testing.B) {
	traced(b, func(b *testing.B, opts ...twiliosync.Option) {
		client, data := benchmarkClient(b, opts...)
		requests := slices.Repeat([]twiliosync.StreamMessageRequest{{StreamSID: "orders", Data: data}}, b.N)
		b.ResetTimer()
		for result := range client.StreamMessages.CreateAll(context.Background(), "default", slices.Values(requests), nil) {
			if result.Err != nil {
				b.Fatal(result.Err)
			}
		}
	})
}

func BenchmarkPublisher(b *testing.B) {
	traced(b, func(b *testing.B, opts ...twiliosync.Option) {
		client, data := benchmarkClient(b, opts...)
		publisher := newPublisher(b, client, func(bulkResult) {}, nil)
		request := twiliosync.StreamMessageRequest{StreamSID: "orders", Data: data}
		b.ResetTimer()
		for range b.N { // and until all are published
			if err := publisher.Publish(context.Background(), request); err != nil {
				b.Fatal(err)
			}
		}
		if err := publisher.Close(context.Background()); err != nil {
			b.Fatal(err)
		}
	})
}
