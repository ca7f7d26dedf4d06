//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/twiliosync/twiliosync-go/relay"
)

// hot writes 10,000 messages of one stream, whose pace makes them take five
// minutes, and behind them 20 of each of 200 others, and tells how long those
// took.
func hot(ctx context.Context, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const others, each = 200, 20
	r := &run{service: newService(false, 0), done: make(chan struct{})}
	defer r.service.http.Close()
	r.cfg.Partitions = 4 // so that a quarter of the others have the hot one's
	if r.nats, err = startCluster(dir, 1); err != nil {
		return err
	}
	defer r.nats.stop()
	if r.js, err = r.nats.connect(); err != nil {
		return err
	}
	defer r.js.Conn().Close()
	if err := eventually(ctx, func() error { return relay.Setup(ctx, r.js, r.cfg) }); err != nil {
		return err
	}
	log := relay.NewPublisher(r.js, r.cfg)
	write := func(stream string, n int) error {
		return log.Publish(ctx, relay.Message{ID: fmt.Sprint(stream, " ", n), ServiceSID: "default", StreamSID: stream, Data: map[string]int{"n": n}})
	}
	for n := range 10_000 {
		if err := write("hot", n); err != nil {
			return err
		}
	}
	for n := range each {
		for i := range others {
			if err := write(fmt.Sprint("other-", i), n); err != nil {
				return err
			}
		}
	}
	defer r.stopWorkers()
	begun := time.Now()
	if err := r.addWorker(); err != nil {
		return err
	}
	for i := 0; i < others; {
		if len(r.service.Messages(fmt.Sprint("other-", i))) == each {
			i++
		} else if err := sleep(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	fmt.Fprintf(stdout, "%d messages of %d streams behind 10,000 of one: published after %.1f s, when the one had %d\n",
		others*each, others, time.Since(begun).Seconds(), len(r.service.Messages("hot")))
	return nil
}
