package otel_test

import (
	"context"
	"log"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/otel"
)

func Example() {
	tracer, err := otel.New()
	if err != nil {
		log.Fatal(err)
	}
	client, err := twiliosync.NewClientFromEnv(twiliosync.WithTracer(tracer))
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseIdleConnections()
}

func Example_observer() {
	var attempts sync.Map // of outcome to *atomic.Int64, which stands for a counter with a label
	client, err := twiliosync.NewClientFromEnv(twiliosync.WithObserver(func(_ context.Context, a twiliosync.Attempt) {
		counter, _ := attempts.LoadOrStore(a.Outcome, new(atomic.Int64))
		counter.(*atomic.Int64).Add(1)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseIdleConnections()
}

// TestTheCodeInTheDocsIsCompiled: it is that of the examples.
func TestTheCodeInTheDocsIsCompiled(t *testing.T) {
	page, err := os.ReadFile("../docs/observability.md")
	require.NoError(t, err)
	examples, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.Len(t, blocks, 2)
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			assert.Contains(t, string(examples), strings.TrimSpace(line))
		}
	}
}
