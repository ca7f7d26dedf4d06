package twiliosync

import (
	"encoding/json"
	"time"
)

// StreamMessageRequest is one message of [StreamMessageService.CreateAll] or a
// [Publisher].
type StreamMessageRequest struct {
	// StreamSID is the SID or unique name of the stream.
	StreamSID string
	// Data is the message: whatever Create takes.
	Data any
	// NotAfter is the time after which no attempt starts, and none that waits for a connection is written: the message
	// then ends with ErrExpired, as soon as that is certain, with OutcomeNotSent or what the attempts before have proven.
	// (A transport of WithHTTPClient or WithTransportWrapper goes on with an attempt that has started.) Zero: no limit.
	NotAfter time.Time
	// Tag is the caller's own and comes back in the result. It is never sent or printed.
	Tag any
}

// MarshalJSON leaves out Data and Tag.
func (r StreamMessageRequest) MarshalJSON() ([]byte, error) {
	fields := struct {
		StreamSID string     `json:"stream_sid"`
		NotAfter  *time.Time `json:"not_after,omitempty"`
	}{StreamSID: r.StreamSID}
	if !r.NotAfter.IsZero() {
		fields.NotAfter = &r.NotAfter
	}
	return json.Marshal(fields)
}

// StreamMessageResult is what became of one request of
// [StreamMessageService.CreateAll] or a [Publisher]; Message, Response and Err
// are what Create returns.
type StreamMessageResult struct {
	// Index is the position of the request in the input, from 0. It is -1 in the only result of a call that can't begin,
	// and in one after all others if the input ended before its time.
	Index int
	// Request is the request as it was pulled.
	Request StreamMessageRequest
	// Message is the accepted message, nil if there is an error.
	Message *SyncV1ServiceSyncStreamStreamMessage
	// Response is nil if no answer arrived.
	Response *Response
	// Err is an *Error; nil if the message was accepted.
	Err error
}

// MarshalJSON writes index, stream, SID, response and error; never the data.
func (r StreamMessageResult) MarshalJSON() ([]byte, error) {
	fields := struct {
		Index      int                  `json:"index"`
		Request    StreamMessageRequest `json:"request"`
		MessageSID string               `json:"message_sid,omitempty"`
		Response   *Response            `json:"response,omitempty"`
		Error      *Error               `json:"error,omitempty"`
	}{Index: r.Index, Request: r.Request, Response: r.Response, Error: asError(r.Err)}
	if r.Message != nil {
		fields.MessageSID = r.Message.SID
	}
	return json.Marshal(fields)
}
