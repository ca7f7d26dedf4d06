package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const benchStreams = 200

// BenchmarkWorker is one worker beside CreateAll with the same streams. The NATS server and the service are in the same
// process, so what they do counts too.
func BenchmarkWorker(b *testing.B) {
	data := json.RawMessage(`{"n":1,"text":"a message of the usual size, which is some hundred bytes or so"}`)
	service := func(b *testing.B) *twiliosync.Client {
		return twiliosynctest.NewServer(b, twiliosynctest.WithRetention(1)).Client(twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
	}
	b.Run("CreateAll", func(b *testing.B) {
		client := service(b)
		requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
			for i := range b.N {
				if !yield(twiliosync.StreamMessageRequest{StreamSID: fmt.Sprint("stream-", i%benchStreams), Data: data}) {
					return
				}
			}
		}
		b.ResetTimer()
		for result := range client.StreamMessages.CreateAll(b.Context(), "default", requests, nil) {
			require.NoError(b, result.Err)
		}
	})
	b.Run("relay", func(b *testing.B) {
		js := benchNATS(b)
		require.NoError(b, relay.Setup(b.Context(), js, relay.Config{}))
		log := relay.NewPublisher(js, relay.Config{})
		for i := range b.N {
			require.NoError(b, log.Publish(b.Context(), relay.Message{ID: fmt.Sprint(i), ServiceSID: "default", StreamSID: fmt.Sprint("stream-", i%benchStreams), Data: data}))
		}
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		var settled atomic.Int64
		done := make(chan struct{})
		ended := make(chan error, 1)
		client := service(b)
		b.ResetTimer()
		go func() {
			ended <- relay.Run(ctx, js, client, relay.Options{OnSettled: func(relay.Settled) {
				if settled.Add(1) == int64(b.N) {
					close(done)
				}
			}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		}()
		<-done
		b.StopTimer()
		cancel()
		require.NoError(b, <-ended)
	})
}

// BenchmarkPublish is a Publisher beside the log itself.
func BenchmarkPublish(b *testing.B) {
	data := json.RawMessage(`{"n":1,"text":"a message of the usual size, which is some hundred bytes or so"}`)
	b.Run("log itself", func(b *testing.B) {
		js := benchNATS(b)
		require.NoError(b, relay.Setup(b.Context(), js, relay.Config{}))
		i := 0
		for b.Loop() {
			i++
			_, err := js.Publish(b.Context(), fmt.Sprintf("TWILIOSYNC.in.default.stream-%d", i%benchStreams), data, jetstream.WithMsgID(fmt.Sprint(i)))
			require.NoError(b, err)
		}
	})
	b.Run("relay", func(b *testing.B) {
		js := benchNATS(b)
		require.NoError(b, relay.Setup(b.Context(), js, relay.Config{}))
		log := relay.NewPublisher(js, relay.Config{})
		i := 0
		for b.Loop() {
			i++
			require.NoError(b, log.Publish(b.Context(), relay.Message{ID: fmt.Sprint(i), ServiceSID: "default", StreamSID: fmt.Sprint("stream-", i%benchStreams), Data: data}))
		}
	})
}

func benchNATS(b *testing.B) jetstream.JetStream {
	b.Helper()
	return connect(b, startNATS(b, b.TempDir(), -1))
}
