// Command live_page publishes a moving cursor and two gauges, and serves a page
// with the official browser SDK that draws them:
//
//	cd examples/live_page && go run .
//
// The service is the emulator, in the same process; with Twilio the page would
// get an access token from a server of yours, and be the same otherwise. The
// browser SDK comes from npm, which the program calls the first time.
//
// A cursor is state: of two positions only the newer counts. So the Publisher
// keeps the latest of each stream, and if the service throttles, the page jumps
// to where the cursor is now. Try it: the emulator's own page has a button.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/emulator"
)

// The service takes 30 messages a second for each stream. A cursor that asks
// for no more moves without a pause.
const (
	cursorEvery = 40 * time.Millisecond
	gaugesEvery = 500 * time.Millisecond
)

//go:embed page.html
var page []byte

const browserSDK = "node_modules/twilio-sync/builds/twilio-sync.min.js"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run publishes and serves until ctx ends. It returns the exit status: 0, 1 if
// it can't, 2 for wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("live_page", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", "127.0.0.1:8081", "`address` of this machine to listen on; port 0 takes a free one")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if ip, err := netip.ParseAddrPort(*addr); err != nil || !ip.Addr().IsLoopback() || flags.NArg() > 0 {
		fmt.Fprintln(stderr, "the only argument is -addr, with an address of this machine such as 127.0.0.1:8081")
		return 2
	}
	if err := install(ctx, stderr); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		fmt.Fprintf(stderr, "can't listen on %s: %v; choose another address with -addr\n", *addr, errors.Unwrap(err))
		return 1
	}
	if err := serve(ctx, listener, stdout); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

// install lets npm fetch the browser SDK, if it isn't there.
func install(ctx context.Context, stderr io.Writer) error {
	if _, err := os.Stat(browserSDK); err == nil {
		return nil
	}
	if _, err := os.Stat("package-lock.json"); err != nil {
		return errors.New("run this in examples/live_page, where its package.json is")
	}
	fmt.Fprintln(stderr, "npm fetches the browser SDK, once")
	npm := exec.CommandContext(ctx, "npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Stdout, npm.Stderr = stderr, stderr
	if err := npm.Run(); err != nil {
		return fmt.Errorf("the browser SDK comes from npm, which failed: %w", err)
	}
	return nil
}

func serve(ctx context.Context, listener net.Listener, stdout io.Writer) error {
	service := emulator.New()
	defer service.Close()
	mux := http.NewServeMux()
	mux.Handle("/", service)
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	})
	mux.HandleFunc("GET /twilio-sync.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, browserSDK) })
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer server.Close()

	url := "http://" + listener.Addr().String()
	fmt.Fprintf(stdout, "The page: %s/live\nThe emulator, where you can throttle it: %s/\nCtrl-C ends it.\n", url, url)
	username, password := service.Credentials()
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(username, password), twiliosync.WithBaseURL(url))
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { cancel(<-served) }() // without a server there is nothing to do
	return publish(ctx, client, stdout)
}

// publish draws circles until ctx ends, and then says what became of them.
func publish(ctx context.Context, client *twiliosync.Client, stdout io.Writer) error {
	var published, superseded, failed atomic.Int64
	publisher, err := client.StreamMessages.NewPublisher("default", func(result twiliosync.StreamMessageResult) {
		switch {
		case result.Err == nil:
			published.Add(1)
		case errors.Is(result.Err, twiliosync.ErrDropped):
			superseded.Add(1) // a newer one took its place
		default:
			failed.Add(1)
		}
	}, &twiliosync.PublisherOptions{LatestOnly: true, DrainTimeout: time.Second})
	if err != nil {
		return err
	}
	cursor, gauges := time.NewTicker(cursorEvery), time.NewTicker(gaugesEvery)
	defer cursor.Stop()
	defer gauges.Stop()
	for start := time.Now(); ctx.Err() == nil; {
		var request twiliosync.StreamMessageRequest
		select {
		case <-ctx.Done():
			continue
		case now := <-cursor.C:
			angle := now.Sub(start).Seconds()
			request = twiliosync.StreamMessageRequest{StreamSID: "cursor", Data: map[string]float64{"x": (1 + math.Cos(angle)) / 2, "y": (1 + math.Sin(2*angle)) / 2}}
		case <-gauges.C:
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			request = twiliosync.StreamMessageRequest{StreamSID: "gauges", Data: map[string]uint64{"goroutines": uint64(runtime.NumGoroutine()), "heap": memory.HeapAlloc}}
		}
		if err := publisher.Publish(ctx, request); err != nil && ctx.Err() == nil {
			return err
		}
	}
	closing, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = publisher.Close(closing) // each message has had its result, in time or not
	fmt.Fprintf(stdout, "%d published, %d superseded by a newer one, %d failed\n", published.Load(), superseded.Load(), failed.Load())
	return nil
}
