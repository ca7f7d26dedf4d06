package emulator

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// A browser SDK speaks HTTP through its socket, with an API of its own. What concerns streams and messages is turned into
// the REST request that means the same, so that one set of rules, limits and faults holds for all; see [Emulator.call].

// clientInfo is what a client says of itself.
type clientInfo struct {
	sdk, identity string
	service       string // empty if the token doesn't say
}

// describeClient reads the metadata of init, and the token if it is a JWT. Its signature isn't checked: any string is a
// token here.
func describeClient(f frame) clientInfo {
	var info clientInfo
	if m := f.header.Metadata; m != nil {
		info.sdk = truncate(strings.TrimSpace(m.SDK+" "+m.SDKVersion+", "+m.Environment), 100)
	}
	var claims struct {
		Grants struct {
			Identity string `json:"identity"`
			DataSync struct {
				ServiceSID string `json:"service_sid"`
			} `json:"data_sync"`
		} `json:"grants"`
	}
	if parts := strings.Split(f.header.Token, "."); len(parts) == 3 {
		if text, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil && json.Unmarshal(text, &claims) == nil {
			info.identity = truncate(claims.Grants.Identity, 320)
			info.service = truncate(claims.Grants.DataSync.ServiceSID, 320)
		}
	}
	return info
}

// message serves a request through the socket. Subscriptions are served in order; other requests beside each other, as
// over HTTP, where one that a fault delays holds up no other.
func (s *session) message(f frame) error {
	request := f.header.HTTPRequest
	if request == nil {
		return protocolError{"a message without http_request"}
	}
	path, _, _ := strings.Cut(request.Path, "?")
	if path == "/v4/Subscriptions" && request.Method == http.MethodPost {
		s.subscribe(f)
		return nil
	}
	select {
	case s.requests <- struct{}{}:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	s.running.Go(func() {
		defer func() { <-s.requests }()
		s.answer(f, s.serve(request.Method, request.Host, path, f.payload))
	})
	return nil
}

// socketAnswer is the answer to a request through the socket. Status 0 stands for none.
type socketAnswer struct {
	status int
	body   []byte
}

// answer sends an answer. For one that a fault took away, it ends the session, as the fault does to a connection on REST.
func (s *session) answer(f frame, a socketAnswer) {
	if a.status == 0 {
		s.end(errAnswerLost)
		return
	}
	reply := replyTo(f)
	reply.header.HTTPStatus = &frameStatus{Code: a.status, Status: http.StatusText(a.status)}
	reply.header.HTTPHeaders = &struct{}{}
	reply.payload = a.body
	s.send(reply)
}

// serve answers a request about streams and messages.
func (s *session) serve(method, host, path string, body []byte) socketAnswer {
	rest, ok := strings.CutPrefix(path, "/v3/Streams")
	if !ok || rest != "" && rest[0] != '/' {
		return socketAnswer{http.StatusNotFound, notImplemented(method, path)}
	}
	form, err := formOf(method, body)
	if err != nil {
		return invalidJSON
	}
	service := cmp.Or(s.client.service, "default")
	if method == http.MethodGet && !s.emulator.strict {
		s.ensureStream(service, strings.TrimPrefix(rest, "/"))
	}
	answer := s.emulator.call(s.ctx, s.id, method, streamsPath(service)+rest, form)
	if answer.status < 300 && !strings.HasSuffix(rest, "/Messages") {
		answer.body = socketStream(answer.body, host)
	}
	return answer
}

func streamsPath(service string) string {
	return "/v1/Services/" + url.PathEscape(service) + "/Streams"
}

// ensureStream makes the stream that a client opens, where streams need not be created first.
func (s *session) ensureStream(service, segment string) {
	name, err := url.PathUnescape(segment)
	if err != nil || name == "" || streamSIDPattern.MatchString(name) {
		return
	}
	exists := slices.ContainsFunc(s.emulator.fake.Streams(service), func(st twiliosynctest.Stream) bool { return st.UniqueName == name })
	if !exists {
		s.emulator.call(s.ctx, s.id, http.MethodPost, streamsPath(service), url.Values{"UniqueName": {name}})
	}
}

var invalidJSON = socketAnswer{http.StatusBadRequest, []byte(`{"code":54008,"message":"Invalid JSON","status":400}`)}

func notImplemented(method, path string) []byte {
	message, _ := json.Marshal("The emulator has no " + method + " " + truncate(path, 200) + ": it emulates message streams only")
	return fmt.Appendf(nil, `{"code":20404,"message":%s,"status":404}`, message)
}

// formOf turns the JSON body of a request through the socket into the form of the REST request.
func formOf(method string, body []byte) (url.Values, error) {
	form := url.Values{}
	if method != http.MethodPost || len(body) == 0 { // the SDK sends a word that isn't JSON with DELETE
		return form, nil
	}
	var fields struct {
		UniqueName *string         `json:"unique_name"`
		TTL        *json.Number    `json:"ttl"`
		Data       json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, err
	}
	if fields.UniqueName != nil {
		form.Set("UniqueName", *fields.UniqueName)
	}
	if fields.TTL != nil {
		form.Set("Ttl", fields.TTL.String())
	}
	if fields.Data != nil {
		form.Set("Data", string(fields.Data))
	}
	return form, nil
}

// socketStream turns a stream as REST shows it into one as the socket does, with links to the host that was asked.
func socketStream(body []byte, host string) []byte {
	var stream map[string]any
	if json.Unmarshal(body, &stream) != nil {
		return body
	}
	link := fmt.Sprintf("https://%s/v3/Streams/%s", host, stream["sid"])
	stream["url"] = link
	stream["links"] = map[string]string{"messages": link + "/Messages"}
	translated, _ := json.Marshal(stream) // it came from JSON: never fails
	return translated
}

// subscriptions is the body of POST /v4/Subscriptions.
type subscriptions struct {
	Action        string          `json:"action"` // establish or cancel
	CorrelationID json.RawMessage `json:"correlation_id"`
	Requests      []struct {
		ObjectSID  string `json:"object_sid"`
		ObjectType string `json:"object_type"`
	} `json:"requests"`
}

var streamSIDPattern = regexp.MustCompile(`^TO[0-9a-fA-F]{32}$`)

// subscribe serves a request to subscribe or unsubscribe. The answer says that the request was understood; what became of
// it follows as a notification.
func (s *session) subscribe(f frame) {
	var wanted subscriptions
	if err := json.Unmarshal(f.payload, &wanted); err != nil {
		s.answer(f, invalidJSON)
		return
	}
	s.answer(f, socketAnswer{http.StatusAccepted, []byte(`{"max_batch_size":100,"estimated_delivery_in_ms":100,"ttl_in_s":3600}`)})
	for _, request := range wanted.Requests {
		event := subscriptionEvent{CorrelationID: wanted.CorrelationID, Events: []objectEvent{{
			ObjectSID: request.ObjectSID, ObjectType: request.ObjectType, ReplayStatus: "completed",
		}}}
		switch {
		case wanted.Action == "cancel":
			s.emulator.hub.unsubscribe(s, request.ObjectSID)
			event.EventType = "subscription_canceled"
		case !streamSIDPattern.MatchString(request.ObjectSID):
			event.fail(http.StatusNotFound, "the emulator has message streams only, whose SIDs are TO and 32 hexadecimal digits")
		case !s.emulator.hub.subscribe(s, request.ObjectSID):
			event.fail(http.StatusTooManyRequests, fmt.Sprintf("a client can have %d subscriptions", maxSubscriptions))
		default:
			event.EventType = "subscription_established"
		}
		s.send(event.notification())
	}
}

// subscriptionEvent tells a client what became of its subscription.
type subscriptionEvent struct {
	EventType     string          `json:"event_type"`
	CorrelationID json.RawMessage `json:"correlation_id,omitempty"`
	Events        []objectEvent   `json:"events"`
}

type objectEvent struct {
	ObjectSID    string       `json:"object_sid"`
	ObjectType   string       `json:"object_type"`
	ReplayStatus string       `json:"replay_status"`
	LastEventID  int          `json:"last_event_id"`
	Error        *objectError `json:"error,omitempty"`
}

type objectError struct {
	Status  int    `json:"status"`
	Message string `json:"message"`
}

func (e *subscriptionEvent) fail(status int, message string) {
	e.EventType = "subscription_failed"
	e.Events[0].Error = &objectError{status, message}
}

func (e *subscriptionEvent) notification() frame {
	payload, _ := json.Marshal(e) // of strings and JSON that was read: never fails
	return notification(payload)
}
