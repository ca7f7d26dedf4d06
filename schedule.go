package twiliosync

import (
	"container/heap"
	"container/list"
	"context"
	"time"
)

// message is one of many on its way: from the input, through a schedule, to
// its result.
type message struct {
	index   int
	request StreamMessageRequest
	ctx     context.Context // of its call, as the tracer left it
	op      *messageCreation
	call    *call  // nil until it is encoded, then &itsCall
	itsCall call   // in one piece with the message
	failure *Error // instead of the call's, if there is no call
	ended   bool   // the tracer knows
	givenUp bool   // it has a result although its encoding is blocked

	panicked any // in the user's code that works on it

	queue    *streamQueue
	position *list.Element // in the queue of its stream; nil if it isn't there
	waiting  *list.Element // in schedule.waiting; nil: not ready to start
	since    time.Time     // ready to start
	retrying bool          // between two attempts
	timer    timer
}

// schedule decides which message may start now, and when that will change. It
// is a plain value: no clock, no channels, no locks of its own.
//
// A message waits in the queue of its stream. The streams that have one to
// start take turns; a stream whose pace has no place is blocked meanwhile.
type schedule struct {
	ordered bool // at most one message of a stream between its first attempt and its result

	queues  map[streamKey]*streamQueue
	ready   list.List // of *streamQueue: may start a message as far as is known
	timers  timers    // what changes by time alone
	waiting list.List // of *message: ready to start, or between two attempts; the oldest first
	bytes   int       // of their data
}

// streamQueue has the messages of one stream.
type streamQueue struct {
	key      streamKey
	messages list.List     // of *message
	latest   *message      // that waits, of those that do
	busy     int           // attempts that run, or that will be repeated
	turn     *list.Element // in schedule.ready
	expiring int           // messages with a NotAfter

	blocked     bool    // by the pace
	ticket      *ticket // its place in the limiter's queue
	wake        func()  // of its tickets
	unblockedAt time.Time
	timer       timer
}

func newSchedule(ordered bool) schedule {
	return schedule{ordered: ordered, queues: map[streamKey]*streamQueue{}}
}

// reserve gives a message its position in the queue of its stream. It can't
// start, and nothing behind it, until it is enqueued.
func (s *schedule) reserve(m *message, key streamKey) {
	q := s.queues[key]
	if q == nil {
		q = &streamQueue{key: key}
		s.queues[key] = q
	}
	m.queue = q
	m.position = q.messages.PushBack(m)
}

// enqueue makes a message ready to start, at the position that it has reserved
// if it has one.
func (s *schedule) enqueue(m *message, key streamKey, now time.Time) {
	if m.position == nil {
		s.reserve(m, key)
	}
	s.watchExpiry(m)
	s.wait(m, s.waiting.PushBack(m), now)
}

func (s *schedule) watchExpiry(m *message) {
	if !m.request.NotAfter.IsZero() {
		m.queue.expiring++
		s.set(&m.timer, m.request.NotAfter.Add(1), m, nil) // at NotAfter itself it may start
	}
}

func (s *schedule) wait(m *message, waiting *list.Element, now time.Time) {
	m.waiting, m.since, m.queue.latest = waiting, now, m
	s.bytes += m.op.dataSize
	s.updateTurn(m.queue)
}

// next returns the stream whose turn it is, nil if none may start a message.
func (s *schedule) next() *streamQueue {
	first := s.ready.Front()
	if first == nil {
		return nil
	}
	q := first.Value.(*streamQueue)
	s.takeTurn(q)
	return q
}

func (s *schedule) takeTurn(q *streamQueue) {
	s.ready.Remove(q.turn)
	q.turn = nil
}

// start takes the message out of the queue whose attempt begins now.
func (s *schedule) start(q *streamQueue) *message {
	m := q.messages.Front().Value.(*message)
	s.leave(m)
	q.busy++
	s.updateTurn(q)
	return m
}

// block keeps a stream from its turn until its ticket is woken, or wait has passed.
func (s *schedule) block(q *streamQueue, now time.Time, wait time.Duration) {
	q.blocked = true
	if wait < forever {
		s.set(&q.timer, now.Add(wait), nil, q)
	}
}

// unblock gives a stream its turns back. It keeps its ticket.
func (s *schedule) unblock(q *streamQueue, now time.Time) {
	s.unset(&q.timer)
	q.blocked, q.unblockedAt = false, now
	s.updateTurn(q)
}

// retry lets a message wait until its next attempt is due, which then comes
// before all others of its stream.
func (s *schedule) retry(m *message, due, now time.Time) {
	m.retrying = true
	s.set(&m.timer, due, m, nil)
	s.wait(m, s.waiting.PushFront(m), now)
}

// finish notes that a message that was started has its result.
func (s *schedule) finish(m *message) {
	m.queue.busy--
	s.updateTurn(m.queue)
}

// withdraw takes a message out that has not been started, or waits for its next attempt.
func (s *schedule) withdraw(m *message) {
	retrying := m.retrying
	s.leave(m)
	if retrying {
		m.queue.busy--
	}
	s.updateTurn(m.queue)
}

// leave takes a message out of its queue and of all that refers to it.
func (s *schedule) leave(m *message) {
	if m.timer.set && !m.retrying {
		m.queue.expiring--
	}
	s.unset(&m.timer)
	m.retrying = false
	if m.waiting != nil {
		s.waiting.Remove(m.waiting)
		m.waiting = nil
		s.bytes -= m.op.dataSize
		if m.queue.latest == m {
			m.queue.latest = nil
		}
	}
	if m.position != nil {
		m.queue.messages.Remove(m.position)
		m.position = nil
	}
}

// updateTurn gives a stream its turn if it has a message that may start, and forgets
// it if it has nothing more to do.
func (s *schedule) updateTurn(q *streamQueue) {
	first := q.messages.Front()
	mayStart := first != nil && first.Value.(*message).waiting != nil && (!s.ordered || q.busy == 0)
	switch {
	case mayStart && q.turn == nil && !q.blocked:
		q.turn = s.ready.PushBack(q)
	case !mayStart && q.turn != nil:
		s.takeTurn(q)
	}
	if first == nil && q.busy == 0 && q.ticket == nil {
		delete(s.queues, q.key)
	}
}

// advance makes ready what had to wait until now. It returns the messages
// whose NotAfter has passed, and the blocked streams that may ask again.
func (s *schedule) advance(now time.Time) (expired []*message, asking []*streamQueue) {
	for len(s.timers) > 0 && !s.timers[0].at.After(now) {
		due := s.timers[0]
		switch m := due.message; {
		case m == nil:
			s.unblock(due.queue, now)
			asking = append(asking, due.queue)
		case m.retrying:
			s.unset(due)
			s.due(m, now)
		default:
			s.withdraw(m)
			expired = append(expired, m)
		}
	}
	return expired, asking
}

// due brings a message between two attempts to the front of its stream.
func (s *schedule) due(m *message, now time.Time) {
	m.retrying, m.since = false, now
	m.queue.busy--
	m.position = m.queue.messages.PushFront(m)
	s.watchExpiry(m)
	s.updateTurn(m.queue)
}

// late returns the messages of a stream that can't start in time if none
// starts before then.
func (q *streamQueue) late(then time.Time) (late []*message) {
	if q.expiring == 0 {
		return nil
	}
	for element := q.messages.Front(); element != nil; element = element.Next() {
		if m := element.Value.(*message); m.timer.set && m.request.NotAfter.Before(then) {
			late = append(late, m)
		}
	}
	return late
}

// nextChange returns when advance has something to do, the zero time for never.
func (s *schedule) nextChange() time.Time {
	if len(s.timers) == 0 {
		return time.Time{}
	}
	return s.timers[0].at
}

// timer is the time at which a message, or a stream that is blocked, goes on.
type timer struct {
	at      time.Time
	message *message
	queue   *streamQueue
	place   int // in timers
	set     bool
}

func (s *schedule) set(t *timer, at time.Time, m *message, q *streamQueue) {
	s.unset(t)
	t.at, t.message, t.queue, t.set = at, m, q, true
	heap.Push(&s.timers, t)
}

func (s *schedule) unset(t *timer) {
	if t.set {
		heap.Remove(&s.timers, t.place)
		t.set = false
	}
}

// timers is a heap by time.
type timers []*timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int) {
	t[i], t[j] = t[j], t[i]
	t[i].place, t[j].place = i, j
}

func (t *timers) Push(x any) {
	added := x.(*timer)
	added.place = len(*t)
	*t = append(*t, added)
}

func (t *timers) Pop() any {
	last := len(*t) - 1
	popped := (*t)[last]
	(*t)[last] = nil
	*t = (*t)[:last]
	return popped
}
