package twiliosync

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

const (
	defaultConcurrency = 64

	// maxWaiting and maxWaitingBytes bound the messages that have to wait for the pace of their stream, their turn or
	// their next attempt. They are large so that a hot stream at the beginning of the input doesn't hide the others.
	maxWaiting      = 16384
	maxWaitingBytes = 64 << 20

	// grace is how long the end waits for user code that is blocked.
	grace = time.Second
)

// dispatcher carries out a schedule. Workers, at most concurrency, encode
// messages and make attempts; a clock waits for what time and the limiter
// bring; who delivers the results is another. What they share is below mu,
// with which no user code runs.
type dispatcher struct {
	sender      *sender
	serviceSID  string
	settings    callSettings
	concurrency int
	latestOnly  bool
	until       context.Context // when it ends, nothing more starts
	drain       time.Duration   // what is in flight then may go on for so long
	lifecycle   context.Context // of the attempts
	cancel      context.CancelCauseFunc
	onChange    func() // with mu held: there may be room for more

	mu          sync.Mutex
	work        *sync.Cond // of the workers
	schedule    schedule
	tasks       []task
	active      int // tasks that wait for a worker or run
	preparing   map[*message]bool
	givenUp     int // messages whose encoding is blocked beyond their result
	workers     int
	idle        int // of the workers
	recorded    []*message
	undelivered int   // recorded, or being delivered
	stopped     error // why nothing more starts
	ended       bool  // nobody delivers any more
	panicked    any   // in user code on another goroutine
	timer       *time.Timer
	timerAt     time.Time

	changed chan struct{} // for who delivers
	quit    chan struct{} // for the clock
	left    chan struct{} // by the clock
	woken   wakeUps
}

// task is a piece of work for a worker.
type task struct {
	message *message
	prepare bool // encode and begin it; else attempt it
}

// wakeUps are the streams whose tickets the limiter has woken, with its own lock held.
type wakeUps struct {
	mu     sync.Mutex
	queues []*streamQueue
	signal chan struct{}
}

func (w *wakeUps) add(q *streamQueue) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queues = append(w.queues, q)
	notify(w.signal)
}

func (w *wakeUps) take() []*streamQueue {
	w.mu.Lock()
	defer w.mu.Unlock()
	queues := w.queues
	w.queues = nil
	return queues
}

func notify(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

// run makes the dispatcher ready and starts its clock.
func (d *dispatcher) run() {
	d.work = sync.NewCond(&d.mu)
	d.preparing = map[*message]bool{}
	d.changed, d.quit, d.left = make(chan struct{}, 1), make(chan struct{}), make(chan struct{})
	d.woken.signal = make(chan struct{}, 1)
	d.timer = time.NewTimer(forever)
	go d.clock()
}

func (d *dispatcher) clock() {
	defer close(d.left)
	defer d.timer.Stop()
	var (
		until   = d.until.Done()
		drained <-chan time.Time
	)
	for {
		select {
		case <-d.timer.C:
		case <-d.woken.signal:
		case <-until:
			until, drained = nil, time.After(d.drain)
			d.stop(newContextError(d.until))
		case <-drained:
			drained = nil
			d.cancel(newContextError(d.until))
		case <-d.quit:
			return
		}
		d.mu.Lock()
		d.timerAt = time.Time{} // whatever has come, the timer is set anew
		d.fill()
		d.mu.Unlock()
	}
}

// fill starts what may start. It is called, with mu held, after every change.
func (d *dispatcher) fill() {
	now := time.Now()
	expired, asking := d.schedule.advance(now)
	for _, m := range expired {
		d.leaveIfEmpty(m.queue)
		d.drop(m, ErrExpired)
	}
	for _, q := range d.woken.take() {
		if q.blocked {
			d.schedule.unblock(q, now)
			asking = append(asking, q)
		}
	}
	for d.mayStart() {
		q := d.schedule.next()
		if q == nil {
			break
		}
		d.ask(q, now)
	}
	for _, q := range asking {
		d.leaveLine(q)
	}
	if next := d.schedule.nextChange(); !next.IsZero() && next != d.timerAt {
		d.timerAt = next
		d.timer.Reset(time.Until(next))
	}
	if d.onChange != nil {
		d.onChange()
	}
	if d.idleNow() {
		notify(d.changed)
	}
}

// mayStart tells whether there is a place for one more. Results that nobody
// has taken yet occupy theirs.
func (d *dispatcher) mayStart() bool {
	return d.stopped == nil && d.until.Err() == nil && d.active+d.undelivered < d.concurrency
}

// idleNow tells whether all that came in has been delivered.
func (d *dispatcher) idleNow() bool {
	return d.active == 0 && d.undelivered == 0 && d.schedule.waiting.Len() == 0
}

// ask starts a stream's first message if the pace has a place, or else lets
// the stream queue for one.
func (d *dispatcher) ask(q *streamQueue, now time.Time) {
	var wait time.Duration
	var ok bool
	if q.ticket == nil {
		if q.wake == nil {
			q.wake = func() { d.woken.add(q) }
		}
		q.ticket, wait, ok = d.sender.limiter.ask(q.key, q.wake)
	} else {
		wait, ok = d.sender.limiter.retake(q.ticket)
	}
	if !ok {
		d.schedule.block(q, now, wait)
		certain := d.sender.limiter.certainWait(q.key)
		for _, m := range q.late(now.Add(certain)) {
			d.expire(m, certain)
		}
		return
	}
	q.ticket = nil
	m := d.schedule.start(q)
	m.call.placed, m.call.waited = true, 0
	if q.unblockedAt.After(m.since) {
		m.call.waited = now.Sub(m.since)
	}
	d.assign(task{message: m})
}

// leaveLine gives up the ticket of a stream that has its turn, but no place
// here: others that wait for the pace come first then.
func (d *dispatcher) leaveLine(q *streamQueue) {
	if q.ticket != nil && !q.blocked {
		d.sender.limiter.leave(q.ticket)
		q.ticket = nil
		d.schedule.updateTurn(q)
	}
}

// withdraw takes a waiting message out, and its stream's ticket if it was the last.
func (d *dispatcher) withdraw(m *message) {
	d.schedule.withdraw(m)
	d.leaveIfEmpty(m.queue)
}

func (d *dispatcher) leaveIfEmpty(q *streamQueue) {
	if q.ticket != nil && q.messages.Len() == 0 {
		d.schedule.unblock(q, time.Now())
		d.leaveLine(q)
	}
}

// drop settles a message that has left the schedule without its attempt.
func (d *dispatcher) drop(m *message, cause error) {
	m.call.stop(cause)
	d.record(m)
}

// expire drops a waiting message that can't start in time, and says when its
// stream has a place.
func (d *dispatcher) expire(m *message, wait time.Duration) {
	d.withdraw(m)
	m.call.stop(ErrExpired)
	m.call.failure.RetryAfter = max(m.call.failure.RetryAfter, wait)
	d.record(m)
}

// record hands a message to who delivers.
func (d *dispatcher) record(m *message) {
	d.recorded = append(d.recorded, m)
	d.undelivered++
	notify(d.changed)
}

// assign gives a task to a worker.
func (d *dispatcher) assign(t task) {
	d.tasks = append(d.tasks, t)
	d.active++
	d.callWorker()
}

func (d *dispatcher) callWorker() {
	switch {
	case d.idle > 0:
		d.work.Signal()
	case d.workers < d.concurrency:
		d.workers++
		go d.worker()
	}
}

// worker does tasks until there will be none.
func (d *dispatcher) worker() {
	var m *message
	defer func() { d.workerLeft(m) }()
	for {
		t, ok := d.nextTask()
		if !ok {
			return
		}
		m = t.message
		if t.prepare {
			d.prepare(m)
		} else {
			d.attempt(m)
		}
		m = nil
	}
}

func (d *dispatcher) nextTask() (task, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.tasks) == 0 && !d.ended {
		d.idle++
		d.work.Wait()
		d.idle--
	}
	if d.ended {
		return task{}, false
	}
	t := d.tasks[0]
	d.tasks[0] = task{}
	d.tasks = d.tasks[1:]
	if t.prepare {
		d.preparing[t.message] = true
	}
	if len(d.tasks) > 0 {
		d.callWorker()
	}
	return t, true
}

// workerLeft is told, after a runtime.Goexit in user code, in the middle of which message.
func (d *dispatcher) workerLeft(m *message) {
	if m != nil {
		d.interrupted(m, nil)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.workers--
	if len(d.tasks) > 0 && !d.ended {
		d.callWorker()
	}
	notify(d.changed)
}

// interrupted settles a message whose work did not come to its end, and keeps
// the first panic for the caller's goroutine.
func (d *dispatcher) interrupted(m *message, panicked any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.panicked = panicked; d.panicked == nil {
		d.panicked = panicked
	}
	if d.wasGivenUp(m) {
		return
	}
	if m.call == nil {
		m.failure = notSent(errors.New("the encoding of Data did not return"))
	} else {
		m.call.leavePlace(true)
		m.call.conclude()
	}
	d.done(m)
	d.record(m)
	d.fill()
}

// wasGivenUp tells whether a message has its result already.
func (d *dispatcher) wasGivenUp(m *message) bool {
	if m.givenUp {
		d.givenUp--
	}
	return m.givenUp
}

// done notes that a task is over, whose message has no other to come.
func (d *dispatcher) done(m *message) {
	d.active--
	delete(d.preparing, m)
	switch {
	case m.position != nil: // reserved
		d.withdraw(m)
	case m.queue != nil && m.waiting == nil:
		d.schedule.finish(m)
	}
}

// prepare encodes and begins a message, and lets it wait for its turn.
func (d *dispatcher) prepare(m *message) {
	defer func() {
		if panicked := recover(); panicked != nil {
			d.interrupted(m, panicked)
		}
	}()
	op := createStreamMessage(d.serviceSID, m.request.StreamSID, m.request.Data, d.sender.maxDataSize)
	if !d.encoded(m) {
		return
	}
	m.op = op
	m.call = d.newCall(m)
	m.ctx = d.lifecycle // also if a tracer ends the goroutine
	m.ctx = m.call.begin(m.ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active--
	d.enter(m)
	d.fill()
}

// encoded tells whether the message is still wanted.
func (d *dispatcher) encoded(m *message) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.preparing, m)
	return !d.wasGivenUp(m)
}

func (d *dispatcher) newCall(m *message) *call {
	m.itsCall = call{sender: d.sender, op: &m.op.operation, settings: d.settings, index: m.index, notAfter: m.request.NotAfter}
	return &m.itsCall
}

// enter lets a message wait for its turn, unless there is none for it.
func (d *dispatcher) enter(m *message) {
	var cause error
	switch {
	case m.call.failure != nil:
	case d.stopped != nil:
		cause = d.stopped
	case !d.latestOnly:
	case d.supersedes(m):
		cause = ErrDropped
	}
	if cause == nil && m.call.failure == nil {
		d.schedule.enqueue(m, m.op.key(), time.Now())
		d.dropIfLate(m)
		return
	}
	if m.position != nil {
		d.withdraw(m)
	}
	if cause != nil {
		m.call.stop(cause)
	}
	d.record(m)
}

// dropIfLate drops a message that comes to a blocked stream and can't start in time.
func (d *dispatcher) dropIfLate(m *message) {
	if !m.queue.blocked || m.request.NotAfter.IsZero() {
		return
	}
	if certain := d.sender.limiter.certainWait(m.queue.key); time.Until(m.request.NotAfter) < certain {
		d.expire(m, certain)
	}
}

// supersedes drops the older of a stream's two waiting messages, and tells
// whether that is m itself.
func (d *dispatcher) supersedes(m *message) bool {
	q := d.schedule.queues[m.op.key()]
	if q == nil || q.latest == nil {
		return false
	}
	other := q.latest
	if other.index > m.index {
		return true
	}
	d.withdraw(other)
	d.drop(other, ErrDropped)
	return false
}

// attempt makes one attempt, after which the message is settled or waits for the next.
func (d *dispatcher) attempt(m *message) {
	defer func() {
		if panicked := recover(); panicked != nil {
			d.interrupted(m, panicked)
		}
	}()
	if cause := d.tooLate(m); cause != nil {
		m.call.leavePlace(false)
		m.call.stop(cause)
		d.finishAttempt(m)
		return
	}
	delay, again := m.call.attempt(m.ctx)
	due := time.Now().Add(delay) // now, and not when the lock is free
	if !again || !d.repeats(m, due) {
		d.finishAttempt(m)
	}
}

// tooLate says why an attempt must not start any more, though it had its turn.
func (d *dispatcher) tooLate(m *message) error {
	switch after := m.request.NotAfter; {
	case d.until.Err() != nil:
		return newContextError(d.until)
	case !after.IsZero() && time.Now().After(after):
		return ErrExpired
	}
	return nil
}

// repeats lets a message wait for its next attempt, unless there will be none.
func (d *dispatcher) repeats(m *message, due time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.stopped != nil:
		m.call.stop(d.stopped)
		return false
	case d.latestOnly && m.queue.latest != nil:
		m.call.stop(ErrDropped)
		return false
	}
	d.active--
	d.schedule.retry(m, due, time.Now())
	d.fill()
	return true
}

func (d *dispatcher) finishAttempt(m *message) {
	m.end()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.done(m)
	d.record(m)
	d.fill()
}

// stop starts nothing more, and settles all that waits.
func (d *dispatcher) stop(cause error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped != nil {
		return
	}
	d.stopped = cause
	waiting := make([]*message, 0, d.schedule.waiting.Len())
	for element := d.schedule.waiting.Front(); element != nil; element = element.Next() {
		waiting = append(waiting, element.Value.(*message))
	}
	slices.SortFunc(waiting, func(x, y *message) int { return cmp.Compare(x.index, y.index) })
	for _, m := range waiting {
		d.withdraw(m)
		d.drop(m, cause)
	}
	notify(d.changed)
	d.fill()
}

// giveUp settles the messages whose encoding is blocked.
func (d *dispatcher) giveUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for m := range d.preparing {
		m.givenUp = true
		d.givenUp++
		m.failure = notSent(d.stopped)
		d.done(m)
		d.record(m)
	}
	d.fill()
}

// take returns the next message to deliver, nil if there is none.
func (d *dispatcher) take() *message {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.recorded) == 0 {
		return nil
	}
	m := d.recorded[0]
	d.recorded[0] = nil
	d.recorded = d.recorded[1:]
	return m
}

// delivered makes the place of a result free.
func (d *dispatcher) delivered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.undelivered--
	d.fill()
}

// finish leaves nothing behind, however delivering has ended: no goroutine but
// one that is blocked in user code, and no call without its end.
func (d *dispatcher) finish() {
	d.cancel(context.Canceled)
	d.stop(newContextError(d.lifecycle))
	d.mu.Lock()
	d.ended = true
	for _, t := range d.tasks {
		d.active--
		if !t.prepare {
			t.message.call.leavePlace(false)
			t.message.call.stop(d.stopped)
			d.recorded = append(d.recorded, t.message)
		}
	}
	d.tasks = nil
	for _, q := range d.schedule.queues {
		d.schedule.unblock(q, time.Now())
		d.leaveLine(q)
	}
	d.work.Broadcast()
	d.mu.Unlock()
	d.awaitWorkers()
	close(d.quit)
	<-d.left
	for m := d.take(); m != nil; m = d.take() {
		m.end()
	}
}

func (d *dispatcher) awaitWorkers() {
	var over <-chan time.Time
	for {
		d.mu.Lock()
		workers, blocked := d.workers-d.givenUp, len(d.preparing)
		d.mu.Unlock()
		switch {
		case workers <= 0:
			return
		case workers == blocked && over == nil:
			over = time.After(grace)
		}
		select {
		case <-d.changed:
		case <-over:
			d.giveUp()
			return
		}
	}
}

// end tells the tracer, if it hasn't been told.
func (m *message) end() {
	if m.call != nil && !m.ended {
		m.ended = true
		m.call.end(m.ctx)
	}
}

// result is that of a settled message.
func (m *message) result() StreamMessageResult {
	result := StreamMessageResult{Index: m.index, Request: m.request}
	switch {
	case m.failure != nil:
		result.Err = m.failure
	case m.call.failure != nil:
		result.Response, result.Err = m.call.response, m.call.failure
	default:
		result.Message, result.Response = &m.op.message, m.call.response
	}
	return result
}
