//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twiliosync/twiliosync-go/relay"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const (
	poison  = 20 // messages that the service would refuse
	workers = 3
)

var streams = 50

// run is one run of the harness.
type run struct {
	event    string
	nats     *cluster
	js       jetstream.JetStream
	log      *relay.Publisher
	cfg      relay.Config
	service  *service
	messages int

	mu      sync.Mutex
	workers []*process
	done    chan struct{} // all is published
}

// service is the fake Sync, with latency, and a count of what is in flight.
type service struct {
	*twiliosynctest.Server
	http     *httptest.Server
	inFlight atomic.Int64
	unknown  atomic.Int64 // answers that were lost
	handled  atomic.Int64
}

func newService(faults bool, seed uint64) *service {
	s := &service{Server: twiliosynctest.New()}
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 17))
	draw := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n)
	}
	share := func(inTenThousand int, unknown bool) func(twiliosynctest.Request) bool {
		return func(twiliosynctest.Request) bool {
			hit := draw(10_000) < inTenThousand
			if hit && unknown {
				s.unknown.Add(1)
			}
			return hit
		}
	}
	if faults {
		s.Every().Optional().Matching(share(50, true)).LoseAnswer()
		s.Every().Optional().Matching(share(50, true)).Reset()
		s.Every().Optional().Matching(share(50, true)).AfterHandling().Respond(503, "<html>")
		s.Every().Optional().Matching(share(100, false)).Answer(429, 54009)
	}
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		time.Sleep(time.Duration(2+draw(10)) * time.Millisecond)
		s.Server.ServeHTTP(w, r)
		s.handled.Add(1)
	}))
	return s
}

// perform does one run.
func perform(ctx context.Context, event string, messages int, faults bool, seed uint64) (report, error) {
	happen, ok := events[event]
	if !ok {
		return report{}, fmt.Errorf("there is no event %q", event)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return report{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	r := &run{event: event, messages: messages, service: newService(faults, seed), done: make(chan struct{})}
	defer r.service.http.Close()
	servers := 1
	if event == "leader" {
		servers = 3
	}
	r.cfg.Replicas = servers
	if r.nats, err = startCluster(dir, servers); err != nil {
		return report{}, err
	}
	defer r.nats.stop()
	if r.js, err = r.nats.connect(); err != nil {
		return report{}, err
	}
	defer r.js.Conn().Close()
	r.log = relay.NewPublisher(r.js, r.cfg)
	if err := eventually(ctx, func() error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return relay.Setup(ctx, r.js, r.cfg)
	}); err != nil {
		return report{}, err
	}
	defer r.stopWorkers()
	start := time.Now()
	if err := r.publish(ctx, happen); err != nil {
		return report{}, err
	}
	result, err := r.count(ctx)
	result.took = time.Since(start)
	return result, err
}

// publish writes the messages to the log, and lets the event happen when two of
// five of them are published.
func (r *run) publish(ctx context.Context, happen func(context.Context, *run) error) (err error) {
	for range workers {
		if err := r.addWorker(); err != nil {
			return err
		}
	}
	written := make(chan error, 1)
	go func() { written <- r.write(ctx) }()
	for r.service.handled.Load() < int64(2*r.messages/5) {
		if err := sleep(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("%d messages were handled before: %w", r.service.handled.Load(), err)
		}
	}
	happened := make(chan error, 1)
	go func() { happened <- happen(ctx, r) }()
	if r.event != "churn" {
		if err := <-happened; err != nil {
			return err
		}
		happened <- nil
	}
	if err := <-written; err != nil {
		return err
	}
	defer func() {
		close(r.done)
		if failed := <-happened; err == nil {
			err = failed
		}
	}()
	return r.untilSettled(ctx)
}

// write writes the messages, each again under its ID until the log has it.
func (r *run) write(ctx context.Context) error {
	for n := range r.messages {
		m := relay.Message{ID: fmt.Sprint("message-", n), ServiceSID: "default", StreamSID: fmt.Sprint("stream-", n%streams), Data: map[string]int{"n": n / streams}}
		if err := eventually(ctx, func() error { return r.log.Publish(ctx, m) }); err != nil {
			return err
		}
		if n%(r.messages/poison) == 0 {
			bad := nats.NewMsg(fmt.Sprintf("TWILIOSYNC.in.default.stream-%d", n%streams))
			bad.Data = []byte("[]")
			if err := eventually(ctx, func() error {
				_, err := r.js.PublishMsg(ctx, bad, jetstream.WithMsgID(fmt.Sprint("poison-", n)))
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// untilSettled waits until the log is empty.
func (r *run) untilSettled(ctx context.Context) error {
	for {
		stream, err := r.js.Stream(ctx, "TWILIOSYNC")
		if err == nil && stream.CachedInfo().State.Msgs == 0 {
			return nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			state, _ := relay.Status(context.Background(), r.js, r.cfg)
			return fmt.Errorf("the log is not empty: %d pending, %d in flight, %d workers: %w", state.Pending, state.InFlight, len(state.Workers), err)
		}
	}
}

// count looks at what the service has.
func (r *run) count(ctx context.Context) (report, error) {
	result := report{doubtful: int(r.service.unknown.Load())}
	if r.event != "term" && r.event != "none" {
		result.doubtful += int(r.doubtful())
	}
	seen, marked, late := map[string]bool{}, map[string]bool{}, []string(nil)
	for s := range streams {
		last := -1
		var before time.Time
		var times []time.Time
		for _, message := range r.service.Messages(fmt.Sprint("stream-", s)) {
			var data struct {
				N           int    `json:"n"`
				ID          string `json:"id"`
				Redelivered bool   `json:"redelivered"`
			}
			if err := json.Unmarshal(message.Data, &data); err != nil {
				return result, err
			}
			times = append(times, message.Time)
			if !before.IsZero() {
				result.pause = max(result.pause, message.Time.Sub(before))
			}
			before = message.Time
			if data.Redelivered {
				marked[data.ID] = true
			}
			if seen[data.ID] {
				result.duplicates++
				if !data.Redelivered {
					late = append(late, data.ID)
				}
				continue
			}
			seen[data.ID] = true
			if data.N < last {
				result.breaks++
			}
			last = max(last, data.N)
		}
		for i := range times {
			within := 0
			for ; i+within < len(times) && times[i+within].Sub(times[i]) <= 10*time.Second; within++ {
				continue
			}
			result.most = max(result.most, within)
		}
	}
	for _, id := range late {
		if marked[id] {
			result.late++
		} else {
			result.unmarked++
		}
	}
	dead := 0
	for letter, err := range relay.DeadLetters(ctx, r.js, r.cfg) {
		if err != nil {
			return result, err
		}
		seen[letter.ID] = true
		dead++
	}
	if dead < poison {
		return result, fmt.Errorf("%d of %d poisonous messages are dead letters", dead, poison)
	}
	for n := range r.messages {
		if !seen[fmt.Sprint("message-", n)] {
			result.lost++
		}
	}
	return result, nil
}

func eventually(ctx context.Context, act func() error) error {
	for {
		err := act()
		if err == nil {
			return nil
		}
		if ended := sleep(ctx, 50*time.Millisecond); ended != nil {
			return errors.Join(err, ended)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
