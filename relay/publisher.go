package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/twiliosync/twiliosync-go"
)

const (
	writeTries = 3
	writeWait  = 2 * time.Second // for the confirmation
)

// Publisher writes messages to the log. It is safe for concurrent use.
type Publisher struct {
	js      jetstream.JetStream
	cfg     Config
	refusal error // why nothing can be published
	checker *twiliosync.Client
}

// NewPublisher returns a Publisher for the log of cfg. What is wrong with cfg
// is the error of each Publish.
func NewPublisher(js jetstream.JetStream, cfg Config) *Publisher {
	p := &Publisher{js: js}
	p.cfg, p.refusal = cfg.withDefaults()
	if js == nil {
		p.refusal = errors.New("relay: the JetStream is nil; pass one of jetstream.New")
	}
	if p.refusal == nil {
		p.checker, p.refusal = twiliosync.NewClient(checking{})
	}
	return p
}

// Publish writes a message to the log. Nil: the log has it, now or since an
// earlier Publish of the same ID within two minutes. Else the error says why,
// and the message can be published again under its ID. What twiliosync's Create
// would refuse is refused here, with the same [*twiliosync.Error], and never
// enters the log.
//
// The trace of ctx travels with the message, by OpenTelemetry's global
// propagator.
func (p *Publisher) Publish(ctx context.Context, m Message) error {
	if p == nil || p.refusal == nil && p.js == nil {
		return errors.New("relay: this Publisher is nil or a zero value; make one with NewPublisher")
	}
	if p.refusal != nil {
		return p.refusal
	}
	if ctx == nil {
		return errors.New("relay: the context is nil; pass context.Background() if there is none")
	}
	msg, err := p.message(ctx, m)
	if err != nil {
		return err
	}
	otel.GetTextMapPropagator().Inject(ctx, propagation.HeaderCarrier(msg.Header))
	return p.cfg.write(ctx, p.js, msg, m.ID)
}

// message makes that of the log.
func (p *Publisher) message(ctx context.Context, m Message) (*nats.Msg, error) {
	if err := checkID(m.ID); err != nil {
		return nil, err
	}
	text, err := p.check(ctx, m)
	if err != nil {
		return nil, err
	}
	msg := nats.NewMsg(p.cfg.incoming() + token(m.ServiceSID) + "." + token(m.StreamSID))
	if len(msg.Subject) > maxSubject {
		return nil, &twiliosync.ParameterError{Parameter: "StreamSID", Reason: "it is too long for the log together with ServiceSID; use the SIDs"}
	}
	msg.Data = []byte(text)
	msg.Header.Set(idHeader, m.ID)
	return msg, nil
}

// write puts a message into the log, once for each key. So it may try again
// where no confirmation came, as when a server is restarted.
func (c Config) write(ctx context.Context, js jetstream.JetStream, msg *nats.Msg, key string) error {
	var err error
	for n := range writeTries {
		if n > 0 { // a restarted server may have published the first and forgotten its ID
			msg.Header.Set(redeliveredHeader, "true")
		}
		try, cancel := context.WithTimeout(ctx, writeWait)
		_, err = js.PublishMsg(try, msg, jetstream.WithMsgID(key))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			break
		}
	}
	var refused *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("relay: nobody keeps what is published to %s; call Setup first, or wait until the NATS server is back: %w", msg.Subject, err)
	case errors.As(err, &refused) && refused.ErrorCode == 10077: // maximum bytes exceeded
		return fmt.Errorf("relay: the log %s is full (MaxBytes); let workers run, or raise it by Setup: %w", c.Name, err)
	}
	return fmt.Errorf("relay: the log %s did not confirm the message; publish it again under its ID: %w", c.Name, explained(js, err))
}

// check returns the JSON that the SDK makes of a message, by its own rules.
func (p *Publisher) check(ctx context.Context, m Message) (string, error) {
	var text string
	ctx = context.WithValue(ctx, dataKey{}, &text)
	if _, _, err := p.checker.StreamMessages.Create(ctx, m.ServiceSID, m.StreamSID, m.Data); !errors.Is(err, errChecked) {
		return "", err
	}
	if !json.Valid([]byte(text)) {
		return "", errors.New("relay: the data did not come back from its check")
	}
	return text, nil
}
