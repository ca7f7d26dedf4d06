package otel_test

import (
	"log"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/otel"
)

func Example() {
	tracer, err := otel.New()
	if err != nil {
		log.Fatal(err)
	}
	client, err := twiliosync.NewClientFromEnv(twiliosync.WithTracer(tracer))
	if err != nil {
		log.Fatal(err)
	}
	defer client.CloseIdleConnections()
}
