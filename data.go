package twiliosync

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strings"
	"sync"
	"unicode/utf8"
)

// encodeData makes JSON text of a message's data, or says why it can't be one.
// The text is the SDK's own: the caller may change data afterwards.
func encodeData(data any, limit int) (string, *ParameterError) {
	if reason := dataFault(data); reason != "" {
		return "", &ParameterError{Parameter: "data", Reason: reason}
	}
	text, refusal := "", (*ParameterError)(nil)
	if raw, ok := data.(json.RawMessage); ok {
		text, refusal = checkRaw(raw)
	} else {
		text, refusal = encodeValue(data)
	}
	switch {
	case refusal != nil:
		return "", refusal
	case !utf8.ValidString(text):
		return "", &ParameterError{Parameter: "data", Reason: "the JSON is not valid UTF-8"}
	case !isObject(text):
		return "", &ParameterError{Parameter: "data", Reason: "it encodes to " + kindOf(text) +
			`, but subscribers receive JSON objects only; wrap it, such as in {"value": …}`}
	case limit > 0 && len(text) > limit:
		return "", &ParameterError{
			Parameter: "data", Size: len(text), Limit: limit,
			Reason: fmt.Sprintf("it is %d bytes of JSON, more than the limit of %d; publish less, or a reference to the rest", len(text), limit),
		}
	}
	return text, nil
}

// dataFault says what is wrong with a value that encoding/json would take, but
// make something else of than its owner means.
func dataFault(data any) string {
	switch data.(type) {
	case nil:
		return "it is nil; pass a value that encodes to a JSON object"
	case json.RawMessage:
		return ""
	}
	value := reflect.ValueOf(data)
	for value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return fmt.Sprintf("it is a nil pointer (%T), which encodes to null; pass the value that it should point to", data)
		}
		if value.CanInterface() && encodesItself(value.Interface()) {
			return ""
		}
		value = value.Elem()
	}
	if encodesItself(data) || value.CanInterface() && encodesItself(value.Interface()) {
		return ""
	}
	switch kind := value.Kind(); {
	case kind == reflect.Map && value.IsNil():
		return fmt.Sprintf("it is a nil map (%T), which encodes to null; make the map first", data)
	case kind == reflect.String:
		return "a string would be encoded twice; convert JSON text with json.RawMessage(data)"
	case kind == reflect.Slice && value.Type().Elem().Kind() == reflect.Uint8:
		return "bytes would be encoded as Base64; convert JSON text with json.RawMessage(data)"
	}
	return lostText(data, value.Type())
}

func encodesItself(value any) bool {
	switch value.(type) {
	case json.Marshaler, encoding.TextMarshaler:
		return true
	}
	return false
}

// lostText names the types whose text encoding/json leaves out.
func lostText(data any, t reflect.Type) string {
	_, isError := data.(error)
	_, isReader := data.(io.Reader)
	switch {
	case isError:
		return "an error would be encoded without its text; put err.Error() into a field of a struct or map"
	case isReader || reflect.PointerTo(t).Implements(reflect.TypeFor[io.Reader]()):
		return "a reader would be encoded as an object without its text; read it, and pass json.RawMessage(text)"
	case t == reflect.TypeFor[strings.Builder]():
		return "a strings.Builder would be encoded as an object without its text; pass json.RawMessage(b.String())"
	case t.Kind() == reflect.Struct && t.NumField() > 0 && !hasExportedField(t):
		return fmt.Sprintf("all fields of %v are unexported, so it would be encoded as an empty object; export them or give it a MarshalJSON method", t)
	}
	return ""
}

func hasExportedField(t reflect.Type) bool {
	for _, field := range reflect.VisibleFields(t) {
		embedded := field.Anonymous && (field.Type.Kind() == reflect.Struct || field.Type.Kind() == reflect.Pointer)
		if field.IsExported() && (!embedded || encodesItself(reflect.Zero(field.Type).Interface())) {
			return true
		}
	}
	return false
}

func checkRaw(raw json.RawMessage) (string, *ParameterError) {
	switch {
	case len(raw) == 0:
		return "", &ParameterError{Parameter: "data", Reason: "the json.RawMessage is empty; pass a JSON object"}
	case !json.Valid(raw):
		err := json.Unmarshal(raw, new(any)) // says where
		return "", &ParameterError{Parameter: "data", Reason: "the json.RawMessage is not one JSON value" + kindOfCause(err), Err: dataError(err)}
	}
	return string(raw), nil
}

// textWriter takes over what an encoder writes, which is one piece.
type textWriter struct{ text string }

func (w *textWriter) Write(p []byte) (int, error) {
	w.text += string(p)
	return len(p), nil
}

// jsonEncoder is an encoder without HTML escaping, which would make 6 bytes of
// each of <, > and &.
type jsonEncoder struct {
	writer  textWriter
	encoder *json.Encoder
}

var jsonEncoders = sync.Pool{New: func() any {
	e := new(jsonEncoder)
	e.encoder = json.NewEncoder(&e.writer)
	e.encoder.SetEscapeHTML(false)
	return e
}}

func encodeValue(value any) (string, *ParameterError) {
	e := jsonEncoders.Get().(*jsonEncoder)
	if err := e.encoder.Encode(value); err != nil { // and leave the encoder to itself
		return "", &ParameterError{Parameter: "data", Reason: "encoding/json can't encode it" + kindOfCause(err), Err: dataError(err)}
	}
	text := strings.TrimSuffix(e.writer.text, "\n")
	e.writer.text = ""
	jsonEncoders.Put(e)
	return text, nil
}

// dataError keeps an encoder's error, whose text and fields may quote the data,
// for errors.Is alone.
func dataError(err error) error {
	return &foreignError{text: "encoding/json" + kindOfCause(err), err: err}
}

// kindOfCause says what kind of cause stopped the encoder, in words that quote
// nothing of the data.
func kindOfCause(err error) string {
	var (
		marshaler   *json.MarshalerError
		syntax      *json.SyntaxError
		unsupported *json.UnsupportedTypeError
		value       *json.UnsupportedValueError
	)
	switch {
	case errors.As(err, &marshaler):
		return fmt.Sprintf(": a method of %v failed", marshaler.Type)
	case errors.As(err, &syntax):
		return fmt.Sprintf(": syntax error after %d bytes", syntax.Offset)
	case errors.As(err, &unsupported):
		return fmt.Sprintf(": unsupported type %v", unsupported.Type)
	case errors.As(err, &value):
		return ": " + unsupportedValue(value.Value)
	}
	return ""
}

func unsupportedValue(value reflect.Value) string {
	if value.IsValid() && value.CanFloat() {
		switch f := value.Float(); {
		case math.IsNaN(f):
			return "unsupported value NaN"
		case math.IsInf(f, 0):
			return "unsupported value Inf"
		}
	}
	return "unsupported value, such as one that contains itself (a cycle)"
}

const jsonSpace = " \t\r\n"

func isObject(valid string) bool { return strings.HasPrefix(strings.TrimLeft(valid, jsonSpace), "{") }

func kindOf(valid string) string {
	switch strings.TrimLeft(valid, jsonSpace)[0] {
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
