//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
)

// throughput compares the CPU that a worker needs for a message with that of
// CreateAll, each in a process of its own with the same streams and service.
// The NATS server and the service are other processes, which another machine
// would have. It also says how long Publish takes beside the log itself.
func throughput(ctx context.Context, messages int, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	r, stop, err := calm(ctx, relay.Config{})
	if err != nil {
		return err
	}
	defer stop()
	published, alone, err := r.writeBoth(ctx, messages)
	if err != nil {
		return err
	}
	if err := r.js.DeleteStream(ctx, "TWILIOSYNC"); err != nil { // with what has no ID
		return err
	}
	if err := relay.Setup(ctx, r.js, r.cfg); err != nil {
		return err
	}
	for n := range messages {
		if err := r.writeOne(ctx, fmt.Sprint("stream-", n%streams), n); err != nil {
			return err
		}
	}
	worker, err := start("worker", "worker", r.nats.workersURL(), r.service.http.URL, "unpaced")
	if err != nil {
		return err
	}
	if err := r.untilSettled(ctx); err != nil {
		return err
	}
	if err := worker.end(syscall.SIGTERM); err != nil {
		return err
	}
	direct, err := start("createall", "createall", fmt.Sprint(messages), r.service.http.URL)
	if err != nil {
		return err
	}
	<-direct.left
	perMessage := func(p *process) float64 {
		usage := p.cmd.ProcessState.SysUsage().(*syscall.Rusage)
		return float64(usage.Utime.Nano()+usage.Stime.Nano()) / float64(messages) / 1000
	}
	fmt.Fprintf(stdout, "CPU of a message: worker %.0f µs, CreateAll %.0f µs, ratio of what one core does %.2f\n",
		perMessage(worker), perMessage(direct), perMessage(direct)/perMessage(worker))
	fmt.Fprintf(stdout, "writing one after the other: relay %.0f µs, the log itself %.0f µs\n",
		float64(published.Microseconds())/float64(messages), float64(alone.Microseconds())/float64(messages))
	return nil
}

// writeBoth writes messages through the relay's Publisher and the same ones
// past it, in turns, and returns how long each took in all.
func (r *run) writeBoth(ctx context.Context, messages int) (published, alone time.Duration, err error) {
	for n := range messages {
		stream := fmt.Sprint("stream-", n%streams)
		begun := time.Now()
		if err := r.writeOne(ctx, stream, n); err != nil {
			return 0, 0, err
		}
		published += time.Since(begun)
		id := fmt.Sprint("alone-", n)
		begun = time.Now()
		msg := nats.NewMsg("TWILIOSYNC.in.default." + stream)
		msg.Header.Set("Twiliosync-Id", id)
		msg.Data = fmt.Appendf(nil, `{"n":%d}`, n)
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := r.js.PublishMsg(try, msg, jetstream.WithMsgID(id))
		cancel()
		if err != nil {
			return 0, 0, err
		}
		alone += time.Since(begun)
	}
	return published, alone, nil
}

// createAll is the other process.
func createAll(messages int, syncURL string) error {
	client, err := newClient(syncURL, twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
	if err != nil {
		return err
	}
	requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
		for n := range messages {
			if !yield(twiliosync.StreamMessageRequest{StreamSID: fmt.Sprint("stream-", n%streams), Data: map[string]int{"n": n}}) {
				return
			}
		}
	}
	for result := range client.StreamMessages.CreateAll(context.Background(), "default", requests, &twiliosync.CreateAllOptions{Ordered: true}) {
		if result.Err != nil {
			return result.Err
		}
	}
	return nil
}

func newClient(syncURL string, opts ...twiliosync.Option) (*twiliosync.Client, error) {
	return twiliosync.NewClient(twiliosync.BasicAuth("AC00000000000000000000000000000000", "auth-token"), append(opts, twiliosync.WithBaseURL(syncURL))...)
}
