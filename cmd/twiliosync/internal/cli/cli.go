// Package cli has the commands of twiliosync. Each is thin: it reads its
// arguments, calls the SDK, and prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Streams are where a command reads and writes: data on Out, everything else on
// Err.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Signals returns the signals that end a command. Without a reader of its output
// a command ends too, but in order: it is told by the write.
func Signals() <-chan os.Signal {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	return signals
}

// Run runs the command line and returns the exit status: 0 done, 1 something
// was not done, 2 wrong usage. The first signal ends the command in order, the
// second at once.
func Run(args []string, std Streams, signals <-chan os.Signal) int {
	a := &app{Streams: std, signals: signals}
	root := a.command()
	root.SetArgs(args)
	ran, err := root.ExecuteC()
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &usage):
		fmt.Fprintf(std.Err, "%v\nSee %s --help\n", err, ran.CommandPath())
		return 2
	case !errors.Is(err, errSaid):
		fmt.Fprintln(std.Err, err)
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
	signals <-chan os.Signal

	output   string
	emulator bool
}

func (a *app) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "twiliosync",
		Short: "Publish to Twilio Sync Message Streams",
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
	return root
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
func (a *app) untilSignal() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-a.signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

func (a *app) json() bool { return a.output == "json" }
