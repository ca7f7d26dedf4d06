package twiliosync

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// maxAnswer is how many bytes of an answer's body are read, unless its operation says more.
const maxAnswer = 64 << 10

// Response is what HTTP said, beside the result or the [*Error]. It is nil if
// no answer arrived.
//
// The embedded http.Response has its body already read and closed, and its
// Request shows no credentials.
type Response struct {
	*http.Response
	// RequestID is the header Twilio-Request-Id ("RQ…"), which Twilio's support asks for; empty if absent.
	RequestID string
	// Attempts counts the attempts of the call, from 1.
	Attempts int
	// Sends counts the requests that may have reached the wire: at most one per attempt, except where net/http or a
	// WithHTTPClient transport resends by itself.
	Sends int
}

// MarshalJSON writes status, request ID and counts; headers and body are left out.
func (r *Response) MarshalJSON() ([]byte, error) {
	if r == nil {
		return []byte("null"), nil
	}
	fields := struct {
		StatusCode int    `json:"status_code,omitempty"`
		RequestID  string `json:"request_id,omitempty"`
		Attempts   int    `json:"attempts"`
		Sends      int    `json:"sends"`
	}{RequestID: r.RequestID, Attempts: r.Attempts, Sends: r.Sends}
	if r.Response != nil {
		fields.StatusCode = r.StatusCode
	}
	return json.Marshal(fields)
}

// readAnswer reads the body to its end, so that the connection can be used
// again, or up to limit bytes, after which closing drops the connection.
func readAnswer(res *http.Response, limit int) ([]byte, error) {
	if res.Body == nil { // of a careless RoundTripper
		res.Body = http.NoBody
	}
	defer func() { res.Body = http.NoBody }()
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil // the body is the naked connection, beyond every timeout
	}
	body, err := readAtMost(res.Body, res.ContentLength, limit)
	if err == nil && strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		return unzip(body, limit)
	}
	return body, err
}

// readAtMost reads limit bytes at most; the length is that which was announced, -1 for none.
func readAtMost(r io.Reader, length int64, limit int) ([]byte, error) {
	size := int64(bytes.MinRead)
	if length > 0 && length <= int64(limit) {
		size = length + 1 // so that the end is seen without another buffer
	}
	body := make([]byte, 0, size)
	for len(body) <= limit {
		body = slices.Grow(body, 1)
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if err == io.EOF { // itself, as io.Reader promises: not one that another error wraps
			break
		}
		if err != nil {
			return body, err
		}
	}
	if len(body) > limit {
		return body[:limit], fmt.Errorf("the answer is longer than %d bytes", limit)
	}
	return body, nil
}

// undecodable says what an answer is that is not the JSON of what was asked for.
func undecodable(body []byte, what string) error {
	switch {
	case len(body) == 0:
		return errors.New("the answer is empty")
	case !json.Valid(body):
		return errors.New("the answer is not JSON")
	}
	return fmt.Errorf("the answer is JSON, but not that of %s", what)
}

// noContent is the answer of an operation that has none.
type noContent struct{}

func (noContent) decode(body []byte) error {
	if len(body) > 0 {
		return errors.New("the answer is not empty, as that of a deletion is")
	}
	return nil
}

// pageMeta is what the answer of a list says about its pages.
type pageMeta struct {
	NextPageURL string `json:"next_page_url"`
}

// next reads nothing but Page and PageToken: credentials never go where an
// answer points to. Neither: this page is the last.
func (m pageMeta) next() (page int, token string, err error) {
	if m.NextPageURL == "" {
		return 0, "", nil
	}
	address, err := url.Parse(m.NextPageURL)
	if err != nil {
		return 0, "", errors.New("the answer's next_page_url is not a URL")
	}
	query := address.Query()
	page, _ = strconv.Atoi(query.Get("Page"))
	page, token = max(0, page), query.Get("PageToken")
	if page == 0 && token == "" {
		return 0, "", errors.New("the answer's next_page_url has neither a Page nor a PageToken")
	}
	return page, token, nil
}

// unzip decodes what nobody asked for, but some proxies send.
func unzip(body []byte, limit int) ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("the answer is not the gzip that it says it is")
	}
	plain, err := readAtMost(reader, -1, limit)
	if err != nil {
		return plain, errors.New("the gzip answer can't be decoded within the bound of an answer")
	}
	return plain, nil
}

var byteOrderMark = []byte("\uFEFF")

// secrets are what foreign text must not repeat: the data of a message, and
// the headers that the Authenticator set; in parts of 8 letters or digits. No
// list of escapes would find all ways of writing the data; leaving out all else
// finds those that keep it readable.
type secrets map[string]struct{}

// partLength is too long for chance.
const partLength = 8

func (s secrets) add(text string) {
	for part := range parts(text) {
		s[part] = struct{}{}
	}
}

// in tells whether the text repeats a part of a secret.
func (s secrets) in(text string) bool {
	for part := range parts(text) {
		if _, found := s[part]; found {
			return true
		}
	}
	return false
}

// parts yields each part of a text, reduced to its letters and digits.
func parts(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		runes := []rune(lettersAndDigits(text))
		for i := 0; i+partLength <= len(runes); i++ {
			if !yield(string(runes[i : i+partLength])) {
				return
			}
		}
	}
}

func lettersAndDigits(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, text)
}

// explain fills e from the body of an answer that is not a success. Of
// Twilio's JSON errors (its classic shape, RestErrorV1 and RFC 9457) it takes
// over what repeats no secret; of anything else it says what it was. It
// reports whether the words are Twilio's own.
func (e *Error) explain(res *http.Response, body []byte, secrets secrets) (ownWords bool) {
	fields := decodeFields(body)
	code, message := codeOf(fields["code"]), firstText(fields, "message", "title", "detail")
	if code == 0 {
		e.Body = describe(res, body, secrets)
		return false
	}
	e.Code = code
	if !secrets.in(message) {
		e.Message = message
	}
	if more := firstText(fields, "more_info", "type"); !secrets.in(more) {
		e.MoreInfo = more
	}
	e.Details = detailsOf(fields, secrets)
	return true
}

func decodeFields(body []byte) (fields map[string]any) {
	decoder := json.NewDecoder(bytes.NewReader(bytes.TrimPrefix(body, byteOrderMark)))
	decoder.UseNumber()
	if decoder.Decode(&fields) != nil {
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil // something follows
	}
	return fields
}

// codeOf reads a code of Twilio's: all have five digits. A gateway that calls
// its own status a code is not Twilio.
func codeOf(field any) int {
	const first, last = 10_000, 99_999
	var text string
	switch field := field.(type) {
	case json.Number:
		text = field.String()
	case string:
		text = field
	}
	code, err := strconv.Atoi(text)
	if err != nil || code < first || code > last {
		return 0
	}
	return code
}

func firstText(fields map[string]any, names ...string) string {
	for _, name := range names {
		if text, ok := fields[name].(string); ok && text != "" {
			return text
		}
	}
	return ""
}

// detailsOf collects what the shapes add to code and message: the members of
// the objects "details" and "params", and "detail", "errors" and other
// "details" as they are; without those that repeat a secret.
func detailsOf(fields map[string]any, secrets secrets) map[string]any {
	details := map[string]any{}
	for _, name := range []string{"details", "params", "detail", "errors"} {
		if members, ok := fields[name].(map[string]any); ok {
			maps.Copy(details, members)
		} else if fields[name] != nil {
			details[name] = fields[name]
		}
	}
	maps.DeleteFunc(details, func(name string, value any) bool {
		return secrets.in(name + fmt.Sprint(value))
	})
	if len(details) == 0 {
		return nil
	}
	return details
}

// describe says what a body is that is not Twilio's, such as "text/html, 1,532
// bytes"; "" if it is empty.
func describe(res *http.Response, body []byte, secrets secrets) string {
	if len(body) == 0 {
		return ""
	}
	const longest = 64
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || len(kind) > longest || oneLine(kind) != kind || secrets.in(kind) {
		kind = "unknown type"
	}
	count := grouped(len(body))
	if len(body) >= maxAnswer {
		count = "at least " + count
	}
	return kind + ", " + count + " bytes"
}

// grouped writes a number with a comma before each three digits.
func grouped(n int) string {
	digits := strconv.Itoa(n)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}

// requestIDOf reads the header Twilio-Request-Id, unless something else uses
// the name for an echo.
func requestIDOf(res *http.Response, secrets func() secrets) string {
	id := res.Header.Get("Twilio-Request-Id")
	if id == "" || len(id) == len("RQ")+32 && isSID(id, "RQ") {
		return id
	}
	const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(id) > maxRequestID || strings.Trim(id, allowed) != "" || secrets().in(id) {
		return ""
	}
	return id
}

// parseRetryAfter reads the Retry-After of an answer, in seconds or as an HTTP
// date, which counts from the answer's own Date: the two clocks may differ.
// What is neither is 0; what is too large for a Duration is the longest one.
func parseRetryAfter(header http.Header, now time.Time) time.Duration {
	value := header.Get("Retry-After")
	if value != "" && strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > int64(math.MaxInt64/time.Second) {
			return math.MaxInt64
		}
		return time.Duration(seconds) * time.Second
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	if sent, err := http.ParseTime(header.Get("Date")); err == nil {
		now = sent
	}
	return max(0, until.Sub(now))
}
