package twiliosynctest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// maxDataSize is the largest Data, in bytes of JSON.
const maxDataSize = 4096

// Message is a message that the server accepted. Its Data and Header are shared with the server: do not change them.
type Message struct {
	SID        string          // "TZ" and 32 hexadecimal digits
	ServiceSID string          // as in the request
	StreamSID  string          // "TO" and 32 hexadecimal digits, see [Server.StreamSID]
	Stream     string          // as in the request: a unique name or a SID
	Data       json.RawMessage // byte for byte
	Time       time.Time
	Header     http.Header // of the request, with Authorization masked
}

// Messages returns the messages accepted for a stream, given by unique name or SID, in order of arrival. They stay when
// the stream is deleted.
func (s *Server) Messages(stream string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	if box := s.boxes[streamSID(stream)]; box != nil {
		return box.messages.newest()
	}
	return nil
}

// WaitForMessages waits until a stream has been sent n messages or more, and returns those it has. If ctx ends first, it
// returns an error with them which wraps ctx.Err().
func (s *Server) WaitForMessages(ctx context.Context, stream string, n int) ([]Message, error) {
	if err := s.network.misuse(); err != nil {
		return nil, err
	}
	for {
		messages, total, more := s.messagesAndNotice(stream)
		if total >= n {
			return messages, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return messages, fmt.Errorf("twiliosynctest: %d of %d messages on stream %q: %w", total, n, stream, ctx.Err())
		}
	}
}

// messagesAndNotice returns the messages of a stream, their number with those forgotten, and a channel that is closed when
// there is one more.
func (s *Server) messagesAndNotice(stream string) ([]Message, int, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	box := s.box(streamSID(stream))
	if box.changed == nil {
		box.changed = make(chan struct{})
	}
	return box.messages.newest(), box.messages.total, box.changed
}

// box holds what was published to the streams of a SID.
type box struct {
	messages record[Message]
	used     time.Time     // by the last message
	changed  chan struct{} // closed at the next message; nil while nobody waits
}

// box returns the box of a SID. It needs the lock.
func (s *Server) box(streamSID string) *box {
	if s.boxes[streamSID] == nil {
		s.boxes[streamSID] = &box{messages: record[Message]{limit: s.retention}}
	}
	return s.boxes[streamSID]
}

// maxKeptStreams is the number of streams with messages that a server with a retention keeps.
const maxKeptStreams = 10_000

// makeRoom forgets half of the streams with messages, those not used for longest, if there are too many to keep. Streams
// that were created stay. It needs the lock.
func (s *Server) makeRoom(now time.Time) {
	if s.retention == 0 || len(s.boxes) < maxKeptStreams {
		return
	}
	byAge := slices.SortedFunc(maps.Keys(s.boxes), func(a, b string) int { return s.boxes[a].used.Compare(s.boxes[b].used) })
	for _, streamSID := range byAge[:len(byAge)/2] {
		if s.boxes[streamSID].changed == nil { // nobody waits for its messages
			delete(s.boxes, streamSID)
		}
	}
	for _, service := range s.services {
		for _, stream := range service.list(now) {
			if stream.published && s.boxes[stream.SID] == nil {
				delete(service.streams, stream.SID)
			}
		}
	}
}

func (b *box) add(message Message) {
	b.used = message.Time
	b.messages.add(message)
	b.notify()
}

func (b *box) notify() {
	if b.changed != nil {
		close(b.changed)
		b.changed = nil
	}
}

// readMessage checks the parameters of a message.
func (x *exchange) readMessage() *answer {
	data := x.record.Data
	switch {
	case x.formErr != nil:
		return refusal(http.StatusBadRequest, 54008)
	case data == nil:
		return refusal(http.StatusBadRequest, 20001)
	case !utf8.Valid(data) || !json.Valid(data):
		return refusal(http.StatusBadRequest, 54008)
	case !isObject(data):
		return refusal(http.StatusBadRequest, 54251)
	case len(data) > maxDataSize:
		return refusal(http.StatusRequestEntityTooLarge, 54006)
	}
	return nil
}

func isObject(validJSON []byte) bool {
	return strings.HasPrefix(strings.TrimLeft(string(validJSON), " \t\r\n"), "{")
}

// createStreamMessage publishes a message. The stream may be missing if the server is not strict.
func (x *exchange) createStreamMessage() *answer {
	if x.server.boxes[streamSID(x.address.stream)] == nil {
		x.server.makeRoom(x.now)
	}
	if x.stream == nil {
		x.stream = x.service.add(x.address.stream, x.now)
		x.stream.published = true
	}
	if !x.server.rate.allow(&x.stream.window, x.now) {
		return refusal(http.StatusTooManyRequests, 54009)
	}
	x.message = &Message{
		SID:        newSID("TZ"),
		ServiceSID: x.address.service,
		StreamSID:  x.stream.SID,
		Stream:     x.address.stream,
		Data:       x.record.Data,
		Time:       x.now,
		Header:     x.record.Header,
	}
	x.server.box(x.stream.SID).add(*x.message)
	body := fmt.Appendf(nil, `{"sid":%q,"data":%s}`, x.message.SID, x.message.Data)
	return &answer{status: http.StatusCreated, body: body}
}

// rateLimit allows a number of messages in any window of time. The zero value allows all.
type rateLimit struct {
	messages int
	window   time.Duration
}

// window holds the times of the last messages that a rateLimit allowed, as a ring.
type window struct {
	times  []time.Time
	oldest int
}

// allow reports whether a message may pass now, and if so counts it.
func (l rateLimit) allow(w *window, now time.Time) bool {
	if l.messages == 0 {
		return true
	}
	if len(w.times) < l.messages {
		w.times = append(w.times, now)
		return true
	}
	if now.Sub(w.times[w.oldest]) < l.window {
		return false
	}
	w.times[w.oldest] = now
	w.oldest = (w.oldest + 1) % l.messages
	return true
}
