// Command publish_ndjson publishes the lines of a file, or of standard input, to
// Twilio Sync Message Streams. Each line is one message:
//
//	{"stream": "orders", "data": {"id": 7, "state": "paid"}}
//
// and gets one line in the results:
//
//	go run . -results results.ndjson messages.ndjson
//
// If something was not published, or the run was interrupted, run it again with
// -resume: lines that were accepted are skipped, and so are those whose outcome
// is unknown unless -resend-unknown is given, since they may have been
// published.
//
//	go run . -resume results.ndjson -results results.ndjson messages.ndjson
//
// An interrupt (Ctrl-C) stops the reading, and waits for what is on its way; a
// second one cancels that. Either way the results are complete.
//
// It takes credentials from TWILIO_API_KEY and TWILIO_API_SECRET, or from
// TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN. If none of them is set, it
// publishes to the fake service of package twiliosynctest.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

func main() {
	interrupts := make(chan os.Signal, 2)
	signal.Notify(interrupts, os.Interrupt)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, interrupts, connect))
}

// connector returns a client with these options, and what ends it.
type connector func(stderr io.Writer, opts ...twiliosync.Option) (*twiliosync.Client, func(), error)

// run returns the exit status: 0 if every line was accepted, now or earlier, 1
// if not, 2 for wrong usage.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer, interrupts <-chan os.Signal, connect connector) int {
	err := publish(args, stdin, stdout, stderr, interrupts, connect)
	var incomplete *incompleteError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &incomplete):
		fmt.Fprintln(stderr, err)
		return 1
	}
	fmt.Fprintln(stderr, err)
	return 2
}

// incompleteError says that not all was published.
type incompleteError struct{ text string }

func (e *incompleteError) Error() string { return e.text }

// settings is what the flags say.
type settings struct {
	service         string
	results, resume string
	resendUnknown   bool
	bulk            twiliosync.CreateAllOptions
	input           string // empty: standard input
}

func parse(args []string, stderr io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("publish_ndjson", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, `usage: publish_ndjson [flags] [file]`)
		fmt.Fprintln(stderr, `Each line of the file, or of standard input, is {"stream": "…", "data": {…}}.`)
		flags.PrintDefaults()
	}
	flags.StringVar(&s.service, "service", "default", "SID or unique name of the Sync `service`")
	flags.StringVar(&s.results, "results", "", "`file` for one result per line; standard output by default")
	flags.StringVar(&s.resume, "resume", "", "results `file` of an earlier run with the same input: skip what was accepted, and what is unknown; can be the one of -results, which then is continued")
	flags.BoolVar(&s.resendUnknown, "resend-unknown", false, "with -resume, publish again what is unknown: duplicates possible")
	flags.IntVar(&s.bulk.Concurrency, "concurrency", 0, "how many messages are in flight at most; 0 means 64")
	flags.BoolVar(&s.bulk.Ordered, "ordered", false, "send the messages of a stream one after another")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	switch {
	case flags.NArg() > 1:
		return s, fmt.Errorf("%d files are given, but only one can be read", flags.NArg())
	case s.resendUnknown && s.resume == "":
		return s, errors.New("-resend-unknown has no meaning without -resume")
	case s.bulk.Concurrency < 0:
		return s, errors.New("-concurrency is negative")
	}
	s.input = flags.Arg(0)
	return s, nil
}

func publish(args []string, stdin io.Reader, stdout, stderr io.Writer, interrupts <-chan os.Signal, connect connector) error {
	s, err := parse(args, stderr)
	if err != nil {
		return err
	}
	earlier, err := readResults(s.resume, !hasCredentials())
	if err != nil {
		return err
	}
	if s.input != "" {
		file, err := os.Open(s.input)
		if err != nil {
			return err
		}
		defer file.Close()
		stdin = file
	}
	total, err := countLines(stdin)
	if err != nil {
		return err
	}
	results, err := openResults(s, stdout)
	if err != nil {
		return err
	}
	bar := newProgress(stderr, total, isTerminal(stderr))
	client, disconnect, err := connect(stderr, twiliosync.WithLogger(bar.logger()))
	if err != nil {
		return errors.Join(err, results.Close())
	}
	defer disconnect()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := newStopper()
	stopWatching := watch(interrupts, stop, cancel, bar)
	defer stopWatching()

	ledger := &ledger{out: results, bar: bar, stop: stop, fake: !hasCredentials()}
	in := &input{lines: readLines(stdin, stop), earlier: earlier, resendUnknown: s.resendUnknown, copySkipped: s.results != s.resume, ledger: ledger, stop: stop}
	bar.start()
	for result := range client.StreamMessages.CreateAll(ctx, s.service, in.requests, &s.bulk) {
		ledger.add(recordOf(result))
	}
	bar.finish()
	return ledger.close(s, in, total)
}

// watch ends the input at the first interrupt, and cancels at the second.
func watch(interrupts <-chan os.Signal, stop *stopper, cancel func(), bar *progress) (stopWatching func()) {
	over := make(chan struct{})
	go func() {
		for _, act := range []func(){
			func() {
				bar.say("Interrupted: reading no more lines, waiting for the messages on their way. Interrupt again to cancel them.")
				stop.stop()
			},
			func() {
				bar.say("Interrupted again: cancelling.")
				cancel()
			},
		} {
			select {
			case <-interrupts:
				act()
			case <-over:
				return
			}
		}
	}()
	return func() { close(over) }
}

// connect returns a client for Twilio, or, without any credentials, for a fake
// on this machine.
func connect(stderr io.Writer, opts ...twiliosync.Option) (*twiliosync.Client, func(), error) {
	if hasCredentials() {
		client, err := twiliosync.NewClientFromEnv(opts...)
		return client, func() {}, err
	}
	fmt.Fprintln(stderr, "No TWILIO_* credentials are set: publishing to the built-in fake service, nothing leaves this machine.")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	fake := twiliosynctest.New(twiliosynctest.WithStreamRateLimit(300, 10*time.Second))
	fake.URL = "http://" + listener.Addr().String()
	server := &http.Server{Handler: fake}
	go server.Serve(listener)
	return fake.Client(opts...), func() { server.Close() }, nil
}

func hasCredentials() bool {
	return slices.ContainsFunc([]string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"},
		func(name string) bool { return os.Getenv(name) != "" })
}
