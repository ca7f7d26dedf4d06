// Package watermill publishes messages of Watermill to Twilio Sync Message
// Streams: from Kafka, Redis, an outbox in SQL, or whatever else
// github.com/ThreeDotsLabs/watermill speaks.
//
// The topic is the stream, and the payload the JSON object. [AckByOutcome]
// lets the outcome of a message decide whether it is acknowledged.
package watermill

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/twiliosync/twiliosync-go"
)

// Config says where messages go.
type Config struct {
	// ServiceSID is the SID ("IS…") or unique name of the Sync service. Default "default".
	ServiceSID string
	// Call are options for each message, as in twiliosync's Create.
	Call []twiliosync.CallOption
}

// NewPublisher returns a publisher whose topics are streams. Publish publishes
// its messages one after the other, each within its own context, and returns
// the [*twiliosync.Error] of the first that fails: those before it are
// published, those after it are not, so one at a time is best. Close lets
// nothing more through, and leaves the client as it is.
func NewPublisher(client *twiliosync.Client, cfg Config) (message.Publisher, error) {
	if client == nil || client.StreamMessages == nil {
		return nil, errors.New("watermill: the client is nil; pass one of twiliosync.NewClient")
	}
	if cfg.ServiceSID == "" {
		cfg.ServiceSID = "default"
	}
	return &publisher{client: client, cfg: cfg}, nil
}

type publisher struct {
	client *twiliosync.Client
	cfg    Config
	closed atomic.Bool
}

func (p *publisher) Publish(topic string, messages ...*message.Message) error {
	for _, m := range messages {
		if p.closed.Load() {
			return errors.New("watermill: this publisher was closed")
		}
		if _, _, err := p.client.StreamMessages.Create(m.Context(), p.cfg.ServiceSID, topic, json.RawMessage(m.Payload), p.cfg.Call...); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) Close() error {
	p.closed.Store(true)
	return nil
}

// UnknownPolicy says what becomes of a message whose outcome is unknown.
type UnknownPolicy int

const (
	// Redeliver lets it come again, and perhaps be published twice, unmarked: at-least-once.
	Redeliver UnknownPolicy = iota
	// Drop moves it to the poison queue: at-most-once.
	Drop
)

// AckByOutcome is a middleware for handlers that publish to Sync themselves and
// return the error; what a router publishes for a handler, it does not see. An accepted message is acknowledged, also if its answer could not be
// read; one that may succeed later, and any error that is not the SDK's, comes
// again; a final refusal goes to the topic of the poison publisher, with the
// reason in its metadata; unknown says what happens to an unknown outcome.
//
// Watermill lets messages of a consumer come again at once: add its Retry or
// Throttle middleware, or a delay of the subscriber, against a busy loop.
func AckByOutcome(poison message.Publisher, topic string, unknown UnknownPolicy) (message.HandlerMiddleware, error) {
	if poison == nil || topic == "" {
		return nil, errors.New("watermill: the poison queue has no publisher or no topic; pass both")
	}
	if unknown != Redeliver && unknown != Drop {
		return nil, errors.New("watermill: there is no such UnknownPolicy; use Redeliver or Drop")
	}
	toPoison, err := middleware.PoisonQueueWithFilter(poison, topic, func(err error) bool { return isFinal(err, unknown) })
	if err != nil {
		return nil, fmt.Errorf("watermill: %w", err)
	}
	return func(h message.HandlerFunc) message.HandlerFunc {
		return toPoison(func(m *message.Message) ([]*message.Message, error) {
			produced, err := h(m)
			if outcome, ours := outcomeOf(err); ours && outcome == twiliosync.OutcomeAccepted {
				err = nil
			}
			return produced, err
		})
	}, nil
}

func isFinal(err error, unknown UnknownPolicy) bool {
	outcome, ours := outcomeOf(err)
	switch {
	case !ours:
		return false
	case outcome == twiliosync.OutcomeUnknown:
		return unknown == Drop
	}
	return !twiliosync.Retryable(err)
}

// outcomeOf also tells whether the error is one of the SDK.
func outcomeOf(err error) (outcome twiliosync.Outcome, ours bool) {
	var e *twiliosync.Error
	if !errors.As(err, &e) {
		return twiliosync.OutcomeUnknown, false
	}
	return e.Outcome, true
}
