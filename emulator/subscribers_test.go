package emulator

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

var load = flag.Bool("load", false, "the long runs: 200 subscribers for 30 s, and a million messages")

// TestManySubscribersOfOneStream reports how long a message takes from its POST
// to each of 200 subscribers, at the pace of one stream. They are Go programs:
// 6,000 messages a second are too many for the official SDK in one process.
func TestManySubscribersOfOneStream(t *testing.T) {
	subscribers, messages := 200, 60
	if *load {
		messages = 900
	}
	e := New(WithStreamRateLimit(0, 0))
	server := httptest.NewServer(e)
	t.Cleanup(func() {
		require.NoError(t, e.Close())
		server.Close()
	})
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(e.Credentials()), twiliosync.WithBaseURL(server.URL))
	require.NoError(t, err)
	stream, _, err := client.Streams.Ensure(t.Context(), "default", "orders", nil)
	require.NoError(t, err)

	var mu sync.Mutex
	var latencies []time.Duration
	var running sync.WaitGroup
	for i := range subscribers {
		conn := subscribe(t, server.URL, stream.SID, i)
		running.Go(func() {
			for next := range messages {
				n, at := receive(t, conn)
				if !assert.Equal(t, next, n, "each once, in order") {
					return
				}
				mu.Lock()
				latencies = append(latencies, time.Since(at))
				mu.Unlock()
			}
		})
	}
	tick := time.NewTicker(time.Second / 30)
	defer tick.Stop()
	for n := range messages {
		<-tick.C
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", map[string]int64{"n": int64(n), "at": time.Now().UnixNano()})
		require.NoError(t, err)
	}
	running.Wait()
	slices.Sort(latencies)
	require.Len(t, latencies, subscribers*messages)
	t.Logf("%d subscribers, %d messages at 30/s: p50 %v, p99 %v", subscribers, messages,
		latencies[len(latencies)/2].Round(time.Millisecond/10), latencies[len(latencies)*99/100].Round(time.Millisecond/10))
}

// subscribe connects as the official SDK does.
func subscribe(t *testing.T, url, streamSID string, id int) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(url, "http", "ws", 1)+websocketPath, nil)
	require.NoError(t, err)
	t.Cleanup(func() { conn.CloseNow() })
	send := func(header frameHeader, payload string) {
		require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, frame{header: header, payload: []byte(payload)}.bytes()))
	}
	send(frameHeader{Method: "init", ID: "TM1", Token: "any-token"}, "")
	send(frameHeader{Method: "message", ID: "TM2", HTTPRequest: &httpRequest{Method: "POST", Host: "sync", Path: "/v4/Subscriptions"}},
		fmt.Sprintf(`{"action":"establish","correlation_id":%d,"requests":[{"object_sid":%q,"object_type":"stream"}]}`, id+1, streamSID))
	for {
		if f := next(t, conn); strings.Contains(string(f.payload), "subscription_established") {
			return conn
		}
	}
}

func next(t *testing.T, conn *websocket.Conn) frame {
	_, message, err := conn.Read(t.Context())
	if !assert.NoError(t, err) {
		return frame{}
	}
	f, err := parseFrame(message)
	assert.NoError(t, err)
	return f
}

// receive returns the next message of a stream.
func receive(t *testing.T, conn *websocket.Conn) (n int, at time.Time) {
	for !t.Failed() {
		var payload struct {
			Type  string `json:"event_type"`
			Event struct {
				Data struct {
					N  int   `json:"n"`
					At int64 `json:"at"`
				} `json:"message_data"`
			} `json:"event"`
		}
		if f := next(t, conn); json.Unmarshal(f.payload, &payload) == nil && payload.Type == "stream_message_published" {
			return payload.Event.Data.N, time.Unix(0, payload.Event.Data.At)
		}
	}
	return -1, time.Time{}
}
