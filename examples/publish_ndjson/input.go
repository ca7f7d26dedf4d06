package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/twiliosync/twiliosync-go"
)

// maxLine is the longest line that is looked at; a message has 4 KiB.
const maxLine = 1 << 20

// stopper is closed once, by whoever comes first.
type stopper struct {
	once sync.Once
	c    chan struct{}
}

func newStopper() *stopper { return &stopper{c: make(chan struct{})} }

func (s *stopper) stop() { s.once.Do(func() { close(s.c) }) }

// line is a line of the input.
type line struct {
	number int // from 1
	text   []byte
	err    error // of the reading
}

// readLines reads on a goroutine of its own, because a read of standard input
// can block for ever. It ends at the end of the input, or when it has a line
// that nobody wants any more.
func readLines(r io.Reader, stop *stopper) <-chan line {
	lines := make(chan line)
	go func() {
		defer close(lines)
		buffered := bufio.NewReaderSize(r, 64<<10)
		for number := 1; ; number++ {
			text, err := readLine(buffered)
			if errors.Is(err, io.EOF) {
				return
			}
			select {
			case lines <- line{number, text, err}:
			case <-stop.c:
				return
			}
			if err != nil && !errors.Is(err, errLineTooLong) {
				return
			}
		}
	}()
	return lines
}

var errLineTooLong = fmt.Errorf("it is longer than %d bytes", maxLine)

// readLine returns the next line without its end, reading over what is too
// long. At the end of the input it returns io.EOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	tooLong := false
	for {
		part, isPrefix, err := r.ReadLine()
		if err != nil {
			return nil, err
		}
		if tooLong = tooLong || len(text)+len(part) > maxLine; !tooLong {
			text = append(text, part...)
		}
		switch {
		case !isPrefix && tooLong:
			return nil, errLineTooLong
		case !isPrefix:
			return text, nil
		}
	}
}

// countLines returns how many lines with something in them a file has, and
// goes back to its beginning. It returns -1 for what can be read only once.
func countLines(r io.Reader) (int, error) {
	file, ok := r.(*os.File)
	if !ok {
		return -1, nil
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return -1, err
	}
	start, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1, err
	}
	count := 0
	buffered := bufio.NewReader(file)
	for {
		text, err := readLine(buffered)
		switch {
		case errors.Is(err, io.EOF):
			_, err = file.Seek(start, io.SeekStart)
			return count, err
		case err != nil && !errors.Is(err, errLineTooLong):
			return -1, err
		case err != nil || !isBlank(text):
			count++
		}
	}
}

func isBlank(text []byte) bool { return len(bytes.TrimSpace(text)) == 0 }

// message is the Data of a request. It knows its line, and comes back with the
// result.
type message struct {
	json.RawMessage
	line   int
	digest string
}

// digestOf tells lines apart, so that a resumed run notices another input.
func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// input makes requests of lines.
type input struct {
	lines         <-chan line
	earlier       map[int]record // by line
	resendUnknown bool
	copySkipped   bool
	ledger        *ledger
	stop          *stopper

	exhausted bool // all was read
	last      int  // line
}

// requests is the sequence for CreateAll. What can't be published goes straight
// to the ledger.
func (in *input) requests(yield func(twiliosync.StreamMessageRequest) bool) {
	for {
		select {
		case <-in.stop.c: // also if there is another line
			return
		default:
		}
		select {
		case next, ok := <-in.lines:
			if !ok {
				in.exhausted = true
				return
			}
			in.last = next.number
			request, wanted := in.request(next)
			if wanted && !yield(request) {
				return
			}
		case <-in.stop.c:
			return
		}
	}
}

// request returns what is to be published of a line, if anything.
func (in *input) request(l line) (request twiliosync.StreamMessageRequest, wanted bool) {
	if l.err == nil && isBlank(l.text) {
		return request, false
	}
	digest := digestOf(l.text)
	if before, ok := in.earlier[l.number]; ok {
		settled := before.Outcome == accepted || before.Outcome == unknown
		switch {
		case settled && before.Digest != digest: // others may have been repaired
			in.ledger.fail(fmt.Errorf("line %d is not the one that the results of -resume are about; resume with the same input", l.number))
			return request, false
		case before.Outcome == accepted, before.Outcome == unknown && !in.resendUnknown:
			in.ledger.skip(before, in.copySkipped)
			return request, false
		}
	}
	request, err := parseLine(l)
	if err != nil {
		in.ledger.add(refusal(l.number, digest, err))
		return request, false
	}
	request.Data = message{request.Data.(json.RawMessage), l.number, digest}
	return request, true
}

// parseLine reads {"stream": "…", "data": {…}}. It leaves to the SDK what can be
// in them.
func parseLine(l line) (request twiliosync.StreamMessageRequest, err error) {
	if l.err != nil {
		return request, l.err
	}
	var fields struct {
		Stream *string         `json:"stream"`
		Data   json.RawMessage `json:"data"`
	}
	decoder := json.NewDecoder(bytes.NewReader(l.text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&fields); err != nil {
		return request, fmt.Errorf("it is not of the form {\"stream\": \"…\", \"data\": {…}}: %w", err)
	}
	switch _, err := decoder.Token(); {
	case err != io.EOF:
		return request, errors.New("something follows its JSON object")
	case fields.Stream == nil:
		return request, errors.New(`it has no "stream"`)
	case fields.Data == nil:
		return request, errors.New(`it has no "data"`)
	}
	return twiliosync.StreamMessageRequest{StreamSID: *fields.Stream, Data: fields.Data}, nil
}
