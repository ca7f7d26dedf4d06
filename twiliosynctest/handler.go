package twiliosynctest

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ServeHTTP handles one request. It implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := s.arrive(w, r)
	defer x.settle(&answer{})
	if fault := s.faultFor(x); fault != nil {
		fault.play(x)
		return
	}
	x.answer(x.handle())
}

// exchange is one request and its answer.
type exchange struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	record *Request // its changing fields are guarded by Server.mu
	route

	concurrent int  // requests served for the account at arrival, this one included
	surplus    bool // the request is beyond the concurrency limit and holds no slot
	settled    bool

	bodyRead bool
	bodyErr  *http.MaxBytesError // of a handler around the server
	form     url.Values
	formErr  error
	params   parameters

	// While the operation is performed:
	now     time.Time
	service *service
	stream  *stream
	message *Message // that was accepted
}

// arrive records a request and takes a slot of the account's concurrency for it.
func (s *Server) arrive(w http.ResponseWriter, r *http.Request) *exchange {
	x := &exchange{server: s, w: w, r: r, route: routeOf(r)}
	x.record = &Request{
		Method:     r.Method,
		Path:       r.URL.RequestURI(),
		ServiceSID: x.address.service,
		Stream:     x.address.stream,
		Header:     maskedHeader(r.Header),
	}
	if x.operation != nil {
		x.record.Operation = x.operation.id
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	x.record.Time = time.Now()
	s.requests.add(x.record)
	x.concurrent = s.active + 1
	x.surplus = s.concurrencyLimit > 0 && s.active >= s.concurrencyLimit
	if !x.surplus {
		s.active++
	}
	return x
}

// settle records the answer, the zero one if there is none, and frees the slot. It comes before the answer, so that a
// client which has the answer finds both done. Only the first call counts.
func (x *exchange) settle(a *answer) {
	if x.settled {
		return
	}
	x.settled = true
	x.server.onRequest(x.settledAs(a))
}

func (x *exchange) settledAs(a *answer) Request {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	x.record.Status, x.record.Code, x.record.Message = a.status, a.code, a.message
	if !x.surplus {
		x.server.active--
	}
	return *x.record
}

// readBody reads the body and the form in it, unless that is done. It gives up the request if the client goes away.
func (x *exchange) readBody() {
	if x.bodyRead {
		return
	}
	body, err := io.ReadAll(x.r.Body)
	if errors.As(err, &x.bodyErr) {
		body = nil
	} else if err != nil {
		panic(http.ErrAbortHandler)
	}
	x.bodyRead = true
	x.form, x.formErr = parseForm(x.r.Header, string(body))

	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	x.record.Body = string(body)
	if x.form.Has("Data") {
		x.record.Data = []byte(x.form.Get("Data"))
	}
}

// parseForm returns the fields of a form, none if the body is something else. The separator of fields is "&" alone, so
// a semicolon is data, which [url.ParseQuery] refuses.
func parseForm(header http.Header, body string) (url.Values, error) {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	if mediaType != "application/x-www-form-urlencoded" {
		return nil, nil
	}
	return url.ParseQuery(strings.ReplaceAll(body, ";", "%3B"))
}

// handle does what the service does with a request and returns its answer. The order of the checks is documented for the
// package.
func (x *exchange) handle() *answer {
	x.readBody()
	for _, check := range []func() *answer{x.checkAccess, x.checkRoute, x.checkStream, x.checkParameters} {
		if refusal := check(); refusal != nil {
			return refusal
		}
	}
	a := x.perform()
	if x.message != nil {
		x.server.onMessage(*x.message)
	}
	return a
}

func (x *exchange) checkAccess() *answer {
	username, password, _ := x.r.BasicAuth()
	switch {
	case username != x.server.username || password != x.server.password:
		return refusal(http.StatusUnauthorized, 20003)
	case x.surplus:
		return refusal(http.StatusTooManyRequests, 20429)
	}
	return nil
}

func (x *exchange) checkRoute() *answer {
	switch {
	case x.methods == nil:
		return x.notFound()
	case x.operation == nil:
		a := refusal(http.StatusMethodNotAllowed, 20004)
		a.header.Set("Allow", strings.Join(x.methods, ", "))
		return a
	case !x.address.canExist():
		return x.notFound()
	}
	return nil
}

func (x *exchange) checkStream() *answer {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	return x.find()
}

func (x *exchange) checkParameters() *answer {
	if x.bodyErr != nil {
		return refusal(http.StatusRequestEntityTooLarge, 54006)
	}
	return x.operation.read(x)
}

// perform lets the operation take effect.
func (x *exchange) perform() *answer {
	x.server.mu.Lock()
	defer x.server.mu.Unlock()
	if refusal := x.find(); refusal != nil {
		return refusal // the stream has gone since it was checked
	}
	a := x.operation.do(x)
	x.record.Handled = a.code == 0
	return a
}

// find looks up the service and the stream, and refuses the request if it names a stream that is missing. It needs the
// lock.
func (x *exchange) find() *answer {
	x.now = time.Now()
	x.service = x.server.service(x.address.service, x.now)
	x.stream = x.service.find(x.address.stream, x.now)
	if x.address.stream == "" || x.stream != nil {
		return nil
	}
	if x.operation == createStreamMessage && !x.server.strict {
		return nil
	}
	return x.notFound()
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
