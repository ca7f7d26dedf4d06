package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go/emulator"
)

// emulatorFlags are those of the command.
type emulatorFlags struct {
	addr      string
	strict    bool
	retention int
	anywhere  bool
}

func (a *app) emulatorCommand() *cobra.Command {
	var flags emulatorFlags
	c := &cobra.Command{
		Use:   "emulator",
		Short: "Serve Message Streams on this machine, with a live page",
		Long: `Serve Twilio Sync's Message Streams on this machine, with the websocket of the
official browser SDK and a page that shows what arrives.

It prints how to connect, each message, and each request that it refuses with
the reason, until it is interrupted. With -o json only the latter two go to
standard output.`,
		Example: `  twiliosync emulator
  twiliosync publish orders '{"id": 7}' --emulator`,
		Args: func(_ *cobra.Command, args []string) error { return flags.check(args) },
		RunE: func(*cobra.Command, []string) error { return a.runEmulator(flags) },
	}
	c.Flags().StringVar(&flags.addr, "addr", emulatorAddress, "`address` to listen on; port 0 takes a free one")
	c.Flags().BoolVar(&flags.strict, "strict", false, "publishing to a stream that was not created is refused, as at Twilio")
	c.Flags().IntVar(&flags.retention, "retention", 1000, "`number` of messages that are kept of each stream, and of requests")
	c.Flags().BoolVar(&flags.anywhere, "listen-anywhere", false, "allow an address beyond this machine, for a container; the credentials are public")
	return c
}

func (f emulatorFlags) check(args []string) error {
	if len(args) > 0 {
		return wrongUsage("unexpected argument %q; the address goes into --addr", args[0])
	}
	if f.retention <= 0 {
		return wrongUsage("--retention %d keeps nothing; use 1 or more", f.retention)
	}
	host, _, err := net.SplitHostPort(f.addr)
	if err != nil {
		return wrongUsage("--addr %q is no address; use the form %s", f.addr, emulatorAddress)
	}
	if !f.anywhere && !isLoopback(host) {
		return wrongUsage("--addr %q is not on this machine alone, and the credentials are public; use 127.0.0.1, or --listen-anywhere in a container", f.addr)
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// runEmulator serves until a signal comes.
func (a *app) runEmulator(flags emulatorFlags) error {
	ctx, cancel := a.untilSignal()
	defer cancel()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", flags.addr)
	if err != nil {
		return fmt.Errorf("can't listen on %s: %w; choose another address with --addr", flags.addr, errors.Unwrap(err))
	}
	if flags.anywhere {
		fmt.Fprintln(a.Err, "warning: everybody who reaches this address can read and publish, the credentials are public")
	}
	log, hints := slog.Handler(slog.NewTextHandler(a.Out, nil)), a.Out
	if a.json() {
		log, hints = slog.NewJSONHandler(a.Out, nil), a.Err
	}
	opts := []emulator.Option{emulator.WithLogger(slog.New(log)), emulator.WithRetention(flags.retention)}
	if flags.strict {
		opts = append(opts, emulator.WithStrictStreams())
	}
	e := emulator.New(opts...)
	fmt.Fprint(hints, greeting(e, listener.Addr()))
	server := &http.Server{Handler: e, ReadHeaderTimeout: 10 * time.Second}
	closed := make(chan struct{})
	defer func() { cancel(); <-closed }()
	context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = e.Close() // websockets and pages, which the server doesn't wait for
		_ = server.Close()
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// greeting says how to connect.
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
