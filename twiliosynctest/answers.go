package twiliosynctest

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// answer is what the server sends back. The zero value stands for none.
type answer struct {
	status  int
	header  http.Header
	body    []byte
	code    int // of an error in Twilio's format
	message string
}

// refusal returns an answer in Twilio's error format. Code 0 stands for an error without a code.
func refusal(status, code int) *answer {
	return refusalWith(status, code, cmp.Or(errorMessages[code], http.StatusText(status)))
}

func (x *exchange) notFound() *answer {
	resource := strings.TrimPrefix(x.r.URL.EscapedPath(), "/v1")
	return refusalWith(http.StatusNotFound, 20404, "The requested resource "+resource+" was not found")
}

func refusalWith(status, code int, message string) *answer {
	twilioError := struct {
		Code     int    `json:"code,omitempty"`
		Message  string `json:"message"`
		MoreInfo string `json:"more_info,omitempty"`
		Status   int    `json:"status"`
	}{code, message, "", status}
	if code != 0 {
		twilioError.MoreInfo = "https://www.twilio.com/docs/errors/" + strconv.Itoa(code)
	}
	header := http.Header{}
	switch status {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Basic realm="Twilio API"`)
	case http.StatusMethodNotAllowed:
		header.Set("Allow", http.MethodPost) // of a script; the route table knows better where it answers
	}
	return &answer{status, header, mustMarshal(twilioError), code, message}
}

// errorMessages are Twilio's words for an error, as far as they are known.
var errorMessages = map[int]string{
	20001: "Missing required parameter Data in the post body",
	20003: "Authenticate",
	20004: "Method not allowed",
	20429: "Too many requests",
	20500: "Internal Server Error",
	20503: "Service unavailable",
	54006: "Request entity too large",
	54008: "Invalid JSON",
	54009: "Rate limit exceeded",
	54010: "No parameters specified",
	54011: "Invalid TTL",
	54251: "Invalid Message Stream Message data",
	54301: "Unique name already exists",
	54302: "Invalid unique name",
	54453: "Invalid page or page token",
	54454: "Invalid page size",
}

// answer sends an answer of the service.
func (x *exchange) answer(a *answer) { x.send(x.dressed(a)) }

// dressed returns the answer with the headers that the service adds to each.
func (x *exchange) dressed(a *answer) *answer {
	header := http.Header{
		"Content-Type":               {"application/json"},
		"Twilio-Concurrent-Requests": {strconv.Itoa(x.concurrent)},
		"Twilio-Request-Duration":    {fmt.Sprintf("%.3f", time.Since(x.record.Time).Seconds())},
		"Twilio-Request-Id":          {newSID("RQ")},
	}
	maps.Copy(header, a.header)
	dressed := *a
	dressed.header = header
	return &dressed
}

// send sends the answer as it is.
func (x *exchange) send(a *answer) { x.sendPart(a, len(a.body)) }

// sendPart sends the header and the first n bytes of the body.
func (x *exchange) sendPart(a *answer, n int) {
	x.settle(a)
	header := x.w.Header()
	maps.Copy(header, a.header)
	if a.status == http.StatusNoContent {
		header.Del("Content-Type")
	} else {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	x.w.WriteHeader(a.status)
	_, _ = x.w.Write(a.body[:n]) // fails only if the client is gone, and then nobody is left to tell
}
