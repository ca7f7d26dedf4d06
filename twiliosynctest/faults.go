package twiliosynctest

import (
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
)

// Fault is a line of the fault script in the making: which requests it hits, and with what. It takes effect when one of
// its verbs is called: Answer, Respond, Delay, Reset, LoseAnswer, CutHeader, CutBody, AnswerGarbage or NeverAnswer.
//
// A fault that no request has met fails the test of [NewServer] at its end, because the test then shows less than it
// says. That also goes for a fault removed by [Server.Recover] or by the time. [Fault.Optional] allows it.
//
// Each verb says whether the request is handled, which means that the server checks it and lets it take effect: a message
// is among [Server.Messages], a stream is created. [Fault.AfterHandling] turns a fault which does not handle the request
// into one that does.
type Fault struct {
	server      *Server
	reach       reach
	number      int // of requests, for a fault that reaches a number of them
	left        int // of that number
	length      time.Duration
	until       time.Time // for a fault that reaches a time
	matchers    []func(*exchange) bool
	header      http.Header
	handleFirst bool
	optional    bool
	verb        func(x *exchange, handled *answer) // handled is nil unless handleFirst

	words    []string // of the line, from the second on
	scripted string   // file and line of the call of the verb
	met      bool
}

// reach is how long a fault stays. A smaller one is tried first.
type reach int

const (
	reachNumber reach = iota
	reachTime
	reachAll
)

// Next begins a fault for the next n requests, each of which uses it up by one.
func (s *Server) Next(n int) Fault { return Fault{server: s, reach: reachNumber, number: n, left: n} }

// For begins a fault for the requests that arrive within this time from now.
func (s *Server) For(d time.Duration) Fault {
	return Fault{server: s, reach: reachTime, length: d, until: time.Now().Add(d)}
}

// Every begins a fault for all requests, until [Server.Recover].
func (s *Server) Every() Fault { return Fault{server: s, reach: reachAll} }

// Recover removes all faults: from now on, requests go through. Faults that no request has met until then were never met.
func (s *Server) Recover() { s.script.clear() }

// Faults returns the lines of the fault script that are in force, in the order in which they are tried, with what is left
// of Next: "Next(1).ToStream(\"orders\").LoseAnswer()".
func (s *Server) Faults() []string { return s.script.inForce(time.Now()) }

// ToStream restricts the fault to requests that name this stream in their path, given by unique name or SID: those that
// publish to it, fetch, update or delete it.
func (f Fault) ToStream(stream string) Fault {
	sid := streamSID(stream)
	return f.where(fmt.Sprintf("ToStream(%q)", stream), func(x *exchange) bool { return streamSID(x.address.stream) == sid })
}

// ToOperation restricts the fault to requests of an operation, given by its id in Twilio's OpenAPI description:
// CreateStreamMessage, CreateSyncStream, FetchSyncStream, UpdateSyncStream, DeleteSyncStream or ListSyncStream.
func (f Fault) ToOperation(id string) Fault {
	checkOperation(id)
	return f.where(fmt.Sprintf("ToOperation(%q)", id), func(x *exchange) bool { return x.record.Operation == id })
}

// Matching restricts the fault to requests for which match returns true. The request has been read, and neither has a
// status nor been handled yet. Requests that arrive at the same time are matched at the same time.
func (f Fault) Matching(match func(Request) bool) Fault {
	return f.where("Matching(…)", func(x *exchange) bool {
		x.readBody()
		return match(x.request())
	})
}

func (f Fault) where(word string, matches func(*exchange) bool) Fault {
	f.matchers = append(slices.Clip(f.matchers), matches)
	return f.saying("%s", word)
}

func (f Fault) saying(format string, args ...any) Fault {
	f.words = append(slices.Clip(f.words), fmt.Sprintf(format, args...))
	return f
}

// WithHeader adds a header to the answer that [Fault.Answer] or [Fault.Respond] sends:
//
//	srv.Next(1).WithHeader("Retry-After", "2").Answer(429, 54009)
func (f Fault) WithHeader(name, value string) Fault {
	f.header = f.header.Clone()
	if f.header == nil {
		f.header = http.Header{}
	}
	f.header.Add(name, value)
	return f.saying("WithHeader(%q, %q)", name, value)
}

// Optional allows that no request meets the fault:
//
//	srv.Next(1).Optional().LoseAnswer()
func (f Fault) Optional() Fault {
	f.optional = true
	return f.saying("Optional()")
}

// AfterHandling makes the server first handle the request as if there were no fault:
//
//	srv.Next(1).AfterHandling().Answer(500, 20500)
func (f Fault) AfterHandling() Fault {
	f.handleFirst = true
	return f.saying("AfterHandling()")
}

// Answer answers with this status and an error of this code in Twilio's format, without a code if it is 0. The request is
// not handled.
func (f Fault) Answer(status, code int) {
	checkStatus(status)
	f.saying("Answer(%d, %d)", status, code).do(func(x *exchange, _ *answer) {
		a := refusal(status, code)
		for name, values := range f.header {
			a.header[name] = values
		}
		x.answer(a)
	})
}

// Respond answers with exactly this, such as the HTML page of a proxy. The request is not handled.
func (f Fault) Respond(status int, body string) {
	checkStatus(status)
	f.saying("Respond(%d, …)", status).do(func(x *exchange, _ *answer) { x.send(&answer{status: status, header: f.header, body: []byte(body)}) })
}

// checkStatus panics where net/http would, but at the line of the script that is wrong.
func checkStatus(status int) {
	if status != http.StatusSwitchingProtocols && (status < 200 || status > 999) {
		panic(fmt.Sprintf("twiliosynctest: %d is not the status of an answer", status))
	}
}

// Delay lets the request through after this time. It is handled then, or never if the client has gone away in the
// meantime. With AfterHandling it is handled at once and only the answer is late.
func (f Fault) Delay(d time.Duration) {
	f.saying("Delay(%v)", d).do(func(x *exchange, handled *answer) {
		x.wait(time.After(d))
		if handled == nil {
			handled = x.handle()
		}
		x.answer(handled)
	})
}

// NeverAnswer reads the request and then keeps the client waiting until it goes away or the server closes. The request is
// not handled.
func (f Fault) NeverAnswer() {
	f.saying("NeverAnswer()").do(func(x *exchange, _ *answer) { x.wait(nil) })
}

// Reset resets the connection without reading the request's body, unless it was needed for Matching. The request is not
// handled.
func (f Fault) Reset() {
	f.saying("Reset()").do(func(x *exchange, _ *answer) { x.cut("") })
}

// LoseAnswer handles the request and resets the connection instead of answering: the client cannot know that the message
// was published.
func (f Fault) LoseAnswer() {
	f.handleFirst = true
	f.saying("LoseAnswer()").do(func(x *exchange, _ *answer) { x.cut("") })
}

// CutHeader handles the request and resets the connection within the header of the answer: the client knows no more than
// after LoseAnswer.
func (f Fault) CutHeader() {
	f.handleFirst = true
	f.saying("CutHeader()").do(func(x *exchange, handled *answer) {
		x.cut(fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\n", handled.status, http.StatusText(handled.status)))
	})
}

// CutBody handles the request and closes the connection within the body of the answer: the client has the status, usually
// 201, but not the message. An answer without a body, such as to DeleteSyncStream, arrives whole.
func (f Fault) CutBody() {
	f.handleFirst = true
	f.saying("CutBody()").do(func(x *exchange, handled *answer) {
		x.sendPart(x.dressed(handled), len(handled.body)/2)
		_ = http.NewResponseController(x.w).Flush()
		panic(http.ErrAbortHandler)
	})
}

// AnswerGarbage answers with something that is not HTTP. The request is not handled.
func (f Fault) AnswerGarbage() {
	f.saying("AnswerGarbage()").do(func(x *exchange, _ *answer) {
		x.cut("\x16\x03\x01 this is not an HTTP answer\r\n\r\n")
	})
}

// do puts the finished fault into the script.
func (f Fault) do(verb func(x *exchange, handled *answer)) {
	f.verb = verb
	f.scripted = caller()
	if f.reach != reachNumber || f.left > 0 {
		f.server.script.add(&f)
	}
}

// caller returns file and line of the code that called this package.
func caller() string {
	var pcs [16]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	frame, more := frames.Next()
	for more && strings.HasPrefix(frame.Function, packagePath+".") {
		frame, more = frames.Next()
	}
	return fmt.Sprintf("%s:%d", filepath.Base(frame.File), frame.Line)
}

// packagePath begins the names of this package's functions.
const packagePath = "github.com/twiliosync/twiliosync-go/twiliosynctest"

// line returns the line of the script, with this number for Next.
func (f *Fault) line(number int) string {
	first := "Every()"
	switch f.reach {
	case reachNumber:
		first = fmt.Sprintf("Next(%d)", number)
	case reachTime:
		first = fmt.Sprintf("For(%v)", f.length)
	}
	return first + "." + strings.Join(f.words, ".")
}

// play does to the request what the fault says.
func (f *Fault) play(x *exchange) {
	if !f.handleFirst {
		f.verb(x, nil)
		return
	}
	f.verb(x, x.handle())
}

func (f *Fault) matches(x *exchange) bool {
	for _, matches := range f.matchers {
		if !matches(x) {
			return false
		}
	}
	return true
}

// faultFor returns the fault that the request meets, nil if it goes through.
func (s *Server) faultFor(x *exchange) *Fault {
	if x.surplus {
		return nil
	}
	for _, fault := range s.script.lines() {
		if fault.matches(x) && s.script.take(fault, x.record.Time) {
			s.mu.Lock()
			defer s.mu.Unlock()
			x.record.Fault = fault.line(fault.number)
			return fault
		}
	}
	return nil
}

// script holds the faults to come, in the order in which they are tried. Matchers run without its lock, so that they may
// use the server.
type script struct {
	mu      sync.Mutex
	faults  []*Fault // replaced, never changed
	unmet   []*Fault // that are over
	forgets bool     // keeps no unmet faults, since there is no test to fail
}

func (s *script) lines() []*Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults
}

func (s *script) add(fault *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after := slices.IndexFunc(s.faults, func(other *Fault) bool { return other.reach > fault.reach })
	if after < 0 {
		after = len(s.faults)
	}
	s.faults = slices.Insert(slices.Clone(s.faults), after, fault)
}

// take reports whether the fault hits one more request, which arrived at this time.
func (s *script) take(fault *Fault, arrival time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.faults, fault) {
		return false // used up or removed since lines was called
	}
	if fault.reach == reachTime && !arrival.Before(fault.until) {
		s.remove(func(other *Fault) bool { return other == fault })
		return false
	}
	fault.met = true
	if fault.reach == reachNumber {
		fault.left--
		if fault.left == 0 {
			s.remove(func(other *Fault) bool { return other == fault })
		}
	}
	return true
}

func (s *script) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(func(*Fault) bool { return true })
}

// remove ends the faults that are over. It needs the lock.
func (s *script) remove(over func(*Fault) bool) {
	kept := make([]*Fault, 0, len(s.faults))
	for _, fault := range s.faults {
		switch {
		case !over(fault):
			kept = append(kept, fault)
		case !fault.met && !fault.optional && !s.forgets:
			s.unmet = append(s.unmet, fault)
		}
	}
	s.faults = kept
}

func (s *script) inForce(now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(func(fault *Fault) bool { return fault.reach == reachTime && !now.Before(fault.until) })
	var lines []string
	for _, fault := range s.faults {
		lines = append(lines, fault.line(fault.left))
	}
	return lines
}

// complaints ends the script and returns a sentence about each fault that was never met.
func (s *script) complaints() []string {
	s.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	var sentences []string
	for _, fault := range s.unmet {
		sentences = append(sentences, fmt.Sprintf("twiliosynctest: no request met the fault %s of %s; "+
			"if that is all right, put Optional() before its last verb", fault.line(fault.number), fault.scripted))
	}
	s.unmet = nil
	return sentences
}

// wait waits for the alarm, and reads the body first, since a server notices only then when the client goes away. It gives
// up the request in that case, and also if the server closes.
func (x *exchange) wait(alarm <-chan time.Time) {
	x.readBody()
	select {
	case <-alarm:
	case <-x.r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

// cut sends these bytes instead of an answer and resets the connection. Where the server it is mounted in does not give
// the connection away, as with HTTP/2, nothing is sent.
func (x *exchange) cut(bytes string) {
	x.settle(&answer{})
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(bytes))
	if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0) // close with a reset
	}
}
