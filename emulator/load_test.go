package emulator

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go"
)

// TestMemoryIsBounded publishes far more than is kept.
func TestMemoryIsBounded(t *testing.T) {
	rounds, each := 4, 5_000
	if *load {
		rounds, each = 10, 100_000
	}
	const streams, kept = 20, 100
	e := New(WithStreamRateLimit(0, 0), WithRetention(kept))
	server := httptest.NewServer(e)
	t.Cleanup(func() {
		require.NoError(t, e.Close())
		server.Close()
	})
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(e.Credentials()), twiliosync.WithBaseURL(server.URL),
		twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
	require.NoError(t, err)
	data := json.RawMessage(`{"text":"a message of the usual size, which is some hundred bytes or so, as people publish them"}`)
	var heaps []uint64
	for range rounds {
		requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
			for i := range each {
				if !yield(twiliosync.StreamMessageRequest{StreamSID: fmt.Sprint("stream-", i%streams), Data: data}) {
					return
				}
			}
		}
		for result := range client.StreamMessages.CreateAll(t.Context(), "default", requests, nil) {
			require.NoError(t, result.Err)
		}
		runtime.GC()
		var memory runtime.MemStats
		runtime.ReadMemStats(&memory)
		heaps = append(heaps, memory.HeapAlloc)
	}
	for stream := range streams {
		assert.Len(t, e.Fake().Messages(fmt.Sprint("stream-", stream)), kept)
	}
	t.Logf("heap after each %d messages, in KB: %d", each, inKB(heaps))
	assert.Less(t, heaps[rounds-1], heaps[0]+4<<20, "what has been forgotten takes no memory")
}

func inKB(bytes []uint64) []uint64 {
	var kb []uint64
	for _, b := range bytes {
		kb = append(kb, b/1000)
	}
	return kb
}
