package twiliosync

import (
	"container/list"
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

const defaultBuffer = 16384

// Overflow says what a [Publisher] does with a message that its buffer has no room for.
type Overflow int

const (
	// OverflowBlock lets Publish wait for room, until its context ends. It is the zero value.
	OverflowBlock Overflow = iota
	// OverflowRefuse lets Publish return ErrBufferFull at once.
	OverflowRefuse
	// OverflowDropOldest makes room: the message that waits longest ends with ErrDropped.
	OverflowDropOldest
)

// PublisherOptions changes how a [Publisher] works. Zero fields, and a nil
// pointer, take the defaults.
type PublisherOptions struct {
	// Buffer is how many messages wait at most, for the pace of their stream, a free place or their next attempt.
	// Default 16,384. They also have at most 64 MiB of data.
	Buffer int
	// Overflow says what happens to a message that there is no room for. Default OverflowBlock.
	Overflow Overflow
	// LatestOnly keeps one waiting message per stream, the newest: the one that it replaces ends with ErrDropped. It is
	// for state, such as cursors or telemetry, of which only the latest counts. It implies Ordered.
	LatestOnly bool
	// Concurrency is how many messages are in flight at most. Default 64.
	Concurrency int
	// Ordered keeps at most one message in flight per stream: those of one goroutine are sent in the order of Publish.
	Ordered bool
	// DrainTimeout is how long messages in flight may go on when the context of Close ends. Then, or with 0 at once, they
	// are cancelled.
	DrainTimeout time.Duration
	// Call are options for each message, as in Create.
	Call []CallOption
}

// Publisher publishes messages in the background, for servers that can't wait
// for each: [Publisher.Publish] returns when a message is taken, and exactly
// one call of onResult says what became of it. It paces streams, retries and
// settles as [StreamMessageService.CreateAll] does. It is safe for concurrent
// use. Close it: it has goroutines.
type Publisher struct {
	*dispatcher
	onResult func(StreamMessageResult)
	options  PublisherOptions
	halt     context.CancelCauseFunc

	// below the dispatcher's mu
	taken         int
	entering      int // taken, and not yet waiting
	enteringBytes int // of their data
	handed        int // to onResult
	closed        bool
	callers       list.List // of *roomCaller: calls of Publish that wait for room, first come, first served
	flushes       []*flush

	inResult atomic.Bool   // onResult is running
	over     chan struct{} // nothing is left
}

// roomCaller is a call of Publish that waits for room. ready is closed when it has it.
type roomCaller struct {
	op    *messageCreation
	ready chan struct{}
	err   error // instead
}

// flush is a call of Flush, which waits for what was taken before.
type flush struct {
	before  int // this index
	pending int
	settled chan struct{}
}

// NewPublisher returns a Publisher for the streams of a Sync service. onResult
// is called once for each message that was taken, one call at a time, without
// a lock held; while it runs no other result is delivered, and results that
// wait for it occupy the places of Concurrency. A panic in it is caught, and
// logged if there is a logger. An error is an [*Error] that says which
// parameter is wrong.
//
// Source of the limits: https://www.twilio.com/docs/sync/limits
func (s *StreamMessageService) NewPublisher(serviceSID string, onResult func(StreamMessageResult), opts *PublisherOptions) (*Publisher, error) {
	var options PublisherOptions
	if opts != nil {
		options = *opts
	}
	if options.Buffer == 0 {
		options.Buffer = defaultBuffer
	}
	shared := s.shared()
	if refusal := checkPublisher(shared, serviceSID, onResult, options); refusal != nil {
		return nil, notSent(refusal)
	}
	d, refusal := newDispatcher(shared, serviceSID, CreateAllOptions{
		Concurrency: options.Concurrency, Ordered: options.Ordered || options.LatestOnly,
		DrainTimeout: options.DrainTimeout, Call: options.Call,
	})
	if refusal != nil {
		return nil, notSent(refusal)
	}
	p := &Publisher{dispatcher: d, onResult: onResult, options: options, over: make(chan struct{})}
	p.latestOnly = options.LatestOnly
	p.onChange = p.giveRoom
	p.lifecycle, p.cancel = context.WithCancelCause(context.Background())
	p.until, p.halt = context.WithCancelCause(context.Background())
	p.run()
	go p.deliver()
	return p, nil
}

func checkPublisher(shared *sender, serviceSID string, onResult func(StreamMessageResult), options PublisherOptions) *ParameterError {
	if refusal := shared.checkCaller(context.Background()); refusal != nil {
		return refusal
	}
	reason := identifierFault(serviceSID)
	switch {
	case reason != "":
		return &ParameterError{Parameter: "serviceSID", Reason: reason}
	case onResult == nil:
		return &ParameterError{Parameter: "onResult", Reason: "the function is nil; pass one, which learns what becomes of each message"}
	case options.Buffer < 0:
		return &ParameterError{Parameter: "opts", Reason: "Buffer is negative; use 0 for the default of 16,384"}
	case options.Overflow < OverflowBlock || options.Overflow > OverflowDropOldest:
		return &ParameterError{Parameter: "opts", Reason: "there is no such Overflow; use OverflowBlock, OverflowRefuse or OverflowDropOldest"}
	}
	return nil
}

// Publish takes a message, whose Data it encodes before it returns. If it
// returns nil, exactly one call of onResult will follow. Else nothing was
// taken, and the error is an [*Error] with OutcomeNotSent: bad input, the end
// of ctx, [ErrBufferFull] or [ErrClosed]. The values of ctx are those of the
// message's call; its end matters only until the message is taken.
//
// Called from inside onResult it never waits: a full buffer is ErrBufferFull.
func (p *Publisher) Publish(ctx context.Context, request StreamMessageRequest) error {
	if p == nil || p.dispatcher == nil {
		return notSent(&ParameterError{Parameter: "publisher", Reason: "this Publisher is nil or a zero value; make one with NewPublisher"})
	}
	if refusal := p.sender.checkCaller(ctx); refusal != nil {
		return notSent(refusal)
	}
	op := createStreamMessage(p.serviceSID, request.StreamSID, request.Data, p.sender.maxDataSize)
	m := &message{index: -1, request: request, op: op}
	cause := error(nil)
	switch {
	case op.refusal != nil:
		cause = op.refusal
	case ctx.Err() != nil:
		cause = newContextError(ctx)
	default:
		cause = p.takeIn(ctx, m)
	}
	m.call = p.newCall(m)
	if cause != nil {
		m.ctx = m.call.begin(ctx)
		if m.call.failure == nil {
			m.call.stop(cause)
		}
		m.end()
		return m.call.failure
	}
	defer p.entered(m) // also if a tracer ends the goroutine
	m.ctx = publishContext{p.lifecycle, ctx}
	m.ctx = m.call.begin(m.ctx)
	return nil
}

// publishContext lives as long as the Publisher, and has the values of the context of Publish.
type publishContext struct {
	context.Context
	values context.Context
}

// Value asks the lifetime first, so that package context finds it.
func (c publishContext) Value(key any) any {
	if value := c.Context.Value(key); value != nil {
		return value
	}
	return c.values.Value(key)
}

// takeIn gives the message its index, when there is room for it.
func (p *Publisher) takeIn(ctx context.Context, m *message) error {
	p.mu.Lock()
	must, err := p.makeRoom(m.op)
	if !must {
		if err == nil {
			p.admit(m)
		}
		p.mu.Unlock()
		return err
	}
	caller := &roomCaller{op: m.op, ready: make(chan struct{})}
	element := p.callers.PushBack(caller)
	p.mu.Unlock()
	select {
	case <-caller.ready:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-caller.ready:
		if caller.err == nil {
			p.notEntering(m.op)
			p.admit(m)
		}
		return caller.err
	default:
		p.callers.Remove(element)
		p.giveRoom() // to those behind
		return newContextError(ctx)
	}
}

// admit gives a message its index.
func (p *Publisher) admit(m *message) {
	m.index = p.taken
	p.taken++
	p.nowEntering(m.op)
}

func (p *Publisher) nowEntering(op *messageCreation) {
	p.entering++
	p.enteringBytes += op.dataSize
}

func (p *Publisher) notEntering(op *messageCreation) {
	p.entering--
	p.enteringBytes -= op.dataSize
}

// makeRoom tells whether a message must wait for room, or else why it can't come in; nil: it can.
func (p *Publisher) makeRoom(op *messageCreation) (must bool, err error) {
	full := p.callers.Len() > 0 || !p.hasRoom(op)
	switch {
	case p.closed:
		return false, ErrClosed
	case !full:
		return false, nil
	case p.options.Overflow == OverflowRefuse:
		return false, ErrBufferFull
	case p.options.Overflow == OverflowDropOldest:
		for !p.hasRoom(op) {
			oldest := p.schedule.waiting.Front()
			if oldest == nil || len(p.recorded) >= p.options.Buffer {
				return false, ErrBufferFull // the results are not taken
			}
			p.withdraw(oldest.Value.(*message))
			p.drop(oldest.Value.(*message), ErrDropped)
		}
		return false, nil
	case p.calledFromOnResult():
		return false, ErrBufferFull
	}
	return true, nil
}

// hasRoom counts what waits, and the results that nobody has taken yet. A
// message that replaces another needs none.
func (p *Publisher) hasRoom(op *messageCreation) bool {
	if len(p.recorded) >= p.options.Buffer+p.concurrency {
		return false
	}
	if q := p.schedule.queues[op.key()]; p.latestOnly && q != nil && q.latest != nil {
		return true
	}
	waiting := p.schedule.waiting.Len() + p.entering
	return waiting < p.options.Buffer && (waiting == 0 || p.schedule.bytes+p.enteringBytes+op.dataSize <= maxWaitingBytes)
}

// giveRoom gives room to the calls that wait for it, in their order.
func (p *Publisher) giveRoom() {
	for first := p.callers.Front(); first != nil; first = p.callers.Front() {
		caller := first.Value.(*roomCaller)
		switch {
		case p.closed:
			caller.err = ErrClosed
		case p.hasRoom(caller.op):
			p.nowEntering(caller.op)
		default:
			return
		}
		p.callers.Remove(first)
		close(caller.ready)
	}
}

// entered lets a message that was taken wait for its turn.
func (p *Publisher) entered(m *message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notEntering(m.op)
	p.enter(m)
	p.fill()
}

// deliver runs onResult, until the Publisher is closed and all is settled.
func (p *Publisher) deliver() {
	defer func() {
		select {
		case <-p.over:
		default:
			go p.deliver() // onResult has ended this goroutine
		}
	}()
	for !p.allDelivered() {
		<-p.changed
		for m := p.take(); m != nil; m = p.take() {
			p.handOver(m)
		}
	}
	p.finish()
	close(p.over)
}

func (p *Publisher) allDelivered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed && p.entering == 0 && p.idleNow()
}

// handOver delivers one result, also if onResult panics, or it or a tracer ends its goroutine.
func (p *Publisher) handOver(m *message) {
	defer p.handedOver(m)
	defer func() {
		p.inResult.Store(true)
		p.sender.guard(m.ctx, "onResult", func() { p.onResult(m.result()) })
	}()
	m.end()
	if m.panicked != nil {
		p.sender.guard(m.ctx, "attempt", func() { panic(m.panicked) }) // is logged
	}
}

func (p *Publisher) handedOver(m *message) {
	p.inResult.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handed++
	unsettled := p.flushes[:0]
	for _, f := range p.flushes {
		if m.index < f.before {
			f.pending--
		}
		if f.pending == 0 {
			close(f.settled)
		} else {
			unsettled = append(unsettled, f)
		}
	}
	clear(p.flushes[len(unsettled):])
	p.flushes = unsettled
	p.undelivered--
	p.fill()
	notify(p.changed) // for the next, should onResult have ended this goroutine
}

// Flush waits until all messages that were taken before are settled, and their
// results delivered, or ctx ends, whose error it returns then.
func (p *Publisher) Flush(ctx context.Context) error {
	f, err := p.newFlush(ctx)
	if err != nil {
		return err
	}
	select {
	case <-f.settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Publisher) newFlush(ctx context.Context) (*flush, error) {
	if err := p.checkWaiting(ctx, "Flush"); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	f := &flush{before: p.taken, pending: p.taken - p.handed, settled: make(chan struct{})}
	if f.pending == 0 {
		close(f.settled)
	} else {
		p.flushes = append(p.flushes, f)
	}
	return f, nil
}

// Close takes no more messages, and waits until all that were taken are
// settled and their results delivered. When ctx ends before, nothing more
// starts: what waits ends with OutcomeNotSent (or what its attempts have
// proven) and an error that matches ctx.Err(), what is in flight has
// DrainTimeout to finish, and Close then returns ctx.Err(). Either way no
// goroutine is left. Closing again returns nil.
func (p *Publisher) Close(ctx context.Context) error {
	if err := p.checkWaiting(ctx, "Close"); err != nil {
		return err
	}
	p.mu.Lock()
	p.closed = true
	p.fill()
	p.mu.Unlock()
	notify(p.changed)
	select {
	case <-p.over:
		return nil
	default:
	}
	select {
	case <-p.over:
		return nil
	case <-ctx.Done():
	}
	p.halt(newContextError(ctx))
	<-p.over
	return ctx.Err()
}

func (p *Publisher) checkWaiting(ctx context.Context, who string) error {
	switch {
	case p == nil || p.dispatcher == nil:
		return notSent(&ParameterError{Parameter: "publisher", Reason: "this Publisher is nil or a zero value; make one with NewPublisher"})
	case ctx == nil:
		return notSent(&ParameterError{Parameter: "ctx", Reason: "the context is nil; pass context.Background() if there is none"})
	case p.calledFromOnResult():
		return errors.New("twiliosync: " + who + " was called from inside onResult, where it would wait for itself; call it from another goroutine")
	}
	return nil
}

// calledFromOnResult looks at the stack: nothing else tells one goroutine from another.
func (p *Publisher) calledFromOnResult() bool {
	if !p.inResult.Load() {
		return false
	}
	callers := make([]uintptr, 256)
	n := runtime.Callers(1, callers)
	for n == len(callers) { // there may be more
		callers = make([]uintptr, 2*n)
		n = runtime.Callers(1, callers)
	}
	frames := runtime.CallersFrames(callers[:n])
	for {
		frame, more := frames.Next()
		if strings.HasSuffix(frame.Function, ".(*Publisher).handOver") {
			return true
		}
		if !more {
			return false
		}
	}
}
