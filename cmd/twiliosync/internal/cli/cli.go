// Package cli has the commands of twiliosync. Each is thin: it reads its
// arguments, calls the SDK, and prints.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
)

// Streams are where a command reads and writes: data on Out, everything else on
// Err.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Signals begins to listen to the signals that end a command in order. Before,
// they end the process, and so does a third one.
func Signals() <-chan os.Signal {
	caught, signals := make(chan os.Signal, 2), make(chan os.Signal, 2)
	signal.Notify(caught, os.Interrupt, syscall.SIGTERM)
	go func() { // for the rest of the process
		signals <- <-caught
		signals <- <-caught
		signal.Reset(os.Interrupt, syscall.SIGTERM)
	}()
	return signals
}

// Run runs the command line and returns the exit status: 0 done, 1 something
// was not done, 2 wrong usage. The first signal ends the command in order; the
// second ends at once those that take their time for that. A command calls
// listen when it has something to end. Where nobody reads what it prints, it
// ends in order too: a write tells it, and no signal.
func Run(args []string, std Streams, listen func() <-chan os.Signal) int {
	signal.Ignore(syscall.SIGPIPE)
	a := &app{Streams: std, listen: listen}
	root := a.command()
	root.SetArgs(args)
	ran, err := root.ExecuteC()
	var usage *usageError
	var bad *twiliosync.ParameterError
	var failure *twiliosync.Error
	isUsage := errors.As(err, &usage) || errors.As(err, &bad)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errSaid):
	case a.json() && errors.As(err, &failure) && a.printJSON(failureOf(failure)) == nil:
	case isUsage:
		fmt.Fprintf(std.Err, "%v\nSee %s --help\n", err, ran.CommandPath())
	default:
		fmt.Fprintln(std.Err, err)
	}
	if isUsage {
		return 2
	}
	return 1
}

// Command returns the tree of commands, for the documentation.
func Command() *cobra.Command { return new(app).command() }

// usageError is wrong usage, as cobra or a command finds it.
type usageError struct{ error }

func wrongUsage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errSaid is the error of a command that has said itself what is wrong.
var errSaid = errors.New("something was not done")

// app is what all commands share.
type app struct {
	Streams
	listen func() <-chan os.Signal
	heard  <-chan os.Signal

	output   string
	emulator bool
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "twiliosync",
		Short: "Publish to Twilio Sync Message Streams", Version: versionOf(debug.ReadBuildInfo()),
		Long: `Publish to Twilio Sync Message Streams, and be told of each message whether it
was published.

Credentials come from the environment: TWILIO_API_KEY and TWILIO_API_SECRET, or
TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN; TWILIO_REGION, TWILIO_EDGE and
TWILIO_SYNC_BASE_URL say where to. Without credentials, publish and pipe go to a
fake service in the process, and say so.

Data goes to standard output, everything else to standard error. The exit status
is 0 if all was done, 1 if something was not, and 2 for wrong usage.`,
		SilenceErrors: true, SilenceUsage: true,
		Args: takesCommand, SuggestionsMinimumDistance: 2,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "text" && a.output != "json" {
				return wrongUsage("there is no output format %q; use text or json", a.output)
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "`format` of what is printed: text or json")
	root.PersistentFlags().BoolVar(&a.emulator, "emulator", false, "talk to an emulator at 127.0.0.1:8080, whatever the environment says")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		a.doctorCommand(),
		a.publishCommand(),
		a.pipeCommand(),
		a.streamsCommand(),
		a.emulatorCommand(),
		a.relayCommand(),
		a.versionCommand(),
	)
	makeStrict(root)
	return root
}

// makeStrict makes cobra's own commands refuse what they don't take.
func makeStrict(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion":
			c.Args, c.RunE = takesCommand, func(c *cobra.Command, _ []string) error { return c.Help() }
			for _, shell := range c.Commands() {
				shell.Args = takes(0, 0)
			}
		case "help":
			c.Args = func(c *cobra.Command, args []string) error {
				if found, rest, err := c.Root().Find(args); err == nil && len(rest) > 0 && found.HasSubCommands() {
					return takesCommand(found, rest)
				} else if err != nil {
					return takesCommand(c.Root(), args)
				}
				return nil
			}
		}
	}
}

// takes says how many arguments a command takes.
func takes(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return wrongUsage("an argument is missing; the form is: %s", c.UseLine())
		case len(args) > most:
			return wrongUsage("unexpected argument %q; the form is: %s", args[most], c.UseLine())
		}
		return nil
	}
}

// takesCommand is for those that have commands below them.
func takesCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "; did you mean " + near[0] + "?"
	}
	return wrongUsage("%s has no command %q%s", c.CommandPath(), args[0], hint)
}

// untilSignal returns a context that ends with the first signal.
func (a *app) untilSignal() (context.Context, context.CancelFunc) { return a.graceAfterSignal(0) }

// graceAfterSignal returns a context that ends some time after the first
// signal, or with the second.
func (a *app) graceAfterSignal(grace time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := a.signals()
	go func() {
		select {
		case <-signals:
		case <-ctx.Done():
			return
		}
		if grace > 0 {
			fmt.Fprintf(a.Err, "Stopping: what is in flight has %v. A second signal cancels it.\n", grace)
			select {
			case <-signals:
			case <-time.After(grace):
			case <-ctx.Done():
			}
		}
		cancel()
	}()
	return ctx, cancel
}

func (a *app) signals() <-chan os.Signal {
	if a.heard == nil {
		a.heard = a.listen()
	}
	return a.heard
}

// drainTime is the part of a grace in which what is in flight may finish; the
// rest is for writing what became of it.
func drainTime(grace time.Duration) time.Duration { return grace - min(grace/10, time.Second) }

// endWithin ends the process when the time is over, unless it is stopped: a
// write that nobody reads can block for ever.
func endWithin(grace time.Duration) (stop func() bool) {
	return time.AfterFunc(max(grace, time.Second), func() { os.Exit(1) }).Stop
}

func (a *app) json() bool { return a.output == "json" }

// failureOf is what is printed of an error as JSON.
func failureOf(e *twiliosync.Error) map[string]any {
	return map[string]any{
		"outcome": e.Outcome, "error": e.Error(), "retryable": twiliosync.Retryable(e),
		"status": e.StatusCode, "code": e.Code, "request_id": e.RequestID, "attempts": e.Attempts,
	}
}

// printJSON prints one line of JSON.
func (a *app) printJSON(value any) error {
	encoder := json.NewEncoder(a.Out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}
