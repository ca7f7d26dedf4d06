package twiliosync_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

func TestMessageFromJSON(t *testing.T) {
	for _, test := range []struct {
		name, body string
		want       twiliosync.StreamMessage
	}{
		{"both fields", `{"sid":"TZ1","data":{"a":1}}`, twiliosync.StreamMessage{SID: "TZ1", Data: json.RawMessage(`{"a":1}`)}},
		{"null in both", `{"sid":null,"data":null}`, twiliosync.StreamMessage{}},
		{"neither", `{}`, twiliosync.StreamMessage{}},
		{"a field that is new", `{"sid":"TZ1","data":{},"date_created":"x"}`, twiliosync.StreamMessage{SID: "TZ1", Data: json.RawMessage(`{}`)}},
		{"data keeps its bytes", `{"sid":"TZ1","data":{ "n": 1.50 }}`, twiliosync.StreamMessage{SID: "TZ1", Data: json.RawMessage(`{ "n": 1.50 }`)}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := twiliosync.SyncV1ServiceSyncStreamStreamMessage{SID: "old", Data: json.RawMessage("old")}
			require.NoError(t, json.Unmarshal([]byte(test.body), &got))
			assert.Equal(t, test.want, got)
		})
	}
}

func TestMessageSurvivesARoundTrip(t *testing.T) {
	for _, message := range []twiliosync.StreamMessage{{SID: "TZ1", Data: json.RawMessage(`{"a":1}`)}, {SID: "TZ1"}} {
		text, err := json.Marshal(message)
		require.NoError(t, err)
		var got twiliosync.StreamMessage
		require.NoError(t, json.Unmarshal(text, &got))
		assert.Equal(t, message, got)
	}
}

func TestDecodeData(t *testing.T) {
	var into struct{ A int }
	message := &twiliosync.StreamMessage{SID: "TZ1", Data: json.RawMessage(`{"a":7}`)}
	require.NoError(t, message.DecodeData(&into))
	assert.Equal(t, 7, into.A)
	assert.Error(t, message.DecodeData(new([]int)), "data that doesn't fit")
	assert.Error(t, message.DecodeData(nil))
	assert.ErrorContains(t, (&twiliosync.StreamMessage{}).DecodeData(&into), "no data")
	assert.ErrorContains(t, (*twiliosync.StreamMessage)(nil).DecodeData(&into), "no data")
}

func TestAnswersThatAreAccepted(t *testing.T) {
	for _, test := range []struct {
		name    string
		status  int
		body    string
		problem string
	}{
		{"201", 201, testAnswer, ""},
		{"201 with null data", 201, `{"sid":"TZ1","data":null}`, ""},
		{"200 with a SID", 200, testAnswer, ""},
		{"201 without body", 201, "", "the answer is empty"},
		{"201 with HTML", 201, "<html>", "not JSON"},
		{"201 with an array", 201, "[]", "not that of a message"},
		{"201 with something behind the message", 201, testAnswer + "x", "not JSON"},
		{"201 with a SID that is a number", 201, `{"sid":7}`, "not that of a message"},
		{"201 with a null SID", 201, `{"sid":null,"data":{}}`, "no sid"},
		{"201 without SID", 201, `{}`, "no sid"},
		{"201 longer than 64 KiB", 201, `{"sid":"TZ1","data":{"a":"` + strings.Repeat("x", 64<<10) + `"}}`, "longer than 65536 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			client, server := setup(t)
			server.answer = answer(test.status, test.body)
			message, response, err := publish(client)
			assert.Equal(t, twiliosync.OutcomeAccepted, twiliosync.OutcomeOf(err))
			assert.False(t, twiliosync.Retryable(err))
			assert.Equal(t, test.status, response.StatusCode)
			assert.Len(t, server.all(), 1)
			if test.problem == "" {
				require.NoError(t, err)
				assert.NotEmpty(t, message.SID)
				return
			}
			assert.Nil(t, message)
			assert.ErrorContains(t, err, test.problem)
			assert.ErrorContains(t, err, "do not send it again")
		})
	}
}

func TestResponse(t *testing.T) {
	client, server := setup(t)
	server.answer = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Twilio-Request-Id", "RQ1")
		w.Header().Set("Twilio-Concurrent-Requests", "3")
		answer(201, testAnswer)(w, r)
	}
	_, response, err := publish(client)
	require.NoError(t, err)
	assert.Equal(t, "RQ1", response.RequestID)
	assert.Equal(t, "3", response.Header.Get("Twilio-Concurrent-Requests"))
	assert.Equal(t, [2]int{1, 1}, [2]int{response.Attempts, response.Sends})
	rest, err := io.ReadAll(response.Body)
	assert.NoError(t, err, "reading a body that was read already is harmless")
	assert.Empty(t, rest)
	assert.Equal(t, "/prefix/v1/Services/default/Streams/orders/Messages", response.Request.URL.Path)
}
