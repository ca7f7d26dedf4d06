package twiliosync_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

const (
	hostileBuffer = 64 << 10 // of each socket
	hostileBound  = 4 << 20  // far more than what is read and what the buffers hold
	hostileLimit  = 64 << 20 // where an endless answer ends, if nobody stops it
)

// hostileServer plays an answer on each connection, by hand, and counts.
type hostileServer struct {
	url         string
	connections atomic.Int32
	written     atomic.Int64
	ends        chan error // of each connection: nil if the client closed it
}

// hostileAnswer writes to the connection until it is done, or w fails.
type hostileAnswer func(w io.Writer)

func newHostileServer(t *testing.T, play hostileAnswer) *hostileServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	server := &hostileServer{url: "http://" + listener.Addr().String(), ends: make(chan error, 16)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { server.ends <- server.serve(conn.(*net.TCPConn), play) }()
		}
	}()
	return server
}

func (s *hostileServer) serve(conn *net.TCPConn, play hostileAnswer) error {
	defer conn.Close()
	s.connections.Add(1)
	conn.SetWriteBuffer(hostileBuffer)
	conn.SetDeadline(time.Now().Add(30 * time.Second)) // so that a fault of the client is not one of the test
	reader := bufio.NewReader(conn)
	req, err := http.ReadRequest(reader)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return err
	}
	play(&meter{conn, &s.written})
	if s.written.Load() >= hostileLimit {
		return errors.New("the client read on and on")
	}
	if _, err := reader.ReadByte(); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
		return fmt.Errorf("the client did not close the connection: %w", err)
	}
	return nil
}

// meter counts what it writes, and ends what would be endless.
type meter struct {
	w       io.Writer
	written *atomic.Int64
}

func (m *meter) Write(p []byte) (int, error) {
	if m.written.Load() >= hostileLimit {
		return 0, io.ErrShortWrite
	}
	n, err := m.w.Write(p)
	m.written.Add(int64(n))
	return n, err
}

// endlessly writes head, and then the filler until nobody takes it any more.
func endlessly(head, filler string) hostileAnswer {
	block := []byte(strings.Repeat(filler, 1+4096/len(filler)))
	return func(w io.Writer) {
		for _, err := io.WriteString(w, head); err == nil; {
			_, err = w.Write(block)
		}
	}
}

// once writes an answer that ends.
func once(answer string) hostileAnswer {
	return func(w io.Writer) { io.WriteString(w, answer) }
}

// gzipBomb is an endless stream that unpacks a thousandfold.
func gzipBomb(head string) hostileAnswer {
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	writer.Write(bytes.Repeat([]byte(" "), 1<<20))
	writer.Close()
	return endlessly(head, packed.String())
}

// smallWindow is a context in which connections hold few bytes that were not
// read.
func smallWindow() context.Context {
	return httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if conn, ok := info.Conn.(*net.TCPConn); ok {
			conn.SetReadBuffer(hostileBuffer)
		}
	}})
}

func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	const (
		chunked = "HTTP/1.1 %s\r\nTransfer-Encoding: chunked\r\n\r\n"
		toClose = "HTTP/1.1 %s\r\nConnection: close\r\n\r\n"
		chunk   = "400\r\n"
	)
	with := fmt.Sprintf
	oneChunk := chunk + strings.Repeat("a", 0x400) + "\r\n"
	callers := twiliosync.WithHTTPClient(&http.Client{Transport: &http.Transport{}})
	for _, test := range []struct {
		name    string
		answer  hostileAnswer
		opts    []twiliosync.Option
		outcome twiliosync.Outcome
		status  int
		calls   int // attempts made, 0: 1
	}{
		{name: "201 with an endless body", answer: endlessly(with(toClose, "201 Created"), "a"), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 with endless chunks", answer: endlessly(with(chunked, "201 Created"), oneChunk), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 with endless chunks of one byte", answer: endlessly(with(chunked, "201 Created"), "1\r\na\r\n"), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 with an endless chunk extension", answer: endlessly(with(chunked, "201 Created")+"1;", "a"), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 with endless trailers", answer: endlessly(with(chunked, "201 Created")+"0\r\n", "X-Filler: a\r\n"), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 that announces a terabyte", answer: endlessly("HTTP/1.1 201 Created\r\nContent-Length: 1099511627776\r\n\r\n", "a"), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 that announces the most that fits, and stops", answer: once(with("HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n", int64(math.MaxInt64)) + strings.Repeat("a", 100_000)), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "201 with a message that is too long, and ends", answer: once(with("HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n", 1_000_000) + strings.Repeat(" ", 1_000_000)), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "200 with an endless body", answer: endlessly(with(toClose, "200 OK"), "a"), outcome: twiliosync.OutcomeUnknown, status: 200},
		{name: "400 with an endless body", answer: endlessly(with(chunked, "400 Bad Request"), oneChunk), outcome: twiliosync.OutcomeUnknown, status: 400},
		{name: "500 with an endless body", answer: endlessly(with(toClose, "500 Internal Server Error"), "a"), outcome: twiliosync.OutcomeUnknown, status: 500},
		{name: "307 with an endless body", answer: endlessly("HTTP/1.1 307 Temporary Redirect\r\nLocation: /\r\nConnection: close\r\n\r\n", "a"), outcome: twiliosync.OutcomeRejected, status: 307},
		{name: "429 with an endless body, each time", answer: endlessly(with(toClose, "429 Too Many Requests"), "a"), outcome: twiliosync.OutcomeRejected, status: 429, calls: 3},
		{name: "endless headers", answer: endlessly("HTTP/1.1 201 Created\r\n", "X-Filler: aaaaaaaa\r\n"), outcome: twiliosync.OutcomeUnknown},
		{name: "a header without end", answer: endlessly("HTTP/1.1 201 Created\r\nX-Filler: ", "a"), outcome: twiliosync.OutcomeUnknown},
		{name: "a status line without end", answer: endlessly("HTTP/1.1 201 ", "a"), outcome: twiliosync.OutcomeUnknown},
		{name: "endless empty lines", answer: endlessly("", "\r\n"), outcome: twiliosync.OutcomeUnknown},
		{name: "a flood of 100", answer: endlessly("", "HTTP/1.1 100 Continue\r\n\r\n"), outcome: twiliosync.OutcomeUnknown},
		{name: "a flood of 103", answer: endlessly("", "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"), outcome: twiliosync.OutcomeUnknown},
		{name: "a gzip bomb that nobody asked for", answer: gzipBomb("HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"), outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "a gzip bomb that the caller's transport asked for", answer: gzipBomb("HTTP/1.1 201 Created\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"), opts: []twiliosync.Option{callers}, outcome: twiliosync.OutcomeAccepted, status: 201},
		{name: "a refusal in a gzip bomb that the caller's transport asked for", answer: gzipBomb("HTTP/1.1 403 Forbidden\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"), opts: []twiliosync.Option{callers}, outcome: twiliosync.OutcomeUnknown, status: 403},
		{name: "101 that stays open", answer: once("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"), outcome: twiliosync.OutcomeUnknown, status: 101},
		{name: "101 that talks without end", answer: endlessly("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n", "a"), outcome: twiliosync.OutcomeUnknown, status: 101},
		{name: "101, at least once", answer: once("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n"),
			opts: retrying(twiliosync.RetryPolicy{AtLeastOnce: true}), outcome: twiliosync.OutcomeUnknown, status: 101},
		{name: "not HTTP at all", answer: endlessly("SSH-2.0-OpenSSH_9.9\r\n", "a"), outcome: twiliosync.OutcomeUnknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := newHostileServer(t, test.answer)
			client := clientFor(t, server.url, hurried(test.opts...)...)
			message, response, err := client.StreamMessages.Create(smallWindow(), "default", "orders", map[string]any{"a": 1})

			assert.Nil(t, message)
			e := asError(t, err)
			calls := max(1, test.calls)
			assert.Equal(t, test.outcome, e.Outcome, "%v", err)
			assert.Equal(t, test.status, e.StatusCode)
			assert.Equal(t, test.status != 0, response != nil)
			assert.Equal(t, []int{calls, calls}, []int{e.Attempts, e.Sends})
			assert.LessOrEqual(t, len(e.Body), 1024)
			assert.LessOrEqual(t, len(err.Error()), 512)
			for range calls {
				assert.NoError(t, <-server.ends)
			}
			assert.EqualValues(t, calls, server.connections.Load())
			assert.LessOrEqual(t, server.written.Load(), int64(calls)*hostileBound)
		})
	}
}

// TestOwnTransportAsksForNoCompression, which keeps bombs from being unpacked.
func TestOwnTransportAsksForNoCompression(t *testing.T) {
	t.Parallel()
	bomb := gzipBomb("HTTP/1.1 400 Bad Request\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n")
	server := newHostileServer(t, bomb)
	_, response, err := clientFor(t, server.url, hurried()...).StreamMessages.Create(smallWindow(), "default", "orders", map[string]any{"a": 1})
	require.Error(t, err)
	assert.Equal(t, "gzip", response.Header.Get("Content-Encoding"), "net/http does not unpack it")
	assert.False(t, response.Uncompressed)
	assert.NoError(t, <-server.ends)
}

// TestDrip is an answer of one byte per second, which comes beyond the timeout.
func TestDrip(t *testing.T) {
	t.Parallel()
	body := "\r\n\r\n" + testAnswer
	for _, test := range []struct {
		name         string
		fast, slow   string
		outcome      twiliosync.Outcome
		status       int
		bytesDripped int
	}{
		{"in the status line", "", "HTTP/1.1 201 Created" + body, twiliosync.OutcomeUnknown, 0, 10},
		{"in a header", "HTTP/1.1 201 Created\r\nX-Slow: ", "aaaaaaaaaaaaaaaaaaaaaaa" + body, twiliosync.OutcomeUnknown, 0, 10},
		{"in the body of a 201", "HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\n", testAnswer, twiliosync.OutcomeAccepted, 201, 10},
		{"in the body of a 400", "HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n", testAnswer, twiliosync.OutcomeUnknown, 400, 10},
		{"in the body of a 500", "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100\r\n\r\n", testAnswer, twiliosync.OutcomeUnknown, 500, 10},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				dripped := make(chan int, 1)
				dial := func(context.Context, string, string) (net.Conn, error) {
					client, server := net.Pipe()
					go func() {
						defer server.Close()
						req, err := http.ReadRequest(bufio.NewReader(server))
						if err != nil {
							return
						}
						io.Copy(io.Discard, req.Body)
						io.WriteString(server, test.fast)
						n := 0
						for ; n < len(test.slow); n++ {
							time.Sleep(time.Second)
							if _, err := server.Write([]byte{test.slow[n]}); err != nil {
								break // the client closed the connection
							}
						}
						dripped <- n
					}()
					return client, nil
				}
				client := clientFor(t, "http://127.0.0.1", twiliosync.WithHTTPClient(&http.Client{Transport: &http.Transport{DialContext: dial}}))
				start := time.Now()
				_, _, err := publish(client)
				assert.Equal(t, 10*time.Second, time.Since(start))
				e := asError(t, err)
				assert.Equal(t, test.outcome, e.Outcome)
				assert.Equal(t, []int{test.status, 1, 1}, []int{e.StatusCode, e.Attempts, e.Sends})
				var timeout net.Error
				if assert.ErrorAs(t, err, &timeout) {
					assert.True(t, timeout.Timeout())
				}
				assert.NotErrorIs(t, err, context.DeadlineExceeded)
				// The byte of the tenth second races with the timeout.
				assert.InDelta(t, test.bytesDripped, <-dripped, 1)
			})
		})
	}
}

// TestRedirectsAreNotFollowed, not even by a caller's http.Client that would,
// and least of all with the credentials.
func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	outcomes := map[int]twiliosync.Outcome{
		301: twiliosync.OutcomeUnknown, 302: twiliosync.OutcomeUnknown, 303: twiliosync.OutcomeUnknown,
		307: twiliosync.OutcomeRejected, 308: twiliosync.OutcomeRejected,
	}
	for status, outcome := range outcomes {
		for name, location := range map[string]string{
			"another host":             "http://elsewhere.test/v1",
			"another host, by https":   "https://elsewhere.test/v1",
			"another host, no scheme":  "//elsewhere.test/v1",
			"a subdomain":              "http://eu.sync.example.test/v1",
			"the parent domain":        "http://example.test/v1",
			"another port":             "http://sync.example.test:8080/v1",
			"another path of the host": "/v1/elsewhere",
			"the same URL":             "",
			"another scheme":           "gopher://sync.example.test/",
			"half an address":          "http://[::1",
			"something unreadable":     "%zz",
		} {
			t.Run(fmt.Sprint(status, " to ", name), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var hosts []string
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
					mu.Lock()
					hosts = append(hosts, req.Host)
					mu.Unlock()
					if location == "" {
						location = req.RequestURI
					}
					w.Header().Set("Location", location)
					w.WriteHeader(status)
				}))
				defer server.Close()
				var dialed []string
				willing := &http.Client{
					CheckRedirect: func(*http.Request, []*http.Request) error { return nil },
					Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
						mu.Lock()
						dialed = append(dialed, address)
						mu.Unlock()
						return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
					}},
				}
				client := clientFor(t, "http://sync.example.test", twiliosync.WithPlaintextHTTP(), twiliosync.WithHTTPClient(willing),
					twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{AtLeastOnce: true}))
				_, response, err := publish(client)

				e := asError(t, err)
				assert.Equal(t, outcome, e.Outcome)
				assert.Equal(t, []int{status, 1, 1}, []int{e.StatusCode, e.Attempts, e.Sends})
				if _, unreadable := url.Parse(location); unreadable == nil {
					assert.Equal(t, location, response.Header.Get("Location"), "the caller may look")
				}
				assert.False(t, twiliosync.Retryable(err))
				mu.Lock()
				defer mu.Unlock()
				assert.Equal(t, []string{"sync.example.test"}, hosts)
				assert.Equal(t, []string{"sync.example.test:80"}, dialed)
			})
		}
	}
}

// TestOwnTransportFollowsNoRedirects to a server that would see the
// credentials.
func TestOwnTransportFollowsNoRedirects(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 302, 303, 307, 308} {
		elsewhere := &recorder{answer: answer(201, testAnswer)}
		listening := httptest.NewServer(elsewhere)
		defer listening.Close()
		client, server := setup(t)
		server.answer = func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, strings.Replace(listening.URL, "127.0.0.1", "localhost", 1), status)
		}
		_, _, err := publish(client)
		assert.Equal(t, status, asError(t, err).StatusCode)
		assert.Len(t, server.all(), 1)
		assert.Empty(t, elsewhere.all())
	}
}

// TestConnectionsAreReused by 128 goroutines on one client, whatever the
// answers are.
func TestConnectionsAreReused(t *testing.T) {
	const goroutines, calls = 128, 2
	var connections, requests atomic.Int32
	var handler atomic.Pointer[http.HandlerFunc]
	play := func(h http.HandlerFunc) { handler.Store(&h) }
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		requests.Add(1)
		io.Copy(io.Discard, req.Body)
		(*handler.Load())(w, req)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	client := clientFor(t, server.URL, hurried()...)
	// round makes the calls of a round and returns how many were accepted.
	round := func(calls int) (accepted int32) {
		var count atomic.Int32
		var callers sync.WaitGroup
		for range goroutines {
			callers.Go(func() {
				for range calls {
					_, response, err := publish(client)
					if err == nil {
						count.Add(1)
					}
					assert.NotNil(t, response, "%v", err)
				}
			})
		}
		callers.Wait()
		return count.Load()
	}

	// All at the same time, so that there is a connection for each.
	var arrived sync.WaitGroup
	arrived.Add(goroutines)
	play(func(w http.ResponseWriter, req *http.Request) {
		arrived.Done()
		arrived.Wait()
		answer(201, testAnswer)(w, req)
	})
	require.EqualValues(t, goroutines, round(1))
	require.EqualValues(t, goroutines, connections.Load(), "connections of the first round")

	html := "<html>" + strings.Repeat("<p>Bad gateway</p>", 200) + "</html>"
	inChunks := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			for part := range strings.SplitSeq(body, ",") {
				io.WriteString(w, part+",")
				http.NewResponseController(w).Flush()
			}
		}
	}
	for _, test := range []struct {
		name     string
		answer   http.HandlerFunc
		accepted int32
		requests int32 // 0: one per call
	}{
		{"messages", answer(201, testAnswer), goroutines * calls, 0},
		{"messages in chunks", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			io.WriteString(w, testAnswer[:10])
			http.NewResponseController(w).Flush()
			io.WriteString(w, testAnswer[10:])
		}, goroutines * calls, 0},
		{"201 without a message", answer(201, "{}"), 0, 0},
		{"201 and HTML", answer(201, html), 0, 0},
		{"Twilio's errors", answer(404, `{"code":20404,"message":"The requested resource was not found","status":404}`), 0, 0},
		{"Twilio's errors in chunks", inChunks(400, `{"code":20001,"message":"Missing","status":400}`), 0, 0},
		{"errors without a body", answer(401, ""), 0, 0},
		{"HTML", answer(502, html), 0, 0},
		{"HTML in chunks", inChunks(500, html), 0, 0},
		{"as much as is read", answer(500, strings.Repeat("a", 64<<10)), 0, 0},
		{"redirects with HTML", func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			answer(302, html)(w, req)
		}, 0, 0},
		{"throttles, while there are retries", answer(503, `{"code":20503,"message":"Service unavailable","status":503}`), 0, goroutines*calls + 100},
		{"messages again", answer(201, testAnswer), goroutines * calls, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			connections.Store(0)
			requests.Store(0)
			play(test.answer)
			assert.Equal(t, test.accepted, round(calls))
			assert.Zero(t, connections.Load(), "new connections")
			want := test.requests
			if want == 0 {
				want = goroutines * calls
			}
			assert.Equal(t, want, requests.Load())
		})
	}
}
