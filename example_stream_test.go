package twiliosync_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/twiliosync/twiliosync-go"
)

func ExampleStreamService_Ensure() {
	client, _, stop := fakeSync()
	defer stop()

	hour := time.Hour
	stream, _, err := client.Streams.Ensure(context.Background(), "default", "invoices", &twiliosync.UpdateSyncStreamParams{TTL: &hour})
	if err != nil {
		log.Fatal(err)
	}
	_, _, err = client.StreamMessages.Create(context.Background(), "default", stream.UniqueName, map[string]any{"id": 8})
	fmt.Println(stream.UniqueName, err)
	// Output:
	// invoices <nil>
}

func ExampleStreamService_Create() {
	client, _, stop := fakeSync()
	defer stop()

	params := &twiliosync.CreateSyncStreamParams{UniqueName: "invoices"}
	stream, _, err := client.Streams.Create(context.Background(), "default", params)
	if err != nil {
		log.Fatal(err)
	}
	_, _, err = client.Streams.Create(context.Background(), "default", params)
	fmt.Println(stream.UniqueName, stream.DateExpires.IsZero(), errors.Is(err, twiliosync.ErrAlreadyExists))
	// Output:
	// invoices true true
}

func ExampleStreamService_Fetch() {
	client, _, stop := fakeSync()
	defer stop()

	stream, _, err := client.Streams.Fetch(context.Background(), "default", "orders")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stream.SID[:2], stream.UniqueName)
	// Output:
	// TO orders
}

func ExampleStreamService_Update() {
	client, _, stop := fakeSync()
	defer stop()

	day := 24 * time.Hour
	stream, _, err := client.Streams.Update(context.Background(), "default", "orders", &twiliosync.UpdateSyncStreamParams{TTL: &day})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(stream.DateExpires.After(time.Now().Add(23 * time.Hour)))
	// Output:
	// true
}

func ExampleStreamService_Delete() {
	client, _, stop := fakeSync()
	defer stop()

	response, err := client.Streams.Delete(context.Background(), "default", "orders")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(response.StatusCode)
	// Output:
	// 204
}

func ExampleStreamService_List() {
	client, _, stop := fakeSync()
	defer stop()

	page, _, err := client.Streams.List(context.Background(), "default", &twiliosync.ListSyncStreamParams{PageSize: 20})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(page.Streams), page.Next == nil)
	// Output:
	// 1 true
}

func ExampleStreamService_All() {
	client, _, stop := fakeSync()
	defer stop()

	for stream, err := range client.Streams.All(context.Background(), "default", nil) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(stream.UniqueName)
	}
	// Output:
	// orders
}
