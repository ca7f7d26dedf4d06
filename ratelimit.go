package twiliosync

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"sync"
	"time"
)

// streamKey names a stream to the limiter. A SID and the unique name of the
// same stream are two keys: only the service could tell.
type streamKey struct{ serviceSID, streamSID string }

func (cl *call) stream() streamKey { return streamKey{cl.serviceSID, cl.streamSID} }

// streamLimiter lets at most limit attempts of a stream start in any window: a
// sliding log of the starts. A token bucket of the same numbers would let
// nearly twice as many through in its first window.
//
// It remembers a stream for one window after its last start or pause.
type streamLimiter struct {
	limit  int
	window time.Duration
	epoch  time.Time // a start is kept as 8 bytes since then

	mu      sync.Mutex
	streams map[streamKey]*streamLog
	order   list.List // of *streamLog, the one used longest ago first
	peak    int       // streams since the map was made; Go's maps don't shrink

	sweeping bool // a sweep is due
}

type streamLog struct {
	key         streamKey
	element     *list.Element
	starts      []time.Duration // within the window, ascending, at most limit
	pausedUntil time.Duration
	lastUse     time.Duration
	queue       list.List // of chan struct{}: the Create calls waiting, first come first served
}

func newStreamLimiter(limit int, window time.Duration) *streamLimiter {
	return &streamLimiter{limit: limit, window: window, epoch: time.Now(), streams: map[streamKey]*streamLog{}}
}

// wait blocks until the stream may start an attempt, and notes the start. If
// that would be after the context's deadline, it fails at once.
func (l *streamLimiter) wait(ctx context.Context, key streamKey) *contextError {
	l.mu.Lock()
	log := l.log(key)
	now := l.now()
	at := l.turn(log, log.queue.Len(), now)
	if at <= now && log.queue.Len() == 0 {
		l.start(log, now)
		l.mu.Unlock()
		return nil
	}
	if err := l.tooLate(ctx, at, now); err != nil {
		l.mu.Unlock()
		return err
	}
	first := make(chan struct{}, 1)
	place := log.queue.PushBack(first)
	if log.queue.Front() == place {
		first <- struct{}{}
	}
	l.mu.Unlock()

	defer l.leave(log, place)
	select {
	case <-first:
		return l.waitFirst(ctx, log)
	case <-ctx.Done():
		return newContextError(ctx)
	}
}

// waitFirst waits for the next free start at the head of the queue. The turn
// is computed anew after each sleep: the stream may have been paused.
func (l *streamLimiter) waitFirst(ctx context.Context, log *streamLog) *contextError {
	for {
		l.mu.Lock()
		now := l.now()
		at := l.turn(log, 0, now)
		if at <= now {
			l.start(log, now)
			l.mu.Unlock()
			return nil
		}
		l.mu.Unlock()
		if err := l.tooLate(ctx, at, now); err != nil {
			return err
		}
		if err := sleep(ctx, at-now); err != nil {
			return err
		}
	}
}

func (l *streamLimiter) tooLate(ctx context.Context, at, now time.Duration) *contextError {
	deadline, ok := ctx.Deadline()
	if !ok || at-now < time.Until(deadline) {
		return nil
	}
	return &contextError{
		err:        fmt.Errorf("the stream's rate limit lets it start in %v, after the deadline: %w", at-now, context.DeadlineExceeded),
		retryAfter: at - now,
	}
}

// leave takes a waiter out of the queue and lets the next one come first.
func (l *streamLimiter) leave(log *streamLog, place *list.Element) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wasFirst := log.queue.Front() == place
	log.queue.Remove(place)
	if next := log.queue.Front(); wasFirst && next != nil {
		next.Value.(chan struct{}) <- struct{}{}
	}
}

// take notes a start if the stream may have one now. If not, it returns when
// to ask again. It doesn't queue behind calls of Create: CreateAll has a queue
// of its own, and whoever asks first gets the next start.
func (l *streamLimiter) take(key streamKey) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log, now := l.log(key), l.now()
	if at := l.turn(log, 0, now); at > now {
		return at - now, false
	}
	l.start(log, now)
	return 0, true
}

// pause keeps the stream from starting anything for d.
func (l *streamLimiter) pause(key streamKey, d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	log := l.log(key)
	log.pausedUntil = max(log.pausedUntil, l.now()+min(d, math.MaxInt64/2)) // half: no overflow
}

func (l *streamLimiter) now() time.Duration { return time.Since(l.epoch) }

// turn returns when the waiter behind ahead others may start.
func (l *streamLimiter) turn(log *streamLog, ahead int, now time.Duration) time.Duration {
	l.expire(log, now)
	rounds, ahead := ahead/l.limit, ahead%l.limit
	at := max(now, log.pausedUntil)
	if i := len(log.starts) + ahead - l.limit; i >= 0 {
		at = max(at, l.free(log.starts[i]))
	}
	return at + l.free(0)*time.Duration(rounds)
}

// free returns when a start no longer counts: one nanosecond after its window,
// so that a window with both its ends holds no more than the limit.
func (l *streamLimiter) free(start time.Duration) time.Duration { return start + l.window + 1 }

func (l *streamLimiter) expire(log *streamLog, now time.Duration) {
	expired := 0
	for expired < len(log.starts) && l.free(log.starts[expired]) <= now {
		expired++
	}
	log.starts = log.starts[expired:]
}

func (l *streamLimiter) start(log *streamLog, now time.Duration) {
	log.starts = append(log.starts, now)
	l.use(log, now)
}

// log returns the stream's log, after forgetting the streams that are idle.
func (l *streamLimiter) log(key streamKey) *streamLog {
	now := l.now()
	l.forget(now)
	log := l.streams[key]
	if log == nil {
		log = &streamLog{key: key, pausedUntil: now}
		log.element = l.order.PushBack(log)
		l.streams[key] = log
		l.peak = max(l.peak, len(l.streams))
	}
	l.use(log, now)
	l.sweepLater()
	return log
}

func (l *streamLimiter) use(log *streamLog, at time.Duration) {
	log.lastUse = at
	l.order.MoveToBack(log.element)
}

// forget drops the streams without a use in the last window.
func (l *streamLimiter) forget(now time.Duration) {
	for element := l.order.Front(); element != nil; element = l.order.Front() {
		log := element.Value.(*streamLog)
		if l.free(log.lastUse) > now {
			break
		}
		if log.queue.Len() > 0 || log.pausedUntil > now {
			l.use(log, now)
			continue
		}
		l.order.Remove(element)
		delete(l.streams, log.key)
	}
	if len(l.streams) < l.peak/4 {
		rebuilt := make(map[streamKey]*streamLog, len(l.streams))
		for key, log := range l.streams {
			rebuilt[key] = log
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
	lastUse := l.order.Back().Value.(*streamLog).lastUse
	time.AfterFunc(l.free(lastUse)-l.now(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sweeping = false
		l.forget(l.now())
		l.sweepLater()
	})
}
