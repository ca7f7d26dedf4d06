package relay

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/twiliosync/twiliosync-go"
)

// UnknownPolicy says what a worker does with a message whose outcome is
// unknown.
type UnknownPolicy int

const (
	// Redeliver publishes it again, marked by the RedeliveredField: at-least-once.
	Redeliver UnknownPolicy = iota
	// Drop moves it to the dead letters. Only if a worker dies in the middle of it, it is published again.
	Drop
)

// Options says how a worker works. Zero fields take the defaults.
type Options struct {
	Config
	// Unknown is what happens to a message whose outcome is unknown. Default Redeliver.
	Unknown UnknownPolicy
	// IDField is the field with the message's ID that is added to the JSON object, "id" by default, and "-" for none.
	// A field of that name that the data has already stays as it is. A message without room for it within 4 KiB becomes a
	// dead letter.
	IDField string
	// RedeliveredField is the field that is true in a message that may have been published before, "redelivered" by
	// default, and "-" for none. A message that has to be marked, and has such a field of its own, becomes a dead letter.
	RedeliveredField string
	// DropAfter is the age at which a message becomes a dead letter: for live data a late one is worse than none. Zero: never.
	DropAfter time.Duration
	// MaxPending is how many messages of a partition a worker holds with their data. Default 256.
	MaxPending int
	// DrainTimeout is how long messages in flight may go on when ctx ends. Default 10 s.
	DrainTimeout time.Duration
	// OnSettled is called after each message, one call at a time, so it should be quick. Nil: nobody is told.
	OnSettled func(Settled)
	// Logger gets what goes wrong with the log. Nil: nobody is told.
	Logger *slog.Logger
	// Tracer is told of each message as of a call, from its first attempt here to its outcome, within the trace that
	// travelled with it. The client's own tracer, if it has one, sees the calls and attempts in it.
	Tracer twiliosync.Tracer
}

// Settled is what became of a message.
type Settled struct {
	ID, ServiceSID, StreamSID string
	// Outcome is that of the last attempt.
	Outcome twiliosync.Outcome
	// Redelivered tells that it may have been published before.
	Redelivered bool
	// Age is how long it was in the log.
	Age time.Duration
	// DeadLettered is the reason why it is among the dead letters; empty if it was published.
	DeadLettered string
	// Err is the error of the last attempt; nil if it was published.
	Err error
}

func (o Options) withDefaults() (Options, error) {
	var err error
	if o.Config, err = o.Config.withDefaults(); err != nil {
		return o, err
	}
	o.IDField = fieldName(o.IDField, "id")
	o.RedeliveredField = fieldName(o.RedeliveredField, "redelivered")
	o.MaxPending = cmp.Or(o.MaxPending, 256)
	o.DrainTimeout = cmp.Or(o.DrainTimeout, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Unknown != Redeliver && o.Unknown != Drop:
		return o, errors.New("relay: there is no such UnknownPolicy; use Redeliver or Drop")
	case o.IDField != "" && o.IDField == o.RedeliveredField:
		return o, errors.New("relay: IDField and RedeliveredField are the same; choose two names")
	case o.DropAfter < 0 || o.MaxPending < 0 || o.DrainTimeout < 0:
		return o, errors.New("relay: DropAfter, MaxPending and DrainTimeout are not negative; use 0 for the default")
	}
	return o, nil
}

func fieldName(name, standard string) string {
	switch name {
	case "":
		return standard
	case "-":
		return ""
	}
	return name
}

const (
	beatEvery = 400 * time.Millisecond

	// freshFor is how long after a beat an attempt may start: less than memberTTL, after which others take over.
	freshFor = memberTTL - 500*time.Millisecond

	// maxInFlight bounds the attempts of a worker at a time.
	maxInFlight = 256
)

// worker is one Run. It beats in the key-value bucket of the members, works on
// those partitions that are its own among all who beat, and starts nothing
// while its beat is old: then others may have taken over.
type worker struct {
	js     jetstream.JetStream
	conn   *nats.Conn
	log    jetstream.Stream
	client *twiliosync.Client
	opts   Options
	id     string
	beats  jetstream.KeyValue

	mu         sync.Mutex
	beat       time.Time // the last one that the server has confirmed was sent then
	partitions map[int]*partition
	settled    recent         // not to be published again, if the acknowledgement was late
	started    recent         // may have been published
	stopping   sync.WaitGroup // partitions that were given away
	places     chan struct{}  // of attempts
	leaving    atomic.Bool    // nothing more starts; what is in flight may end
	drained    time.Time      // when it has to have ended, once it is leaving
	maxAge     time.Duration  // of the log

	telling sync.Mutex // one call of OnSettled at a time
}

// Run publishes what is in the log until ctx ends: then nothing more starts,
// messages in flight have DrainTimeout, and the others go back to the log for
// the other workers. It returns nil then, and an error if it can't begin: no
// Setup, another number of partitions, bad options; or if the connection is
// closed for good.
//
// Streams are paced as in CreateAll. Retries are the relay's own, whatever the
// policy of client. While the NATS server can't be reached, nothing starts.
func Run(ctx context.Context, js jetstream.JetStream, client *twiliosync.Client, opts Options) error {
	w, err := newWorker(ctx, js, client, opts)
	if err != nil {
		return err
	}
	left := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() { w.keepBeating(left) })
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for ctx.Err() == nil && !w.conn.IsClosed() {
		w.assign(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	w.drained = time.Now().Add(w.opts.DrainTimeout)
	w.leaving.Store(true)
	w.release(func(p *partition) { p.cancel() }, (*partition).giveBack)
	close(left)
	beating.Wait()
	w.leave() // so that others wait for each partition, and get it as soon as nothing of it is in flight here
	w.stopping.Wait()
	if w.conn.IsClosed() {
		return errors.New("relay: the connection to NATS is closed for good; connect with nats.MaxReconnects(-1), and close it after Run")
	}
	return nil
}

// keepBeating renews the beat until the worker has left. What else it does
// never delays a beat.
func (w *worker) keepBeating(left <-chan struct{}) {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-left:
			return
		case <-ticker.C:
		}
		if err := w.renew(context.Background()); err != nil {
			w.opts.Logger.Warn("relay: the beat was not confirmed", "worker", w.id, "error", err)
		}
	}
}

func newWorker(ctx context.Context, js jetstream.JetStream, client *twiliosync.Client, opts Options) (*worker, error) {
	switch {
	case ctx == nil:
		return nil, errors.New("relay: the context is nil; pass context.Background() if there is none")
	case js == nil:
		return nil, errors.New("relay: the JetStream is nil; pass one of jetstream.New")
	case client == nil || client.StreamMessages == nil:
		return nil, errors.New("relay: the client is nil; pass one of twiliosync.NewClient")
	}
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	log, err := opts.open(ctx, js)
	if err != nil {
		return nil, err
	}
	beats, err := js.KeyValue(ctx, opts.workers())
	if err != nil {
		return nil, fmt.Errorf("relay: there is no membership %s; call Setup first: %w", opts.workers(), err)
	}
	w := &worker{
		js: js, conn: js.Conn(), log: log, client: client, opts: opts, id: nuid.Next(), beats: beats,
		partitions: map[int]*partition{}, settled: newRecent(), started: newRecent(), places: make(chan struct{}, maxInFlight),
		maxAge: log.CachedInfo().Config.MaxAge,
	}
	if err := w.renew(ctx); err != nil {
		return nil, fmt.Errorf("relay: a worker can't join: %w", explained(js, err))
	}
	return w, nil
}

// beatInfo is the value of a worker's key.
type beatInfo struct {
	Partitions []int `json:"partitions"`
}

// renew beats, and notes when.
func (w *worker) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, memberTTL)
	defer cancel()
	var info beatInfo
	w.mu.Lock()
	for n := range w.partitions {
		info.Partitions = append(info.Partitions, n)
	}
	w.mu.Unlock()
	slices.Sort(info.Partitions)
	value, err := json.Marshal(info)
	if err != nil {
		return err
	}
	sent := time.Now()
	if _, err := w.beats.Put(ctx, w.id, value); err != nil {
		return err
	}
	if !w.fresh(memberTTL) { // others may have taken over since the last beat
		w.release((*partition).drop, (*partition).end)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beat = sent
	return nil
}

func (w *worker) fresh(within time.Duration) bool { return time.Now().Before(w.freshUntil(within)) }

func (w *worker) freshUntil(within time.Duration) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.beat.Add(within)
}

// mayStart tells whether an attempt may start, and until when.
func (w *worker) mayStart() (until time.Time, ok bool) {
	until = w.freshUntil(freshFor)
	return until, w.conn.IsConnected() && time.Now().Before(until)
}

// assign begins with the partitions that are now this worker's, and stops those
// that are not any more.
func (w *worker) assign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, memberTTL)
	defer cancel()
	living, err := w.beats.Keys(ctx)
	if err != nil || !slices.Contains(living, w.id) {
		return // it stays as it is until the next beat
	}
	for n := range w.opts.Partitions {
		w.mu.Lock()
		p := w.partitions[n]
		w.mu.Unlock()
		mine := owner(living, n) == w.id
		switch {
		case mine && p == nil:
			p, err := newPartition(ctx, w, n)
			if err != nil {
				w.opts.Logger.WarnContext(ctx, "relay: a partition can't be opened", "partition", n, "error", err)
				continue
			}
			go p.pull()
			p.tending.Go(p.tend)
			w.mu.Lock()
			w.partitions[n] = p
			w.mu.Unlock()
		case !mine && p != nil:
			w.mu.Lock()
			delete(w.partitions, n)
			w.stopping.Go(p.giveBack)
			w.mu.Unlock()
		}
	}
}

// owner is who has the highest hash with the partition: if a worker comes or
// goes, only its own partitions change hands.
func owner(living []string, n int) string {
	weight := func(id string) uint64 {
		h := fnv.New64a()
		h.Write([]byte(id + "/" + strconv.Itoa(n)))
		x := h.Sum64()
		x ^= x >> 33 // fnv alone leaves similar texts near each other
		x *= 0xff51afd7ed558ccd
		return x ^ x>>33
	}
	return slices.MaxFunc(living, func(x, y string) int {
		return cmp.Or(cmp.Compare(weight(x), weight(y)), cmp.Compare(x, y))
	})
}

// release takes all partitions away.
func (w *worker) release(now func(*partition), then func(*partition)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n, p := range w.partitions {
		delete(w.partitions, n)
		now(p)
		w.stopping.Go(func() { then(p) })
	}
}

// leave tells the other members.
func (w *worker) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), memberTTL)
	defer cancel()
	if err := w.beats.Delete(ctx, w.id); err != nil {
		w.opts.Logger.Warn("relay: a worker left without saying so; the others notice in 2 s", "worker", w.id, "error", err)
	}
}

// tell reports a settled message.
func (w *worker) tell(s Settled) {
	if w.opts.OnSettled == nil {
		return
	}
	w.telling.Lock()
	defer w.telling.Unlock()
	w.opts.OnSettled(s)
}

// confirm acknowledges to the server, and waits until it has it.
func (w *worker) confirm(reply, word string) bool {
	for begun := time.Now(); ; {
		ctx, cancel := context.WithTimeout(context.Background(), memberTTL)
		_, err := w.conn.RequestWithContext(ctx, reply, []byte(word))
		cancel()
		if err == nil {
			return true
		}
		if w.conn.IsClosed() || time.Since(begun) > w.opts.DrainTimeout || w.leaving.Load() && time.Now().After(w.drained) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// place tells one message of the log from all others, also if the log was made
// anew, or has lost its end with a server: then it gives its numbers again.
type place struct {
	seq  uint64
	time int64
}

// recent knows the last places that were added.
type recent struct {
	seen  map[place]bool
	order []place
}

func newRecent() recent { return recent{seen: map[place]bool{}} }

func (r *recent) add(at place) {
	const kept = 1 << 16
	if r.seen[at] {
		return
	}
	r.seen[at] = true
	if r.order = append(r.order, at); len(r.order) > kept {
		delete(r.seen, r.order[0])
		r.order = r.order[1:]
	}
}

func (w *worker) noteStarted(at place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started.add(at)
}

func (w *worker) notStarted(at place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.started.seen, at)
}

func (w *worker) wasStarted(at place) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.started.seen[at]
}

func (w *worker) noteSettled(at place) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled.add(at)
}

func (w *worker) wasSettled(at place) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settled.seen[at]
}
