package emulator

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// maxBody is the largest body of a request, in bytes.
const maxBody = 1 << 20

//go:embed page.html
var page []byte

// pagePolicy lets the page run its own script and style, speak to the emulator, and nothing else.
var pagePolicy = fmt.Sprintf("default-src 'none'; script-src '%s'; style-src '%s'; img-src data:; connect-src 'self'; form-action 'self'; "+
	"base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'", hashOf("script"), hashOf("style"))

// hashOf returns the hash by which a policy allows the one element of this name in the page.
func hashOf(element string) string {
	content := regexp.MustCompile(`(?s)<` + element + `>(.*)</` + element + `>`).FindSubmatch(page)[1]
	sum := sha256.Sum256(content)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// admin serves the page and the admin API.
func (e *Emulator) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", servePage)
	mux.HandleFunc("GET /_emulator/health", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /_emulator/messages", e.serveMessages)
	mux.HandleFunc("GET /_emulator/requests", e.serveRequests)
	mux.HandleFunc("GET /_emulator/streams", e.serveStreams)
	mux.HandleFunc("GET /_emulator/events", e.serveEvents)
	mux.HandleFunc("GET /_emulator/subscribers", func(w http.ResponseWriter, _ *http.Request) { writeList(w, "subscribers", e.hub.list()) })
	mux.HandleFunc("POST /_emulator/subscribers/disconnect", e.endSubscribers(func(s *session) { s.end(errDisconnected) }))
	mux.HandleFunc("POST /_emulator/subscribers/expire", e.endSubscribers((*session).expire))
	mux.HandleFunc("GET /_emulator/faults", e.serveFaults)
	mux.HandleFunc("POST /_emulator/faults", e.addFault)
	mux.HandleFunc("DELETE /_emulator/faults", e.removeFaults)
	mux.HandleFunc("POST /_emulator/reset", e.reset)
	return mux
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", pagePolicy)
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-cache")
	_, _ = w.Write(page)
}

// serveMessages lists the newest messages, of one stream with ?stream=, the oldest first.
func (e *Emulator) serveMessages(w http.ResponseWriter, r *http.Request) {
	stream := r.URL.Query().Get("stream")
	if stream == "" {
		writeList(w, "messages", e.journal.newest())
		return
	}
	records := []messageRecord{}
	for _, m := range e.fake.Messages(stream) {
		records = append(records, recordOf(m))
	}
	writeList(w, "messages", records)
}

// serveRequests lists the newest requests, the oldest first.
func (e *Emulator) serveRequests(w http.ResponseWriter, _ *http.Request) {
	records := []requestRecord{}
	for _, r := range e.fake.Requests() {
		records = append(records, e.requestRecordOf(r))
	}
	writeList(w, "requests", records)
}

// streamRecord is a stream in the admin API.
type streamRecord struct {
	SID         string     `json:"sid"`
	UniqueName  string     `json:"uniqueName"`
	ServiceSID  string     `json:"serviceSid"`
	Service     string     `json:"service"` // as in the first request
	Created     time.Time  `json:"created"`
	Expires     *time.Time `json:"expires"` // null: never
	Subscribers int        `json:"subscribers"`
}

// serveStreams lists the streams of the services that were used.
func (e *Emulator) serveStreams(w http.ResponseWriter, _ *http.Request) {
	type key struct{ serviceSID, sid string }
	seen := make(map[key]bool) // a service can have been used by SID and by name
	records := []streamRecord{}
	for _, service := range e.journal.usedServices() {
		for _, s := range e.fake.Streams(service) {
			if k := (key{s.ServiceSID, s.SID}); seen[k] {
				continue
			} else {
				seen[k] = true
			}
			record := streamRecord{SID: s.SID, UniqueName: s.UniqueName, ServiceSID: s.ServiceSID, Service: service, Created: s.Created}
			if !s.Expires.IsZero() {
				record.Expires = &s.Expires
			}
			record.Subscribers = e.hub.count(s.SID)
			records = append(records, record)
		}
	}
	writeList(w, "streams", records)
}

// endSubscribers does something to all subscribers, or those of the stream that the body names.
func (e *Emulator) endSubscribers(end func(*session)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var target struct {
			Stream *string `json:"stream"`
		}
		if err := decodeBody(r, &target); err != nil && !errors.Is(err, io.EOF) {
			refuse(w, err)
			return
		}
		streamSID := ""
		if target.Stream != nil {
			if *target.Stream == "" {
				refuse(w, &fieldError{"stream", "must not be empty; leave it out for all subscribers"})
				return
			}
			streamSID = e.fake.StreamSID(*target.Stream)
		}
		writeJSON(w, http.StatusOK, map[string]int{"subscribers": e.hub.each(streamSID, end)})
	}
}

func (e *Emulator) serveFaults(w http.ResponseWriter, _ *http.Request) {
	records := []faultRecord{}
	for _, line := range e.fake.Faults() {
		records = append(records, faultRecord{line})
	}
	writeList(w, "faults", records)
}

type faultRecord struct {
	Line string `json:"line"` // as in the fault script of twiliosynctest
}

// maxFaults is how many lines the fault script can have here.
const maxFaults = 1_000

func (e *Emulator) addFault(w http.ResponseWriter, r *http.Request) {
	var wanted fault
	if err := decodeBody(r, &wanted); err != nil {
		refuse(w, err)
		return
	}
	if len(e.fake.Faults()) >= maxFaults {
		problem(w, http.StatusConflict, "", fmt.Sprintf("%d faults are in force already; DELETE removes them", maxFaults))
		return
	}
	if err := wanted.apply(e.fake); err != nil {
		refuse(w, err)
		return
	}
	e.logger.Info("fault added")
	w.WriteHeader(http.StatusCreated)
}

func (e *Emulator) removeFaults(w http.ResponseWriter, _ *http.Request) {
	e.fake.Recover()
	w.WriteHeader(http.StatusNoContent)
}

// reset makes the emulator forget messages, streams, requests and faults. Subscribers stay, and get what is published to
// their streams from now on.
func (e *Emulator) reset(w http.ResponseWriter, _ *http.Request) {
	e.fake.Reset()
	e.journal.forget()
	e.watchers.tell("reset", struct{}{})
	w.WriteHeader(http.StatusNoContent)
}

// decodeBody reads a JSON object and nothing else. The error of a wrong field is a *fieldError; of an empty body it is
// io.EOF.
func decodeBody(r *http.Request, v any) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return io.EOF
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return describeJSON(err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return errors.New("the body has something after the JSON object")
	}
	return nil
}

// describeJSON names the field that is wrong.
func describeJSON(err error) error {
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field == "":
		return fmt.Errorf("the body must be a JSON object, not a %s", wrongType.Value)
	case errors.As(err, &wrongType):
		return &fieldError{wrongType.Field, fmt.Sprintf("must be a %s, not a %s", kindOf(wrongType), wrongType.Value)}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON object of the body ends too soon")
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &fieldError{strings.Trim(name, `"`), "is not a field of this request"}
	}
	return errors.New("the body is not JSON: " + strings.TrimPrefix(err.Error(), "json: "))
}

func kindOf(err *json.UnmarshalTypeError) string {
	switch kind := err.Type.Kind().String(); kind {
	case "bool":
		return "boolean"
	case "int", "int64":
		return "whole number"
	case "struct":
		return "JSON object"
	default:
		return kind
	}
}

// fieldError is an objection to one field of a request.
type fieldError struct{ field, objection string }

func (e *fieldError) Error() string { return e.field + " " + e.objection }

// refuse answers a request that is wrong.
func refuse(w http.ResponseWriter, err error) {
	var field *fieldError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &field):
		problem(w, http.StatusBadRequest, field.field, field.Error())
	case errors.As(err, &tooLarge):
		problem(w, http.StatusRequestEntityTooLarge, "", fmt.Sprintf("the body is larger than %d bytes", maxBody))
	case errors.Is(err, io.EOF):
		problem(w, http.StatusBadRequest, "", "the body is empty; it must be a JSON object")
	default:
		problem(w, http.StatusBadRequest, "", err.Error())
	}
}

// problem answers with what is wrong, and in which field or header if it is one.
func problem(w http.ResponseWriter, status int, field, message string) {
	body := map[string]any{"status": status, "message": message}
	if field != "" {
		body["field"] = field
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(marshal(v), '\n'))
}

// writeList answers with a list, one item on a line.
func writeList[T any](w http.ResponseWriter, name string, items []T) {
	var body bytes.Buffer
	fmt.Fprintf(&body, "{%q:[", name)
	for i, item := range items {
		if i > 0 {
			body.WriteByte(',')
		}
		body.WriteByte('\n')
		body.Write(marshal(item))
	}
	body.WriteString("\n]}\n")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body.Bytes())
}

// marshal returns the JSON of one of our own types, which never fails. The data of messages stays as it is, but for
// spaces.
func marshal(v any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(v)
	return bytes.TrimRight(out.Bytes(), "\n")
}
