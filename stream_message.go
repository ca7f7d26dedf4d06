package twiliosync

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-querystring/query"
)

// maxIdentifier is the longest unique name, in characters.
// Source: https://www.twilio.com/docs/sync/api/stream-resource
const maxIdentifier = 320

// StreamMessageService publishes Stream Messages. It is the StreamMessages
// field of a [Client], and safe for concurrent use.
//
// Source: https://www.twilio.com/docs/sync/api/stream-message-resource
type StreamMessageService struct {
	client *Client
}

// Create publishes data to a Message Stream.
//
// serviceSID is the SID ("IS…") or unique name of the Sync service, such as
// "default"; streamSID the SID ("TO…") or unique name of an existing stream:
// publishing does not create one. Each is one percent-encoded segment of the
// path, whatever is in it; whether Sync takes a slash in a name is not
// documented. Empty ones, dot segments, outer space, control characters and
// more than 320 characters are refused.
//
// data must be a JSON object of at most 4096 bytes, given as a struct, a map,
// or any other value that encoding/json makes an object of (without HTML
// escaping), or as a [json.RawMessage], which is sent byte for byte. A string or
// []byte is refused, since it would be encoded twice; convert it to
// json.RawMessage.
//
// Every failure is an [*Error], whose Outcome says whether the message was
// published; the package comment says what is sent again. A refused argument
// is a [*ParameterError] in it, and nothing is sent. With errors.Is, a missing
// service or stream is [ErrNotFound], wrong credentials are [ErrUnauthorized]
// or [ErrForbidden], and Twilio's limits are [ErrRateLimited] and
// [ErrTooLarge]. The [Response] is nil if no answer arrived.
//
// Operation: POST /v1/Services/{ServiceSid}/Streams/{StreamSid}/Messages
//
// Source: https://www.twilio.com/docs/sync/api/stream-message-resource#create-a-stream-message-resource
func (s *StreamMessageService) Create(ctx context.Context, serviceSID, streamSID string, data any) (*SyncV1ServiceSyncStreamStreamMessage, *Response, error) {
	cl, err := s.prepare(ctx, serviceSID, streamSID, data)
	if err != nil {
		return nil, nil, err
	}
	cl.run(ctx)
	return cl.result()
}

// prepare checks the arguments and makes the call of them.
func (s *StreamMessageService) prepare(ctx context.Context, serviceSID, streamSID string, data any) (*call, *Error) {
	if refusal := s.usable(ctx); refusal != nil {
		return nil, notSent(refusal)
	}
	if refusal := checkIdentifiers(serviceSID, streamSID); refusal != nil {
		return nil, notSent(refusal)
	}
	encoded, refusal := encodeData(data, s.client.maxDataSize)
	if refusal != nil {
		return nil, notSent(refusal)
	}
	if ctx.Err() != nil {
		return nil, notSent(newContextError(ctx))
	}
	form, err := query.Values(createForm{(*formJSON)(&encoded)})
	if err != nil {
		return nil, notSent(&ParameterError{Parameter: "data", Reason: "it can't be encoded as a form", Err: err})
	}
	return &call{
		client:     s.client,
		serviceSID: serviceSID,
		streamSID:  streamSID,
		target:     messagesURL(*s.client.baseURL, serviceSID, streamSID),
		form:       form.Encode(),
	}, nil
}

func notSent(cause error) *Error {
	return &Error{Outcome: OutcomeNotSent, Err: cause}
}

func (s *StreamMessageService) usable(ctx context.Context) *ParameterError {
	switch {
	case s == nil || s.client == nil:
		return &ParameterError{Parameter: "client", Reason: "this Client is nil or a zero value; make one with NewClient or NewClientFromEnv"}
	case ctx == nil:
		return &ParameterError{Parameter: "ctx", Reason: "the context is nil; pass context.Background() if there is none"}
	}
	return nil
}

func checkIdentifiers(serviceSID, streamSID string) *ParameterError {
	if reason := identifierFault(serviceSID); reason != "" {
		return &ParameterError{Parameter: "serviceSID", Reason: reason}
	}
	if reason := identifierFault(streamSID); reason != "" {
		return &ParameterError{Parameter: "streamSID", Reason: reason}
	}
	if isSID(serviceSID, "TO") && isSID(streamSID, "IS") {
		return &ParameterError{Parameter: "serviceSID", Reason: "this is a stream SID (TO…) and streamSID is a service SID (IS…); swap them"}
	}
	return nil
}

// isSID tells a SID, which is a prefix and 32 hexadecimal digits, from a name.
func isSID(s, prefix string) bool {
	digits, ok := strings.CutPrefix(s, prefix)
	return ok && len(digits) == 32 && strings.Trim(digits, "0123456789abcdefABCDEF") == ""
}

func identifierFault(s string) string {
	switch {
	case s == "":
		return "it is empty; pass a SID or a unique name"
	case s == "." || s == "..":
		return "a dot segment changes the path of the request; pass a SID or a unique name"
	case !utf8.ValidString(s):
		return "it is not valid UTF-8"
	case s != strings.TrimSpace(s):
		return "it has leading or trailing space; trim it if the space doesn't belong to the name"
	case strings.ContainsFunc(s, unicode.IsControl):
		return "it contains a control character"
	case utf8.RuneCountInString(s) > maxIdentifier:
		return fmt.Sprintf("it is longer than %d characters", maxIdentifier)
	}
	return ""
}

// messagesURL puts each identifier into one segment, byte for byte.
func messagesURL(base url.URL, serviceSID, streamSID string) url.URL {
	base.Path += "/v1/Services/" + serviceSID + "/Streams/" + streamSID + "/Messages"
	base.RawPath += "/v1/Services/" + url.PathEscape(serviceSID) + "/Streams/" + url.PathEscape(streamSID) + "/Messages"
	return base
}

// createForm is the form of the operation.
type createForm struct {
	Data *formJSON `url:"Data"`
}

// formJSON is one form value. Left to itself, go-querystring makes one value of
// each byte.
type formJSON []byte

// EncodeValues sets the value as it is.
func (j *formJSON) EncodeValues(key string, values *url.Values) error {
	values.Set(key, string(*j))
	return nil
}

// encodeData returns the JSON object that is sent, of at most limit bytes if
// there is a limit.
func encodeData(data any, limit int) ([]byte, *ParameterError) {
	refuse := func(reason string, err error) ([]byte, *ParameterError) {
		return nil, &ParameterError{Parameter: "data", Reason: reason, Err: err}
	}
	var encoded []byte
	switch data := data.(type) {
	case nil:
		return refuse("it is nil; pass a value that encodes to a JSON object", nil)
	case string:
		return refuse("a string would be encoded twice; convert JSON text with json.RawMessage(data)", nil)
	case io.Reader:
		return refuse("a reader would be encoded as an object without its text; read it, and pass json.RawMessage(text)", nil)
	case []byte:
		return refuse("a []byte would be encoded as Base64; convert JSON text with json.RawMessage(data)", nil)
	case json.RawMessage:
		if len(data) == 0 {
			return refuse("the json.RawMessage is empty; pass a JSON object", nil)
		}
		if err := checkSyntax(data); err != nil {
			return refuse("the json.RawMessage is not one JSON value"+safeText(err), err)
		}
		encoded = data
	default:
		var err error
		if encoded, err = encodeJSON(data); err != nil {
			return refuse("encoding/json can't encode it"+safeText(err), err)
		}
	}
	switch {
	case !utf8.Valid(encoded):
		return refuse("the JSON is not valid UTF-8", nil)
	case !isObject(encoded):
		return refuse("it encodes to "+kindOf(encoded)+", but subscribers receive JSON objects only; wrap it, such as in map[string]any{\"value\": …}", nil)
	case limit > 0 && len(encoded) > limit:
		return nil, &ParameterError{
			Parameter: "data", Size: len(encoded), Limit: limit,
			Reason: fmt.Sprintf("it is %d bytes of JSON, more than the limit of %d; publish less, or a reference to the rest", len(encoded), limit),
		}
	}
	return encoded, nil
}

// safeText returns the text of errors that say where or which type. Others,
// also those of the caller's own MarshalJSON, may quote the data.
func safeText(err error) string {
	var (
		syntax      *json.SyntaxError
		unsupported *json.UnsupportedTypeError
	)
	if errors.As(err, &syntax) || errors.As(err, &unsupported) {
		return ": " + err.Error()
	}
	return ""
}

// encodeJSON is json.Marshal without HTML escaping, which would make 6 bytes of
// each of <, > and &.
func encodeJSON(v any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), nil
}

func checkSyntax(raw json.RawMessage) error {
	if json.Valid(raw) {
		return nil
	}
	return json.Unmarshal(raw, new(any)) // says where
}

func isObject(valid []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(valid, " \t\r\n"), []byte("{"))
}

func kindOf(valid []byte) string {
	switch bytes.TrimLeft(valid, " \t\r\n")[0] {
	case '[':
		return "a JSON array"
	case '"':
		return "a JSON string"
	case 'n':
		return "null"
	case 't', 'f':
		return "a JSON boolean"
	}
	return "a JSON number"
}
