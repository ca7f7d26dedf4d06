package relay

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/twiliosync/twiliosync-go"
)

const (
	baseDelay = 200 * time.Millisecond
	maxDelay  = 20 * time.Second

	// missingLimit is how often in a row the log says that it has not got a message before that is believed.
	missingLimit = 15

	// hopelessTries is after how many attempts with answers that are not Sync's a message becomes a dead letter.
	hopelessTries = 10
)

// delivery is the way of one message to its end.
type delivery struct {
	*partition
	item *item
	Settled
	ctx   context.Context // with the trace that travelled with the message
	tries int             // attempts
	sends int
	sid   string
}

// settle publishes a message, or makes it a dead letter, and acknowledges it.
// It returns false if it may not or need not be gone on with here.
func (p *partition) settle(l *lane, it *item) bool {
	reply, deliveries := p.lookAt(it)
	if p.wasSettled(it.place()) { // and the server didn't hear of it
		return p.confirm(reply, "+ACK")
	}
	if it.data == nil && !p.load(l, it) {
		return false
	}
	d := &delivery{partition: p, item: it}
	d.ID, d.Redelivered = idOf(it.header), deliveries > 1 || it.header.Get(redeliveredHeader) != "" || p.wasStarted(it.place())
	d.Outcome = twiliosync.OutcomeNotSent
	d.ctx = otel.GetTextMapPropagator().Extract(p.ctx, propagation.HeaderCarrier(http.Header(it.header)))
	var err error
	if d.ServiceSID, d.StreamSID, err = identifiers(it.subject); err != nil {
		return d.bury(err.Error())
	}
	if d.ID == "" {
		return d.bury("it has no ID; set the header " + jetstream.MsgIDHeader)
	}
	if p.opts.Tracer != nil {
		d.ctx = p.opts.Tracer.TraceCallStart(d.ctx, twiliosync.CallStart{Operation: "CreateStreamMessage", ServiceSID: d.ServiceSID, StreamSID: d.StreamSID, Index: -1, DataSize: len(it.data)})
		defer func() {
			p.opts.Tracer.TraceCallEnd(d.ctx, twiliosync.CallEnd{Outcome: d.Outcome, Attempts: d.tries, Sends: d.sends, MessageSID: d.sid, Err: d.Err})
		}()
	}
	return d.publish()
}

// load fetches the data of a message that was held without.
func (p *partition) load(l *lane, it *item) bool {
	if p.maxAge > 0 && time.Since(it.time) > p.maxAge {
		p.forget(l, it) // the log has let it go
		return false
	}
	ctx, cancel := context.WithTimeout(p.ctx, memberTTL)
	defer cancel()
	raw, err := p.log.GetMsg(ctx, it.seq)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound): // the server is going down, which says so too; or somebody has deleted it
		if it.missing++; it.missing > missingLimit {
			p.forget(l, it) // not acknowledged: if it is there after all, it comes again
		}
		p.pause(pullWait)
		return false
	case err != nil:
		it.missing = 0
		p.pause(pullWait / 4)
		return false
	case raw.Subject != it.subject || !raw.Time.Equal(it.time): // the log was made anew
		p.forget(l, it)
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	it.header, it.data = raw.Header, raw.Data
	if p.held[it.seq] == it {
		p.loaded++
	}
	return true
}

// publish tries until there is a final outcome. While others may have the
// message, or the log can't be reached, it stands still.
func (d *delivery) publish() bool {
	for d.isOpen() {
		if d.opts.DropAfter > 0 && time.Since(d.item.time) > d.opts.DropAfter {
			return d.bury("it is older than DropAfter")
		}
		until, ok := d.mayStart()
		if !ok {
			d.pause(pullWait / 8)
			continue
		}
		text, err := withFields(d.item.data, field{name: d.opts.IDField, value: d.ID}, d.mark())
		if err != nil {
			return d.bury(err.Error())
		}
		result, ok := d.attempt(text, until)
		if !ok {
			return false // ctx had ended before
		}
		d.note(result)
		settled, final := d.decide(result)
		if final {
			return settled
		}
	}
	return false
}

// note keeps what an attempt has brought.
func (d *delivery) note(result twiliosync.StreamMessageResult) {
	var failure *twiliosync.Error
	if errors.As(result.Err, &failure) {
		d.tries, d.sends = d.tries+failure.Attempts, d.sends+failure.Sends
	} else if result.Response != nil {
		d.tries, d.sends = d.tries+result.Response.Attempts, d.sends+result.Response.Sends
	}
	if result.Message != nil {
		d.sid = result.Message.SID
	}
	d.Outcome, d.Err = twiliosync.OutcomeOf(result.Err), result.Err
	if !d.Redelivered && (d.Outcome == twiliosync.OutcomeNotSent || d.Outcome == twiliosync.OutcomeRejected) {
		d.notStarted(d.item.place()) // that is proven
	}
}

// decide does what the outcome asks for. If it isn't final, it has waited.
func (d *delivery) decide(result twiliosync.StreamMessageResult) (settled, final bool) {
	var failure *twiliosync.Error
	if !errors.As(result.Err, &failure) {
		failure = &twiliosync.Error{}
	}
	switch {
	case d.Outcome == twiliosync.OutcomeAccepted:
		return d.acknowledge("+ACK"), true
	case d.Outcome == twiliosync.OutcomeUnknown && (d.opts.Unknown == Drop || isHopeless(failure, d.tries)):
		return d.bury("unknown"), true
	case d.Outcome == twiliosync.OutcomeUnknown:
		d.Redelivered = true
	case errors.Is(result.Err, twiliosync.ErrExpired): // for now: the beat has to be renewed before its turn
		d.wait(max(failure.RetryAfter, time.Millisecond), 0)
		return false, false
	case d.ctx.Err() != nil:
		return false, true
	case isTheWorkers(result.Err):
		d.opts.Logger.ErrorContext(d.ctx, "relay: this worker can't publish; its messages wait", "error", result.Err)
	case !twiliosync.Retryable(result.Err):
		return d.bury(result.Err.Error()), true
	}
	d.wait(failure.RetryAfter, max(1, d.tries))
	return false, false
}

// isHopeless tells an answer that somebody between here and Sync gives to this
// message again and again, such as a firewall's page.
func isHopeless(failure *twiliosync.Error, tries int) bool {
	return tries >= hopelessTries && failure.StatusCode > 0 && failure.StatusCode < 500
}

// isTheWorkers tells a failure that no message is to blame for: refused
// credentials, a certificate, an Authenticator that fails.
func isTheWorkers(err error) bool {
	var parameter *twiliosync.ParameterError
	return errors.Is(err, twiliosync.ErrUnauthorized) && twiliosync.OutcomeOf(err) == twiliosync.OutcomeRejected ||
		twiliosync.OutcomeOf(err) == twiliosync.OutcomeNotSent && !twiliosync.Retryable(err) && !errors.As(err, &parameter)
}

func (d *delivery) mark() field {
	if !d.Redelivered {
		return field{}
	}
	return field{d.opts.RedeliveredField, true, true}
}

// attempt makes one paced attempt, which may not start after until.
func (d *delivery) attempt(text []byte, until time.Time) (result twiliosync.StreamMessageResult, ok bool) {
	select {
	case d.places <- struct{}{}:
		defer func() { <-d.places }()
	case <-d.ctx.Done():
		return result, false
	}
	d.noteStarted(d.item.place())
	request := twiliosync.StreamMessageRequest{StreamSID: d.StreamSID, Data: json.RawMessage(text), NotAfter: until}
	for result = range d.client.StreamMessages.CreateAll(d.ctx, d.ServiceSID, one(request), &twiliosync.CreateAllOptions{
		DrainTimeout: d.opts.DrainTimeout, Concurrency: 1,
		Call: []twiliosync.CallOption{twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1})},
	}) {
		ok = true
	}
	return result, ok
}

func one(request twiliosync.StreamMessageRequest) iter.Seq[twiliosync.StreamMessageRequest] {
	return func(yield func(twiliosync.StreamMessageRequest) bool) { yield(request) }
}

// wait waits at least as long as the answer asked for, or else with full
// jitter, doubling from attempt to attempt.
func (d *delivery) wait(atLeast time.Duration, tries int) {
	delay := atLeast
	if delay == 0 && tries > 0 {
		delay = rand.N(min(maxDelay, baseDelay<<min(tries-1, 10)))
	}
	d.pause(delay)
}

// bury makes a message a dead letter, and only then takes it out of the log.
func (d *delivery) bury(reason string) bool {
	d.DeadLettered = reason
	if d.Redelivered { // what this attempt proves says nothing of those before
		d.Outcome = twiliosync.OutcomeUnknown
	}
	for {
		err := d.opts.writeDead(context.WithoutCancel(d.ctx), d.js, d.item, d.Settled)
		if err == nil {
			return d.acknowledge("+TERM " + "dead-lettered")
		}
		d.opts.Logger.WarnContext(d.ctx, "relay: a dead letter was not confirmed", "id", d.ID, "error", err)
		if d.ctx.Err() != nil {
			return false
		}
		d.pause(baseDelay)
	}
}

func (d *delivery) acknowledge(word string) bool {
	d.noteSettled(d.item.place())
	reply, _ := d.lookAt(d.item)
	confirmed := d.confirm(reply, word)
	d.Age = time.Since(d.item.time)
	d.tell(d.Settled)
	return confirmed
}

// lookAt returns what changes if a message is delivered again.
func (p *partition) lookAt(it *item) (reply string, deliveries uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return it.reply, it.deliveries
}
