// Command handle_errors shows the three decisions that a caller has to take
// when a message could not be published, each provoked against the fake
// service of package twiliosynctest:
//
//	go run ./examples/handle_errors
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fake := twiliosynctest.New()
	fake.URL = "http://" + listener.Addr().String()
	go http.Serve(listener, fake) // until the program ends

	// One attempt only, so that the first fault is seen; by default the SDK sends again what is safe to send again.
	client := fake.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))

	fmt.Println("1. Bad input: an array, where subscribers receive objects.")
	publish(client, []string{"not", "an", "object"})

	fmt.Println("2. Safe to send again: the stream's rate limit.")
	fake.Next(1).WithHeader("Retry-After", "2").Answer(429, 54009)
	publish(client, map[string]any{"id": 1})

	fmt.Println("3. Unknown: the connection breaks before the answer.")
	fake.Next(1).LoseAnswer()
	publish(client, map[string]any{"id": 2})
	fmt.Printf("   This time it was published: the fake holds %d message.\n", len(fake.Messages("orders")))
}

func publish(client *twiliosync.Client, data any) {
	_, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", data)
	if err == nil {
		fmt.Println("   Published.")
		return
	}
	fmt.Println("  ", err)

	var parameter *twiliosync.ParameterError
	var e *twiliosync.Error
	switch {
	case errors.As(err, &parameter):
		fmt.Printf("   -> Not published. Fix %s: sending the same again can't succeed.\n", parameter.Parameter)
	case twiliosync.Retryable(err) && errors.As(err, &e):
		fmt.Printf("   -> Not published. Send it again, after %v at the earliest.\n", e.RetryAfter)
	case twiliosync.OutcomeOf(err) == twiliosync.OutcomeUnknown:
		fmt.Println("   -> Perhaps published. Drop it, or send it again with an id by which subscribers drop duplicates.")
	case twiliosync.OutcomeOf(err) == twiliosync.OutcomeAccepted:
		fmt.Println("   -> Published, only the answer could not be read. Don't send it again.")
	default:
		fmt.Println("   -> Not published, and the same call won't succeed: look at status and code.")
	}
}
