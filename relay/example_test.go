package relay_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
)

func publishOne(ctx context.Context) (err error) {
	conn, err := nats.Connect("nats://127.0.0.1:4222", nats.MaxReconnects(-1)) // else it gives up after two minutes
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		return err
	}
	if err := relay.Setup(ctx, js, relay.Config{}); err != nil { // every process may call it
		return err
	}
	publisher := relay.NewPublisher(js, relay.Config{})
	err = publisher.Publish(ctx, relay.Message{ID: "order-7-paid", ServiceSID: "default", StreamSID: "orders", Data: map[string]any{"order": 7, "state": "paid"}})
	return err
}

func runWorker(ctx context.Context, js jetstream.JetStream) error {
	client, err := twiliosync.NewClientFromEnv()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	return relay.Run(ctx, js, client, relay.Options{}) // until ctx ends, then it drains
}

func requeueAll(ctx context.Context, js jetstream.JetStream) error {
	for letter, err := range relay.DeadLetters(ctx, js, relay.Config{}) {
		if err != nil {
			return err
		}
		if letter.Outcome == twiliosync.OutcomeRejected { // fixed by now
			if err := letter.Requeue(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestThePageShowsWhatIsCompiled compares docs/relay.md with the source here and in the example.
func TestThePageShowsWhatIsCompiled(t *testing.T) {
	_, _, _ = publishOne, runWorker, requeueAll
	var source strings.Builder
	for _, path := range []string{"example_test.go", "../examples/watermill/outbox/main.go"} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		source.WriteString(unindented(string(text)))
	}
	page, err := os.ReadFile("../docs/relay.md")
	require.NoError(t, err)
	blocks := strings.Split(string(page), "```go\n")[1:]
	require.Len(t, blocks, 4)
	for _, block := range blocks {
		code, _, _ := strings.Cut(block, "```")
		assert.Contains(t, source.String(), unindented(code))
	}
}

func unindented(code string) string {
	var lines strings.Builder
	for line := range strings.Lines(code) {
		lines.WriteString(strings.TrimSpace(line) + "\n")
	}
	return lines.String()
}
