package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/twiliosync/twiliosync-go"
)

// maxLine is the longest line that is looked at; a message has 4 KiB.
const maxLine = 1 << 20

// line is a line of the input.
type line struct {
	number int // from 1
	text   []byte
	err    error // of the reading
}

// readLines reads on a goroutine of its own, because a read of standard input
// can block for ever. It ends at the end of the input, or when it has a line
// that nobody wants any more.
func readLines(ctx context.Context, r io.Reader) <-chan line {
	lines := make(chan line)
	go func() {
		defer close(lines)
		buffered := bufio.NewReaderSize(r, 64<<10)
		for number := 1; ; number++ {
			text, err := readLine(buffered)
			if errors.Is(err, io.EOF) {
				return
			}
			if number == 1 {
				text = bytes.TrimPrefix(text, []byte("\ufeff"))
			}
			select {
			case lines <- line{number, text, err}:
			case <-ctx.Done():
				return
			}
			if isUnreadable(err) {
				return
			}
		}
	}()
	return lines
}

var errLineTooLong = fmt.Errorf("it is longer than %d bytes", maxLine)

// isUnreadable tells an error of the input from one of a line.
func isUnreadable(err error) bool { return err != nil && !errors.Is(err, errLineTooLong) }

// readLine returns the next line without its end, reading over what is too
// long. At the end of the input it returns io.EOF.
func readLine(r *bufio.Reader) ([]byte, error) {
	var text []byte
	begun, tooLong := false, false
	for {
		part, isPrefix, err := r.ReadLine()
		if begun && errors.Is(err, io.EOF) { // the last line has no end, and filled the buffer
			part, isPrefix, err = nil, false, nil
		}
		if err != nil {
			return nil, err
		}
		begun = true
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

// isSameFile tells whether reading one would read what is written to the other.
func isSameFile(in io.Reader, out io.Writer) bool {
	source, isFile := in.(*os.File)
	target, isToo := out.(*os.File)
	if !isFile || !isToo {
		return false
	}
	from, err := source.Stat()
	to, errTo := target.Stat()
	return err == nil && errTo == nil && from.Mode().IsRegular() && os.SameFile(from, to)
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
	buffered := bufio.NewReaderSize(file, 64<<10)
	for {
		text, err := readLine(buffered)
		switch {
		case errors.Is(err, io.EOF):
			_, err = file.Seek(start, io.SeekStart)
			return count, err
		case isUnreadable(err):
			return -1, err
		case err != nil || !isBlank(text):
			count++
		}
	}
}

func isBlank(text []byte) bool { return len(bytes.TrimSpace(text)) == 0 }

// digest tells lines apart, so that a resumed run notices another input, or the
// same for another service or base URL.
type digest [8]byte

func digestOf(target string, text []byte) digest {
	sum := sha256.Sum256(append([]byte(target+"\n"), text...))
	return digest(sum[:8])
}

// place is the Tag of a request: which line it is.
type place struct {
	line   int
	digest digest
}

// input makes requests of lines.
type input struct {
	ctx           context.Context // ends when no more is to be read
	lines         <-chan line
	target        string // where the lines go
	earlier       history
	resendUnknown bool
	ledger        *ledger

	exhausted bool // all was read
	last      int  // line
	pulled    int  // requests
}

// requests is the sequence for CreateAll. What can't be published goes straight
// to the ledger.
func (in *input) requests(yield func(twiliosync.StreamMessageRequest) bool) {
	for in.ctx.Err() == nil { // also if there is another line
		select {
		case next, ok := <-in.lines:
			if !ok {
				in.exhausted = true
				return
			}
			if isUnreadable(next.err) {
				in.ledger.fail(fmt.Errorf("the input can't be read after line %d: %w", in.last, next.err))
				return
			}
			in.last = next.number
			request, wanted := in.request(next)
			if !wanted {
				continue
			}
			in.ledger.pulled(in.pulled, request)
			in.pulled++
			if !yield(request) {
				return
			}
		case <-in.ctx.Done():
		}
	}
}

// request returns what is to be published of a line, if anything.
func (in *input) request(l line) (request twiliosync.StreamMessageRequest, wanted bool) {
	if l.err == nil && isBlank(l.text) {
		return request, false
	}
	at := place{l.number, digestOf(in.target, l.text)}
	before := in.earlier.of(l.number)
	switch {
	case before.mayBePublished() && before.digest != at.digest: // others may have been repaired
		in.ledger.fail(fmt.Errorf("line %d is not the one that the results are about; resume with the same input, --service and TWILIO_* variables", l.number))
		return request, false
	case before.accepted, before.mayBePublished() && !in.resendUnknown:
		in.ledger.skip(at, before)
		return request, false
	}
	request, err := parseLine(l)
	if err != nil {
		in.ledger.refuse(at, err)
		return request, false
	}
	request.Tag = at
	return request, true
}

// parseLine reads {"stream": "…", "data": {…}} strictly. It leaves to the SDK
// what can be in them.
func parseLine(l line) (request twiliosync.StreamMessageRequest, err error) {
	switch {
	case l.err != nil:
		return request, l.err
	case !utf8.Valid(l.text):
		return request, errors.New("it is not valid UTF-8")
	}
	if err := checkJSON(l.text); err != nil {
		return request, err
	}
	if kind := kindOf(l.text); kind != "an object" {
		return request, fmt.Errorf("it is %s; a message is {\"stream\": \"…\", \"data\": {…}}", kind)
	}
	stream, data, err := fieldsOf(l.text)
	switch {
	case err != nil:
		return request, err
	case stream == nil:
		return request, errors.New(`it has no "stream"`)
	case kindOf(stream) != "a string":
		return request, fmt.Errorf(`its "stream" is %s; it has to be a string`, kindOf(stream))
	case data == nil:
		return request, errors.New(`it has no "data"`)
	}
	if err := json.Unmarshal(stream, &request.StreamSID); err != nil {
		return request, err
	}
	if strings.ContainsRune(request.StreamSID, utf8.RuneError) { // half of a surrogate pair becomes that
		return request, errors.New(`its "stream" is not valid Unicode`)
	}
	request.Data = data
	return request, nil
}

func checkJSON(text []byte) error {
	var fault *json.SyntaxError
	if err := json.Unmarshal(text, new(json.RawMessage)); errors.As(err, &fault) {
		return fmt.Errorf("it is not valid JSON: %w at byte %d", err, fault.Offset)
	}
	return nil
}

// fieldsOf returns the values of a valid JSON object's two keys.
func fieldsOf(object []byte) (stream, data json.RawMessage, err error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil { // the brace
		return nil, nil, err
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, nil, err
		}
		key, _ := token.(string)
		var value *json.RawMessage
		switch known := strings.ToLower(key); {
		case key == "stream":
			value = &stream
		case key == "data":
			value = &data
		case known == "stream" || known == "data":
			return nil, nil, fmt.Errorf("it has %q, which is spelled %q", key, known)
		default:
			return nil, nil, fmt.Errorf(`it has %q; a message has "stream" and "data" alone`, key)
		}
		if *value != nil {
			return nil, nil, fmt.Errorf("it has %q twice", key)
		}
		if err := decoder.Decode(value); err != nil {
			return nil, nil, err
		}
	}
	return stream, data, nil
}

// kindOf names a valid JSON value in JSON's words.
func kindOf(value []byte) string {
	switch bytes.TrimLeft(value, " \t\r\n")[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
