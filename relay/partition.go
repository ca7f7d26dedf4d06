package relay

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	pullWait  = 400 * time.Millisecond
	pullBatch = 256

	pinHeader = "Nats-Pin-Id"
)

// partition is a share of the log in the hands of one worker. It pulls
// messages into lanes, one for each stream; a lane settles one after the other.
// What is held is kept alive at the server until it is settled.
//
// The barrier: after a change of hands, or when a delivery is missing, nothing
// starts until all that the server waits for is held here, else what a dead
// worker held, or what was lost on its way, would come after newer messages.
type partition struct {
	*worker
	n        int
	consumer jetstream.Consumer
	ctx      context.Context // ends when nothing more may start here
	cancel   context.CancelFunc
	pulled   chan struct{} // closed when nothing more comes

	mu       sync.Mutex
	held     map[uint64]*item // by their number in the log
	lanes    map[string]*lane // by subject
	loaded   int              // held with their data
	runners  int              // lanes that run
	tooMany  time.Time        // since when the server waits for less than is held
	pin      string           // of the worker that the server gives messages to
	delivery uint64           // the last one's number
	open     bool             // the barrier
	running  sync.WaitGroup   // lanes
	tending  sync.WaitGroup
	tended   time.Time     // when what is held was last kept alive
	dropped  atomic.Bool   // others have what is held
	ended    chan struct{} // nothing of it runs any more
}

// lane has the messages of one stream, in the order of the log.
type lane struct {
	items   []*item
	running bool
}

// item is a message in the hands of the worker. Without data it is fetched
// again when its turn comes.
type item struct {
	seq        uint64
	subject    string
	reply      string // to acknowledge it; the latest, if it was delivered again
	deliveries uint64
	header     nats.Header
	data       []byte // nil: not here
	missing    int    // how often in a row it could not be fetched
	time       time.Time
}

func (it *item) place() place { return place{it.seq, it.time.UnixNano()} }

func newPartition(ctx context.Context, w *worker, n int) (*partition, error) {
	consumer, err := w.js.Consumer(ctx, w.opts.Name, w.opts.consumer(n))
	if err != nil {
		return nil, err
	}
	p := &partition{worker: w, n: n, consumer: consumer, pulled: make(chan struct{}), ended: make(chan struct{}), held: map[uint64]*item{}, lanes: map[string]*lane{}, tended: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return p, nil
}

// pull takes messages from the log until the partition is given away.
func (p *partition) pull() {
	defer close(p.pulled)
	for p.ctx.Err() == nil {
		room := p.room()
		if _, ok := p.mayStart(); !ok || room == 0 { // what it may not publish, another should get
			p.pause(pullWait / 4)
			continue
		}
		batch, err := p.consumer.Fetch(min(room, pullBatch), jetstream.FetchMaxWait(pullWait), jetstream.FetchPriorityGroup(group))
		if err != nil {
			p.pause(pullWait / 4)
			continue
		}
		for msg := range batch.Messages() {
			p.take(msg)
		}
		if err := batch.Error(); err != nil && p.ctx.Err() == nil {
			p.opts.Logger.Warn("relay: pulling from the log failed", "partition", p.n, "error", err)
			p.pause(pullWait / 4)
		}
		p.lookAtBarrier() // between two pulls, nothing is on its way
	}
}

func (p *partition) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-p.ctx.Done():
	}
}

func (p *partition) room() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maxHeld - len(p.held)
}

// take holds a message.
func (p *partition) take(msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		return // it is no message of the log
	}
	seq := meta.Sequence.Stream
	settled := p.wasSettled(place{seq, meta.Timestamp.UnixNano()})
	p.mu.Lock()
	defer p.mu.Unlock()
	pin, delivery := msg.Headers().Get(pinHeader), meta.Sequence.Consumer
	if pin != p.pin || delivery != p.delivery+1 { // another worker had some, or one was lost on its way
		p.open = false
	}
	p.pin, p.delivery = pin, delivery
	if settled {
		_ = msg.Ack() // again
		return
	}
	if it := p.held[seq]; it != nil && it.time.Equal(meta.Timestamp) {
		it.reply, it.deliveries = msg.Reply(), meta.NumDelivered
		return
	} else if it != nil { // the log was made anew, and has nothing of what is held
		p.clear()
	}
	it := &item{seq: seq, subject: msg.Subject(), reply: msg.Reply(), deliveries: meta.NumDelivered, time: meta.Timestamp}
	p.held[seq] = it
	l := p.lanes[it.subject]
	if l == nil {
		l = &lane{}
		p.lanes[it.subject] = l
	}
	if p.loaded < p.opts.MaxPending && len(l.items) < max(1, p.opts.MaxPending/4) { // a stream fills only its share
		it.header, it.data = msg.Headers(), msg.Data()
		p.loaded++
	}
	at, _ := slices.BinarySearchFunc(l.items, seq, func(x *item, seq uint64) int { return cmp.Compare(x.seq, seq) })
	l.items = slices.Insert(l.items, at, it)
	p.wake(l)
}

// lookAtBarrier opens it if all that the server waits for is held here, and no
// lane still runs.
func (p *partition) lookAtBarrier() {
	if !p.mayLook() {
		return
	}
	info, err := p.consumer.Info(p.ctx)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	held := len(p.held)
	switch {
	case info.NumAckPending == held && (held > 0 || info.NumPending == 0):
		p.open, p.tooMany = true, time.Time{}
		for _, l := range p.lanes {
			p.wake(l)
		}
	case info.NumAckPending >= held:
		p.tooMany = time.Time{} // something has to come back yet
	case p.tooMany.IsZero():
		p.tooMany = time.Now()
	case time.Since(p.tooMany) > ackWait:
		p.startOver()
	}
}

// mayLook tells whether the barrier is worth a look: closed, with no lane that
// runs.
func (p *partition) mayLook() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.open && p.runners == 0 && p.ctx.Err() == nil
}

// startOver lets all that is held come again: the server does not wait for some
// of it any more, since it was too old, or was settled by a worker that
// seemed dead.
func (p *partition) startOver() {
	for _, reply := range p.replies() {
		_ = p.conn.Publish(reply, []byte("-NAK"))
	}
	p.clear()
}

// clear holds nothing any more.
func (p *partition) clear() {
	for _, l := range p.lanes {
		l.items = nil
	}
	p.held, p.lanes, p.loaded, p.tooMany = map[uint64]*item{}, map[string]*lane{}, 0, time.Time{}
}

// wake lets a lane run if it may and has something to do.
func (p *partition) wake(l *lane) {
	if p.open && !l.running && len(l.items) > 0 && p.ctx.Err() == nil {
		l.running = true
		p.runners++
		p.running.Go(func() { p.run(l) })
	}
}

// run settles the messages of a lane, one after the other.
func (p *partition) run(l *lane) {
	for it := p.next(l); it != nil; it = p.next(l) {
		if p.settle(l, it) {
			p.forget(l, it)
		}
	}
}

// next is the lane's first message, if one may start.
func (p *partition) next(l *lane) *item {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open || p.ctx.Err() != nil || len(l.items) == 0 {
		l.running = false
		p.runners--
		return nil
	}
	return l.items[0]
}

func (p *partition) isOpen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open && p.ctx.Err() == nil
}

// forget lets a settled message go.
func (p *partition) forget(l *lane, it *item) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held[it.seq] == it { // else it is held no longer
		delete(p.held, it.seq)
		if it.data != nil {
			p.loaded--
		}
	}
	if at := slices.Index(l.items, it); at >= 0 {
		l.items = slices.Delete(l.items, at, at+1)
	}
	if len(l.items) == 0 && p.lanes[it.subject] == l {
		delete(p.lanes, it.subject) // its run ends at its next look
	}
}

// tend keeps what is held alive at the server.
func (p *partition) tend() {
	ticker := time.NewTicker(ackWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-p.ended:
			return
		}
		if !p.keeps() {
			continue // others may have them
		}
		p.mu.Lock()
		replies := p.replies()
		p.mu.Unlock()
		for _, reply := range replies {
			_ = p.conn.Publish(reply, []byte("+WPI"))
		}
	}
}

// keeps tells whether what is held is still this worker's, and notes when it
// was. It is asked each third of ackWait.
func (p *partition) keeps() bool {
	_, ok := p.mayStart()
	if p.leaving.Load() { // without a beat, its own time tells
		ok = p.conn.IsConnected() && time.Since(p.tended) < memberTTL
	}
	ok = ok && !p.dropped.Load()
	if ok {
		p.tended = time.Now()
	}
	return ok
}

// replies are those of all that is held, in the order of the log.
func (p *partition) replies() []string {
	items := make([]*item, 0, len(p.held))
	for _, it := range p.held {
		items = append(items, it)
	}
	slices.SortFunc(items, func(x, y *item) int { return cmp.Compare(x.seq, y.seq) })
	replies := make([]string, len(items))
	for i, it := range items {
		replies[i] = it.reply
	}
	return replies
}

// drop starts nothing more: others have what waits by now. What is in flight
// can't be called back.
func (p *partition) drop() {
	p.dropped.Store(true)
	p.cancel()
}

// end waits until nothing of it runs.
func (p *partition) end() {
	<-p.pulled
	p.running.Wait()
	close(p.ended)
	p.tending.Wait()
}

// giveBack lets what is in flight finish, and hands the rest back in order, for
// the next worker.
func (p *partition) giveBack() {
	p.cancel()
	begun := time.Now()
	p.end()
	if time.Since(p.tended) > memberTTL {
		return // it stood still, and others have them
	}
	p.mu.Lock()
	replies := p.replies()
	p.mu.Unlock()
	for _, reply := range replies {
		_ = p.conn.Publish(reply, []byte("-NAK"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), memberTTL)
	defer cancel()
	if err := p.conn.FlushWithContext(ctx); err != nil {
		return
	}
	if time.Since(begun) < pinTTL/2 { // later, another worker may have the pin
		_ = p.log.UnpinConsumer(ctx, p.opts.consumer(p.n), group)
	}
}
