package cli

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
)

// pipeSettings is what the flags and the argument of pipe say.
type pipeSettings struct {
	service       string
	input         string // empty: standard input
	results       string // empty: standard output
	resume        bool
	resendUnknown bool
	grace         time.Duration
	bulk          twiliosync.CreateAllOptions
}

func (a *app) pipeCommand() *cobra.Command {
	var s pipeSettings
	c := &cobra.Command{
		Use:   "pipe [FILE]",
		Short: "Publish a file or standard input in bulk, one JSON line a message",
		Long: `Publish the lines of a file, or of standard input. Each is one message:

  {"stream": "orders", "data": {"id": 7, "state": "paid"}}

and gets one line in the results, with its number and what is proven of its
outcome: accepted, rejected, not sent or unknown. Streams are paced as Twilio
documents it, and a message is sent again only if it was certainly not published.

With --results the results go to a file, in which a line is announced before it
is sent. So after any end of the program, also a crash or a kill, the same command
with --resume publishes the rest: lines that were accepted are skipped, and so
are those that may have been published, unless --resend-unknown is given. Lines
that were refused may have been repaired; no other line may have changed.

Ctrl-C or SIGTERM stops the reading, writes what waits as not sent, and ends the
program within the time of --grace, most of which is for what is in
flight; a second one cancels that too.`,
		Example: `  twiliosync pipe --results results.ndjson messages.ndjson
  twiliosync pipe --results results.ndjson --resume messages.ndjson
  tail -f events.ndjson | twiliosync pipe --ordered`,
		Args: takes(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("results") && s.results == "" {
				return wrongUsage("--results is empty; name a file")
			}
			if len(args) == 1 && args[0] != "-" {
				s.input = args[0]
			}
			return a.pipe(s)
		},
	}
	serviceFlag(c, &s.service)
	c.Flags().StringVar(&s.results, "results", "", "`file` for the results, in place of standard output; it must not exist, or --resume")
	c.Flags().BoolVar(&s.resume, "resume", false, "go on with the file of --results and the same input")
	c.Flags().BoolVar(&s.resendUnknown, "resend-unknown", false, "with --resume: publish again what may have been published; duplicates possible")
	c.Flags().IntVar(&s.bulk.Concurrency, "concurrency", 64, "how many `messages` are in flight at most")
	c.Flags().BoolVar(&s.bulk.Ordered, "ordered", false, "send the messages of a stream one after the other")
	c.Flags().DurationVar(&s.grace, "grace", 10*time.Second, "how long the program may go on after the first signal")
	return c
}

func (s pipeSettings) check() error {
	switch {
	case s.resume && s.results == "":
		return wrongUsage("--resume needs the --results of the earlier run")
	case s.resendUnknown && !s.resume:
		return wrongUsage("--resend-unknown has no meaning without --resume")
	case s.bulk.Concurrency < 1:
		return wrongUsage("--concurrency is at least 1")
	case s.service == "":
		return wrongUsage("--service is empty; the one that each account has is \"default\"")
	case s.grace < 0:
		return wrongUsage("--grace is not negative")
	}
	return nil
}

func (a *app) pipe(s pipeSettings) error {
	if err := s.check(); err != nil {
		return err
	}
	source := a.In
	if s.input != "" {
		file, err := os.Open(s.input) //nolint:gosec // the user's own file
		if err != nil {
			return &usageError{err}
		}
		defer func() { _ = file.Close() }()
		source = file
	}
	if isSameFile(source, a.Out) {
		return wrongUsage("standard output is the input; write the results to another file")
	}
	total, err := countLines(source)
	if err != nil {
		return fmt.Errorf("the input can't be read: %w", err)
	}
	show := newProgress(a.Err, total)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	atOnce, cancelAtOnce := context.WithCancel(context.Background())
	defer cancelAtOnce()
	l := &ledger{show: show, stop: cancel, fake: a.usesFake() || a.emulator, open: map[int]*opened{}}
	client, disconnect, err := a.connectOrFake(twiliosync.WithTracer(&announcer{ledger: l, atOnce: atOnce}))
	if err != nil {
		return err
	}
	defer disconnect()
	var earlier history
	if l.out, earlier, err = openResults(s, a.Out, l.fake); err != nil {
		return err
	}
	defer a.watch(s, show, cancel, cancelAtOnce)()

	s.bulk.DrainTimeout = drainTime(s.grace)
	in := &input{ctx: ctx, target: s.service + "\n" + os.Getenv("TWILIO_SYNC_BASE_URL") + "\n" + os.Getenv("TWILIO_REGION"), lines: readLines(ctx, source), earlier: earlier, resendUnknown: s.resendUnknown, ledger: l}
	show.start(func() progressNow { return l.now(s.bulk) })
	for result := range client.StreamMessages.CreateAll(ctx, s.service, in.requests, &s.bulk) {
		l.settle(result)
	}
	show.finish()
	return l.conclude(s, in, total)
}

// watch stops in order at the first signal, and at once at the second. What it
// says may block, and it does not wait for that.
func (a *app) watch(s pipeSettings, show *progress, inOrder, atOnce func()) (stopWatching func()) {
	over, signals := make(chan struct{}), a.signals()
	next := func(act func(), grace time.Duration, text string) (goOn bool) {
		select {
		case <-signals:
		case <-over:
			return false
		}
		act()
		stop := endWithin(grace)
		go func() { <-over; stop() }()
		go show.say(text)
		return true
	}
	go func() {
		_ = next(inOrder, s.grace, fmt.Sprintf("Stopping: no more lines are read, and what is in flight has %v to finish. A second signal cancels it.", drainTime(s.grace))) &&
			next(atOnce, 0, "Cancelling what is in flight.")
	}()
	return func() { close(over) }
}

// announcer writes down that a line is being sent before its first attempt. If
// that fails, or after the second signal, an attempt gets a context that has
// ended, and sends nothing.
type announcer struct {
	ledger *ledger
	atOnce context.Context
}

type (
	indexKey struct{}
	endKey   struct{}
)

// TraceCallStart keeps the message's position for its attempts.
func (n *announcer) TraceCallStart(ctx context.Context, call twiliosync.CallStart) context.Context {
	return context.WithValue(ctx, indexKey{}, call.Index)
}

// TraceCallEnd does nothing: the loop has the result.
func (n *announcer) TraceCallEnd(context.Context, twiliosync.CallEnd) {}

// TraceAttemptStart announces, and ties the attempt to the second signal.
func (n *announcer) TraceAttemptStart(ctx context.Context, attempt twiliosync.AttemptStart) context.Context {
	ctx, end := context.WithCancel(ctx)
	unwatch := context.AfterFunc(n.atOnce, end)
	if !n.ledger.begin(ctx.Value(indexKey{}).(int), attempt.Number == 1) {
		end()
	}
	return context.WithValue(ctx, endKey{}, func() { unwatch(); end() })
}

// TraceAttemptEnd unties it, and notes what lets its stream wait.
func (n *announcer) TraceAttemptEnd(ctx context.Context, attempt twiliosync.Attempt) {
	if end, ok := ctx.Value(endKey{}).(func()); ok {
		end()
	}
	n.ledger.attempted(attempt)
}
