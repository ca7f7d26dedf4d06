package twiliosync

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"
)

// CreateAllOptions changes how [StreamMessageService.CreateAll] works. Zero
// fields, and a nil pointer, take the defaults.
type CreateAllOptions struct {
	// Concurrency is how many messages are in flight at most. Default 64.
	Concurrency int
	// Ordered keeps at most one message in flight per stream: its messages are sent in the order of the input, each
	// after the one before is settled. It does not mean that they are delivered in order, which Sync doesn't promise.
	Ordered bool
	// DrainTimeout is how long messages in flight may go on when ctx ends. Then, or with 0 at once, they are cancelled.
	DrainTimeout time.Duration
	// Call are options for each message, as in Create.
	Call []CallOption
}

// CreateAll publishes the requests of a sequence, and yields one result for
// each that it pulled, as they finish.
//
// Up to Concurrency messages are in flight. Each stream is paced: at most 300
// messages are in flight or ended within any 10 s, which is how the SDK reads
// Twilio's 30 per second with a burst window of 10 s (or the limit of
// [WithStreamRateLimit]), full speed otherwise. A 429 pauses its stream for
// its Retry-After or the backoff, at most MaxDelay, and uses up neither an
// attempt nor the retry quota. Messages that wait for their stream or for their
// next attempt don't occupy the others' place.
//
// A request is pulled only when one could start: at most Concurrency are being
// pulled or in flight, and at most 16,384, or 64 MiB of data, wait (besides
// those that were in flight and have to be sent again). The sequence may be
// endless, and may block: results are yielded meanwhile.
//
// When ctx ends, nothing more is pulled or started. What waits is yielded at
// once, with OutcomeNotSent (or what its attempts have proven) and an error
// that matches ctx.Err(); what is in flight has DrainTimeout to finish. Look at
// ctx.Err() after the loop. A break cancels what is in flight. Either way no
// goroutine is left when the loop has ended; only a sequence or an encoding of
// Data that stays blocked for a second is left to end by itself.
//
// The sequence runs on a goroutine of its own, and Data is encoded on others
// after it was pulled: what they share with the loop needs a lock, and Data
// must not be changed any more. Nothing is sent before the result is ranged
// over; ranging over it again publishes the requests again.
//
// A call that can't begin (no client, no context, no requests, a negative
// option) yields one result with Index -1 and the error.
//
// Source of the limits: https://www.twilio.com/docs/sync/limits
func (s *StreamMessageService) CreateAll(ctx context.Context, serviceSID string, requests iter.Seq[StreamMessageRequest], opts *CreateAllOptions) iter.Seq[StreamMessageResult] {
	var options CreateAllOptions
	if opts != nil {
		options = *opts
	}
	return func(yield func(StreamMessageResult) bool) {
		b, refusal := newBatch(ctx, s.shared(), serviceSID, requests, options)
		if refusal != nil {
			yield(StreamMessageResult{Index: -1, Err: notSent(refusal)})
			return
		}
		b.publish(yield)
	}
}

// newDispatcher checks what CreateAll and a Publisher have in common.
func newDispatcher(shared *sender, serviceSID string, options CreateAllOptions) (*dispatcher, *ParameterError) {
	switch {
	case options.Concurrency < 0:
		return nil, &ParameterError{Parameter: "opts", Reason: "Concurrency is negative; use 0 for the default of 64"}
	case options.DrainTimeout < 0:
		return nil, &ParameterError{Parameter: "opts", Reason: "DrainTimeout is negative; use 0 to cancel what is in flight at once"}
	}
	settings, refusal := shared.settings.with(options.Call)
	if refusal != nil {
		return nil, refusal
	}
	d := &dispatcher{
		sender: shared, serviceSID: serviceSID, settings: settings,
		concurrency: options.Concurrency, drain: options.DrainTimeout, schedule: newSchedule(options.Ordered),
	}
	if d.concurrency == 0 {
		d.concurrency = defaultConcurrency
	}
	return d, nil
}

// batch is one run of CreateAll: a goroutine of its own pulls the input, the
// caller's yields the results.
type batch struct {
	*dispatcher
	requests iter.Seq[StreamMessageRequest]

	room      *sync.Cond // for a request to be pulled
	inputEnd  bool
	inputLeft bool   // blocked, and not waited for any more
	fault     *Error // of the input
}

func newBatch(ctx context.Context, shared *sender, serviceSID string, requests iter.Seq[StreamMessageRequest], options CreateAllOptions) (*batch, *ParameterError) {
	if refusal := shared.checkCaller(ctx); refusal != nil {
		return nil, refusal
	}
	if requests == nil {
		return nil, &ParameterError{Parameter: "requests", Reason: "the sequence is nil; use slices.Values for a slice"}
	}
	d, refusal := newDispatcher(shared, serviceSID, options)
	if refusal != nil {
		return nil, refusal
	}
	b := &batch{dispatcher: d, requests: requests}
	b.room = sync.NewCond(&b.mu)
	b.onChange = b.room.Broadcast
	b.until = ctx
	if b.drain > 0 {
		ctx = context.WithoutCancel(ctx)
	}
	b.lifecycle, b.cancel = context.WithCancelCause(ctx)
	return b, nil
}

// publish is the loop: it yields what is settled until there is nothing more.
func (b *batch) publish(yield func(StreamMessageResult) bool) {
	b.run()
	defer b.leave()
	go b.pull()
	var givingUp <-chan time.Time
	for b.yieldAll(yield) {
		over, onlyBlocked, fault := b.state()
		if over {
			if fault != nil {
				yield(StreamMessageResult{Index: -1, Err: fault})
			}
			return
		}
		if onlyBlocked && givingUp == nil {
			givingUp = time.After(grace)
		}
		select {
		case <-b.changed:
		case <-givingUp:
			b.giveUp()
			b.inputLeft = true
		}
	}
}

// yieldAll yields what is settled. It returns false if the loop is over.
func (b *batch) yieldAll(yield func(StreamMessageResult) bool) bool {
	for m := b.take(); m != nil; m = b.take() {
		m.end()
		goOn := yield(m.result())
		b.delivered()
		if !goOn {
			return false
		}
	}
	return true
}

// state tells whether all is done, or, when ctx has ended, whether what is left
// is blocked in the caller's code, and what is wrong with the input.
func (b *batch) state() (over, onlyBlocked bool, fault *Error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	over = b.panicked != nil || b.idleNow() && (b.inputEnd || b.inputLeft)
	onlyBlocked = b.stopped != nil && b.active == len(b.preparing) && b.undelivered == 0
	return over, onlyBlocked, b.fault
}

// leave waits for the input too, and raises a panic of the caller's code again.
func (b *batch) leave() {
	b.finish()
	if !b.inputLeft {
		b.awaitInput()
	}
	b.mu.Lock()
	panicked := b.panicked
	b.mu.Unlock()
	if panicked != nil {
		panic(panicked)
	}
}

func (b *batch) awaitInput() {
	over := time.After(grace)
	for {
		b.mu.Lock()
		ended := b.inputEnd
		b.mu.Unlock()
		if ended {
			return
		}
		select {
		case <-b.changed:
		case <-over:
			return
		}
	}
}

// pull runs the input, which may block.
func (b *batch) pull() {
	returned := false
	defer func() {
		panicked := recover()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.inputEnd = true
		switch {
		case panicked != nil && b.panicked == nil:
			b.panicked = panicked
		case !returned && panicked == nil:
			b.fault = notSent(errors.New("the sequence of requests did not return; there may be more requests than results"))
		}
		notify(b.changed)
	}()
	b.pullAll()
	returned = true
}

func (b *batch) pullAll() {
	if !b.mayPull() {
		return
	}
	index := 0
	for request := range b.requests {
		if !b.accept(index, request) || !b.mayPull() {
			return
		}
		index++
	}
}

// mayPull waits until another request could start.
func (b *batch) mayPull() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.stopped == nil && (!b.mayStart() || b.schedule.waiting.Len() >= maxWaiting || b.schedule.bytes >= maxWaitingBytes) {
		b.room.Wait()
	}
	return b.stopped == nil
}

// accept takes a pulled request, unless the loop has been left.
func (b *batch) accept(index int, request StreamMessageRequest) bool {
	m := &message{index: index, request: request}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	if b.schedule.ordered {
		b.schedule.reserve(m, streamKey{b.serviceSID, request.StreamSID})
	}
	b.assign(task{message: m, prepare: true})
	return true
}
