package twiliosync

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"iter"
	"slices"
	"time"
)

const (
	defaultConcurrency = 64

	// maxWaiting bounds the messages that were pulled but have to wait for the pace of their stream, their turn or
	// their next attempt. It is large so that a hot stream at the beginning of the input doesn't hide the others.
	maxWaiting = 16384

	// inputGrace is how long the end of the loop waits for an input that is blocked.
	inputGrace = time.Second
)

// StreamMessageRequest is one message of [StreamMessageService.CreateAll]; the
// fields are the arguments of Create.
type StreamMessageRequest struct {
	// StreamSID is the SID or unique name of the stream.
	StreamSID string
	// Data is the message: whatever Create takes.
	Data any
}

// StreamMessageResult is what became of one request of
// [StreamMessageService.CreateAll]; Message, Response and Err are what Create
// returns.
type StreamMessageResult struct {
	// Index is the position of the request in the input, from 0. It is -1 in the only result of a call that can't begin.
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

// CreateAllOptions changes how [StreamMessageService.CreateAll] works. Zero
// fields, and a nil pointer, take the defaults.
type CreateAllOptions struct {
	// Concurrency is how many messages are in flight at most. Default 64.
	Concurrency int
	// Ordered keeps at most one message in flight per stream: its messages are sent in the order of the input, each
	// after the one before is settled. It does not mean that they are delivered in order, which Sync doesn't promise.
	Ordered bool
}

// CreateAll publishes the requests of a sequence, and yields one result for
// each that it pulled, as they finish.
//
// Up to Concurrency messages are in flight. Each stream is paced: at most 300
// starts in any 10 s, as which it reads Twilio's 30 per second with a burst
// window of 10 s (or the limit of [WithStreamRateLimit]), full speed otherwise. A 429 pauses its stream for its
// Retry-After or the backoff, at most MaxDelay. Messages that wait for their
// stream or for their next attempt don't occupy the others' place.
//
// A request is pulled only when one could start: at most Concurrency are being
// pulled or in flight, and at most 16,384 wait (besides those that were in
// flight and have to be sent again). The sequence may be endless, and may
// block: results are yielded meanwhile.
//
// When ctx ends, nothing more is pulled, and the requests that were pulled are
// yielded with their outcome; look at ctx.Err() after the loop. A break cancels what is in flight. Either way no
// goroutine is left when the loop has ended; only a sequence that stays blocked
// for a second is left to end by itself, at its next yield. To stop without
// cancelling, end the sequence.
//
// The sequence, and the encoding of Data, run on a goroutine of their own: what
// they share with the loop needs a lock. Nothing is sent before the result is
// ranged over; ranging over it again publishes the requests again.
//
// A call that can't begin (no client, no context, no requests, a negative
// Concurrency) yields one result with Index -1 and the error.
//
// Source of the limits: https://www.twilio.com/docs/sync/limits
func (s *StreamMessageService) CreateAll(ctx context.Context, serviceSID string, requests iter.Seq[StreamMessageRequest], opts *CreateAllOptions) iter.Seq[StreamMessageResult] {
	if opts == nil {
		opts = &CreateAllOptions{}
	}
	options := *opts
	if options.Concurrency == 0 {
		options.Concurrency = defaultConcurrency
	}
	return func(yield func(StreamMessageResult) bool) {
		refusal := s.usable(ctx)
		switch {
		case refusal != nil:
		case requests == nil:
			refusal = &ParameterError{Parameter: "requests", Reason: "the sequence is nil; use slices.Values for a slice"}
		case options.Concurrency < 0:
			refusal = &ParameterError{Parameter: "opts", Reason: "Concurrency is negative; use 0 for the default of 64"}
		}
		if refusal != nil {
			yield(StreamMessageResult{Index: -1, Err: notSent(refusal)})
			return
		}
		newBatch(s, serviceSID, options).run(ctx, requests, yield)
	}
}

// batch is one run of CreateAll. Three kinds of goroutines share the work: one
// pulls and prepares the input, one per message in flight makes an attempt,
// and the caller's own, which alone touches the fields below, decides what
// starts when, and yields.
type batch struct {
	service    *StreamMessageService
	serviceSID string
	options    CreateAllOptions

	lanes    map[string]*lane
	ready    []*lane // have a message that may start as far as is known
	alarms   alarms  // what becomes ready later
	waiting  int     // messages in lanes and alarms
	inFlight int

	permits  chan struct{} // each allows the input to be pulled once
	granted  int           // permits not yet answered
	pulled   chan *item
	finished chan *item
	stopPull chan struct{} // closed: pull nothing more
	leaving  chan struct{} // closed: nobody receives from pulled any more
	panicked any           // in the user's code on another goroutine

	inputLeft bool // blocked, and not waited for any more
}

// item is a message in a batch.
type item struct {
	index   int
	request StreamMessageRequest
	lane    *lane
	call    *call  // nil if it was refused
	refusal *Error // then

	due      time.Time // the next attempt
	again    bool      // if there is one
	panicked any
}

// lane is a stream's queue.
type lane struct {
	key    streamKey
	items  []*item
	busy   int  // messages in flight, or between two attempts
	listed bool // in ready or, until its pace allows a start, in alarms
}

func newBatch(s *StreamMessageService, serviceSID string, options CreateAllOptions) *batch {
	return &batch{
		service:    s,
		serviceSID: serviceSID,
		options:    options,
		lanes:      map[string]*lane{},
		permits:    make(chan struct{}, options.Concurrency),
		pulled:     make(chan *item),
		finished:   make(chan *item),
		stopPull:   make(chan struct{}),
		leaving:    make(chan struct{}),
	}
}

// run is the loop. Each turn starts what can be started, then waits for
// whatever happens next.
func (b *batch) run(ctx context.Context, requests iter.Seq[StreamMessageRequest], yield func(StreamMessageResult) bool) {
	inner, cancel := context.WithCancel(ctx)
	go b.pull(inner, requests)
	defer b.end(cancel)

	var (
		pulled = b.pulled   // nil: the input has ended
		done   = ctx.Done() // nil: ctx has ended, or never will
		grace  <-chan time.Time
		timer  = time.NewTimer(0)
	)
	defer timer.Stop()
	for {
		b.dispatch(inner)
		switch idle := b.inFlight == 0 && b.waiting == 0; {
		case idle && pulled == nil:
			return
		case ctx.Err() == nil:
			b.grant()
		case idle && grace == nil:
			grace = time.After(inputGrace)
		}
		if len(b.alarms) > 0 {
			timer.Reset(time.Until(b.alarms[0].at))
		}
		goOn := true
		select {
		case it, ok := <-pulled:
			if ok {
				goOn = b.accept(ctx, it, yield)
			} else {
				pulled = nil
			}
		case it := <-b.finished:
			goOn = b.settle(ctx, it, yield)
		case <-timer.C:
			b.wake()
		case <-done:
			done = nil
			b.stopPulling()
			goOn = b.abandonWaiting(ctx, yield)
		case <-grace:
			b.inputLeft = true
		}
		if !goOn || b.inputLeft || b.panicked != nil {
			return
		}
	}
}

// end leaves nothing behind, however the loop ended.
func (b *batch) end(cancel context.CancelFunc) {
	cancel()
	b.stopPulling()
	for ; b.inFlight > 0; b.inFlight-- {
		b.notePanic(<-b.finished)
	}
	if !b.inputLeft {
		b.awaitInput()
	}
	close(b.leaving)
	if b.panicked != nil {
		panic(b.panicked)
	}
}

func (b *batch) awaitInput() {
	grace := time.NewTimer(inputGrace)
	defer grace.Stop()
	for {
		select {
		case it, ok := <-b.pulled:
			if !ok {
				return
			}
			b.notePanic(it)
		case <-grace.C:
			return
		}
	}
}

// notePanic keeps the first panic of the user's code on another goroutine, to
// be raised on the caller's.
func (b *batch) notePanic(it *item) (panicked bool) {
	if it.panicked != nil && b.panicked == nil {
		b.panicked = it.panicked
	}
	return it.panicked != nil
}

// pull runs the input on a goroutine of its own, since it may block.
func (b *batch) pull(ctx context.Context, requests iter.Seq[StreamMessageRequest]) {
	defer close(b.pulled)
	defer func() {
		if panicked := recover(); panicked != nil {
			b.deliver(&item{panicked: panicked})
		}
	}()
	if !b.permitted() {
		return
	}
	index := 0
	for request := range requests {
		it := &item{index: index, request: request}
		it.call, it.refusal = b.service.prepare(ctx, b.serviceSID, request.StreamSID, request.Data)
		if !b.deliver(it) || !b.permitted() {
			return
		}
		index++
	}
}

func (b *batch) deliver(it *item) bool {
	select {
	case b.pulled <- it:
		return true
	case <-b.leaving:
		return false
	}
}

func (b *batch) permitted() bool {
	select {
	case <-b.stopPull:
		return false
	default:
	}
	select {
	case <-b.permits:
		return true
	case <-b.stopPull:
		return false
	}
}

// grant allows the input to be pulled as often as messages could start.
func (b *batch) grant() {
	free := min(b.options.Concurrency-b.inFlight, maxWaiting-b.waiting) - b.granted
	for range free {
		b.granted++
		b.permits <- struct{}{}
	}
}

func (b *batch) stopPulling() {
	select {
	case <-b.stopPull:
	default:
		close(b.stopPull)
	}
}

// accept takes a pulled message into its lane, or yields why it was refused.
func (b *batch) accept(ctx context.Context, it *item, yield func(StreamMessageResult) bool) bool {
	b.granted--
	if b.notePanic(it) {
		return false
	}
	if it.refusal != nil {
		return yield(it.result())
	}
	if ctx.Err() != nil {
		it.call.abandon(newContextError(ctx))
		return yield(it.result())
	}
	stream := it.request.StreamSID
	if b.lanes[stream] == nil {
		b.lanes[stream] = &lane{key: it.call.stream()}
	}
	it.lane = b.lanes[stream]
	it.lane.items = append(it.lane.items, it)
	b.waiting++
	b.list(it.lane)
	return true
}

// dispatch starts messages while there are places and streams that may start
// one, the streams taking turns.
func (b *batch) dispatch(ctx context.Context) {
	limiter := b.service.client.limiter
	for ctx.Err() == nil && b.inFlight < b.options.Concurrency && len(b.ready) > 0 {
		lane := b.ready[0]
		b.ready = b.ready[1:]
		if wait, ok := limiter.take(lane.key); !ok {
			heap.Push(&b.alarms, alarm{at: time.Now().Add(wait), lane: lane})
			continue
		}
		it := lane.items[0]
		lane.items[0], lane.items = nil, lane.items[1:] // nil, so that it can be freed
		lane.busy++
		lane.listed = false
		b.list(lane)
		b.waiting--
		b.inFlight++
		go b.attempt(ctx, it)
	}
}

// attempt runs on a goroutine of its own, and always reports back.
func (b *batch) attempt(ctx context.Context, it *item) {
	returned := false
	it.again = false
	defer func() {
		it.panicked = recover()
		if !returned && it.call.message == nil { // a panic, or a runtime.Goexit in the user's code
			it.call.failure = &Error{Attempts: it.call.attempts, Err: errors.New("the attempt did not return")}
		}
		b.finished <- it
	}()
	delay, again := it.call.attempt(ctx)
	it.due, it.again = time.Now().Add(delay), again // now, and not when the loop has time for it
	it.call.pauseStream(delay)
	returned = true
}

// settle takes a finished attempt: its message is yielded, or waits for the
// next attempt.
func (b *batch) settle(ctx context.Context, it *item, yield func(StreamMessageResult) bool) bool {
	b.inFlight--
	if b.notePanic(it) {
		return false
	}
	if it.again && ctx.Err() == nil {
		b.waiting++
		heap.Push(&b.alarms, alarm{at: it.due, lane: it.lane, item: it})
		return true
	}
	if it.again {
		it.call.abandon(newContextError(ctx))
	}
	it.lane.busy--
	b.list(it.lane)
	return yield(it.result())
}

// wake makes ready what had to wait until now.
func (b *batch) wake() {
	for now := time.Now(); len(b.alarms) > 0 && !b.alarms[0].at.After(now); {
		due := heap.Pop(&b.alarms).(alarm)
		if due.item == nil {
			due.lane.listed = false
		} else {
			due.lane.items = slices.Insert(due.lane.items, 0, due.item)
			due.lane.busy--
		}
		b.list(due.lane)
	}
}

// list puts a lane into ready if it has a message that may start, and forgets
// it if it has nothing more to do.
func (b *batch) list(lane *lane) {
	switch {
	case lane.listed || b.options.Ordered && lane.busy > 0:
	case len(lane.items) > 0:
		lane.listed = true
		b.ready = append(b.ready, lane)
	case lane.busy == 0:
		delete(b.lanes, lane.key.streamSID)
	}
}

// abandonWaiting yields all that wait, with the error of the context.
func (b *batch) abandonWaiting(ctx context.Context, yield func(StreamMessageResult) bool) bool {
	var left []*item
	for _, lane := range b.lanes {
		left = append(left, lane.items...)
		lane.items, lane.listed = nil, false
	}
	for _, alarm := range b.alarms {
		if alarm.item != nil {
			left = append(left, alarm.item)
		}
	}
	b.ready, b.alarms, b.waiting = nil, nil, 0
	slices.SortFunc(left, func(x, y *item) int { return cmp.Compare(x.index, y.index) })
	for _, it := range left {
		it.call.abandon(newContextError(ctx))
		if !yield(it.result()) {
			return false
		}
	}
	return true
}

func (it *item) result() StreamMessageResult {
	result := StreamMessageResult{Index: it.index, Request: it.request}
	if it.refusal != nil {
		result.Err = it.refusal
		return result
	}
	result.Message, result.Response, result.Err = it.call.result()
	return result
}

// alarm is the time at which a lane may start again, or, with an item, at which
// its next attempt is due.
type alarm struct {
	at   time.Time
	lane *lane
	item *item
}

// alarms is a heap by time.
type alarms []alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, j int) bool { return a[i].at.Before(a[j].at) }
func (a alarms) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	last := len(*a) - 1
	popped := (*a)[last]
	(*a)[last] = alarm{}
	*a = (*a)[:last]
	return popped
}
