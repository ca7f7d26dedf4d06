package emulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// The browser SDKs speak a protocol of their own inside the binary messages of a websocket. A message is one frame:
//
//	TWILSOCK V3.0 <bytes of the header>\r\n<header, JSON>\r\n<payload>
const (
	framePrefix = "TWILSOCK V3.0 "
	crlf        = "\r\n"

	maxFrame        = 1 << 20 // bytes, header and payload; as for a body on REST
	maxFrameHeader  = 1 << 16 // bytes; an init carries a token of some kilobytes
	maxLengthDigits = 7       // of the header's length
)

// frame is one message of the protocol.
type frame struct {
	header  frameHeader
	payload []byte
}

// frameHeader is the part of a header that is the same in all frames, and what some of them add.
type frameHeader struct {
	Method      string `json:"method"`
	ID          string `json:"id"`
	PayloadSize int    `json:"payload_size"`
	PayloadType string `json:"payload_type,omitempty"`

	// From the client.
	Token       string       `json:"token,omitempty"`        // init, update
	Metadata    *metadata    `json:"metadata,omitempty"`     // init
	HTTPRequest *httpRequest `json:"http_request,omitempty"` // message

	// To the client.
	Status            *frameStatus    `json:"status,omitempty"`      // reply, close
	HTTPStatus        *frameStatus    `json:"http_status,omitempty"` // reply to a message
	HTTPHeaders       *struct{}       `json:"http_headers,omitempty"`
	MessageType       string          `json:"message_type,omitempty"` // notification
	ContinuationToken string          `json:"continuation_token,omitempty"`
	TokenStatus       json.RawMessage `json:"continuation_token_status,omitempty"`
	Capabilities      json.RawMessage `json:"capabilities,omitempty"` // the client's are of another form, and not needed
	OfflineStorage    json.RawMessage `json:"offline_storage,omitempty"`
}

// metadata is how a client introduces itself.
type metadata struct {
	SDK         string `json:"sdk"`
	SDKVersion  string `json:"sdkv"`
	Environment string `json:"env"`
}

// httpRequest is a request that a client sends through the socket.
type httpRequest struct {
	Method string `json:"method"`
	Host   string `json:"host"`
	Path   string `json:"path"`
}

type frameStatus struct {
	Code        int    `json:"code"`
	Status      string `json:"status"`
	Description string `json:"description,omitempty"`
}

// parseFrame reads one message of a websocket.
func parseFrame(message []byte) (frame, error) {
	rest, ok := bytes.CutPrefix(message, []byte(framePrefix))
	if !ok {
		return frame{}, fmt.Errorf("a frame begins with %q", framePrefix)
	}
	length, rest, ok := bytes.Cut(rest, []byte(crlf))
	if !ok || len(length) == 0 || len(length) > maxLengthDigits {
		return frame{}, errors.New("the length of the header is a number of at most 7 digits and ends with CRLF")
	}
	size, err := strconv.ParseUint(string(length), 10, 32)
	if err != nil {
		return frame{}, errors.New("the length of the header is not a number")
	}
	if size > maxFrameHeader {
		return frame{}, fmt.Errorf("a header of %d bytes is larger than %d", size, maxFrameHeader)
	}
	if uint64(len(rest)) < size+uint64(len(crlf)) {
		return frame{}, fmt.Errorf("the frame ends within its header of %d bytes", size)
	}
	header, payload := rest[:size], rest[size:]
	payload, ok = bytes.CutPrefix(payload, []byte(crlf))
	if !ok {
		return frame{}, fmt.Errorf("no CRLF after a header of %d bytes", size)
	}
	f := frame{payload: payload}
	if err := json.Unmarshal(header, &f.header); err != nil {
		return frame{}, errors.New("the header is not a JSON object of the protocol's fields")
	}
	if f.header.PayloadSize != len(payload) {
		return frame{}, fmt.Errorf("payload_size is %d, the payload has %d bytes", f.header.PayloadSize, len(payload))
	}
	return f, nil
}

// bytes returns the frame as a message of a websocket.
func (f frame) bytes() []byte {
	f.header.PayloadSize = len(f.payload)
	if len(f.payload) > 0 {
		f.header.PayloadType = "application/json"
	}
	header, _ := json.Marshal(f.header) // of strings, numbers and our own JSON: never fails
	message := make([]byte, 0, len(framePrefix)+maxLengthDigits+2*len(crlf)+len(header)+len(f.payload))
	message = append(message, framePrefix...)
	message = strconv.AppendInt(message, int64(len(header)), 10)
	message = append(message, crlf...)
	message = append(message, header...)
	message = append(message, crlf...)
	return append(message, f.payload...)
}
