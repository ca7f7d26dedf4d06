package cli

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/twiliosync/twiliosync-go"
)

// record is a line of the results: what became of a line of the input, or, in a
// file, that it is being sent.
type record struct {
	Line      int    `json:"line"`
	Stream    string `json:"stream,omitempty"`
	Started   bool   `json:"started,omitempty"` // in place of an outcome
	Outcome   string `json:"outcome,omitempty"`
	SID       string `json:"sid,omitempty"`
	Error     string `json:"error,omitempty"`
	Status    int    `json:"status,omitempty"`
	Code      int    `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Retryable bool   `json:"retryable,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	Digest    string `json:"digest"`         // of the line of the input
	Fake      bool   `json:"fake,omitempty"` // not published to Twilio
}

func (at place) record(outcome twiliosync.Outcome) record {
	return record{Line: at.line, Digest: hex.EncodeToString(at.digest[:]), Outcome: outcome.String()}
}

func recordOf(result twiliosync.StreamMessageResult) record {
	r := result.Request.Tag.(place).record(twiliosync.OutcomeOf(result.Err))
	r.Stream = result.Request.StreamSID
	if result.Message != nil {
		r.SID = result.Message.SID
	}
	if result.Response != nil {
		r.RequestID, r.Attempts = result.Response.RequestID, result.Response.Attempts
	}
	var e *twiliosync.Error
	if errors.As(result.Err, &e) {
		r.Error, r.Retryable = e.Error(), twiliosync.Retryable(e)
		r.Status, r.Code, r.RequestID, r.Attempts = e.StatusCode, e.Code, e.RequestID, e.Attempts
	}
	return r
}

// settledLine is what the results of earlier runs say of a line.
type settledLine struct {
	digest   digest
	accepted bool
	unknown  bool // in some run
	started  bool // by a run that has no result of it
}

func (s settledLine) mayBePublished() bool { return s.accepted || s.unknown || s.started }

func (s settledLine) after(r record) settledLine {
	switch {
	case r.Started:
		s.unknown, s.started = s.unknown || s.started, true // of a run before
	case r.Outcome == twiliosync.OutcomeAccepted.String():
		s.accepted, s.started = true, false
	case r.Outcome == twiliosync.OutcomeUnknown.String():
		s.unknown, s.started = true, false
	default: // proven for its own run, which is all that it can prove
		s.started = false
	}
	return s
}

// history is what earlier runs say of all lines, in a dozen bytes for each.
type history map[int]*[historyChunk]settledLine

const historyChunk = 256

func (h history) of(line int) settledLine {
	if chunk := h[line/historyChunk]; chunk != nil {
		return chunk[line%historyChunk]
	}
	return settledLine{}
}

func (h history) set(line int, s settledLine) {
	chunk := h[line/historyChunk]
	if chunk == nil {
		chunk = new([historyChunk]settledLine)
		h[line/historyChunk] = chunk
	}
	chunk[line%historyChunk] = s
}

// results is where the records go.
type results struct {
	io.Writer
	file *os.File // nil: standard output
	lock *flock.Flock
}

// openResults opens where the results go, and reads what is there of earlier
// runs. It never overwrites results: without them, nobody knows what was
// published.
func openResults(s pipeSettings, stdout io.Writer, fake bool) (*results, history, error) {
	if s.results == "" {
		return &results{Writer: stdout}, nil, nil
	}
	flags := os.O_RDWR
	if !s.resume {
		flags |= os.O_CREATE | os.O_EXCL
	}
	file, err := os.OpenFile(s.results, flags, 0o600) //nolint:gosec // the user's own file
	if errors.Is(err, os.ErrExist) {
		return nil, nil, wrongUsage("%s exists already; name another file, or go on with it by --resume", s.results)
	}
	if err != nil {
		return nil, nil, err
	}
	r := &results{Writer: file, file: file, lock: flock.New(lockName(s.results))}
	locked, err := r.lock.TryLock()
	if err == nil && !locked {
		err = fmt.Errorf("another run writes to %s; wait until it has ended", s.results)
	}
	var earlier history
	if err == nil {
		earlier, err = r.read(fake)
	}
	if err != nil {
		return nil, nil, errors.Join(err, r.close())
	}
	return r, earlier, nil
}

// lockName is the file that is locked: on Windows, nobody else could read a
// locked one.
func lockName(results string) string {
	if runtime.GOOS == "windows" {
		return results + ".lock"
	}
	return results
}

// read returns what is known of each line, and goes to where the next record
// belongs: what follows the last line break was cut by a crash.
func (r *results) read(fake bool) (history, error) {
	name := r.file.Name()
	earlier := history{}
	buffered := bufio.NewReaderSize(r.file, 64<<10)
	end := int64(0)
	for number := 1; ; number++ {
		text, err := buffered.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if !isCut(text) {
				return nil, wrongUsage("the end of %s is not a result of this program", name)
			}
			break
		}
		if err != nil {
			return nil, err
		}
		end += int64(len(text))
		var known record
		err = json.Unmarshal(text, &known)
		sum, noDigest := hex.DecodeString(known.Digest)
		if err != nil || noDigest != nil || len(sum) != len(digest{}) || known.Line < 1 || known.Started == (known.Outcome != "") {
			return nil, wrongUsage("line %d of %s is not a result of this program", number, name)
		}
		if known.Fake != fake {
			return nil, wrongUsage("%s has results of a fake service, or this run would publish to one; use a file of its own for each", name)
		}
		before := earlier.of(known.Line)
		if known.Attempts > 0 && !before.started {
			return nil, wrongUsage("%s was not written by --results, so it can't tell what was in flight when it ended", name)
		}
		after := before.after(known)
		after.digest = digest(sum)
		earlier.set(known.Line, after)
	}
	if err := r.file.Truncate(end); err != nil {
		return nil, err
	}
	_, err := r.file.Seek(end, io.SeekStart)
	return earlier, err
}

func (r *results) close() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.file.Close(), r.lock.Close())
}

// isCut tells whether a text is the beginning of a record.
func isCut(text []byte) bool {
	const begin = `{"line":`
	return strings.HasPrefix(begin, string(text[:min(len(text), len(begin))]))
}

// counts is how many lines came to what.
type counts struct {
	accepted, rejected, notSent, unknown int
	skippedAccepted, skippedUnknown      int
}

func (c counts) lines() int {
	return c.accepted + c.rejected + c.notSent + c.unknown + c.skippedAccepted + c.skippedUnknown
}

// shownRefusals is how many refused lines are said one by one; all are in the
// results.
const shownRefusals = 20

// ledger writes the records and counts them. The input and the attempts add to
// it beside the loop.
type ledger struct {
	show *progress
	stop func() // ends the input
	fake bool

	mu      sync.Mutex
	out     *results
	counts  counts
	open    map[int]*opened // by index: pulled, and not settled
	refused int             // that were said
	err     error           // why the input was ended
	broken  bool            // nothing more can be written
	unkept  []record        // that could not be written, of lines that were sent
}

// opened is a line that was pulled and is not settled.
type opened struct {
	place
	stream    string
	since     time.Time // when it began to wait
	attempted bool
	inFlight  bool
	limited   bool // after a 429
}

// pulled opens a line, whose request is the next one of CreateAll.
func (l *ledger) pulled(index int, request twiliosync.StreamMessageRequest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[index] = &opened{place: request.Tag.(place), stream: request.StreamSID, since: time.Now()}
}

// begin notes that a line is being sent, for the first time also in the
// results, and tells whether it may be.
func (l *ledger) begin(index int, first bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.open[index]
	o.attempted, o.inFlight, o.limited = true, true, false
	if first && l.out.file != nil {
		r := o.record(0)
		r.Started, r.Outcome = true, ""
		l.write(r)
	}
	return !l.broken
}

// attempted notes that a line has to be sent again.
func (l *ledger) attempted(attempt twiliosync.Attempt) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o := l.open[attempt.Index]; o != nil && attempt.RetryIn > 0 {
		o.inFlight, o.limited, o.since = false, attempt.StatusCode == http.StatusTooManyRequests, time.Now()
	}
}

// settle writes what became of a request.
func (l *ledger) settle(result twiliosync.StreamMessageResult) {
	if result.Index < 0 { // the call can't begin
		l.fail(&usageError{result.Err})
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, result.Index)
	l.add(recordOf(result), !errors.Is(result.Err, context.Canceled))
}

// refuse writes that a line did not get as far as the SDK.
func (l *ledger) refuse(at place, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := at.record(twiliosync.OutcomeNotSent)
	r.Error = err.Error()
	l.add(r, true)
}

// add writes a record, and says what was refused.
func (l *ledger) add(r record, say bool) {
	r.Fake = l.fake
	if !l.write(r) && r.Attempts > 0 {
		l.unkept = append(l.unkept, r)
	}
	switch r.Outcome {
	case twiliosync.OutcomeAccepted.String():
		l.counts.accepted++
		return
	case twiliosync.OutcomeUnknown.String():
		l.counts.unknown++
		return
	case twiliosync.OutcomeRejected.String():
		l.counts.rejected++
	default:
		l.counts.notSent++
	}
	if !say || l.refused > shownRefusals {
		return
	}
	if l.refused++; l.refused > shownRefusals {
		l.show.say("More refused lines are in the results.")
		return
	}
	l.show.say(fmt.Sprintf("line %d: %s", r.Line, r.Error))
}

// skip counts a line that was settled, or perhaps sent, by an earlier run. One
// that has no result gets it now.
func (l *ledger) skip(at place, before settledLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if before.accepted {
		l.counts.skippedAccepted++
		return
	}
	l.counts.skippedUnknown++
	if before.started {
		r := at.record(twiliosync.OutcomeUnknown)
		r.Error = "an earlier run ended while the line was being sent"
		l.write(r)
	}
}

// write writes a record, in one write, so that a crash loses none. Without a
// place for the results nothing more may be sent.
func (l *ledger) write(r record) bool {
	if l.broken {
		return false
	}
	r.Fake = l.fake
	text, err := json.Marshal(r)
	if err == nil {
		_, err = l.out.Write(append(text, '\n'))
	}
	if err != nil {
		l.broken = true
		l.end(fmt.Errorf("the results can't be written: %w", err))
	}
	return err == nil
}

// fail ends the input.
func (l *ledger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(err)
}

func (l *ledger) end(err error) {
	if l.err == nil {
		l.err = err
	}
	l.stop()
}

// now is what there is to show. A line that was never sent, though another one
// could be in flight, waits for the rate of its stream; with Ordered, perhaps
// for the one before it.
func (l *ledger) now(bulk twiliosync.CreateAllOptions) progressNow {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := progressNow{counts: l.counts}
	inFlight, limited, waiting, busy := 0, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, o := range l.open {
		switch {
		case o.inFlight:
			inFlight++
		case o.limited:
			limited[o.stream] = true
		case !o.attempted && time.Since(o.since) > time.Second:
			waiting[o.stream] = true
		}
		busy[o.stream] = busy[o.stream] || o.attempted
	}
	for stream := range waiting {
		if inFlight < bulk.Concurrency && !(bulk.Ordered && busy[stream]) {
			limited[stream] = true
		}
	}
	now.atLimit = len(limited)
	return now
}

// conclude ends the results, says what came of all, and returns an error unless
// everything was accepted.
func (l *ledger) conclude(s pipeSettings, in *input, total int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.out.close(); err != nil && l.err == nil {
		l.err = fmt.Errorf("the results can't be written: %w", err)
	}
	c := l.counts
	summary := fmt.Sprintf("%d accepted, %d rejected, %d not sent, %d unknown", c.accepted, c.rejected, c.notSent, c.unknown)
	if c.skippedAccepted+c.skippedUnknown > 0 {
		summary += fmt.Sprintf("; skipped from earlier runs: %d accepted, %d unknown", c.skippedAccepted, c.skippedUnknown)
	}
	l.show.say(summary)
	if len(l.unkept) > 0 {
		l.show.say("These results could not be written:")
		for _, r := range l.unkept {
			text, _ := json.Marshal(r) // it has texts and numbers alone
			l.show.say(string(text))
		}
	}
	left := c.rejected + c.notSent + c.unknown + c.skippedUnknown
	said := fmt.Sprintf("%d of %d lines were not certainly published", left, c.lines())
	switch {
	case left == 0 && in.exhausted && l.err == nil:
		return nil
	case in.exhausted:
	case total > c.lines():
		said += fmt.Sprintf(", and %d after line %d were not read", total-c.lines(), in.last)
	default:
		said += fmt.Sprintf(", and what comes after line %d was not read", in.last)
	}
	switch unsure := c.unknown + c.skippedUnknown; {
	case s.results == "":
	case left == unsure && in.exhausted:
		said += fmt.Sprintf("; --results %s --resume --resend-unknown publishes them again, with duplicates of those that were published", s.results)
	default:
		said += fmt.Sprintf("; to publish the rest, run it again with --results %s --resume", s.results)
	}
	if l.err != nil {
		return fmt.Errorf("%w; %s", l.err, said)
	}
	return errors.New(said)
}
