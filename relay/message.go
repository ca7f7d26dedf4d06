package relay

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twiliosync/twiliosync-go"
)

// Message is one to be published.
type Message struct {
	// ID is required, and unique among the messages of the relay: 1 to 255 characters without control characters. The log
	// takes the same ID once within two minutes (or MaxAge, if that is less), and subscribers can tell copies by it.
	ID string
	// ServiceSID is the SID ("IS…") or unique name of the Sync service, such as "default".
	ServiceSID string
	// StreamSID is the SID ("TO…") or unique name of the stream.
	StreamSID string
	// Data is what twiliosync's Create takes: a value that encoding/json makes a JSON object of, or a json.RawMessage; at
	// most 4 KiB of JSON. Where a worker's fields don't fit in as well, it makes it a dead letter.
	Data any
}

// Headers of messages in the log. A program in another language needs none but
// Nats-Msg-Id.
const (
	idHeader          = "Twiliosync-Id"
	redeliveredHeader = "Twiliosync-Redelivered"
	serviceHeader     = "Twiliosync-Service"
	streamHeader      = "Twiliosync-Stream"
	outcomeHeader     = "Twiliosync-Outcome"
	reasonHeader      = "Twiliosync-Reason"
)

// maxSubject is the longest subject that fits into a line of NATS' protocol.
const maxSubject = 3500

func checkID(id string) error {
	if id == "" || len(id) > 255 || strings.ContainsFunc(id, unicode.IsControl) || strings.TrimSpace(id) != id {
		return &twiliosync.ParameterError{Parameter: "ID", Reason: "it has 1 to 255 characters, no control characters, and no space at its ends"}
	}
	return nil
}

// token makes one token of a subject from an identifier, byte for byte.
func token(identifier string) string {
	const unreserved = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	var b strings.Builder
	for i := range len(identifier) {
		if c := identifier[i]; strings.IndexByte(unreserved, c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// identifiers returns the service and stream of a subject that ends with their
// tokens.
func identifiers(subject string) (serviceSID, streamSID string, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 2 {
		return "", "", errors.New("its subject has no service and stream")
	}
	serviceSID, err = url.PathUnescape(tokens[len(tokens)-2])
	if err == nil {
		streamSID, err = url.PathUnescape(tokens[len(tokens)-1])
	}
	if err != nil {
		return "", "", errors.New("its subject is not percent-encoded as relay.Publisher does it")
	}
	return serviceSID, streamSID, nil
}

// idOf is the ID of a message in the log.
func idOf(header nats.Header) string {
	if id := header.Get(idHeader); id != "" {
		return id
	}
	return header.Get(jetstream.MsgIDHeader)
}

// field is what a worker adds to the JSON object.
type field struct {
	name  string // empty: left out
	value any
	must  bool // a field of that name with another value can't stay
}

// withFields adds fields to the end of a JSON object, where it has none of that
// name. Text that is none comes back as it is: whoever publishes it says what is
// wrong.
func withFields(text []byte, fields ...field) ([]byte, error) {
	trimmed := bytes.Trim(text, " \t\r\n")
	if !json.Valid(text) || trimmed[0] != '{' {
		return text, nil
	}
	var object map[string]json.RawMessage // read only if it may have one of the fields
	if bytes.IndexByte(text, '\\') >= 0 || slices.ContainsFunc(fields, func(f field) bool { return bytes.Contains(text, []byte(`"`+f.name+`"`)) }) {
		if err := json.Unmarshal(text, &object); err != nil {
			return nil, err
		}
	}
	empty := len(bytes.Trim(trimmed[1:len(trimmed)-1], " \t\r\n")) == 0
	added := append(make([]byte, 0, len(trimmed)+128), trimmed[:len(trimmed)-1]...)
	for _, f := range fields {
		if f.name == "" {
			continue
		}
		value, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		if own, has := object[f.name]; has {
			if f.must && !bytes.Equal(own, value) {
				return nil, fmt.Errorf("the data has a field %q of its own, so that it can't be marked as perhaps published before; choose another RedeliveredField, or \"-\" for none", f.name)
			}
			continue
		}
		name, err := json.Marshal(f.name)
		if err != nil {
			return nil, err
		}
		if !empty {
			added = append(added, ',')
		}
		empty = false
		added = append(append(append(added, name...), ':'), value...)
	}
	return append(added, '}'), nil
}

// checking is an Authenticator that lets nothing out: it keeps the form that the
// SDK has made of a message. So the rules for messages are the SDK's own.
type checking struct{}

type dataKey struct{}

var errChecked = errors.New("checked")

func (checking) Authenticate(ctx context.Context, r *http.Request) error {
	form, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	values, err := url.ParseQuery(string(form))
	if err != nil {
		return err
	}
	*ctx.Value(dataKey{}).(*string) = values.Get("Data")
	return errChecked
}
