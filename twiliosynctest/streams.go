package twiliosynctest

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// maxTTL is the longest life of a stream, in seconds: a year.
const maxTTL = 31_536_000

// Stream is a stream that exists.
type Stream struct {
	ServiceSID string // "IS" and 32 hexadecimal digits
	SID        string // "TO" and 32 hexadecimal digits, see [Server.StreamSID]
	UniqueName string // empty if it has none
	Created    time.Time
	Expires    time.Time // zero: never
}

// Streams returns the streams that exist in a service, given by unique name or SID, in order of creation: those given to
// [WithStreams], those created, and, if the server is not strict, those published to.
func (s *Server) Streams(service string) []Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var streams []Stream
	for _, stream := range s.service(service, now).list(now) {
		streams = append(streams, stream.Stream)
	}
	return streams
}

// StreamSID returns the SID of the stream with this unique name. A message published to the SID is a message of the
// stream, and the other way round.
func (s *Server) StreamSID(uniqueName string) string { return streamSID(uniqueName) }

// service holds the streams of a service.
type service struct {
	sid     string
	streams map[string]*stream // by SID
	made    int                // streams so far
}

// stream is what the server keeps of a stream that exists.
type stream struct {
	Stream
	number    int  // in order of creation
	published bool // it exists because a message was published to it
	updated   time.Time
	window    window
}

// service returns a service given by unique name or SID. Each has the streams given to WithStreams from the start. It
// needs the lock.
func (s *Server) service(id string, now time.Time) *service {
	sid := sidOf("IS", id)
	if s.services[sid] == nil {
		made := &service{sid: sid, streams: make(map[string]*stream)}
		for _, given := range s.given {
			if made.find(given, now) == nil {
				made.add(given, now)
			}
		}
		s.services[sid] = made
	}
	return s.services[sid]
}

// find returns the stream of this SID or unique name, nil if there is none. What has expired is gone.
func (s *service) find(id string, now time.Time) *stream {
	found := s.streams[streamSID(id)]
	if found == nil || found.expired(now) {
		return nil
	}
	if found.UniqueName == "" && isUniqueName(id) {
		found.UniqueName = id // it was known by its SID only
	}
	return found
}

// add makes the stream of this SID or unique name, with a fresh SID if id is empty.
func (s *service) add(id string, now time.Time) *stream {
	if id == "" {
		id = newSID("TO")
	}
	if s.made++; s.made%1000 == 0 {
		s.list(now) // which drops those that have expired
	}
	made := &stream{Stream: Stream{ServiceSID: s.sid, SID: streamSID(id), Created: now}, number: s.made, updated: now}
	if isUniqueName(id) {
		made.UniqueName = id
	}
	s.streams[made.SID] = made
	return made
}

// list returns the streams in order of creation.
func (s *service) list(now time.Time) []*stream {
	var streams []*stream
	for sid, stream := range s.streams {
		if stream.expired(now) {
			delete(s.streams, sid)
			continue
		}
		streams = append(streams, stream)
	}
	slices.SortFunc(streams, func(a, b *stream) int { return cmp.Compare(a.number, b.number) })
	return streams
}

func (st *stream) expired(now time.Time) bool { return !st.Expires.IsZero() && !now.Before(st.Expires) }

// expireAfter sets the end of the stream's life, counted from now. 0 stands for never.
func (st *stream) expireAfter(ttl time.Duration, now time.Time) {
	st.Expires = time.Time{}
	if ttl > 0 {
		st.Expires = now.Add(ttl)
	}
}

// parameters are those of the Stream operations.
type parameters struct {
	uniqueName string
	ttl        time.Duration
	page       page
}

func (x *exchange) readNothing() *answer { return nil }

func (x *exchange) readNewStream() *answer {
	if refusal := x.readTTL(); refusal != nil {
		return refusal
	}
	x.params.uniqueName = x.form.Get("UniqueName")
	if x.form.Has("UniqueName") && !isUniqueName(x.params.uniqueName) {
		return refusal(http.StatusBadRequest, 54302)
	}
	return nil
}

func (x *exchange) readUpdate() *answer {
	if refusal := x.readTTL(); refusal != nil {
		return refusal
	}
	if !x.form.Has("Ttl") {
		return refusal(http.StatusBadRequest, 54010)
	}
	return nil
}

// readTTL reads the form and the field Ttl in it. Empty is like zero.
func (x *exchange) readTTL() *answer {
	if x.formErr != nil {
		return refusalWith(http.StatusBadRequest, 20001, "The form in the post body is not percent-encoded")
	}
	text := cmp.Or(x.form.Get("Ttl"), "0")
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil || seconds > maxTTL {
		return refusal(http.StatusBadRequest, 54011)
	}
	x.params.ttl = time.Duration(seconds) * time.Second
	return nil
}

func (x *exchange) createSyncStream() *answer {
	if x.service.find(x.params.uniqueName, x.now) != nil {
		return refusal(http.StatusConflict, 54301)
	}
	x.stream = x.service.add(x.params.uniqueName, x.now)
	x.stream.expireAfter(x.params.ttl, x.now)
	return x.streamAnswer(http.StatusCreated)
}

func (x *exchange) fetchSyncStream() *answer { return x.streamAnswer(http.StatusOK) }

func (x *exchange) updateSyncStream() *answer {
	x.stream.expireAfter(x.params.ttl, x.now)
	x.stream.updated = x.now
	return x.streamAnswer(http.StatusOK)
}

func (x *exchange) deleteSyncStream() *answer {
	delete(x.service.streams, x.stream.SID)
	return &answer{status: http.StatusNoContent}
}

func (x *exchange) streamAnswer(status int) *answer {
	return &answer{status: status, body: mustMarshal(x.represent(x.stream))}
}

// representation is a stream in Twilio's words.
type representation struct {
	SID         string            `json:"sid"`
	UniqueName  *string           `json:"unique_name"`
	AccountSID  string            `json:"account_sid"`
	ServiceSID  string            `json:"service_sid"`
	URL         string            `json:"url"`
	Links       map[string]string `json:"links"`
	DateExpires *string           `json:"date_expires"`
	DateCreated *string           `json:"date_created"`
	DateUpdated *string           `json:"date_updated"`
	CreatedBy   string            `json:"created_by"`
}

func (x *exchange) represent(st *stream) representation {
	url := x.streamsURL() + "/" + st.SID
	r := representation{
		SID:         st.SID,
		AccountSID:  x.server.accountSID(),
		ServiceSID:  st.ServiceSID,
		URL:         url,
		Links:       map[string]string{"messages": url + "/Messages"},
		DateExpires: date(st.Expires),
		DateCreated: date(st.Created),
		DateUpdated: date(st.updated),
		CreatedBy:   "system",
	}
	if st.UniqueName != "" {
		r.UniqueName = &st.UniqueName
	}
	return r
}

// streamsURL returns the absolute URL of the service's streams, at the host that the client used.
func (x *exchange) streamsURL() string {
	scheme := "http"
	if x.r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + x.r.Host + "/v1/Services/" + x.service.sid + "/Streams"
}

// accountSID returns the SID of the account that the streams belong to. An API key doesn't tell.
func (s *Server) accountSID() string {
	if isSID("AC", s.username) {
		return s.username
	}
	return defaultUsername
}

// date returns a time as Twilio writes it, nil for the zero time.
func date(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := t.UTC().Format(time.RFC3339)
	return &text
}

// mustMarshal returns the JSON of texts and numbers, for which json.Marshal never fails.
func mustMarshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}
