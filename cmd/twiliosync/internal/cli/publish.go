package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
)

func (a *app) publishCommand() *cobra.Command {
	var service string
	c := &cobra.Command{
		Use:   "publish STREAM [DATA|-]",
		Short: "Publish one message",
		Long: `Publish one message to a stream, named by its SID or unique name, and print its
SID and what is proven of its outcome.

DATA is a JSON object of at most 4096 bytes; - or no DATA reads it from standard
input.`,
		Example: `  twiliosync publish orders '{"id": 7, "state": "paid"}'
  jq -c .event event.json | twiliosync publish orders -o json`,
		Args: takes(1, 2),
		RunE: func(_ *cobra.Command, args []string) error { return a.publish(service, args) },
	}
	serviceFlag(c, &service)
	return c
}

func (a *app) publish(service string, args []string) error {
	data, err := a.dataOf(args)
	if err != nil {
		return err
	}
	client, disconnect, err := a.connectOrFake()
	if err != nil {
		return err
	}
	defer disconnect()
	ctx, cancel := a.graceAfterSignal(10 * time.Second)
	defer cancel()
	message, response, err := client.StreamMessages.Create(ctx, service, args[0], json.RawMessage(data))
	switch {
	case err != nil && twiliosync.Retryable(err):
		return fmt.Errorf("%w; it was not published, try again later", err)
	case err != nil:
		return err
	case a.json():
		published := map[string]any{
			"outcome": twiliosync.OutcomeAccepted, "sid": message.SID, "data": message.Data,
			"request_id": response.RequestID, "attempts": response.Attempts,
		}
		if a.usesFake() {
			published["fake"] = true
		}
		err = a.printJSON(published)
	default:
		_, err = fmt.Fprintf(a.Out, "%s\t%s\n", message.SID, twiliosync.OutcomeAccepted)
	}
	if err != nil && message != nil {
		return fmt.Errorf("the message is published as %s, but that can't be printed: %w", message.SID, err)
	}
	return err
}

// dataOf returns the message of the arguments.
func (a *app) dataOf(args []string) (string, error) {
	if len(args) == 2 && args[1] != "-" {
		return args[1], nil
	}
	const tooMuch = 1 << 20 // the SDK says what the real limit is
	text, err := io.ReadAll(io.LimitReader(a.In, tooMuch))
	if err != nil {
		return "", fmt.Errorf("the message can't be read from standard input: %w", err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(text), "\ufeff")), nil
}
