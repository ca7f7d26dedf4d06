package emulator

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// maxServices is how many services the admin API shows.
const maxServices = 100

// journal is what the admin API tells beyond what the fake keeps: the messages of all streams in one order, and the
// services that were used.
type journal struct {
	limit int

	mu       sync.Mutex
	messages []messageRecord // the newest, at most twice the limit
	services []string        // as in the requests
}

// messageRecord is a message in the admin API.
type messageRecord struct {
	SID       string          `json:"sid"`
	Service   string          `json:"service"` // as in the request
	Stream    string          `json:"stream"`  // as in the request
	StreamSID string          `json:"streamSid"`
	Time      time.Time       `json:"time"`
	Client    string          `json:"client,omitempty"` // that published it through the websocket
	Data      json.RawMessage `json:"data"`             // the last field: the page finds it there, byte for byte
}

func recordOf(m twiliosynctest.Message) messageRecord {
	return messageRecord{m.SID, m.ServiceSID, m.Stream, m.StreamSID, m.Time, m.Header.Get(clientHeader), m.Data}
}

// requestRecord is a request in the admin API.
type requestRecord struct {
	Time      time.Time `json:"time"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Operation string    `json:"operation,omitempty"` // the id in Twilio's OpenAPI description
	Service   string    `json:"service,omitempty"`
	Stream    string    `json:"stream,omitempty"`
	StreamSID string    `json:"streamSid,omitempty"`
	Client    string    `json:"client,omitempty"` // that sent it through the websocket
	Status    int       `json:"status"`           // 0: there was no answer
	Code      int       `json:"code,omitempty"`
	Fault     string    `json:"fault,omitempty"`  // the line of the fault script that it met
	Handled   bool      `json:"handled"`          // it took effect, whatever was answered
	Reason    string    `json:"reason,omitempty"` // why it was refused; empty if it wasn't
	Data      string    `json:"data,omitempty"`   // of a message; perhaps not JSON
}

func (e *Emulator) requestRecordOf(r twiliosynctest.Request) requestRecord {
	record := requestRecord{
		Time: r.Time, Method: r.Method, Path: truncate(r.Path, 2_000), Operation: r.Operation, Service: r.ServiceSID, Stream: r.Stream,
		Client: r.Header.Get(clientHeader), Status: r.Status, Code: r.Code, Fault: r.Fault, Handled: r.Handled, Reason: reasonOf(r),
		Data: truncate(string(r.Data), 5_000),
	}
	if r.Stream != "" {
		record.StreamSID = e.fake.StreamSID(r.Stream)
	}
	return record
}

// reasonOf says why a request was refused, or had no answer; empty if neither.
func reasonOf(r twiliosynctest.Request) string {
	effect := "it took no effect"
	if r.Handled {
		effect = "it took effect all the same"
	}
	switch {
	case r.Status == 0 && r.Fault != "":
		return fmt.Sprintf("no answer, because of the fault %s; %s", r.Fault, effect)
	case r.Status == 0:
		return "no answer: the client went away; " + effect
	case r.Status >= http.StatusBadRequest && r.Fault != "":
		return fmt.Sprintf("%s, because of the fault %s; %s", cmp.Or(r.Message, http.StatusText(r.Status)), r.Fault, effect)
	case r.Status >= http.StatusBadRequest:
		return cmp.Or(r.Message, http.StatusText(r.Status))
	}
	return ""
}

func (j *journal) addMessage(m messageRecord) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.messages) == 2*j.limit {
		j.messages = slices.Clone(j.messages[j.limit+1:])
	}
	j.messages = append(j.messages, m)
}

// newest returns the newest messages of all streams, the oldest first.
func (j *journal) newest() []messageRecord {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.messages[max(0, len(j.messages)-j.limit):])
}

func (j *journal) addService(service string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if service != "" && len(j.services) < maxServices && !slices.Contains(j.services, service) {
		j.services = append(j.services, service)
	}
}

func (j *journal) usedServices() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.services)
}

func (j *journal) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.messages, j.services = nil, nil
}

// onMessage is called by the fake with each message before it is answered.
func (e *Emulator) onMessage(m twiliosynctest.Message) {
	record := recordOf(m)
	e.journal.addMessage(record)
	e.hub.publish(m)
	e.watchers.tell("message", record)
	e.logger.Info("message", "sid", m.SID, "service", m.ServiceSID, "stream", m.Stream, "data", string(m.Data))
}

// onRequest is called by the fake with each request when its answer is known.
func (e *Emulator) onRequest(r twiliosynctest.Request) {
	if r.Handled {
		e.journal.addService(r.ServiceSID)
	}
	if r.Handled && r.Operation == "DeleteSyncStream" {
		e.hub.streamRemoved(e.fake.StreamSID(r.Stream))
	}
	record := e.requestRecordOf(r)
	if record.Reason == "" {
		return
	}
	e.watchers.tell("refused", record)
	e.logger.Warn("refused", "method", r.Method, "path", record.Path, "status", r.Status, "code", r.Code, "reason", record.Reason)
}
