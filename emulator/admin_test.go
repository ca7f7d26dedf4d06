package emulator_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/emulator"
)

func publishTo(s server, client *twiliosync.Client, stream string) error {
	_, _, err := client.StreamMessages.Create(context.Background(), "default", stream, map[string]any{"hello": "world"})
	return err
}

func TestFaultsByRequest(t *testing.T) {
	for _, test := range []struct {
		body  string
		works func(error) bool
	}{
		{`{"next":1,"stream":"orders","answer":{"status":429,"code":54009,"retryAfter":2}}`, func(err error) bool {
			return twiliosync.OutcomeOf(err) == twiliosync.OutcomeRejected && twiliosync.Retryable(err)
		}},
		{`{"next":1,"loseAnswer":true}`, func(err error) bool { return twiliosync.OutcomeOf(err) == twiliosync.OutcomeUnknown }},
		{`{"next":1,"reset":true}`, func(err error) bool { return twiliosync.OutcomeOf(err) == twiliosync.OutcomeUnknown }},
		{`{"next":1,"cutBody":true}`, func(err error) bool {
			return err != nil && twiliosync.OutcomeOf(err) == twiliosync.OutcomeAccepted
		}},
		{`{"for":"10s","operation":"CreateStreamMessage","answer":{"status":500}}`, func(err error) bool { return twiliosync.OutcomeOf(err) == twiliosync.OutcomeUnknown }},
		{`{"every":true,"delay":"1ms"}`, func(err error) bool { return err == nil }},
	} {
		t.Run(test.body, func(t *testing.T) {
			s := serve(t)
			client := s.client(t, twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
			status, answer := s.call(t, "POST", "/_emulator/faults", test.body)
			require.Equal(t, http.StatusCreated, status, answer)
			_, answer = s.call(t, "GET", "/_emulator/faults", "")
			assert.Contains(t, answer, `"line"`)
			err := publishTo(s, client, "orders")
			assert.True(t, test.works(err), "%v", err)
			status, _ = s.call(t, "DELETE", "/_emulator/faults", "")
			assert.Equal(t, http.StatusNoContent, status)
			assert.NoError(t, publishTo(s, client, "orders"))
		})
	}
}

func TestAWrongFaultIsNamed(t *testing.T) {
	s := serve(t)
	for body, field := range map[string]string{
		``: "", `[]`: "", `{`: "", `{"next":1,"nxt":2,"reset":true}`: "nxt", `{"reset":true}`: "next", `{"next":1}`: "answer",
		`{"next":1,"every":true,"reset":true}`: "every", `{"next":0,"reset":true}`: "next", `{"next":"1","reset":true}`: "next",
		`{"next":1,"answer":{"status":99}}`: "answer.status", `{"next":1,"answer":{}}`: "answer.status", `{"next":1,"answer":{"status":429,"code":-1}}`: "answer.code",
		`{"for":"1 parsec","reset":true}`: "for", `{"every":false,"reset":true}`: "every", `{"next":1,"operation":"Fly","reset":true}`: "operation",
		`{"next":1,"reset":true} {}`: "", `{"next":1,"stream":"","reset":true}`: "stream",
	} {
		t.Run(body, func(t *testing.T) {
			status, answer := s.call(t, "POST", "/_emulator/faults", body)
			assert.Equal(t, http.StatusBadRequest, status)
			var problem struct{ Field, Message string }
			require.NoError(t, json.Unmarshal([]byte(answer), &problem))
			assert.Equal(t, field, problem.Field)
			assert.NotEmpty(t, problem.Message)
		})
	}
	assert.Empty(t, s.Fake().Faults())
}

func TestWhatArrivedIsShownAlsoWhatWasRefused(t *testing.T) {
	s := serve(t, emulator.WithRetention(5))
	client := s.client(t)
	for range 12 {
		require.NoError(t, publishTo(s, client, "orders"))
	}
	status, _ := s.call(t, "POST", "/v1/Services/default/Streams/orders/Messages", "")
	assert.Equal(t, http.StatusUnauthorized, status)
	var messages struct{ Messages []struct{ Stream string } }
	_, answer := s.call(t, "GET", "/_emulator/messages", "")
	require.NoError(t, json.Unmarshal([]byte(answer), &messages))
	assert.Len(t, messages.Messages, 5, "what it keeps is bounded")
	_, answer = s.call(t, "GET", "/_emulator/messages?stream=orders", "")
	assert.Contains(t, answer, `"hello":"world"`)
	_, answer = s.call(t, "GET", "/_emulator/requests", "")
	assert.Contains(t, answer, `"status":401`)
	assert.Contains(t, answer, `"reason":`)
	_, answer = s.call(t, "GET", "/_emulator/streams", "")
	assert.Contains(t, answer, `"uniqueName":"orders"`)

	status, _ = s.call(t, "POST", "/_emulator/reset", "")
	assert.Equal(t, http.StatusNoContent, status)
	_, answer = s.call(t, "GET", "/_emulator/messages", "")
	assert.NotContains(t, answer, "hello")
}

func TestEventsTellWhatHappens(t *testing.T) {
	s := serve(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/_emulator/events", nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	require.True(t, lines.Scan())
	require.NoError(t, publishTo(s, s.client(t), "orders"))
	s.call(t, "POST", "/v1/Services/default/Streams/orders/Messages", "")
	var events []string
	for len(events) < 2 && lines.Scan() {
		if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			events = append(events, event)
		}
	}
	assert.Equal(t, []string{"message", "refused"}, events)
}

// TestAForeignPageCanNeitherReadNorChange: by what browsers say of themselves.
func TestAForeignPageCanNeitherReadNorChange(t *testing.T) {
	s := serve(t)
	host := strings.TrimPrefix(s.url, "http://")
	for _, test := range []struct {
		name, method, path string
		header             map[string]string
		status             int
	}{
		{"a program", "POST", "/_emulator/reset", nil, 204},
		{"the emulator's own page", "POST", "/_emulator/reset", map[string]string{"Origin": s.url, "Sec-Fetch-Site": "same-origin"}, 204},
		{"a page elsewhere changes something", "POST", "/_emulator/reset", map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403},
		{"a page elsewhere scripts a fault", "POST", "/_emulator/faults", map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403},
		{"an old browser", "POST", "/_emulator/reset", map[string]string{"Origin": "https://evil.example"}, 403},
		{"a page publishes", "POST", "/v1/Services/default/Streams/orders/Messages", map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403},
		{"a name that was made to lead here", "GET", "/_emulator/messages", map[string]string{"Host": "evil.attacker.dev"}, 403},
		{"a container's name", "GET", "/_emulator/messages", map[string]string{"Host": "sync:8080"}, 200},
		{"health under any name", "GET", "/_emulator/health", map[string]string{"Host": "evil.attacker.dev"}, 200},
		{"the websocket from a page elsewhere", "GET", "/v3/wsconnect", map[string]string{"Origin": "https://evil.example"}, 403},
		{"the websocket from a sandboxed page", "GET", "/v3/wsconnect", map[string]string{"Origin": "null"}, 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), test.method, s.url+test.path, nil)
			require.NoError(t, err)
			req.Host = host
			for name, value := range test.header {
				if name == "Host" {
					req.Host = value
				}
				req.Header.Set(name, value)
			}
			res, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer res.Body.Close()
			assert.Equal(t, test.status, res.StatusCode)
			assert.Empty(t, res.Header["Access-Control-Allow-Origin"], "nothing lets a page read it")
			assert.Equal(t, "same-origin", res.Header.Get("Cross-Origin-Resource-Policy"))
		})
	}
}

// dial opens a websocket and introduces itself.
func dial(t *testing.T, s server) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(s.url, "http", "ws", 1)+"/v3/wsconnect", nil)
	require.NoError(t, err)
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func sendFrame(t *testing.T, conn *websocket.Conn, header, payload string) {
	t.Helper()
	require.NoError(t, conn.Write(t.Context(), websocket.MessageBinary, fmt.Appendf(nil, "TWILSOCK V3.0 %d\r\n%s\r\n%s", len(header), header, payload)))
}

func TestHostileWebsocketsAreClosed(t *testing.T) {
	for name, attack := range map[string]func(*testing.T, *websocket.Conn){
		"text": func(t *testing.T, c *websocket.Conn) { c.Write(t.Context(), websocket.MessageText, []byte("hello")) },
		"not the protocol": func(t *testing.T, c *websocket.Conn) {
			c.Write(t.Context(), websocket.MessageBinary, []byte("GET / HTTP/1.1"))
		},
		"a wrong length": func(t *testing.T, c *websocket.Conn) {
			c.Write(t.Context(), websocket.MessageBinary, []byte("TWILSOCK V3.0 9999\r\n{}\r\n"))
		},
		"a huge frame": func(t *testing.T, c *websocket.Conn) {
			c.Write(t.Context(), websocket.MessageBinary, make([]byte, 2<<20))
		},
		"a message first": func(t *testing.T, c *websocket.Conn) {
			sendFrame(t, c, `{"method":"message","id":"1","payload_size":0}`, "")
		},
		"init, twice": func(t *testing.T, c *websocket.Conn) {
			sendFrame(t, c, `{"method":"init","id":"1","payload_size":0}`, "")
			sendFrame(t, c, `{"method":"init","id":"2","payload_size":0}`, "")
		},
		"a lie about bytes": func(t *testing.T, c *websocket.Conn) {
			sendFrame(t, c, `{"method":"init","id":"1","payload_size":7}`, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			conn := dial(t, s)
			attack(t, conn)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			var err error
			for err == nil {
				_, _, err = conn.Read(ctx)
			}
			assert.NoError(t, ctx.Err(), "it was closed")
			assert.NoError(t, publishTo(s, s.client(t), "orders"), "and others are served")
		})
	}
}

func TestASubscriberThatNeverReadsIsDroppedAndSlowsNobody(t *testing.T) {
	s := serve(t, emulator.WithStreamRateLimit(0, 0))
	conn := dial(t, s)
	sendFrame(t, conn, `{"method":"init","id":"1","payload_size":0}`, "")
	body := fmt.Sprintf(`{"action":"establish","correlation_id":1,"requests":[{"object_sid":%q,"object_type":"stream"}]}`, s.Fake().StreamSID("orders"))
	sendFrame(t, conn, fmt.Sprintf(`{"method":"message","id":"2","payload_size":%d,"http_request":{"method":"POST","host":"h","path":"/v4/Subscriptions"}}`, len(body)), body)
	require.Eventually(t, func() bool {
		_, answer := s.call(t, "GET", "/_emulator/subscribers", "")
		return strings.Contains(answer, s.Fake().StreamSID("orders"))
	}, 10*time.Second, 10*time.Millisecond)
	client := s.client(t)
	big := json.RawMessage(`{"a":"` + strings.Repeat("x", 4000) + `"}`)
	published := 0
	for gone := false; !gone && published < 20_000; published++ {
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", big)
		require.NoError(t, err)
		if published%500 == 0 {
			_, answer := s.call(t, "GET", "/_emulator/subscribers", "")
			gone = !strings.Contains(answer, "client-")
		}
	}
	assert.Less(t, published, 20_000, "it was dropped")
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		e := emulator.New()
		require.NoError(t, e.Close())
		require.NoError(t, e.Close())
	}
	s := serve(t)
	conn := dial(t, s)
	sendFrame(t, conn, `{"method":"init","id":"1","payload_size":0}`, "")
	require.NoError(t, s.Close())
	_, _, err := conn.Read(t.Context())
	for err == nil {
		_, _, err = conn.Read(t.Context())
	}
	status, _ := s.call(t, "GET", "/_emulator/health", "")
	assert.Equal(t, http.StatusServiceUnavailable, status)
	conn.CloseNow()
	http.DefaultClient.CloseIdleConnections()
	require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+6 }, 10*time.Second, 20*time.Millisecond)
}
