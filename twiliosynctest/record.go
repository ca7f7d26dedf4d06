package twiliosynctest

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// Request is a request that the server received, accepted or not. Its Header and Data are shared with the server: do not
// change them.
type Request struct {
	Operation  string // the operation's id in Twilio's OpenAPI description, such as "CreateStreamMessage"; empty if there is none of this method and path
	Method     string
	Path       string // the request URI, percent-encoded as it came
	ServiceSID string // from the path; empty if the path is none of the service's
	Stream     string // from the path: a unique name or a SID
	Header     http.Header
	Body       string          // empty if a fault cut the connection before reading
	Data       json.RawMessage // the form field; nil if there is none
	Time       time.Time       // of arrival
	Fault      string          // the line of the fault script that the request met, such as "Next(1).LoseAnswer()"
	Status     int             // of the answer; 0 before it, and if there was none
	Code       int             // of an error in Twilio's format
	Message    string          // of an error in Twilio's format
	Handled    bool            // the operation took effect, whatever was answered: a message is among Messages
}

// Requests returns all requests in order of arrival: also those which were refused, which met a fault or which are still
// being served.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var requests []Request
	for _, request := range s.requests.newest() {
		requests = append(requests, *request)
	}
	return requests
}

// record keeps the newest items up to a limit, or all if the limit is 0.
type record[T any] struct {
	limit int
	total int
	items []T // at most twice the limit
}

func (r *record[T]) add(item T) {
	r.total++
	if r.limit > 0 && len(r.items) == 2*r.limit {
		r.items = r.newest()
	}
	r.items = append(r.items, item)
}

// newest returns a copy of the items.
func (r *record[T]) newest() []T {
	surplus := 0
	if r.limit > 0 {
		surplus = max(0, len(r.items)-r.limit)
	}
	return slices.Clone(r.items[surplus:])
}
