package twiliosync

import (
	"context"
	"encoding/json"
	"errors"
)

// StreamMessageService publishes Stream Messages. It is the StreamMessages
// field of a [Client], and safe for concurrent use.
//
// Source: https://www.twilio.com/docs/sync/api/stream-message-resource
type StreamMessageService struct {
	sender *sender
}

// Create publishes data to a Message Stream.
//
// serviceSID is the SID ("IS…") or unique name of the Sync service, such as
// "default"; streamSID the SID ("TO…") or unique name of an existing stream:
// publishing does not create one. Each is one percent-encoded segment of the
// path, whatever is in it; whether Sync takes a slash in a name is not
// documented. Empty ones, dot segments, outer space, invisible characters at
// the ends, control characters and more than 320 characters are refused.
//
// data must be a JSON object of at most 4096 bytes, given as a struct, a map,
// or any other value that encoding/json makes an object of (without HTML
// escaping), or as a [json.RawMessage], which is sent byte for byte. Values
// whose text encoding/json would encode twice or lose (strings, byte slices,
// readers, builders, errors) are refused; convert JSON text to json.RawMessage.
//
// opts change settings for this call alone.
//
// Every failure is an [*Error], whose Outcome says whether the message was
// published; the package comment says what is sent again. A refused argument
// is a [*ParameterError] in it, and nothing is sent. With errors.Is, a missing
// service or stream is [ErrNotFound], wrong credentials are [ErrUnauthorized]
// or [ErrForbidden], and Twilio's limits are [ErrRateLimited] and
// [ErrTooLarge]. The [Response] is nil if no answer arrived.
//
// Operation: POST /v1/Services/{ServiceSid}/Streams/{StreamSid}/Messages
// Source: https://www.twilio.com/docs/sync/api/stream-message-resource#create-a-stream-message-resource
func (s *StreamMessageService) Create(ctx context.Context, serviceSID, streamSID string, data any, opts ...CallOption) (*SyncV1ServiceSyncStreamStreamMessage, *Response, error) {
	sender := s.shared()
	op := createStreamMessage(serviceSID, streamSID, data, sender.dataLimit())
	response, failure := sender.send(ctx, &op.operation, opts)
	if failure != nil {
		return nil, response, failure
	}
	return &op.message, response, nil
}

// shared is nil for the service of a nil or zero Client, which refuses every call.
func (s *StreamMessageService) shared() *sender {
	if s == nil {
		return nil
	}
	return s.sender
}

// messageCreation is the operation CreateStreamMessage with its result, which
// is nowhere else.
type messageCreation struct {
	operation
	params  createStreamMessageForm
	message SyncV1ServiceSyncStreamStreamMessage
}

// createStreamMessage checks the arguments and makes the operation of them.
func createStreamMessage(serviceSID, streamSID string, data any, maxDataSize int) *messageCreation {
	op := &messageCreation{operation: operation{
		id: "CreateStreamMessage", serviceSID: serviceSID, streamSID: streamSID,
		method: "POST", private: true, paced: true, proof: 201,
	}}
	op.answer, op.messageSID = op, &op.message.SID
	if op.refusal = checkIdentifiers(serviceSID, "streamSID", streamSID); op.refusal != nil {
		return op
	}
	text, refusal := encodeData(data, maxDataSize)
	if op.refusal = refusal; refusal != nil {
		return op
	}
	op.dataSize = len(text)
	op.to("Services", serviceSID, "Streams", streamSID, "Messages")
	op.params.Data = rawValue(text)
	op.refusal = op.setForm(&op.params)
	return op
}

type createStreamMessageForm struct {
	Data rawValue `url:"Data"`
}

// decode reads the created message. An answer without a SID proves nothing.
func (op *messageCreation) decode(body []byte) error {
	op.message = SyncV1ServiceSyncStreamStreamMessage{}
	type fields SyncV1ServiceSyncStreamStreamMessage // without its method, which would look at each byte again
	switch err := json.Unmarshal(body, (*fields)(&op.message)); {
	case err != nil:
		return undecodable(body, "a message")
	case op.message.SID == "":
		return errors.New("the answer has no sid")
	}
	if string(op.message.Data) == "null" {
		op.message.Data = nil
	}
	return nil
}
