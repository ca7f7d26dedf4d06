package emulator

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// hub knows who is connected, and who is subscribed to what.
type hub struct {
	watchers *watchers
	logger   *slog.Logger

	mu          sync.Mutex
	sessions    map[*session]bool
	subscribers map[string]map[*session]bool // by stream SID
}

func newHub(watchers *watchers, logger *slog.Logger) *hub {
	return &hub{
		watchers:    watchers,
		logger:      logger,
		sessions:    make(map[*session]bool),
		subscribers: make(map[string]map[*session]bool),
	}
}

// subscriber is a session as the admin API shows it.
type subscriber struct {
	ID        string    `json:"id"`
	SDK       string    `json:"sdk"`
	Identity  string    `json:"identity,omitempty"` // from the token, if it is a JWT
	Connected time.Time `json:"connected"`
	Streams   []string  `json:"streams"` // SIDs
}

// subscriberEvent says that a subscriber came, left, subscribed or unsubscribed.
type subscriberEvent struct {
	Event      string     `json:"event"` // connected, disconnected, subscribed, unsubscribed
	Subscriber subscriber `json:"subscriber"`
	StreamSID  string     `json:"streamSid,omitempty"`
	Reason     string     `json:"reason,omitempty"`
}

func (h *hub) add(s *session, client clientInfo) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.sessions) >= maxSessions {
		return protocolError{fmt.Sprintf("%d clients are connected, which is all that an account may have", maxSessions)}
	}
	s.client, s.connected = client, time.Now()
	h.sessions[s] = true
	h.tell(s, "connected", "", nil)
	return nil
}

func (h *hub) remove(s *session, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.sessions[s] {
		return // it never introduced itself
	}
	delete(h.sessions, s)
	for streamSID := range s.subscriptions {
		h.drop(s, streamSID)
	}
	h.tell(s, "disconnected", "", reason)
}

// subscribe reports false if the session has too many subscriptions.
func (h *hub) subscribe(s *session, streamSID string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.subscriptions[streamSID] {
		return true
	}
	if len(s.subscriptions) >= maxSubscriptions {
		return false
	}
	if h.subscribers[streamSID] == nil {
		h.subscribers[streamSID] = make(map[*session]bool)
	}
	h.subscribers[streamSID][s] = true
	s.subscriptions[streamSID] = true
	h.tell(s, "subscribed", streamSID, nil)
	return true
}

func (h *hub) unsubscribe(s *session, streamSID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.subscriptions[streamSID] {
		delete(s.subscriptions, streamSID)
		h.drop(s, streamSID)
		h.tell(s, "unsubscribed", streamSID, nil)
	}
}

// drop needs the lock.
func (h *hub) drop(s *session, streamSID string) {
	delete(h.subscribers[streamSID], s)
	if len(h.subscribers[streamSID]) == 0 {
		delete(h.subscribers, streamSID)
	}
}

// tell tells the watchers about a subscriber. It needs the lock.
func (h *hub) tell(s *session, event, streamSID string, reason error) {
	told := subscriberEvent{Event: event, Subscriber: s.describe(), StreamSID: streamSID}
	if reason != nil {
		told.Reason = reason.Error()
	}
	h.watchers.tell("subscriber", told)
	h.logger.Info("subscriber "+event, "client", s.id, "sdk", s.client.sdk, "stream", streamSID, "reason", told.Reason)
}

// publish queues a message for each subscriber of its stream, but for the one that published it: the SDK has told that one
// already. All get concurrent messages in the same order.
func (h *hub) publish(m twiliosynctest.Message) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var message []byte // one copy for all
	for s := range h.subscribers[m.StreamSID] {
		if s.id == m.Header.Get(clientHeader) || s.client.service != "" && s.client.service != m.ServiceSID {
			continue
		}
		if message == nil {
			message = messagePublished(m).bytes()
		}
		s.sendBytes(message)
	}
}

// streamRemoved tells the subscribers of a stream that it was deleted.
func (h *hub) streamRemoved(streamSID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subscribers[streamSID] {
		s.send(notification(fmt.Appendf(nil, `{"event_type":"stream_removed","event":{"stream_sid":%q}}`, streamSID)))
	}
}

// messagePublished is what a subscriber is told about a message.
func messagePublished(m twiliosynctest.Message) frame {
	payload := fmt.Appendf(nil,
		`{"event_type":"stream_message_published","event":{"stream_sid":%q,"message_sid":%q,"message_data":%s,"date_created":%q}}`,
		m.StreamSID, m.SID, m.Data, m.Time.UTC().Format(time.RFC3339Nano))
	return notification(payload)
}

func notification(payload []byte) frame {
	return frame{
		header:  frameHeader{Method: "notification", ID: newID(), MessageType: "twilio.sync.event"},
		payload: payload,
	}
}

// each calls do with each session, or each that is subscribed to the stream.
func (h *hub) each(streamSID string, do func(*session)) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	chosen := h.sessions
	if streamSID != "" {
		chosen = h.subscribers[streamSID]
	}
	for s := range chosen {
		do(s)
	}
	return len(chosen)
}

// count returns the number of subscribers of a stream.
func (h *hub) count(streamSID string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.subscribers[streamSID])
}

// list returns all subscribers.
func (h *hub) list() []subscriber {
	subscribers := []subscriber{}
	h.each("", func(s *session) { subscribers = append(subscribers, s.describe()) })
	slices.SortFunc(subscribers, func(a, b subscriber) int { return a.Connected.Compare(b.Connected) })
	return subscribers
}

// describe needs the hub's lock.
func (s *session) describe() subscriber {
	streams := slices.AppendSeq(make([]string, 0, len(s.subscriptions)), maps.Keys(s.subscriptions)) // [] if there are none, not null
	slices.Sort(streams)
	return subscriber{s.id, s.client.sdk, s.client.identity, s.connected, streams}
}
