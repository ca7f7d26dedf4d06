package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twiliosync/twiliosync-go"
)

// DeadLetter is a message that was taken out of the log without having been
// published, or without anybody knowing it.
type DeadLetter struct {
	Message
	// Outcome is that of its last attempt; OutcomeUnknown: perhaps it was published.
	Outcome twiliosync.Outcome
	// Reason says why it is here.
	Reason string
	// Time is when it came here.
	Time time.Time
	// Sequence is its place among the dead letters.
	Sequence uint64

	js     jetstream.JetStream
	cfg    Config
	header nats.Header
}

// writeDead writes a dead letter, once for each message of the log.
func (c Config) writeDead(ctx context.Context, js jetstream.JetStream, it *item, s Settled) error {
	ctx, cancel := context.WithTimeout(ctx, memberTTL)
	defer cancel()
	msg := nats.NewMsg(c.deadSubject())
	msg.Data = it.data
	for name, values := range it.header {
		if !strings.HasPrefix(name, "Nats-") {
			msg.Header[name] = values
		}
	}
	for name, value := range map[string]string{
		idHeader: s.ID, serviceHeader: token(s.ServiceSID), streamHeader: token(s.StreamSID),
		outcomeHeader: s.Outcome.String(), reasonHeader: strings.Join(strings.Fields(s.DeadLettered), " "),
	} {
		msg.Header.Set(name, value)
	}
	if s.Redelivered || s.Outcome == twiliosync.OutcomeUnknown {
		msg.Header.Set(redeliveredHeader, "true")
	}
	_, err := js.PublishMsg(ctx, msg, jetstream.WithMsgID(fmt.Sprintf("%s-%d-%d", c.Name, it.seq, it.time.UnixNano())))
	return err
}

// DeadLetters yields those that there are, oldest first. The first error ends
// it.
func DeadLetters(ctx context.Context, js jetstream.JetStream, cfg Config) iter.Seq2[DeadLetter, error] {
	return func(yield func(DeadLetter, error) bool) {
		cfg, err := cfg.withDefaults()
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		stream, err := cfg.deadLetters(ctx, js)
		if err != nil {
			yield(DeadLetter{}, err)
			return
		}
		state := stream.CachedInfo().State
		for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; {
			raw, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(cfg.deadSubject()))
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				return // no more
			}
			if err != nil {
				yield(DeadLetter{}, fmt.Errorf("relay: reading the dead letters: %w", err))
				return
			}
			if !yield(cfg.deadLetter(js, raw), nil) {
				return
			}
			seq = raw.Sequence + 1
		}
	}
}

func (c Config) deadLetters(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, c.dead())
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("relay: there are no dead letters %s; call Setup first: %w", c.dead(), err)
	}
	return stream, err
}

func (c Config) deadLetter(js jetstream.JetStream, raw *jetstream.RawStreamMsg) DeadLetter {
	letter := DeadLetter{
		Message: Message{ID: raw.Header.Get(idHeader), Data: json.RawMessage(raw.Data)},
		Reason:  raw.Header.Get(reasonHeader), Time: raw.Time, Sequence: raw.Sequence,
		js: js, cfg: c, header: raw.Header,
	}
	letter.ServiceSID, letter.StreamSID, _ = identifiers(raw.Header.Get(serviceHeader) + "." + raw.Header.Get(streamHeader))
	_ = letter.Outcome.UnmarshalText([]byte(raw.Header.Get(outcomeHeader))) // else unknown
	return letter
}

// Requeue writes the message back into the log under its ID, behind the others
// of its stream, and then deletes the dead letter. It may have been changed: the
// rules are those of Publish. The log takes it also if it knows the ID still. If
// it may have been published, it is marked as redelivered.
func (d DeadLetter) Requeue(ctx context.Context) error {
	if d.js == nil {
		return errors.New("relay: this DeadLetter is none of DeadLetters")
	}
	msg, err := NewPublisher(d.js, d.cfg).message(ctx, d.Message) // with its rules: somebody may have repaired it
	if err != nil {
		return err
	}
	for name, values := range d.header {
		if own := msg.Header[name]; own == nil && !strings.HasPrefix(name, "Nats-") {
			msg.Header[name] = values
		}
	}
	for _, name := range []string{serviceHeader, streamHeader, outcomeHeader, reasonHeader} {
		delete(msg.Header, name)
	}
	// Not under the ID alone, which the log may still know: it would be taken for a copy, and lost.
	if err := d.cfg.write(ctx, d.js, msg, fmt.Sprintf("%s requeued %d", d.ID, d.Sequence)); err != nil {
		return err
	}
	return d.Delete(ctx)
}

// Delete deletes the dead letter.
func (d DeadLetter) Delete(ctx context.Context) error {
	if d.js == nil {
		return errors.New("relay: this DeadLetter is none of DeadLetters")
	}
	stream, err := d.cfg.deadLetters(ctx, d.js)
	if err != nil {
		return err
	}
	if err := stream.DeleteMsg(ctx, d.Sequence); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("relay: deleting the dead letter %d: %w", d.Sequence, err)
	}
	return nil
}
