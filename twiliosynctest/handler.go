package twiliosynctest

import (
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// maxDataSize is the largest Data, in bytes of JSON.
const maxDataSize = 4096

// ServeHTTP handles one request. It implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := s.arrive(w, r)
	defer x.settle(0)
	if fault := s.faultFor(x); fault != nil {
		fault.play(x)
		return
	}
	x.answer(x.handle())
}

// exchange is one request and its answer.
type exchange struct {
	server    *Server
	w         http.ResponseWriter
	r         *http.Request
	record    *Request // its changing fields are guarded by Server.mu
	address   address
	addressed bool // the path is the one to publish to

	concurrent int  // requests served for the account at arrival, this one included
	surplus    bool // the request is beyond the concurrency limit and holds no slot
	settled    bool

	bodyRead bool
	formErr  error
}

// arrive records a request and takes a slot of the account's concurrency for it.
func (s *Server) arrive(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{server: s, w: w, r: r}
	x.address, x.addressed = parseAddress(r.URL.EscapedPath())
	x.record = &Request{
		Method:     r.Method,
		Path:       r.URL.RequestURI(),
		ServiceSID: x.address.service,
		Stream:     x.address.stream,
		Header:     maskedHeader(r.Header),
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	x.record.Time = time.Now()
	s.requests = append(s.requests, x.record)
	x.concurrent = s.active + 1
	x.surplus = s.concurrencyLimit > 0 && s.active >= s.concurrencyLimit
	if !x.surplus {
		s.active++
	}
	return x
}

// settle records the status of the answer, 0 for none, and frees the slot. It comes before the answer, so that a client
// which has the answer finds both done. Only the first call counts.
func (x *exchange) settle(status int) {
	if x.settled {
		return
	}
	x.settled = true
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	x.record.Status = status
	if !x.surplus {
		x.server.active--
	}
}

// readBody reads the body and the form in it, unless that is done. It gives up the request if the client goes away.
func (x *exchange) readBody() {
	if x.bodyRead {
		return
	}
	body, err := io.ReadAll(x.r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	x.bodyRead = true
	data, formErr := dataField(x.r.Header, string(body))

	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	x.formErr = formErr
	x.record.Body, x.record.Data = string(body), data
}

// dataField returns the form field Data, nil if there is none.
func dataField(header http.Header, body string) (json.RawMessage, error) {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if mediaType != "application/x-www-form-urlencoded" {
		return nil, nil
	}
	form, err := url.ParseQuery(body)
	if !form.Has("Data") {
		return nil, err
	}
	return json.RawMessage(form.Get("Data")), err
}

// handle does what the service does with a request and returns its answer.
func (x *exchange) handle() *answer {
	x.readBody()
	if refusal := x.check(); refusal != nil {
		return refusal
	}
	message, refusal := x.publish()
	if refusal != nil {
		return refusal
	}
	x.server.onMessage(message)
	return created(message)
}

// check returns the first objection to a request, nil if there is none. The order is documented for the package.
func (x *exchange) check() *answer {
	username, password, _ := x.r.BasicAuth()
	data := x.record.Data
	switch {
	case username != x.server.username || password != x.server.password:
		return refusal(http.StatusUnauthorized, 20003)
	case !x.addressed:
		return x.notFound()
	case x.r.Method != http.MethodPost:
		return refusal(http.StatusMethodNotAllowed, 20004)
	case !x.server.exists(x.address):
		return x.notFound()
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

func (s *Server) exists(a address) bool {
	return a.canExist() && (s.existing == nil || s.existing[a.streamSID])
}

// publish records the message, unless a limit is reached.
func (x *exchange) publish() (Message, *answer) {
	s := x.server
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if x.surplus {
		return Message{}, refusal(http.StatusTooManyRequests, 20429)
	}
	if !s.withinRate(x.address, now) {
		return Message{}, refusal(http.StatusTooManyRequests, 54009)
	}
	message := Message{
		SID:        newSID("TZ"),
		ServiceSID: x.address.service,
		StreamSID:  x.address.streamSID,
		Stream:     x.address.stream,
		Data:       x.record.Data,
		Time:       now,
		Header:     x.record.Header,
	}
	s.stream(message.StreamSID).add(message)
	x.record.Handled = true
	return message, nil
}

// withinRate counts a message of the stream if the stream's rate allows it. It needs the lock.
func (s *Server) withinRate(a address, now time.Time) bool {
	if s.rate.messages == 0 {
		return true
	}
	key := windowKey{a.service, a.streamSID}
	if s.windows[key] == nil {
		s.windows[key] = new(window)
	}
	return s.rate.allow(s.windows[key], now)
}

// stream returns a stream given by unique name or SID. It needs the lock.
func (s *Server) stream(id string) *stream {
	sid := streamSID(id)
	if s.streams[sid] == nil {
		s.streams[sid] = new(stream)
	}
	return s.streams[sid]
}

// request returns the request as it is known so far.
func (x *exchange) request() Request {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	return *x.record
}

// maskedHeader returns a copy of the header that can be printed.
func maskedHeader(header http.Header) http.Header {
	masked := header.Clone()
	if masked.Get("Authorization") != "" {
		masked.Set("Authorization", "[masked]")
	}
	return masked
}
