package twiliosync

import (
	"encoding/json"
	"errors"
	"time"
)

// SyncV1ServiceSyncStreamStreamMessage is a Stream Message as Sync answers it:
// the schema sync.v1.service.sync_stream.stream_message of Twilio's OpenAPI
// description.
//
// Source: https://www.twilio.com/docs/sync/api/stream-message-resource
type SyncV1ServiceSyncStreamStreamMessage struct {
	// SID identifies the message: "TZ" and 32 hexadecimal digits. Empty if the answer has null.
	SID string `json:"sid"`
	// Data is the published JSON as Sync echoed it. Nil if the answer has null; see DecodeData.
	Data json.RawMessage `json:"data"`
}

// StreamMessage is the short name of [SyncV1ServiceSyncStreamStreamMessage].
type StreamMessage = SyncV1ServiceSyncStreamStreamMessage

// UnmarshalJSON reads the answer of the API. Both fields are nullable there: a
// null SID becomes "", null data becomes nil. Unknown fields are ignored.
func (m *SyncV1ServiceSyncStreamStreamMessage) UnmarshalJSON(b []byte) error {
	type fields SyncV1ServiceSyncStreamStreamMessage // without this method
	*m = SyncV1ServiceSyncStreamStreamMessage{}
	if err := json.Unmarshal(b, (*fields)(m)); err != nil {
		return err
	}
	if string(m.Data) == "null" {
		m.Data = nil
	}
	return nil
}

// DecodeData stores the published JSON in the value that v points to, by the
// rules of [json.Unmarshal]. It returns an error if there is no data or if it
// does not fit v. Numbers decoded into an interface become float64; decode the
// Data field yourself where that loses digits.
func (m *SyncV1ServiceSyncStreamStreamMessage) DecodeData(v any) error {
	if m == nil || len(m.Data) == 0 {
		return errors.New("twiliosync: the message has no data to decode")
	}
	return json.Unmarshal(m.Data, v)
}

// SyncV1ServiceSyncStream is a Message Stream: the schema
// sync.v1.service.sync_stream of Twilio's OpenAPI description. Every field is
// nullable there; null is the zero value here.
//
// Source: https://www.twilio.com/docs/sync/api/stream-resource
type SyncV1ServiceSyncStream struct {
	// SID identifies the stream: "TO" and 32 hexadecimal digits.
	SID string `json:"sid"`
	// UniqueName is its name, by which it can be addressed too.
	UniqueName string `json:"unique_name"`
	// AccountSID is the account that it belongs to: "AC" and 32 hexadecimal digits.
	AccountSID string `json:"account_sid"`
	// ServiceSID is the Sync service that it belongs to: "IS" and 32 hexadecimal digits.
	ServiceSID string `json:"service_sid"`
	// URL is its absolute address.
	URL string `json:"url"`
	// Links has the address of its messages under "messages".
	Links map[string]string `json:"links"`
	// DateExpires is when it expires, some time after which it is deleted. Zero: never.
	DateExpires time.Time `json:"date_expires"`
	// DateCreated is when it was made.
	DateCreated time.Time `json:"date_created"`
	// DateUpdated is when it was last changed.
	DateUpdated time.Time `json:"date_updated"`
	// CreatedBy is the identity of its maker; "system" if that was the REST API.
	CreatedBy string `json:"created_by"`
}

// Stream is the short name of [SyncV1ServiceSyncStream].
type Stream = SyncV1ServiceSyncStream
