package twiliosync_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

var cutsFlag = flag.String("cuts", "some", `"all" cuts connections at every byte in every variant, for minutes; "some" takes steps in those that others cover`)

// brokenPromise says what is wrong with the outcome of a call, given how often
// the server took its message. It is empty if nothing is.
func brokenPromise(outcome twiliosync.Outcome, taken int, atLeastOnce bool) string {
	switch {
	case taken > 1 && !atLeastOnce:
		return fmt.Sprintf("published %d times", taken)
	case taken > 0 && (outcome == twiliosync.OutcomeNotSent || outcome == twiliosync.OutcomeRejected):
		return fmt.Sprintf("called %q, but published", outcome)
	case taken == 0 && outcome == twiliosync.OutcomeAccepted:
		return "called accepted, but never published"
	}
	return ""
}

// cutPlace is where a connection is cut, and how.
type cutPlace struct {
	answer bool // after so many bytes of the answer; else of the request
	after  int
	reset  bool // RST; else FIN
}

func (p cutPlace) String() string {
	direction, end := "request", "FIN"
	if p.answer {
		direction = "answer"
	}
	if p.reset {
		end = "RST"
	}
	return fmt.Sprintf("%s after %d bytes of the %s", end, p.after, direction)
}

// cutAnswer is what the server says to a message on a connection that is cut.
type cutAnswer struct {
	text    string
	takes   bool               // the message is taken before the answer is written
	outcome twiliosync.Outcome // what the answer proves
	proof   int                // after so many bytes of it
}

// provenByHead is an answer whose header tells all.
func provenByHead(takes bool, outcome twiliosync.Outcome, head, body string) cutAnswer {
	head += "\r\n\r\n"
	return cutAnswer{head + body, takes, outcome, len(head)}
}

func provenByAll(takes bool, outcome twiliosync.Outcome, head, body string) cutAnswer {
	text := head + "\r\n\r\n" + body
	return cutAnswer{text, takes, outcome, len(text)}
}

var (
	cutCreated = provenByHead(true, twiliosync.OutcomeAccepted,
		"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: "+strconv.Itoa(len(testAnswer)), testAnswer)
	otherCutAnswers = map[string]cutAnswer{
		"201 in chunks": provenByHead(true, twiliosync.OutcomeAccepted, "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked",
			fmt.Sprintf("a\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", testAnswer[:10], len(testAnswer)-10, testAnswer[10:])),
		"201 until the connection closes": provenByHead(true, twiliosync.OutcomeAccepted, "HTTP/1.1 201 Created\r\nConnection: close", testAnswer),
		"200 with a sid": provenByAll(true, twiliosync.OutcomeAccepted,
			"HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(testAnswer)), testAnswer),
		"100 and 201": provenByHead(true, twiliosync.OutcomeAccepted,
			"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: "+strconv.Itoa(len(testAnswer)), testAnswer),
		"400": provenByAll(false, twiliosync.OutcomeRejected, "HTTP/1.1 400 Bad Request\r\nContent-Length: 14", `{"code":20001}`),
		"429": provenByHead(false, twiliosync.OutcomeRejected, "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 14", `{"code":54009}`),
		"503 with Retry-After": provenByHead(true, twiliosync.OutcomeUnknown,
			"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 2", `{}`),
		"503 with Twilio's code": provenByAll(false, twiliosync.OutcomeRejected,
			"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 14", `{"code":20503}`),
		"500 to a message that was taken": provenByHead(true, twiliosync.OutcomeUnknown,
			"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 14", `{"code":20500}`),
	}
)

// cutVariant is a way to talk that is cut at many places.
type cutVariant struct {
	name        string
	tls         bool
	records     bool // with TLS: count the bytes on the wire, handshake included
	foreign     bool // the transport is the caller's
	slow        bool // and its network takes a few bytes at a time
	reused      bool // the connection has carried another message
	always      bool // each connection of the call is cut; else the first
	atLeastOnce bool
	data        string // to fill the message with
	stream      string // to begin its stream's name with
	answer      cutAnswer
	answerOnly  bool
	later       cutAnswer // after the cut
	gone        bool      // with TLS: there is no handshake after the cut
	step        int       // of all places, cut at every step-th
}

// cutServer answers messages on one connection after the other, each by hand,
// and cuts one of a call at its place. Its lock is held while it serves a
// connection; as only the server ends an attempt here, whoever gets the lock
// after a call sees all that became of it.
type cutServer struct {
	variant  cutVariant
	listener net.Listener
	tls      *tls.Config

	mu sync.Mutex
	cutTally
}

// cutTally is what the server counts of a call.
type cutTally struct {
	place       *cutPlace
	connections int
	cuts        int
	read, wrote int            // bytes of the last exchange that may be cut
	headers     map[string]int // complete header blocks, by message
	partHeaders int            // header blocks that were cut, or may have been under way
	taken       map[string]int
	strays      int // messages whose data don't match their path

	allowed []twiliosync.Outcome // of the first attempt that was cut; nil if its place doesn't decide
}

func newCutServer(t *testing.T, variant cutVariant, certificate *tls.Certificate) *cutServer {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := &cutServer{variant: variant, listener: listener}
	if variant.tls {
		server.tls = &tls.Config{Certificates: []tls.Certificate{*certificate}}
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			server.serve(conn.(*net.TCPConn))
		}
	}()
	return server
}

func (s *cutServer) url() string {
	if s.tls != nil {
		return "https://" + s.listener.Addr().String()
	}
	return "http://" + s.listener.Addr().String()
}

// begin sets where the next call is cut; nil cuts nothing.
func (s *cutServer) begin(place *cutPlace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutTally = cutTally{place: place, headers: map[string]int{}, taken: map[string]int{}}
}

// end returns what became of the call. The client has closed its idle
// connections.
func (s *cutServer) end() cutTally {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cutTally
}

func (s *cutServer) serve(tcp *net.TCPConn) {
	defer tcp.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	tcp.SetDeadline(time.Now().Add(30 * time.Second)) // so that a fault of the client is not one of the test
	warmUps := 0
	if s.variant.reused && s.connections == 0 {
		warmUps = 1
	}
	mayCut := s.place != nil && (s.variant.always || s.cuts == 0)
	s.connections++
	if s.variant.gone && s.cuts > 0 {
		tcp.SetLinger(0)
		return
	}

	wire := &cuttable{Conn: tcp, tcp: tcp}
	counted := wire
	stream := net.Conn(wire)
	if s.tls != nil {
		secure := tls.Server(wire, s.tls)
		stream = secure
		if !s.variant.records {
			counted = &cuttable{Conn: secure, tcp: tcp}
			stream = counted
		}
	}
	if mayCut && warmUps == 0 {
		counted.place = s.place
	}
	defer func() { s.account(counted) }()
	if secure, ok := stream.(*tls.Conn); ok && secure.Handshake() != nil {
		return
	}
	for reader := bufio.NewReader(stream); ; warmUps-- {
		if warmUps == 0 && s.variant.reused {
			counted.read, counted.wrote, counted.header, counted.taken = 0, 0, false, false
			if mayCut {
				counted.place = s.place
			}
		}
		if !s.exchange(counted, reader, stream) {
			return
		}
		s.read, s.wrote = counted.read, counted.wrote
	}
}

// exchange reads a message and answers it. It returns false if the connection
// is of no more use.
func (s *cutServer) exchange(counted *cuttable, reader *bufio.Reader, stream net.Conn) bool {
	path, length, err := readHead(reader)
	if err != nil {
		return false
	}
	_, id, _ := strings.Cut(strings.TrimSuffix(path, "/Messages"), "/Streams/"+url.PathEscape(s.variant.stream))
	s.headers[id]++
	counted.header = true
	body := make([]byte, length)
	if _, err := io.ReadFull(reader, body); err != nil {
		return false
	}
	if messageID(string(body)) != id {
		s.strays++
	}
	answer := cutCreated
	switch {
	case counted.place != nil:
		answer = s.variant.answer
	case s.cuts > 0:
		answer = s.variant.later
	}
	if answer.takes {
		s.taken[id]++
	}
	counted.taken = true
	_, err = io.WriteString(stream, answer.text)
	return err == nil && !strings.Contains(answer.text, "Connection: close")
}

// readHead reads the header block of a request.
func readHead(reader *bufio.Reader) (path string, length int, err error) {
	line, err := reader.ReadString('\n')
	if fields := strings.Fields(line); len(fields) > 1 {
		path = fields[1]
	}
	for err == nil && line != "\r\n" {
		line, err = reader.ReadString('\n')
		if value, ok := strings.CutPrefix(line, "Content-Length: "); ok {
			length, _ = strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return path, length, err
}

// messageID returns the id in the data of a form.
func messageID(form string) string {
	values, err := url.ParseQuery(form)
	if err != nil {
		return "not a form"
	}
	var data struct{ ID string }
	if json.Unmarshal([]byte(values.Get("Data")), &data) != nil {
		return "not a message"
	}
	return data.ID
}

// account notes what a cut proves about its attempt.
func (s *cutServer) account(c *cuttable) {
	if !c.cut {
		return
	}
	s.cuts++
	handshaking := s.variant.records && !s.variant.reused && c.flights == 0
	if !c.header && !handshaking {
		s.partHeaders++
	}
	if s.cuts > 1 {
		return
	}
	answer := s.variant.answer
	switch {
	case handshaking: // the client hasn't what it needs to go on
		s.allowed = []twiliosync.Outcome{twiliosync.OutcomeNotSent}
	case s.variant.records: // bytes of a record mean nothing
	case c.taken && c.wrote < answer.proof:
		s.allowed = []twiliosync.Outcome{twiliosync.OutcomeUnknown}
	case c.taken && c.place.reset: // which may overtake the answer on some systems
		s.allowed = []twiliosync.Outcome{answer.outcome, twiliosync.OutcomeUnknown}
	case c.taken:
		s.allowed = []twiliosync.Outcome{answer.outcome}
	case c.read > 0 && s.variant.stream == "": // the header was in the first write
		s.allowed = []twiliosync.Outcome{twiliosync.OutcomeUnknown}
	}
}

var errCut = errors.New("the connection is cut here")

// cuttable is the server's side of a connection that ends at its place.
type cuttable struct {
	net.Conn
	tcp   *net.TCPConn
	place *cutPlace // nil: it doesn't end

	read, wrote   int  // bytes
	flights       int  // writes that were not cut
	header, taken bool // of the exchange that may be cut
	cut           bool
}

func (c *cuttable) Read(p []byte) (int, error) {
	if c.cut {
		return 0, errCut
	}
	if c.place != nil && !c.place.answer {
		if c.read >= c.place.after {
			return 0, c.end()
		}
		p = p[:min(len(p), c.place.after-c.read)]
	}
	n, err := c.Conn.Read(p)
	c.read += n
	return n, err
}

func (c *cuttable) Write(p []byte) (int, error) {
	if c.cut {
		return 0, errCut
	}
	last := false
	if c.place != nil && c.place.answer && c.wrote+len(p) >= c.place.after {
		last = true
		if c.wrote+len(p) == c.place.after {
			c.flights++
		}
		p = p[:c.place.after-c.wrote]
	}
	n, err := c.Conn.Write(p)
	c.wrote += n
	if last {
		return n, c.end()
	}
	c.flights++
	return n, err
}

// end cuts the connection. After a FIN it waits until the client has seen it.
func (c *cuttable) end() error {
	c.cut = true
	if c.place.reset {
		c.tcp.SetLinger(0)
	} else {
		c.tcp.CloseWrite()
		io.Copy(io.Discard, c.tcp)
	}
	c.tcp.Close()
	return errCut
}

// quickCurves make a handshake a third as long; the key exchange is not what
// is tested.
var quickCurves = []tls.CurveID{tls.X25519}

// client is a client for one call.
func (s *cutServer) client(trusted *authority, attempts *[]twiliosync.Attempt) (*twiliosync.Client, error) {
	opts := hurried(
		twiliosync.WithBaseURL(s.url()),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Microsecond, AtLeastOnce: s.variant.atLeastOnce}),
		twiliosync.WithObserver(func(_ context.Context, a twiliosync.Attempt) { *attempts = append(*attempts, a) }))
	if s.variant.foreign {
		transport := &http.Transport{}
		if s.variant.slow {
			transport.DialContext = dialSlowly
		}
		if s.variant.tls {
			transport.TLSClientConfig = &tls.Config{RootCAs: trusted.pool(), NextProtos: []string{"http/1.1"}, CurvePreferences: quickCurves}
		}
		opts = append(opts, twiliosync.WithHTTPClient(&http.Client{Transport: transport}))
	}
	return twiliosync.NewClient(twiliosync.BasicAuth(testUser, testSecret), opts...)
}

// slowConn gives the other side time to cut between the parts of a write.
type slowConn struct{ net.Conn }

func dialSlowly(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return slowConn{conn}, err
}

func (c slowConn) Write(p []byte) (written int, err error) {
	for part := range slices.Chunk(p, 700) {
		n, err := c.Conn.Write(part)
		written += n
		if err != nil {
			return written, err
		}
		time.Sleep(50 * time.Microsecond)
	}
	return written, nil
}

// cutCall is a call and what the server counted of it.
type cutCall struct {
	id       string
	outcome  twiliosync.Outcome
	attempts []twiliosync.Attempt
	sends    int
	err      error
	cutTally
}

// call publishes one message, after another one if the connection is to be a
// reused one.
func (s *cutServer) call(trusted *authority, id string, place *cutPlace) (cutCall, error) {
	call := cutCall{id: id}
	client, err := s.client(trusted, &call.attempts)
	if err != nil {
		return call, err
	}
	publish := func(id string) (*twiliosync.Response, error) {
		_, response, err := client.StreamMessages.Create(context.Background(), "default", s.variant.stream+id,
			map[string]string{"id": id, "text": s.variant.data})
		return response, err
	}
	s.begin(place)
	if s.variant.reused {
		if _, err := publish("w" + id[1:]); err != nil {
			return call, fmt.Errorf("the first message of the connection: %w", err)
		}
		call.attempts = nil
	}
	response, err := publish(id)
	client.CloseIdleConnections()
	call.cutTally = s.end()
	call.err = err
	call.outcome = twiliosync.OutcomeOf(err)
	attempts := 0
	var e *twiliosync.Error
	switch {
	case err == nil:
		call.sends, attempts = response.Sends, response.Attempts
	case errors.As(err, &e):
		call.sends, attempts = e.Sends, e.Attempts
	default:
		return call, fmt.Errorf("not an *Error: %w", err)
	}
	if attempts != len(call.attempts) {
		return call, fmt.Errorf("%d attempts are reported, %d were observed", attempts, len(call.attempts))
	}
	return call, nil
}

// intoTheVoid counts the sends of which a server can't know. If the first
// answer came whole, its connection was kept, and the next attempt may be
// written to it just as the cut arrives.
func (c *cutCall) intoTheVoid() int {
	var answered *twiliosync.Error
	if len(c.attempts) > 1 && errors.As(c.attempts[0].Err, &answered) && answered.StatusCode != 0 && answered.Err == nil {
		return 1
	}
	return 0
}

// fault says what is wrong with a call.
func (c *cutCall) fault(v cutVariant) string {
	if broken := brokenPromise(c.outcome, c.taken[c.id], v.atLeastOnce); broken != "" {
		return broken
	}
	headers := c.headers[c.id]
	first, last := c.attempts[0], c.attempts[len(c.attempts)-1]
	switch {
	case c.strays > 0:
		return "the server got something else"
	case c.sends < headers || c.sends > headers+c.partHeaders+c.intoTheVoid():
		return fmt.Sprintf("%d sends reported, but the server got %d headers and %d parts of one", c.sends, headers, c.partHeaders)
	case c.allowed != nil && !slices.Contains(c.allowed, first.Outcome):
		return fmt.Sprintf("the first attempt is %q: %v", first.Outcome, first.Err)
	case last.Outcome == twiliosync.OutcomeNotSent && len(c.attempts) < 3:
		return fmt.Sprintf("not sent again after attempt %d", len(c.attempts))
	case c.cuts == 0 && c.outcome != v.answer.outcome:
		return "not cut, but not answered"
	}
	for _, a := range c.attempts[:len(c.attempts)-1] {
		if a.Outcome == twiliosync.OutcomeUnknown && c.outcome != twiliosync.OutcomeAccepted && c.outcome != twiliosync.OutcomeUnknown {
			return fmt.Sprintf("called %q although attempt %d may have been published", c.outcome, a.Number)
		}
		if a.Outcome == twiliosync.OutcomeAccepted || a.Outcome == twiliosync.OutcomeUnknown && !v.atLeastOnce {
			return fmt.Sprintf("sent again after attempt %d, whose outcome is %q", a.Number, a.Outcome)
		}
	}
	return ""
}

// places are the places of the variant where a connection is cut: each byte
// with FIN and RST, or every step-th of these, so that 2 is each byte one way.
func (v cutVariant) places(request, answer int) (places []cutPlace) {
	if v.answerOnly {
		request = 0
	}
	for after := range request {
		places = append(places, cutPlace{false, after, after%2 == 1}, cutPlace{false, after, after%2 == 0})
	}
	for after := range answer + 1 {
		places = append(places, cutPlace{true, after, after%2 == 1}, cutPlace{true, after, after%2 == 0})
	}
	for i := range places {
		if i*v.step >= len(places) {
			return places[:i]
		}
		places[i] = places[i*v.step]
	}
	return places
}

// cutCount is what is reported of many calls.
type cutCount struct {
	calls, cuts, resends, duplicates, wrong int
	outcomes                                [4]int
}

func (n *cutCount) add(m cutCount) {
	n.calls += m.calls
	n.cuts += m.cuts
	n.resends += m.resends
	n.duplicates += m.duplicates
	n.wrong += m.wrong
	for i := range n.outcomes {
		n.outcomes[i] += m.outcomes[i]
	}
}

func (n *cutCount) String() string {
	return fmt.Sprintf("%d cuts in %d calls: accepted %d, unknown %d, not sent %d, rejected %d; %d attempts made again; published twice %d, wrong %d",
		n.cuts, n.calls, n.outcomes[twiliosync.OutcomeAccepted], n.outcomes[twiliosync.OutcomeUnknown],
		n.outcomes[twiliosync.OutcomeNotSent], n.outcomes[twiliosync.OutcomeRejected], n.resends, n.duplicates, n.wrong)
}

// run cuts the variant at all its places, and complains about the first few
// calls that are wrong.
func (v cutVariant) run(t *testing.T, trusted *authority, certificate *tls.Certificate) (count cutCount) {
	if v.answer.text == "" {
		v.answer = cutCreated
	}
	if v.later.text == "" {
		v.later = cutCreated
	}
	if *cutsFlag == "all" {
		v.step = 1
	}
	probe := newCutServer(t, v, certificate)
	defer probe.listener.Close()
	whole, err := probe.call(trusted, "0000000", nil)
	require.NoError(t, err)
	require.NoError(t, whole.err)
	places := v.places(whole.read, len(v.answer.text))
	if v.records {
		places = v.places(whole.read, whole.wrote)
	}

	var next atomic.Int64
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) {
		server := newCutServer(t, v, certificate)
		defer server.listener.Close()
		workers.Go(func() {
			for {
				i := int(next.Add(1))
				if i > len(places) {
					return
				}
				call, err := server.call(trusted, fmt.Sprintf("%07d", i), &places[i-1])
				mu.Lock()
				if err != nil {
					t.Errorf("%v: %v", places[i-1], err)
				} else {
					count.include(t, v, places[i-1], call)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	require.Greater(t, count.cuts, count.calls*9/10, "else the places are not where they should be")
	t.Logf("%v", &count)
	return count
}

func (n *cutCount) include(t *testing.T, v cutVariant, place cutPlace, call cutCall) {
	const enough = 5
	n.calls++
	n.cuts += call.cuts
	n.resends += len(call.attempts) - 1
	n.outcomes[call.outcome]++
	if call.taken[call.id] > 1 {
		n.duplicates++
	}
	if fault := call.fault(v); fault != "" {
		if n.wrong++; n.wrong <= enough {
			t.Errorf("%v: %s (outcome %q, %d attempts, %d sends, taken %d times: %v)", place, fault, call.outcome, len(call.attempts), call.sends, call.taken[call.id], call.err)
		}
	}
}

func runCuts(t *testing.T, variants []cutVariant, trusted *authority) {
	t.Helper()
	issued := trusted.issue(t, "127.0.0.1", trusted.certificate.NotBefore, trusted.certificate.NotAfter)
	var total, atLeastOnce cutCount
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			count := v.run(t, trusted, &issued)
			if v.atLeastOnce {
				atLeastOnce.add(count)
			} else {
				total.add(count)
			}
		})
	}
	t.Logf("in total: %v", &total)
	t.Logf("in total, at least once: %v", &atLeastOnce)
	if atLeastOnce.calls > 0 && atLeastOnce.duplicates == 0 {
		t.Error("AtLeastOnce published nothing twice: nothing was cut after a message was taken")
	}
}

// manyBytes is a stream's name that makes the header longer than the buffer
// of net/http.
var manyBytes = strings.Repeat("𝄞", 313)

// TestCuts cuts plain connections, and TLS ones of the caller's transport, at
// every byte of the request and of the answer.
func TestCuts(t *testing.T) {
	variants := []cutVariant{
		{name: "a new connection", step: 1},
		{name: "a reused connection", reused: true, step: 1},
		{name: "all connections", always: true, step: 3},
		{name: "all connections, the first one reused", always: true, reused: true, step: 5},
		{name: "a new connection, at least once", atLeastOnce: true, step: 3},
		{name: "all connections, at least once", always: true, atLeastOnce: true, step: 5},
		{name: "a new connection, at least once, and then a refusal", atLeastOnce: true, later: otherCutAnswers["400"], step: 5},
		{name: "a new connection of the caller's transport", foreign: true, step: 5},
		{name: "a reused connection of the caller's transport", foreign: true, reused: true, step: 5},
		{name: "a message of many writes", data: strings.Repeat("ä", 2000), step: 61},
		{name: "a header of two writes", stream: manyBytes, data: strings.Repeat("ä", 1000), step: 31},
		{name: "a header of two writes on the caller's TLS", stream: manyBytes, tls: true, foreign: true, slow: true, step: 101},
		{name: "the caller's TLS", tls: true, foreign: true, step: 11},
		{name: "a reused connection of the caller's TLS", tls: true, foreign: true, reused: true, step: 11},
		{name: "the caller's TLS, at least once, and then nobody is there", tls: true, foreign: true, atLeastOnce: true, gone: true, step: 13},
		{name: "the records of the caller's TLS", tls: true, records: true, foreign: true, step: 29},
		{name: "the records of all the caller's TLS connections", tls: true, records: true, foreign: true, always: true, step: 89},
		{name: "the records of the caller's TLS, at least once", tls: true, records: true, foreign: true, atLeastOnce: true, step: 89},
	}
	for name, answer := range otherCutAnswers {
		variants = append(variants, cutVariant{name: "answer " + name, answer: answer, answerOnly: true, step: 2})
	}
	runCuts(t, variants, newAuthority(t))
}

// TestCutsOfTheOwnTLS does it to the SDK's own transport.
func TestCutsOfTheOwnTLS(t *testing.T) {
	alone(t, func(t *testing.T, trusted *authority) {
		runCuts(t, []cutVariant{
			{name: "a new connection", tls: true, step: 2},
			{name: "a reused connection", tls: true, reused: true, step: 5},
			{name: "all connections", tls: true, always: true, step: 23},
			{name: "at least once", tls: true, atLeastOnce: true, step: 13},
			{name: "the records", tls: true, records: true, step: 17},
			{name: "the records of a reused connection", tls: true, records: true, reused: true, step: 17},
			{name: "the records of all connections", tls: true, records: true, always: true, step: 59},
			{name: "the records of all connections, at least once", tls: true, records: true, always: true, atLeastOnce: true, step: 59},
		}, trusted)
	})
}

// alone runs a test in a process of its own, whose default transport trusts an
// authority: crypto/x509 reads SSL_CERT_FILE once.
func alone(t *testing.T, test func(t *testing.T, trusted *authority)) {
	t.Helper()
	const variable = "TWILIOSYNC_TEST_ALONE"
	if os.Getenv(variable) == t.Name() {
		trusted := newAuthority(t)
		file := filepath.Join(t.TempDir(), "ca.pem")
		require.NoError(t, os.WriteFile(file, trusted.pem(), 0o600))
		t.Setenv("SSL_CERT_FILE", file)
		test(t, trusted)
		return
	}
	switch runtime.GOOS {
	case "windows", "darwin", "ios":
		t.Skip("crypto/x509 reads no SSL_CERT_FILE on this system")
	}
	command := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=30m", "-cuts="+*cutsFlag)
	command.Env = append(os.Environ(), variable+"="+t.Name(), "GODEBUG=tlsmlkem=0,tlssecpmlkem=0") // see quickCurves
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
	require.Contains(t, string(output), "--- PASS: "+t.Name())
	t.Logf("%s", output)
}
