//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/twiliosync/twiliosync-go/relay"
)

// hot writes 10,000 messages of one stream, whose pace makes them take five
// minutes, and behind them 20 of each of 200 others, and tells how long those
// took, beside how long they take alone.
func hot(ctx context.Context, stdout io.Writer) error {
	for _, messages := range []int{0, 10_000} {
		took, published, err := behind(ctx, messages)
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "20 messages of each of 200 streams behind %d of one: %.2f s; the one had %d by then\n", messages, took.Seconds(), published)
	}
	return nil
}

func behind(ctx context.Context, messages int) (took time.Duration, published int, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	const others, each = 200, 20
	r, stop, err := calm(ctx, relay.Config{Partitions: 4}) // so that a quarter of the others have the hot one's
	if err != nil {
		return 0, 0, err
	}
	defer stop()
	for n := range messages {
		if err := r.writeOne(ctx, "hot", n); err != nil {
			return 0, 0, err
		}
	}
	for n := range each {
		for i := range others {
			if err := r.writeOne(ctx, fmt.Sprint("other-", i), n); err != nil {
				return 0, 0, err
			}
		}
	}
	begun := time.Now()
	if err := r.addWorker(); err != nil {
		return 0, 0, err
	}
	for i := 0; i < others; {
		if len(r.service.Messages(fmt.Sprint("other-", i))) == each {
			i++
		} else if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
	return time.Since(begun), len(r.service.Messages("hot")), nil
}

// calm is a world without faults.
func calm(ctx context.Context, cfg relay.Config) (r *run, stop func(), err error) {
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return nil, nil, err
	}
	r = &run{service: newService(false, 0), done: make(chan struct{}), cfg: cfg}
	if r.nats, err = startCluster(dir, 1); err != nil {
		return nil, nil, err
	}
	if r.js, err = r.nats.connect(); err != nil {
		return nil, nil, err
	}
	r.log = relay.NewPublisher(r.js, r.cfg)
	return r, func() {
		r.stopWorkers()
		r.js.Conn().Close()
		r.nats.stop()
		r.service.http.Close()
		_ = os.RemoveAll(dir)
	}, eventually(ctx, func() error { return relay.Setup(ctx, r.js, r.cfg) })
}

func (r *run) writeOne(ctx context.Context, stream string, n int) error {
	return r.log.Publish(ctx, relay.Message{ID: fmt.Sprint(stream, " ", n), ServiceSID: "default", StreamSID: stream, Data: map[string]int{"n": n}})
}

// growth tells the CPU of a message in all workers, by the number of streams
// and of workers.
func growth(ctx context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Minute)
	defer cancel()
	const messages = 10_000
	for _, size := range []struct{ streams, workers int }{{1, 1}, {100, 1}, {10_000, 1}, {100, 2}, {100, 4}, {100, 8}} {
		r, stop, err := calm(ctx, relay.Config{})
		if err != nil {
			return err
		}
		for n := range messages {
			if err := r.writeOne(ctx, fmt.Sprint("stream-", n%size.streams), n); err != nil {
				return err
			}
		}
		var all []*process
		begun := time.Now()
		for range size.workers {
			p, err := start("worker", "worker", r.nats.workersURL(), r.service.http.URL, "unpaced")
			if err != nil {
				return err
			}
			all = append(all, p)
		}
		if err := r.untilSettled(ctx); err != nil {
			return err
		}
		took := time.Since(begun)
		cpu := time.Duration(0)
		for _, p := range all {
			if err := p.end(syscall.SIGTERM); err != nil {
				return err
			}
			cpu += p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
		}
		fmt.Fprintf(stdout, "%d streams, %d workers: %.0f µs of CPU a message, %.1f s\n", size.streams, size.workers, float64(cpu.Microseconds())/messages, took.Seconds())
		stop()
	}
	return nil
}
