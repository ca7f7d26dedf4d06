package twiliosync_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"slices"
	"time"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// fakeSync starts the fake service, so that the examples run without an
// account, and returns it with a client that publishes to it.
func fakeSync(opts ...twiliosync.Option) (*twiliosync.Client, *twiliosynctest.Server, func()) {
	handler := twiliosynctest.New(twiliosynctest.WithCredentials("SK0123456789", "secret"), twiliosynctest.WithStreams("orders"))
	server := httptest.NewServer(handler)
	opts = append([]twiliosync.Option{twiliosync.WithBaseURL(server.URL)}, opts...)
	client, err := twiliosync.NewClient(twiliosync.BasicAuth("SK0123456789", "secret"), opts...)
	if err != nil {
		log.Fatal(err)
	}
	return client, handler, server.Close
}

func ExampleNewClient() {
	client, err := twiliosync.NewClient(
		twiliosync.BasicAuth("SK0123456789", "secret"),
		twiliosync.WithTimeout(5*time.Second),
		twiliosync.WithUserAgent("orders-api/2.1"),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseIdleConnections()

	_, err = twiliosync.NewClient(twiliosync.BasicAuth("SK0123456789", ""))
	fmt.Println(err)
	// Output:
	// twiliosync: BasicAuth: the password is empty; pass the auth token or the API key's secret
}

func ExampleStreamMessageService_Create() {
	client, fake, stop := fakeSync()
	defer stop()

	type order struct {
		ID    int    `json:"id"`
		State string `json:"state"`
	}
	ctx := context.Background()
	message, _, err := client.StreamMessages.Create(ctx, "default", "orders", order{ID: 7, State: "paid"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(message.SID[:2], len(message.SID))
	fmt.Println("a subscriber receives", string(fake.Messages("orders")[0].Data))
	// Output:
	// TZ 34
	// a subscriber receives {"id":7,"state":"paid"}
}

func ExampleStreamMessageService_Create_rawJSON() {
	client, fake, stop := fakeSync()
	defer stop()

	// JSON text is sent byte for byte as json.RawMessage. A string or []byte is refused.
	raw := json.RawMessage(`{ "price": 12.50 }`)
	if _, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", raw); err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(fake.Messages("orders")[0].Data))

	_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", `{"price": 12.50}`)
	fmt.Println(err)
	// Output:
	// { "price": 12.50 }
	// twiliosync: not sent: data: a string would be encoded twice; convert JSON text with json.RawMessage(data)
}

func ExampleSyncV1ServiceSyncStreamStreamMessage_DecodeData() {
	client, _, stop := fakeSync()
	defer stop()

	message, response, err := client.StreamMessages.Create(context.Background(), "default", "orders", map[string]any{"id": 7})
	if err != nil {
		log.Fatal(err)
	}
	var answer struct {
		ID int `json:"id"`
	}
	if err := message.DecodeData(&answer); err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.ID, response.StatusCode, response.Attempts)
	// Output:
	// 7 201 1
}

// The three decisions after a failed call: bad input is a bug to fix; what was
// certainly not published may be sent again; what may have been published must
// be decided by the program that knows what a duplicate costs.
func ExampleOutcomeOf() {
	client, fake, stop := fakeSync(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
	defer stop()

	publish := func(data any) {
		_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", data)
		var parameter *twiliosync.ParameterError
		switch {
		case err == nil:
			fmt.Println("published")
		case errors.As(err, &parameter):
			fmt.Println("fix the", parameter.Parameter)
		case twiliosync.Retryable(err):
			fmt.Println("not published, send it again later")
		case twiliosync.OutcomeOf(err) == twiliosync.OutcomeUnknown:
			fmt.Println("may be published, sending it again may publish it twice")
		case twiliosync.OutcomeOf(err) == twiliosync.OutcomeAccepted:
			fmt.Println("published, but the answer could not be read")
		default:
			fmt.Println("not published, and won't be:", err)
		}
	}

	publish([]int{1, 2, 3})
	fake.Next(1).Answer(429, 54009)
	publish(map[string]any{"id": 1})
	fake.Next(1).LoseAnswer()
	publish(map[string]any{"id": 2})
	publish(map[string]any{"id": 3})
	// Output:
	// fix the data
	// not published, send it again later
	// may be published, sending it again may publish it twice
	// published
}

func ExampleError() {
	client, _, stop := fakeSync()
	defer stop()

	_, _, err := client.StreamMessages.Create(context.Background(), "default", "no-such-stream", map[string]any{"id": 1})
	var e *twiliosync.Error
	if errors.As(err, &e) {
		fmt.Println(e.Outcome, e.StatusCode, e.Code, errors.Is(err, twiliosync.ErrNotFound))
	}
	// Output:
	// rejected 404 20404 true
}

func ExampleStreamMessageService_CreateAll() {
	client, _, stop := fakeSync()
	defer stop()

	requests := []twiliosync.StreamMessageRequest{
		{StreamSID: "orders", Data: map[string]any{"id": 1}},
		{StreamSID: "orders", Data: "not an object"},
		{StreamSID: "orders", Data: map[string]any{"id": 3}},
	}
	outcomes := make([]twiliosync.Outcome, len(requests))
	for result := range client.StreamMessages.CreateAll(context.Background(), "default", slices.Values(requests), nil) {
		outcomes[result.Index] = twiliosync.OutcomeOf(result.Err)
	}
	fmt.Println(outcomes)
	// Output:
	// [accepted not sent accepted]
}

func ExampleStreamMessageService_NewPublisher() {
	client, _, stop := fakeSync()
	defer stop()

	publisher, err := client.StreamMessages.NewPublisher("default", func(result twiliosync.StreamMessageResult) {
		fmt.Println(result.Index, twiliosync.OutcomeOf(result.Err))
	}, &twiliosync.PublisherOptions{Concurrency: 1})
	if err != nil {
		log.Fatal(err)
	}
	for id := range 3 {
		request := twiliosync.StreamMessageRequest{StreamSID: "orders", Data: map[string]any{"id": id}}
		if err := publisher.Publish(context.Background(), request); err != nil {
			log.Print(err) // nothing was taken
		}
	}
	if err := publisher.Close(context.Background()); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 0 accepted
	// 1 accepted
	// 2 accepted
}
