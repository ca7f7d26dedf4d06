package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
)

// relayApp is what the commands of the relay share.
type relayApp struct {
	*app
	natsFlags
	config relay.Config
}

func (a *app) relayCommand() *cobra.Command {
	r := &relayApp{app: a}
	c := &cobra.Command{
		Use:   "relay",
		Short: "Publish through a log that survives the death of a process",
		Long: `Publish through a log in NATS JetStream: publish writes to it, and any number of
processes that run publish to Sync what is in it, in order.

All commands need the same --name and --partitions. --replicas, --max-age and
--max-bytes are those of setup. With --embedded, the NATS server runs in the
process, with its files in DIR, for one machine and for trying it: the server of
run listens on 127.0.0.1:4222, or where --nats says, and the other commands use
that, or start one for themselves if none runs.`,
		Example: `  twiliosync relay run --embedded ./relay --emulator
  twiliosync relay publish orders '{"order": 7}' --id order-7
  twiliosync relay status`,
		Args: takesCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	flags := c.PersistentFlags()
	flags.StringVar(&r.url, "nats", "", "`URL` of the NATS server, or several with commas (default NATS_URL of the environment, or "+defaultNATS+")")
	flags.StringVar(&r.creds, "creds", "", "`file` with the credentials for NATS")
	flags.StringVar(&r.embedded, "embedded", "", "`directory` of a NATS server in this process")
	flags.StringVar(&r.config.Name, "name", "TWILIOSYNC", "`name` of the log")
	flags.IntVar(&r.config.Partitions, "partitions", 64, "`number` of shares that workers divide among themselves, fixed by setup")
	flags.IntVar(&r.config.Replicas, "replicas", 1, "`number` of servers of a cluster that keep each message")
	flags.DurationVar(&r.config.MaxAge, "max-age", 0, "`duration` that a message stays in the log at most; 0: until it is settled")
	flags.Int64Var(&r.config.MaxBytes, "max-bytes", 0, "`size` of the log at most; 0: no bound but the server's")
	c.AddCommand(r.setupCommand(), r.publishCommand(), r.runCommand(), r.statusCommand(), r.deadLettersCommand())
	return c
}

// check says what is wrong with the flags for the log.
func (r *relayApp) check() error {
	switch c := r.config; {
	case c.Name == "" || len(c.Name) > 100 || strings.Trim(c.Name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "":
		return wrongUsage("--name %q has other characters than letters, digits, - and _, or none, or more than 100", c.Name)
	case c.Partitions < 1 || c.Partitions > 1024:
		return wrongUsage("--partitions %d is out of range; use 1 to 1024", c.Partitions)
	case c.Replicas < 1 || c.Replicas > 5:
		return wrongUsage("--replicas %d is out of range; use 1 to 5", c.Replicas)
	case c.MaxAge < 0 || c.MaxBytes < 0:
		return wrongUsage("--max-age and --max-bytes are not negative; use 0 for no bound")
	}
	return nil
}

// with runs do with the log, until a signal comes.
func (r *relayApp) with(use natsUse, do func(context.Context, jetstream.JetStream) error) error {
	if err := r.check(); err != nil {
		return err
	}
	js, disconnect, err := r.open(use)
	if err != nil {
		return err
	}
	defer disconnect()
	ctx, cancel := r.untilSignal()
	defer cancel()
	return r.explained(do(ctx, js))
}

// explained says in the words of the command line what it can mend.
func (r *relayApp) explained(err error) error {
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrConsumerNotFound):
		return fmt.Errorf("the relay %s is not set up here; run twiliosync relay setup first, with the same flags", r.config.Name)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("nobody keeps the messages of %s here; run twiliosync relay setup first, or wait until the NATS server is back", r.config.Name)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders):
		return errors.New("this NATS server has no JetStream; start it with JetStream: nats-server -js")
	}
	return err
}

func (r *relayApp) setupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup",
		Short: "Make the log, or bring it up to date",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return r.with(makes, func(ctx context.Context, js jetstream.JetStream) error {
				if err := relay.Setup(ctx, js, r.config); err != nil {
					return err
				}
				c := r.config
				if r.json() {
					return r.printJSON(map[string]any{
						"name": c.Name, "partitions": c.Partitions, "replicas": c.Replicas, "max_age_seconds": c.MaxAge.Seconds(), "max_bytes": c.MaxBytes,
					})
				}
				age, size := "until settled", "no bound"
				if c.MaxAge > 0 {
					age = c.MaxAge.String()
				}
				if c.MaxBytes > 0 {
					size = strconv.FormatInt(c.MaxBytes, 10)
				}
				_, err := fmt.Fprintf(r.Out, "log\t%s\npartitions\t%d\nreplicas\t%d\nmax age\t%s\nmax bytes\t%s\n", c.Name, c.Partitions, c.Replicas, age, size)
				return err
			})
		},
	}
}

func (r *relayApp) publishCommand() *cobra.Command {
	var service, id string
	c := &cobra.Command{
		Use:   "publish STREAM [DATA|-]",
		Short: "Write one message to the log",
		Long: `Write one message to the log, and print its ID. It is in the log when the command
has succeeded; a worker (relay run) publishes it.

DATA is a JSON object of at most 4096 bytes; - or no DATA reads it from standard
input. If the command fails, repeat it with the same --id: the log takes each ID
once within two minutes.`,
		Args: takes(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("id") {
				id = rand.Text()
			}
			data, err := r.dataOf(args)
			if err != nil {
				return err
			}
			return r.with(looksIn, func(ctx context.Context, js jetstream.JetStream) error {
				return r.publishToLog(ctx, js, relay.Message{ID: id, ServiceSID: service, StreamSID: args[0], Data: json.RawMessage(data)})
			})
		},
	}
	serviceFlag(c, &service)
	c.Flags().StringVar(&id, "id", "", "`ID` of the message, unique in the log; without it, one is made")
	return c
}

func (r *relayApp) publishToLog(ctx context.Context, js jetstream.JetStream, message relay.Message) error {
	err := relay.NewPublisher(js, r.config).Publish(ctx, message)
	var bad *twiliosync.ParameterError
	switch {
	case errors.As(err, &bad) || errors.Is(err, jetstream.ErrNoStreamResponse):
		return err
	case err != nil:
		return fmt.Errorf("%w (--id %s)", err, message.ID)
	case r.json():
		err = r.printJSON(map[string]string{"id": message.ID, "service": message.ServiceSID, "stream": message.StreamSID})
	default:
		_, err = fmt.Fprintln(r.Out, cell(message.ID))
	}
	if err != nil {
		return fmt.Errorf("the message is in the log as %s, but that can't be printed: %w", message.ID, err)
	}
	return nil
}

func (r *relayApp) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what waits, what is in flight, and who works",
		Args:  takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			return r.with(looksIn, func(ctx context.Context, js jetstream.JetStream) error {
				state, err := relay.Status(ctx, js, r.config)
				switch {
				case err != nil:
					return err
				case r.json():
					return r.printJSON(state)
				}
				return r.printState(state)
			})
		},
	}
}

func (r *relayApp) printState(state relay.State) error {
	oldest := "none"
	if !state.Oldest.IsZero() {
		oldest = fmt.Sprintf("%s (%s ago)", state.Oldest.UTC().Format(time.RFC3339), time.Since(state.Oldest).Round(time.Second))
	}
	var table strings.Builder
	fmt.Fprintf(&table, "pending\t%d\nin flight\t%d\ndead letters\t%d\noldest\t%s\nworkers\t%d\n", state.Pending, state.InFlight, state.DeadLetters, oldest, len(state.Workers))
	for _, worker := range state.Workers {
		fmt.Fprintf(&table, "worker %s\tpartitions %s\n", worker.ID, ranges(worker.Partitions))
	}
	_, err := fmt.Fprint(r.Out, table.String())
	return err
}

// ranges shows numbers in order, such as "0-3, 7".
func ranges(numbers []int) string {
	var parts []string
	for len(numbers) > 0 {
		n := 1
		for n < len(numbers) && numbers[n] == numbers[0]+n {
			n++
		}
		part := strconv.Itoa(numbers[0])
		if n > 1 {
			part += "-" + strconv.Itoa(numbers[n-1])
		}
		parts, numbers = append(parts, part), numbers[n:]
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}
