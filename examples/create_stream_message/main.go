// Command create_stream_message publishes one message to a Twilio Sync Message
// Stream:
//
//	go run ./examples/create_stream_message -stream orders -data '{"id": 7, "state": "paid"}'
//
// With -create it makes the stream first, if it is missing.
//
// It takes credentials from TWILIO_API_KEY and TWILIO_API_SECRET, or from
// TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN. If none of them is set, it
// publishes to the fake service of package twiliosynctest.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// publication is what the flags ask for.
type publication struct {
	service, stream, data string
	create, asJSON        bool
}

// run returns the exit status: 0 published, 1 not or not certainly, 2 wrong usage.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p, err := parse(args, stdin, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	client, fake, err := connect(stderr)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 2
	}
	if p.create {
		if _, _, err := client.Streams.Ensure(ctx, p.service, p.stream, nil); err != nil {
			p.reportFailure(err, stdout, stderr)
			return 1
		}
	}
	message, response, err := client.StreamMessages.Create(ctx, p.service, p.stream, json.RawMessage(p.data))
	if err != nil {
		p.reportFailure(err, stdout, stderr)
		return 1
	}
	p.reportSuccess(message, response, fake, stdout)
	return 0
}

func parse(args []string, stdin io.Reader, stderr io.Writer) (publication, error) {
	var p publication
	flags := flag.NewFlagSet("create_stream_message", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&p.service, "service", "default", "SID or unique name of the Sync `service`")
	flags.StringVar(&p.stream, "stream", "greetings", "SID or unique name of the `stream`, which must exist unless -create is given")
	flags.StringVar(&p.data, "data", `{"hello": "world"}`, "the message, a `JSON` object of at most 4096 bytes; - reads it from standard input")
	flags.BoolVar(&p.create, "create", false, "make the stream first, if there is none of that unique name")
	flags.BoolVar(&p.asJSON, "json", false, "write the result as one line of JSON")
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	if flags.NArg() > 0 {
		return p, fmt.Errorf("unexpected argument %q; the message goes into -data, in quotes", flags.Arg(0))
	}
	if p.data == "-" {
		const tooMuch = 1 << 20 // the SDK says what the real limit is
		text, err := io.ReadAll(io.LimitReader(stdin, tooMuch))
		if err != nil {
			return p, fmt.Errorf("the message can't be read from standard input: %w", err)
		}
		p.data = strings.TrimSpace(string(text))
	}
	return p, nil
}

// connect returns a client for Twilio, or, without any credentials, for a fake
// on this machine.
func connect(stderr io.Writer) (*twiliosync.Client, *twiliosynctest.Server, error) {
	for _, name := range []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"} {
		if os.Getenv(name) != "" {
			client, err := twiliosync.NewClientFromEnv()
			return client, nil, err
		}
	}
	fmt.Fprintln(stderr, "No TWILIO_* credentials are set: publishing to the built-in fake service, nothing leaves this machine.")
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	fake := twiliosynctest.New()
	fake.URL = "http://" + listener.Addr().String()
	go http.Serve(listener, fake) // until the program ends
	return fake.Client(), fake, nil
}

func (p publication) reportSuccess(message *twiliosync.StreamMessage, response *twiliosync.Response, fake *twiliosynctest.Server, stdout io.Writer) {
	if p.asJSON {
		json.NewEncoder(stdout).Encode(map[string]any{
			"outcome": "accepted", "sid": message.SID, "data": message.Data,
			"request_id": response.RequestID, "attempts": response.Attempts,
		})
		return
	}
	fmt.Fprintf(stdout, "Published to stream %q of service %q:\n", p.stream, p.service)
	fmt.Fprintf(stdout, "  message   %s\n  request   %s\n  attempts  %d\n", message.SID, response.RequestID, response.Attempts)
	if fake != nil {
		fmt.Fprintf(stdout, "A subscriber would have received:\n  %s\n", fake.Messages(p.stream)[0].Data)
	}
}

func (p publication) reportFailure(err error, stdout, stderr io.Writer) {
	if p.asJSON {
		failure := map[string]any{
			"outcome": twiliosync.OutcomeOf(err).String(), "error": err.Error(), "retryable": twiliosync.Retryable(err),
		}
		var e *twiliosync.Error
		if errors.As(err, &e) {
			failure["status"], failure["code"], failure["request_id"], failure["attempts"] = e.StatusCode, e.Code, e.RequestID, e.Attempts
		}
		json.NewEncoder(stdout).Encode(failure)
		return
	}
	text := err.Error()
	if twiliosync.Retryable(err) {
		text += "; it was not published, try again later"
	}
	fmt.Fprintln(stderr, text)
}
