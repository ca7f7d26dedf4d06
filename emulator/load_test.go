package emulator_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/emulator"
)

var load = flag.Bool("load", false, "the long runs: 200 subscribers for 30 s, and a million messages")

// TestManySubscribersOfOneStream reports how long a message takes from its POST
// to 200 clients of the official SDK.
func TestManySubscribersOfOneStream(t *testing.T) {
	clients, messages := 50, 30
	if *load {
		clients, messages = 200, 900
	}
	srv := serve(t)
	receiver := node(t, "receive.js", officialSDKs[0], srv.url, "orders", fmt.Sprint(clients), fmt.Sprint(messages))
	receiver.until("ready")
	client := srv.client(t)
	tick := time.NewTicker(time.Second / 30)
	defer tick.Stop()
	for i := range messages {
		<-tick.C
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", numbered{i, time.Now().UnixMilli()})
		require.NoError(t, err)
	}
	receiver.wait()
}

// TestMemoryIsBounded publishes far more than is kept.
func TestMemoryIsBounded(t *testing.T) {
	rounds, each := 4, 5_000
	if *load {
		rounds, each = 10, 100_000
	}
	const streams, kept = 20, 100
	srv := serve(t, emulator.WithStreamRateLimit(0, 0), emulator.WithRetention(kept))
	client := srv.client(t, twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
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
		assert.Len(t, srv.Fake().Messages(fmt.Sprint("stream-", stream)), kept)
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
