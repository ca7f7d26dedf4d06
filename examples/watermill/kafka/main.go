// Command kafka publishes the messages of a Kafka topic to the Sync stream of
// the same name:
//
//	cd examples/watermill && go run ./kafka -brokers 127.0.0.1:9092 -topic orders
//
// Credentials come from the environment, TWILIO_API_KEY and TWILIO_API_SECRET. What
// Sync refuses for good goes to the topic "poison".
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/twiliosync/twiliosync-go"
	syncmill "github.com/twiliosync/twiliosync-go/watermill"
)

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "Kafka's brokers, with commas between them")
	topic := flag.String("topic", "orders", "topic, and stream")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Split(*brokers, ","), *topic); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, brokers []string, topic string) error {
	logger := watermill.NewSlogLogger(slog.Default())
	client, err := twiliosync.NewClientFromEnv()
	if err != nil {
		return err
	}
	subscriber, err := kafka.NewSubscriber(kafka.SubscriberConfig{Brokers: brokers, Unmarshaler: kafka.DefaultMarshaler{}, ConsumerGroup: "sync"}, logger)
	if err != nil {
		return err
	}
	poison, err := kafka.NewPublisher(kafka.PublisherConfig{Brokers: brokers, Marshaler: kafka.DefaultMarshaler{}}, logger)
	if err != nil {
		return err
	}
	publisher, err := syncmill.NewPublisher(client, syncmill.Config{ServiceSID: "default"})
	if err != nil {
		return err
	}
	acknowledge, err := syncmill.AckByOutcome(poison, "poison", syncmill.Redeliver)
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{}, logger)
	if err != nil {
		return err
	}
	router.AddMiddleware(acknowledge, middleware.Retry{MaxRetries: 5, InitialInterval: time.Second, Multiplier: 2, ShouldRetry: func(p middleware.RetryParams) bool {
		return twiliosync.Retryable(p.Err)
	}}.Middleware)
	router.AddConsumerHandler("Kafka to Sync", topic, subscriber, func(m *message.Message) error {
		return publisher.Publish(topic, m)
	})
	return router.Run(ctx)
}
