//go:build linux

package main

import (
	"context"
	"syscall"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

func (r *run) note() { r.nats.noted.Add(r.service.inFlight.Load()) }

func (r *run) doubtful() int64 { return r.nats.noted.Load() }

func (r *run) worker(i int) *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.workers[i]
}

func killWorker(_ context.Context, r *run) error {
	r.note()
	return r.worker(0).end(syscall.SIGKILL)
}

// killAll kills all workers, and starts others.
func killAll(_ context.Context, r *run) error {
	r.note()
	for i := range workers {
		if err := r.worker(i).end(syscall.SIGKILL); err != nil {
			return err
		}
	}
	for range workers {
		if err := r.addWorker(); err != nil {
			return err
		}
	}
	return nil
}

// stopWorker stops one for longer than the others wait for it.
func stopWorker(ctx context.Context, r *run) error {
	r.note()
	if err := r.worker(0).signal(syscall.SIGSTOP); err != nil {
		return err
	}
	err := sleep(ctx, 6*time.Second)
	r.note()
	if resumed := r.worker(0).signal(syscall.SIGCONT); resumed != nil {
		return resumed
	}
	return err
}

func terminateWorker(_ context.Context, r *run) error { return r.worker(0).end(syscall.SIGTERM) }

func restartNATS(ctx context.Context, r *run) error {
	r.note()
	if err := r.nats.servers[0].end(syscall.SIGTERM); err != nil {
		return err
	}
	if err := sleep(ctx, time.Second); err != nil {
		return err
	}
	return r.nats.start(0)
}

// cutNetwork cuts all workers from NATS.
func cutNetwork(ctx context.Context, r *run) error {
	r.note()
	r.nats.proxy.Stop()
	err := sleep(ctx, 10*time.Second)
	if again := r.nats.proxy.Start(); again != nil {
		return again
	}
	return err
}

func killLeader(ctx context.Context, r *run) error {
	r.note()
	stream, err := r.js.Stream(ctx, "TWILIOSYNC")
	if err != nil {
		return err
	}
	for _, server := range r.nats.servers {
		if server.name == stream.CachedInfo().Cluster.Leader {
			return server.end(syscall.SIGKILL)
		}
	}
	return nil
}

// churn adds a worker and takes one away, every second.
func churn(ctx context.Context, r *run) error {
	for i := 0; ; i++ {
		select {
		case <-r.done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		if err := r.addWorker(); err != nil {
			return err
		}
		if err := r.worker(i).end(syscall.SIGTERM); err != nil {
			return err
		}
	}
}

func newProxy(listen, upstream string) *toxiproxy.Proxy {
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	return toxiproxy.NewProxy(server, "nats", listen, upstream)
}
