package twiliosync

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// The documented publish rate of a stream: 30 messages a second over a burst
// window of 10 s.
// Source: https://www.twilio.com/docs/sync/limits
const (
	documentedBurst  = 300
	documentedWindow = 10 * time.Second
)

// streamKey names a stream to the limiter. A SID and the unique name of the
// same stream are two keys: only the service could tell.
type streamKey struct{ serviceSID, streamSID string }

// streamLimiter keeps the service's count of a stream within limit in any
// window. The service counts a message at some moment between the start of its
// attempt and the end of its answer, so an attempt holds a place while it is
// in flight and for one window after its end. A token bucket of the same
// numbers would let nearly twice as many through in its first window.
//
// It remembers a stream for one window after the last attempt or pause.
type streamLimiter struct {
	limit  int
	window time.Duration
	epoch  time.Time // times are kept as 8 bytes since then

	mu      sync.Mutex
	streams map[streamKey]*streamPace
	order   list.List // of *streamPace, the one used longest ago first
	peak    int       // streams since the map was made; Go's maps don't shrink

	sweeping bool // a sweep is due
}

// streamPace is a stream's places.
type streamPace struct {
	key         streamKey
	element     *list.Element
	inFlight    int
	ends        ring // of attempts, within the window; with inFlight at most limit
	pausedUntil time.Duration
	lastUse     time.Duration
	queue       list.List // of *ticket: first come, first served
}

// ticket is a place in the queue of a stream. wake is called, with the
// limiter's lock held, when it is worth asking again.
type ticket struct {
	pace    *streamPace
	element *list.Element
	wake    func()
}

// forever stands for "when it is woken".
const forever = time.Duration(math.MaxInt64)

func newStreamLimiter(limit int, window time.Duration) *streamLimiter {
	return &streamLimiter{limit: limit, window: window, epoch: time.Now(), streams: map[streamKey]*streamPace{}}
}

// wait blocks until the stream may start an attempt, and takes the place. If
// that would certainly be after the context's deadline, it fails at once.
func (l *streamLimiter) wait(ctx context.Context, key streamKey) *contextError {
	if l.take(key) {
		return nil
	}
	woken := make(chan struct{}, 1)
	t, wait, ok := l.ask(key, func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for !ok {
		if err := l.tooLate(ctx, t); err != nil {
			l.leave(t)
			return err
		}
		timer.Reset(wait)
		select {
		case <-woken:
		case <-timer.C:
		case <-ctx.Done():
			l.leave(t)
			return newContextError(ctx)
		}
		wait, ok = l.retake(t)
	}
	return nil
}

func (l *streamLimiter) tooLate(ctx context.Context, t *ticket) *contextError {
	deadline, ok := ctx.Deadline()
	if !ok {
		return nil
	}
	wait := l.atLeast(t)
	if wait < time.Until(deadline) {
		return nil
	}
	return &contextError{
		err:        context.DeadlineExceeded,
		text:       fmt.Sprintf("the stream's rate limit lets it start in %v, after the deadline: %v", wait, context.DeadlineExceeded),
		retryAfter: wait,
	}
}

// take takes a place of the stream if one is free, and nobody waits for it.
func (l *streamLimiter) take(key streamKey) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	pace := l.pace(key)
	free := pace.queue.Len() == 0 && l.nextPlace(pace, l.now()) <= 0
	if free {
		pace.inFlight++
	}
	return free
}

// ask takes a place of the stream, or else queues for one: then wait says when
// to call retake, if wake isn't called before.
func (l *streamLimiter) ask(key streamKey, wake func()) (t *ticket, wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pace, now := l.pace(key), l.now()
	if pace.queue.Len() == 0 {
		if wait = l.nextPlace(pace, now); wait <= 0 {
			pace.inFlight++
			return nil, 0, true
		}
	}
	t = &ticket{pace: pace, wake: wake}
	t.element = pace.queue.PushBack(t)
	if pace.queue.Len() > 1 {
		wait = forever
	}
	return t, wait, false
}

// retake takes the place that a ticket waits for, if it is its turn.
func (l *streamLimiter) retake(t *ticket) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.pace.queue.Front() != t.element {
		return forever, false
	}
	if wait = l.nextPlace(t.pace, l.now()); wait > 0 {
		return wait, false
	}
	t.pace.inFlight++
	l.remove(t)
	return 0, true
}

// leave gives up a ticket, if it is still in the queue.
func (l *streamLimiter) leave(t *ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.element != nil {
		l.remove(t)
	}
}

func (l *streamLimiter) remove(t *ticket) {
	t.pace.queue.Remove(t.element)
	t.element = nil
	l.use(t.pace, l.now())
	t.pace.wakeFirst()
}

func (p *streamPace) wakeFirst() {
	if first := p.queue.Front(); first != nil {
		first.Value.(*ticket).wake()
	}
}

// release gives a place back when its attempt has ended: one window from now
// if the request may have been counted by the service, else at once.
func (l *streamLimiter) release(key streamKey, counted bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pace, now := l.pace(key), l.now()
	pace.inFlight--
	if counted {
		l.expire(pace, now)
		pace.ends.push(now, l.limit)
	}
	pace.wakeFirst()
}

// pause keeps the stream from starting anything for d.
func (l *streamLimiter) pause(key streamKey, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pace := l.pace(key)
	pace.pausedUntil = max(pace.pausedUntil, l.now()+min(d, math.MaxInt64/2)) // half: no overflow
}

// atLeast returns how long a ticket will wait for certain.
func (l *streamLimiter) atLeast(t *ticket) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	ahead := 0
	for element := t.pace.queue.Front(); element != nil && element != t.element; element = element.Next() {
		ahead++
	}
	return l.earliest(t.pace, ahead, l.now())
}

// certainWait returns how long every message of the stream will wait for certain.
func (l *streamLimiter) certainWait(key streamKey) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.earliest(l.pace(key), 0, l.now())
}

func (l *streamLimiter) now() time.Duration { return time.Since(l.epoch) }

// nextPlace returns when the first in the queue may start; forever if that
// depends on attempts in flight.
func (l *streamLimiter) nextPlace(pace *streamPace, now time.Duration) time.Duration {
	l.expire(pace, now)
	at := max(now, pace.pausedUntil)
	if pace.inFlight+pace.ends.n >= l.limit {
		if pace.ends.n == 0 {
			return forever
		}
		at = max(at, l.free(pace.ends.first()))
	}
	return at - now
}

// earliest is a bound for the one that ahead others come before: as if all
// that is in flight ended now, and was not sent.
func (l *streamLimiter) earliest(pace *streamPace, ahead int, now time.Duration) time.Duration {
	l.expire(pace, now)
	rounds, rest := ahead/l.limit, ahead%l.limit
	at := max(now, pace.pausedUntil)
	if i := pace.ends.n + rest - l.limit; i >= 0 {
		at = max(at, l.free(pace.ends.at(i)))
	}
	return at - now + l.free(0)*time.Duration(rounds)
}

// free returns when an end no longer counts: one nanosecond after its window,
// so that a window with both its ends holds no more than the limit.
func (l *streamLimiter) free(end time.Duration) time.Duration { return end + l.window + 1 }

func (l *streamLimiter) expire(pace *streamPace, now time.Duration) {
	for pace.ends.n > 0 && l.free(pace.ends.first()) <= now {
		pace.ends.pop()
	}
}

// pace returns the stream's places, after forgetting the streams that are idle.
func (l *streamLimiter) pace(key streamKey) *streamPace {
	now := l.now()
	l.forget(now)
	pace := l.streams[key]
	if pace == nil {
		pace = &streamPace{key: key, pausedUntil: now}
		pace.element = l.order.PushBack(pace)
		l.streams[key] = pace
		l.peak = max(l.peak, len(l.streams))
	}
	l.use(pace, now)
	l.sweepLater()
	return pace
}

func (l *streamLimiter) use(pace *streamPace, at time.Duration) {
	pace.lastUse = at
	l.order.MoveToBack(pace.element)
}

// forget drops the streams without a use in the last window.
func (l *streamLimiter) forget(now time.Duration) {
	for element := l.order.Front(); element != nil; element = l.order.Front() {
		pace := element.Value.(*streamPace)
		if l.free(pace.lastUse) > now {
			break
		}
		if pace.queue.Len() > 0 || pace.inFlight > 0 || pace.pausedUntil > now {
			l.use(pace, now)
			continue
		}
		l.order.Remove(element)
		delete(l.streams, pace.key)
	}
	if len(l.streams) < l.peak/4 {
		rebuilt := make(map[streamKey]*streamPace, len(l.streams))
		for key, pace := range l.streams {
			rebuilt[key] = pace
		}
		l.streams, l.peak = rebuilt, len(rebuilt)
	}
}

// sweepLater makes sure that streams are forgotten also if nothing is
// published any more: one window after the last use of any.
func (l *streamLimiter) sweepLater() {
	if l.sweeping || l.order.Len() == 0 {
		return
	}
	l.sweeping = true
	lastUse := l.order.Back().Value.(*streamPace).lastUse
	time.AfterFunc(l.free(lastUse)-l.now(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sweeping = false
		l.forget(l.now())
		l.sweepLater()
	})
}

// ring is a queue of ascending times in one piece of memory.
type ring struct {
	times []time.Duration
	start int
	n     int
}

func (r *ring) at(i int) time.Duration { return r.times[(r.start+i)%len(r.times)] }
func (r *ring) first() time.Duration   { return r.times[r.start] }

func (r *ring) pop() {
	r.start = (r.start + 1) % len(r.times)
	r.n--
}

// push appends a time; there are never more than limit.
func (r *ring) push(t time.Duration, limit int) {
	if r.n == len(r.times) {
		grown := make([]time.Duration, min(max(8, 2*r.n), limit))
		for i := range r.n {
			grown[i] = r.at(i)
		}
		r.times, r.start = grown, 0
	}
	r.times[(r.start+r.n)%len(r.times)] = t
	r.n++
}
