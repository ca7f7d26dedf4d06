// Command handle_errors shows the decisions that a caller has to take when a
// call failed, each provoked against the fake service of package
// twiliosynctest:
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

	ctx := context.Background()
	order := map[string]any{"id": 7}

	fmt.Println("1. Bad input: an array, where subscribers receive objects.")
	publish(ctx, client, []string{"not", "an", "object"})

	fmt.Println("2. Safe to send again: the stream's rate limit.")
	fake.Next(1).WithHeader("Retry-After", "2").Answer(429, 54009)
	publish(ctx, client, order)

	fmt.Println("3. Unknown: the connection breaks before the answer.")
	fake.Next(1).LoseAnswer()
	publish(ctx, client, order)
	fmt.Printf("   This time it was published: the fake holds %d message.\n", len(fake.Messages("orders")))

	fmt.Println("4. Published, with an error: the answer is cut.")
	fake.Next(1).Respond(201, `{"sid":"TZ01`)
	publish(ctx, client, order)

	fmt.Println("5. Of no use to send again: there is no such stream.")
	fake.Next(1).Answer(404, 20404)
	publish(ctx, client, order)

	fmt.Println("6. A visitor who leaves: the request's context ends, the message need not.")
	request, leave := context.WithCancel(ctx)
	leave()
	publish(request, client, order)
	publish(context.WithoutCancel(request), client, order)
}

func publish(ctx context.Context, client *twiliosync.Client, data any) {
	_, _, err := client.StreamMessages.Create(ctx, "default", "orders", data)
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
	case errors.Is(err, twiliosync.ErrNotFound):
		fmt.Println("   -> Not published. Create the stream first, or correct its name.")
	case errors.Is(err, twiliosync.ErrUnauthorized), errors.Is(err, twiliosync.ErrForbidden):
		fmt.Println("   -> Not published. Check the credentials.")
	default:
		fmt.Println("   -> Not published, and the same call won't succeed: look at status and code.")
	}
}
