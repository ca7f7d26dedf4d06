package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/twiliosync/twiliosync-go"
)

// The outcomes in the results.
var (
	accepted = twiliosync.OutcomeAccepted.String()
	unknown  = twiliosync.OutcomeUnknown.String()
	notSent  = twiliosync.OutcomeNotSent.String()
)

// record is a line of the results.
type record struct {
	Line      int    `json:"line"`
	Stream    string `json:"stream,omitempty"`
	Outcome   string `json:"outcome"`
	SID       string `json:"sid,omitempty"`
	Error     string `json:"error,omitempty"`
	Status    int    `json:"status,omitempty"`
	Code      int    `json:"code,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Retryable bool   `json:"retryable,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	Digest    string `json:"digest"`         // of the line of the input
	Fake      bool   `json:"fake,omitempty"` // published to the fake service
}

// recordOf makes a record of a result.
func recordOf(result twiliosync.StreamMessageResult) record {
	from := result.Request.Data.(message)
	r := record{
		Line:    from.line,
		Stream:  result.Request.StreamSID,
		Outcome: twiliosync.OutcomeOf(result.Err).String(),
		Digest:  from.digest,
	}
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

// refusal is the record of a line that did not get as far as the SDK.
func refusal(line int, digest string, err error) record {
	return record{Line: line, Outcome: notSent, Error: fmt.Sprintf("line %d: %v", line, err), Digest: digest}
}

// readResults returns what an earlier run, or several with the same file, wrote
// about each line: that it was accepted, or else the last record.
func readResults(path string, fake bool) (map[int]record, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	records := map[int]record{}
	lines := bufio.NewReader(file)
	for number := 1; ; number++ {
		text, err := lines.ReadBytes('\n')
		if err == io.EOF { // what follows the last line break was cut by a crash
			return records, nil
		}
		if err != nil {
			return nil, err
		}
		var r record
		if err := json.Unmarshal(text, &r); err != nil || r.Line == 0 {
			return nil, fmt.Errorf("line %d of %s is not a result of this program", number, path)
		}
		if r.Fake != fake {
			return nil, fmt.Errorf("%s has results of the fake service, or this run would publish to it; use a file of its own for each", path)
		}
		if records[r.Line].Outcome != accepted {
			records[r.Line] = r
		}
	}
}

// openResults opens where the results go. It never overwrites results: without
// them, nobody knows what was published.
func openResults(s settings, stdout io.Writer) (io.WriteCloser, error) {
	if s.results == "" {
		return stdoutCloser{stdout}, nil
	}
	if s.results == s.resume {
		return continueFile(s.results)
	}
	file, err := os.OpenFile(s.results, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("%s exists already; name another file, or continue with -resume %s", s.results, s.results)
	}
	return file, err
}

type stdoutCloser struct{ io.Writer }

func (stdoutCloser) Close() error { return nil }

// continueFile opens a file to append to, without the part of a line that a
// crash may have left at its end.
func continueFile(path string) (*os.File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	end := int64(strings.LastIndexByte(string(text), '\n') + 1)
	if err = file.Truncate(end); err == nil {
		_, err = file.Seek(end, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// ledger writes the records and counts them. The input adds to it beside the
// loop.
type ledger struct {
	bar  *progress
	stop *stopper
	fake bool

	mu     sync.Mutex
	out    io.WriteCloser
	counts counts
	err    error // why the input was ended
}

// counts is how many lines came to what.
type counts struct {
	sent, refused, unknown     int
	skippedSent, skippedUnsure int
}

func (c counts) lines() int { return c.sent + c.refused + c.unknown + c.skippedSent + c.skippedUnsure }

// add writes a record. Without a place for the results nothing more should be
// published, so a failure ends the input.
func (l *ledger) add(r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.write(r)
	switch r.Outcome {
	case accepted:
		l.counts.sent++
	case unknown:
		l.counts.unknown++
	default:
		l.counts.refused++
		l.bar.tell(r)
	}
	l.bar.set(l.counts)
}

// skip counts a line that was settled by an earlier run.
func (l *ledger) skip(r record, write bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if write {
		l.write(r)
	}
	if r.Outcome == accepted {
		l.counts.skippedSent++
	} else {
		l.counts.skippedUnsure++
	}
	l.bar.set(l.counts)
}

func (l *ledger) write(r record) {
	r.Fake = l.fake
	text, err := json.Marshal(r)
	if err == nil {
		_, err = l.out.Write(append(text, '\n')) // one write for each, so that a crash loses none
	}
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("the results can't be written: %w", err)
		l.stop.stop()
	}
}

// fail ends the input.
func (l *ledger) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.stop.stop()
}

// close ends the results, says what came of all, and returns an error unless
// everything was accepted.
func (l *ledger) close(s settings, in *input, total int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.err
	if closing := l.out.Close(); err == nil && closing != nil {
		err = fmt.Errorf("the results can't be written: %w", closing)
	}
	c := l.counts
	summary := fmt.Sprintf("%d sent, %d refused, %d unknown", c.sent, c.refused, c.unknown)
	if skipped := c.skippedSent + c.skippedUnsure; skipped > 0 {
		summary += fmt.Sprintf("; %d skipped (%d accepted, %d unknown earlier)", skipped, c.skippedSent, c.skippedUnsure)
	}
	l.bar.say(summary)
	left := ""
	if !in.exhausted {
		left = fmt.Sprintf("the lines after line %d were not read", in.last)
		if total >= 0 {
			left = fmt.Sprintf("%d lines are left, after line %d", total-c.lines(), in.last)
		}
	}
	switch incomplete := c.refused + c.unknown + c.skippedUnsure; {
	case err != nil:
		return &incompleteError{err.Error() + "; nothing more was read"}
	case incomplete == 0 && left == "":
		return nil
	case left == "":
		return &incompleteError{fmt.Sprintf("%d of %d lines were not certainly published%s", incomplete, c.lines(), advice(s))}
	}
	return &incompleteError{left + advice(s)}
}

func advice(s settings) string {
	if s.results == "" {
		return ""
	}
	return fmt.Sprintf("; to publish the rest, run again with -resume %[1]s -results %[1]s", s.results)
}
