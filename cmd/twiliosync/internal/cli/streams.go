package cli

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
)

func (a *app) streamsCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "streams",
		Short: "Create, list, get, update and delete streams",
		Args:  takesCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(a.createStreamCommand(), a.ensureStreamCommand(), a.listStreamsCommand(), a.getStreamCommand(), a.updateStreamCommand(), a.deleteStreamCommand())
	return c
}

func (a *app) createStreamCommand() *cobra.Command {
	var service string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Create a stream; one without a name has its SID only",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] == "" { // as of a variable that isn't set
				return wrongUsage("the name is empty; leave it out for a stream without one")
			}
			return takes(0, 1)(c, args)
		},
		RunE: a.onStreams(func(ctx context.Context, client *twiliosync.Client, args []string) error {
			stream, _, err := client.Streams.Create(ctx, service, &twiliosync.CreateSyncStreamParams{UniqueName: strings.Join(args, ""), TTL: &ttl})
			return a.printStream(stream, err)
		}),
	}
	serviceFlag(c, &service)
	ttlFlag(c, &ttl)
	return c
}

func (a *app) ensureStreamCommand() *cobra.Command {
	var service string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "ensure NAME",
		Short: "Create a stream unless it exists; with --ttl, that is set anew",
		Args:  takes(1, 1),
	}
	c.RunE = a.onStreams(func(ctx context.Context, client *twiliosync.Client, args []string) error {
		params := &twiliosync.UpdateSyncStreamParams{}
		if c.Flags().Changed("ttl") {
			params.TTL = &ttl
		}
		stream, _, err := client.Streams.Ensure(ctx, service, args[0], params)
		return a.printStream(stream, err)
	})
	serviceFlag(c, &service)
	ttlFlag(c, &ttl)
	return c
}

func (a *app) listStreamsCommand() *cobra.Command {
	var service string
	var limit int
	c := &cobra.Command{
		Use:   "list",
		Short: "List the streams of a service",
		Args: func(c *cobra.Command, args []string) error {
			if limit < 0 {
				return wrongUsage("--limit %d is negative; use 0 for all streams", limit)
			}
			return takes(0, 0)(c, args)
		},
		RunE: a.onStreams(func(ctx context.Context, client *twiliosync.Client, _ []string) error {
			return a.listStreams(ctx, client, service, limit)
		}),
	}
	serviceFlag(c, &service)
	c.Flags().IntVar(&limit, "limit", 0, "`number` of streams at most; 0: all")
	return c
}

func (a *app) listStreams(ctx context.Context, client *twiliosync.Client, service string, limit int) error {
	const pageSize = 100 // the largest
	n := 0
	header := func() {
		if n == 0 && !a.json() {
			fmt.Fprintln(a.Out, "SID\tNAME\tEXPIRES")
		}
	}
	for stream, err := range client.Streams.All(ctx, service, &twiliosync.ListSyncStreamParams{PageSize: min(cmp.Or(limit, pageSize), pageSize)}) {
		if err == nil {
			header()
		}
		if err := a.printStream(stream, err); err != nil {
			return err
		}
		if n++; n == limit {
			break
		}
	}
	header() // of none
	return nil
}

func (a *app) getStreamCommand() *cobra.Command {
	var service string
	c := &cobra.Command{
		Use:   "get STREAM",
		Short: "Get a stream by its SID or unique name",
		Args:  takes(1, 1),
		RunE: a.onStreams(func(ctx context.Context, client *twiliosync.Client, args []string) error {
			stream, _, err := client.Streams.Fetch(ctx, service, args[0])
			return a.printStream(stream, err)
		}),
	}
	serviceFlag(c, &service)
	return c
}

func (a *app) updateStreamCommand() *cobra.Command {
	var service string
	var ttl time.Duration
	c := &cobra.Command{
		Use:   "update STREAM --ttl DURATION",
		Short: "Set when a stream expires, counted from now",
		Args: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("ttl") {
				return wrongUsage("--ttl is missing; use 0 for a stream that never expires")
			}
			return takes(1, 1)(c, args)
		},
		RunE: a.onStreams(func(ctx context.Context, client *twiliosync.Client, args []string) error {
			stream, _, err := client.Streams.Update(ctx, service, args[0], &twiliosync.UpdateSyncStreamParams{TTL: &ttl})
			return a.printStream(stream, err)
		}),
	}
	serviceFlag(c, &service)
	ttlFlag(c, &ttl)
	return c
}

func (a *app) deleteStreamCommand() *cobra.Command {
	var service string
	c := &cobra.Command{
		Use:   "delete STREAM",
		Short: "Delete a stream, without a question",
		Args:  takes(1, 1),
		RunE: a.onStreams(func(ctx context.Context, client *twiliosync.Client, args []string) error {
			_, err := client.Streams.Delete(ctx, service, args[0])
			switch {
			case err != nil:
				return err
			case a.json():
				return a.printJSON(map[string]string{"deleted": args[0]})
			}
			_, err = fmt.Fprintln(a.Out, args[0])
			return err
		}),
	}
	serviceFlag(c, &service)
	return c
}

// onStreams runs a command with a client, until a signal comes.
func (a *app) onStreams(run func(context.Context, *twiliosync.Client, []string) error) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) error {
		client, err := a.connect()
		if err != nil {
			return err
		}
		ctx, cancel := a.untilSignal()
		defer cancel()
		return run(ctx, client, args)
	}
}

// printStream prints a stream, or returns the error instead.
func (a *app) printStream(stream *twiliosync.Stream, err error) error {
	switch {
	case err != nil:
		return err
	case a.json():
		return a.printJSON(struct {
			*twiliosync.Stream
			DateExpires *time.Time `json:"date_expires"` // null: never, as Twilio has it
		}{stream, ifAny(stream.DateExpires)})
	}
	expires := "never"
	if !stream.DateExpires.IsZero() {
		expires = stream.DateExpires.Format(time.RFC3339)
	}
	_, err = fmt.Fprintf(a.Out, "%s\t%s\t%s\n", cell(stream.SID), cell(stream.UniqueName), expires)
	return err
}

func ifAny(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// cell is a text in a table. One that would break the line, or do something to
// the terminal, is quoted.
func cell(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// ttlFlag adds the flag for a stream's time to live.
func ttlFlag(c *cobra.Command, ttl *time.Duration) {
	c.Flags().DurationVar(ttl, "ttl", 0, "`duration` until the stream expires, such as 24h; 0: never")
}
