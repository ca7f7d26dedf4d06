package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
)

func (r *relayApp) runCommand() *cobra.Command {
	var unknown string
	var opts relay.Options
	c := &cobra.Command{
		Use:   "run",
		Short: "Publish to Sync what is in the log",
		Long: `Publish to Sync what is in the log, until SIGINT or SIGTERM: then nothing more
starts, and what is in flight has --grace to finish; what waits stays in the log.
A second signal ends it at once. With --embedded, a log that is missing is set
up.

Each dead letter is a line on standard error, and what was done is summed up at
the end. With -o json, what became of each message is a line on standard output.
The exit status is 0 if it ended in order, also if there are dead letters: they
wait for relay dlq.`,
		Args: takes(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case unknown != "redeliver" && unknown != "drop":
				return wrongUsage("--unknown is redeliver or drop, and not %q", unknown)
			case opts.IDField == opts.RedeliveredField && opts.IDField != "-":
				return wrongUsage("--id-field and --redelivered-field are the same; choose two names, or - for none")
			case opts.DropAfter < 0 || opts.MaxPending < 1:
				return wrongUsage("--drop-after is not negative, and --max-pending is 1 or more")
			case opts.DrainTimeout <= 0:
				return wrongUsage("--grace is a time for what is in flight to finish, such as 10s")
			case unknown == "drop":
				opts.Unknown = relay.Drop
			}
			changes := false // what setup would do
			for _, name := range []string{"replicas", "max-age", "max-bytes"} {
				changes = changes || c.Flags().Changed(name)
			}
			return r.runWorker(opts, changes)
		},
	}
	flags := c.Flags()
	flags.StringVar(&unknown, "unknown", "redeliver", "`policy` for a message that was perhaps published: redeliver it, marked, or drop it into the dead letters")
	flags.StringVar(&opts.IDField, "id-field", "id", "`field` with the ID that is added to the data; - for none")
	flags.StringVar(&opts.RedeliveredField, "redelivered-field", "redelivered", "`field` that is true in what was perhaps published before; - for none")
	flags.DurationVar(&opts.DropAfter, "drop-after", 0, "`age` at which a message becomes a dead letter; 0: never")
	flags.IntVar(&opts.MaxPending, "max-pending", 256, "`number` of messages of a partition that are held with their data")
	flags.DurationVar(&opts.DrainTimeout, "grace", 10*time.Second, "`duration` that it may go on when it is stopped, most of it for what is in flight")
	return c
}

// worker is one relay run.
type worker struct {
	*relayApp

	mu                sync.Mutex
	over              bool // nothing is told any more
	said              map[string]time.Time
	outcomes          map[twiliosync.Outcome]int
	dead, redelivered int
	writing           error // why nothing more can be told
	stop              context.CancelFunc
}

func (r *relayApp) runWorker(opts relay.Options, changes bool) error {
	if err := r.check(); err != nil {
		return err
	}
	client, err := r.connect()
	if err != nil {
		return err
	}
	defer client.CloseIdleConnections()
	w := &worker{relayApp: r, said: map[string]time.Time{}, outcomes: map[twiliosync.Outcome]int{}}
	opts.Config, opts.OnSettled, opts.Logger = r.config, w.settled, slog.New(w)
	js, disconnect, err := r.open(serves,
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: it was closed
				w.say("The connection to NATS is lost: nothing is published until it is back.")
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { w.say("The connection to NATS is back.") }))
	if err != nil {
		return err
	}
	defer disconnect()
	ctx, cancel := r.untilSignal()
	defer cancel()
	w.stop = cancel
	if err := r.setUpOwn(ctx, js, changes); err != nil {
		return r.explained(err)
	}
	server, err := withoutSecrets(cmp.Or(js.Conn().ConnectedUrl(), js.Conn().Opts.Url))
	if err != nil {
		return err
	}
	w.say("Publishing what is in the log %s of the NATS server at %s", r.config.Name, server)
	err = w.run(ctx, js, client, opts)
	return r.explained(w.end(err))
}

// setUpOwn sets up the log of a server in this process, unless it is there.
func (r *relayApp) setUpOwn(ctx context.Context, js jetstream.JetStream, changes bool) error {
	if r.embedded == "" {
		return nil
	}
	if _, err := js.Stream(ctx, r.config.Name); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	} else if err == nil && !changes {
		return nil // the flags of its setup stay
	}
	return relay.Setup(ctx, js, r.config)
}

// run runs a worker until ctx ends and it has drained, or a second signal comes.
func (w *worker) run(ctx context.Context, js jetstream.JetStream, client *twiliosync.Client, opts relay.Options) error {
	grace, ended := opts.DrainTimeout, make(chan error, 1)
	opts.DrainTimeout = drainTime(grace)
	go func() { ended <- relay.Run(ctx, js, client, opts) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop := endWithin(grace)
	defer stop()
	go w.say("Stopping: what is in flight has %s.", opts.DrainTimeout) // it may block
	select {
	case err := <-ended:
		return err
	case <-w.signals():
		return errors.New("stopped at once: what was in flight stays in the log, and may be published again, marked")
	}
}

// end sums up. It returns the error of the command.
func (w *worker) end(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	total, parts := 0, []string(nil)
	for _, outcome := range []twiliosync.Outcome{twiliosync.OutcomeAccepted, twiliosync.OutcomeRejected, twiliosync.OutcomeNotSent, twiliosync.OutcomeUnknown} {
		if n := w.outcomes[outcome]; n > 0 {
			total += n
			parts = append(parts, fmt.Sprintf("%d %s", n, outcome))
		}
	}
	if total == 0 && err != nil {
		return err // it could not begin
	}
	summary := "Nothing was settled."
	if total > 0 {
		summary = fmt.Sprintf("%d settled: %s.", total, strings.Join(parts, ", "))
	}
	if w.redelivered > 0 {
		summary += fmt.Sprintf(" Marked as perhaps published before: %d.", w.redelivered)
	}
	if w.dead > 0 {
		summary += fmt.Sprintf(" Dead letters: %d; see twiliosync relay dlq list.", w.dead)
	}
	fmt.Fprintln(w.Err, summary)
	if w.writing != nil {
		return w.writing
	}
	return err
}

// settled counts and prints what became of a message.
func (w *worker) settled(s relay.Settled) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.outcomes[s.Outcome]++
	if s.Redelivered {
		w.redelivered++
	}
	if s.DeadLettered != "" {
		w.dead++
		fmt.Fprintf(w.Err, "dead letter: %s of %s: %s\n", cell(s.ID), cell(s.StreamSID), cell(s.DeadLettered))
	}
	if !w.json() || w.writing != nil {
		return
	}
	line := map[string]any{
		"id": s.ID, "service": s.ServiceSID, "stream": s.StreamSID, "outcome": s.Outcome, "redelivered": s.Redelivered, "age_seconds": s.Age.Seconds(),
	}
	if s.DeadLettered != "" {
		line["dead_lettered"] = s.DeadLettered
	}
	if s.Err != nil {
		line["error"] = s.Err.Error()
	}
	if err := w.printJSON(line); err != nil {
		w.writing = fmt.Errorf("what became of the messages can't be written any more, so it stopped: %w", err)
		w.stop()
	}
}

func (w *worker) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		fmt.Fprintf(w.Err, format+"\n", args...)
	}
}

// Enabled is what makes w the slog.Handler of the relay's logger.
func (w *worker) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle says what goes wrong with the log, the same not again within 10 s: it
// may be true for each message that waits.
func (w *worker) Handle(_ context.Context, record slog.Record) error {
	w.mu.Lock()
	recent := record.Time.Sub(w.said[record.Message]) < 10*time.Second
	if !recent {
		w.said[record.Message] = record.Time
	}
	w.mu.Unlock()
	if recent {
		return nil
	}
	text := record.Message
	record.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(", %s %v", a.Key, a.Value)
		return true
	})
	w.say("%s", text)
	return nil
}

// WithAttrs returns w.
func (w *worker) WithAttrs([]slog.Attr) slog.Handler { return w }

// WithGroup returns w.
func (w *worker) WithGroup(string) slog.Handler { return w }
