// Command emulator serves Twilio Sync's Message Streams on this machine, with
// the websocket of the official browser SDK and a page that shows what arrives:
//
//	go run ./emulator/cmd/emulator -addr 127.0.0.1:8080
//
// It prints how to connect, each message, and each request that it refuses
// with the reason. It stops on interrupt.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/twiliosync/twiliosync-go/emulator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run serves until ctx ends. It returns the exit status: 0, 1 if it can't serve, 2 for wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("emulator", flag.ContinueOnError)
	flags.SetOutput(stderr)
	addr := flags.String("addr", "127.0.0.1:8080", "`address` to listen on; port 0 takes a free one")
	strict := flags.Bool("strict", false, "publishing to a stream that was not created is refused, as at Twilio")
	anywhere := flags.Bool("listen-anywhere", false, "allow an address beyond this machine, for a container; the credentials are public")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if err := check(*addr, flags.Args(), *anywhere); err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *addr)
	if err != nil {
		fmt.Fprintf(stderr, "can't listen on %s: %v; choose another address with -addr\n", *addr, errors.Unwrap(err))
		return 1
	}
	if *anywhere {
		fmt.Fprintln(stderr, "warning: everybody who reaches this address can read and publish, the credentials are public")
	}
	opts := []emulator.Option{emulator.WithLogger(slog.New(slog.NewTextHandler(stdout, nil)))}
	if *strict {
		opts = append(opts, emulator.WithStrictStreams())
	}
	return serve(ctx, emulator.New(opts...), listener, stdout, stderr)
}

func check(addr string, rest []string, anywhere bool) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q; the address goes into -addr", rest[0])
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("-addr %q is no address; use the form 127.0.0.1:8080", addr)
	}
	ip, err := netip.ParseAddr(host)
	if loopback := host == "localhost" || err == nil && ip.Unmap().IsLoopback(); !loopback && !anywhere {
		return fmt.Errorf("-addr %q is not on this machine alone, and the credentials are public; use 127.0.0.1, or -listen-anywhere in a container", addr)
	}
	return nil
}

func serve(ctx context.Context, e *emulator.Emulator, listener net.Listener, stdout, stderr io.Writer) int {
	fmt.Fprint(stdout, greeting(e, listener.Addr()))
	server := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() {
		_ = e.Close() // websockets and pages, which the server doesn't wait for
		_ = server.Close()
	})()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func greeting(e *emulator.Emulator, addr net.Addr) string {
	username, password := e.Credentials()
	return fmt.Sprintf(`Sync emulator: http://%[1]s shows what arrives.

Go and others:
  export TWILIO_SYNC_BASE_URL=http://%[1]s TWILIO_ACCOUNT_SID=%[2]s TWILIO_AUTH_TOKEN=%[3]s
  curl -u %[2]s:%[3]s --data-urlencode 'Data={"hello":"world"}' http://%[1]s/v1/Services/default/Streams/orders/Messages
Browsers:
  new Twilio.Sync.Client("any-token", { twilsock: { uri: "ws://%[1]s/v3/wsconnect" } })

`, addr, username, password)
}
