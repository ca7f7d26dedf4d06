package emulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// What a websocket may cost. A peer beyond one of these bounds is disconnected.
const (
	maxSessions       = 7_000            // the connections that Twilio lets an account have
	maxQueue          = 4_096            // frames waiting to be written to one subscriber
	maxSubscriptions  = 1_000            // of one session
	maxRequests       = 64               // requests of one session being served
	initTimeout       = 10 * time.Second // until the client has introduced itself
	writeTimeout      = 10 * time.Second // for one frame: a subscriber that doesn't read
	keepaliveInterval = 30 * time.Second
	keepaliveTimeout  = 10 * time.Second // until a ping is answered
)

// Why a session ends, beside the client's own wish.
var (
	errClosed       = errors.New("the emulator was closed")
	errDisconnected = errors.New("disconnected on request")
	errExpired      = errors.New("the token expired on request")
	errSlow         = fmt.Errorf("the subscriber is too slow: %d frames wait for it", maxQueue)
	errSilent       = errors.New("the client did not introduce itself")
	errUnreachable  = errors.New("the client does not answer")
	errAnswerLost   = errors.New("a fault took an answer away")
	errClientLeft   = errors.New("the client left")
)

// protocolError is a client's breach of the protocol.
type protocolError struct{ reason string }

func (e protocolError) Error() string { return "not the protocol of Sync: " + e.reason }

// session is the websocket of one browser SDK. Its goroutines are the one that reads, which serves the request for the
// websocket; one that writes; one that keeps the connection alive; and one for each request through the socket.
type session struct {
	emulator *Emulator
	id       string
	conn     *websocket.Conn
	ctx      context.Context
	end      context.CancelCauseFunc // the first cause counts
	queue    queue
	running  sync.WaitGroup
	requests chan struct{} // a place for each request being served

	// Set by init, guarded by the hub's lock.
	client        clientInfo
	connected     time.Time
	subscriptions map[string]bool // by stream SID
}

// serveWebsocket serves a websocket until it ends.
func (e *Emulator) serveWebsocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the guard has seen the origin
	if err != nil {
		e.logger.Warn("no websocket", "error", err)
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxFrame)

	ctx, end := context.WithCancelCause(r.Context())
	defer end(errClientLeft)
	s := &session{
		emulator:      e,
		id:            e.nextSessionID(),
		conn:          conn,
		ctx:           ctx,
		end:           end,
		queue:         queue{wake: make(chan struct{}, 1)},
		requests:      make(chan struct{}, maxRequests),
		subscriptions: make(map[string]bool),
	}
	defer context.AfterFunc(e.ctx, func() { end(errClosed) })()
	s.running.Go(s.write)
	s.running.Go(s.keepAlive)
	s.read()
	s.running.Wait()
	e.hub.remove(s, context.Cause(ctx))
}

// read handles frames until the session ends.
func (s *session) read() {
	silent := time.AfterFunc(initTimeout, func() { s.end(errSilent) })
	defer silent.Stop()
	for s.ctx.Err() == nil {
		kind, message, err := s.conn.Read(s.ctx)
		if errors.Is(err, websocket.ErrMessageTooBig) {
			err = protocolError{fmt.Sprintf("a frame is larger than %d bytes", maxFrame)}
		}
		if err == nil && kind != websocket.MessageBinary {
			err = protocolError{"a message is not binary"}
		}
		if err == nil {
			err = s.receive(message, silent)
		}
		if err != nil {
			s.hangUp(err)
		}
	}
}

// hangUp ends the session because of an error of the client.
func (s *session) hangUp(err error) {
	var breach protocolError
	if !errors.As(err, &breach) {
		s.end(errClientLeft)
		return
	}
	_ = s.conn.Close(websocket.StatusProtocolError, truncate(breach.reason, 100)) // 123 bytes at most
	s.end(err)
}

func truncate(text string, bytes int) string { return text[:min(len(text), bytes)] }

// receive handles one frame.
func (s *session) receive(message []byte, silent *time.Timer) error {
	f, err := parseFrame(message)
	if err != nil {
		return protocolError{err.Error()}
	}
	switch f.header.Method {
	case "init":
		if !silent.Stop() {
			return protocolError{"init comes once"}
		}
		return s.introduce(f)
	case "message":
		if s.connected.IsZero() {
			return protocolError{"a message before init"}
		}
		return s.message(f)
	case "close":
		return errClientLeft
	case "reply": // to a notification
		return nil
	default: // update, ping, telemetry.v1 and what a later SDK may add
		s.send(replyTo(f))
		return nil
	}
}

// introduce answers init.
func (s *session) introduce(f frame) error {
	if err := s.emulator.hub.add(s, describeClient(f)); err != nil {
		return err
	}
	reply := replyTo(f)
	reply.header.ContinuationToken = s.id
	reply.header.TokenStatus = json.RawMessage(`{"reissued":true}`)
	reply.header.Capabilities = json.RawMessage(`["client_update","offline_storage"]`)
	reply.header.OfflineStorage = fmt.Appendf(nil, `{"data_sync":{"storage_id":%q}}`, s.id)
	s.send(reply)
	return nil
}

func replyTo(f frame) frame {
	return frame{header: frameHeader{Method: "reply", ID: f.header.ID, Status: &frameStatus{Code: 200, Status: "OK"}}}
}

// send queues a frame for the client. It never waits.
func (s *session) send(f frame) { s.sendBytes(f.bytes()) }

func (s *session) sendBytes(message []byte) {
	if !s.queue.push(message) {
		s.end(errSlow)
	}
}

// expire tells the client that its token has expired, and ends the session.
func (s *session) expire() {
	s.send(frame{header: frameHeader{
		Method: "close",
		ID:     newID(),
		Status: &frameStatus{Code: 410, Status: "TOKEN_EXPIRED", Description: "Access Token expired"},
	}})
	s.queue.finish()
}

// write writes the queued frames until the session ends.
func (s *session) write() {
	for {
		select {
		case <-s.queue.wake:
		case <-s.ctx.Done():
			return
		}
		messages, finished := s.queue.take()
		for _, message := range messages {
			if err := s.writeOne(message); err != nil {
				s.end(errUnreachable)
				return
			}
		}
		if finished {
			s.end(errExpired)
			return
		}
	}
}

func (s *session) writeOne(message []byte) error {
	ctx, cancel := context.WithTimeout(s.ctx, writeTimeout)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageBinary, message)
}

// keepAlive finds out when a client has gone without a word. A browser answers pings by itself.
func (s *session) keepAlive() {
	ticker := time.NewTicker(keepaliveInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(s.ctx, keepaliveTimeout)
		err := s.conn.Ping(ctx)
		cancel()
		if err != nil {
			s.end(errUnreachable)
			return
		}
	}
}

// queue holds the frames that wait to be written to one client.
type queue struct {
	wake chan struct{} // holds a value while there is something to take

	mu       sync.Mutex
	messages [][]byte
	finished bool
}

// push adds a message, and reports false if the queue is full.
func (q *queue) push(message []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.finished {
		return true // the client is being told goodbye: nothing follows
	}
	if len(q.messages) >= maxQueue {
		return false
	}
	q.messages = append(q.messages, message)
	q.notify()
	return true
}

// finish lets nothing follow what is in the queue.
func (q *queue) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.finished = true
	q.notify()
}

func (q *queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns what has been pushed since the last take, and whether nothing follows.
func (q *queue) take() (messages [][]byte, finished bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	messages, q.messages = q.messages, nil
	return messages, q.finished
}
