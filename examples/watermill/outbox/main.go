// Command outbox stores an order and its event in one transaction of a
// database, and publishes the event to Twilio Sync: what was stored is published,
// also if the process dies between the two. It runs without any set-up, with
// SQLite and the fake service:
//
//	cd examples/watermill && go run ./outbox
//
// With PostgreSQL or MySQL, watermill-sql brings the adapters that are in
// sqlite.go here.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wmsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	_ "modernc.org/sqlite"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
	syncmill "github.com/twiliosync/twiliosync-go/watermill"
)

func main() {
	dir, err := os.MkdirTemp("", "outbox")
	if err == nil {
		defer os.RemoveAll(dir)
		err = run(context.Background(), dir, os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run stores three orders in a database in dir, and waits until their events are published.
func run(ctx context.Context, dir string, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	db, err := sql.Open("sqlite", filepath.Join(dir, "shop.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_txlock=immediate")
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "CREATE TABLE orders (id INTEGER PRIMARY KEY, state TEXT)"); err != nil {
		return err
	}
	fake := twiliosynctest.New()
	server := httptest.NewServer(fake)
	defer server.Close()
	fake.URL = server.URL

	router, err := newRouter(db, fake.Client())
	if err != nil {
		return err
	}
	stopped := make(chan error, 1)
	go func() { stopped <- router.Run(ctx) }()
	for id := range 3 {
		if err := storeOrder(ctx, db, id); err != nil {
			return err
		}
	}
	messages, err := fake.WaitForMessages(ctx, "orders", 3)
	if err != nil {
		return err
	}
	for _, m := range messages {
		fmt.Fprintf(stdout, "published %s\n", m.Data)
	}
	return errors.Join(router.Close(), <-stopped)
}

// storeOrder stores an order and its event, both or neither.
func storeOrder(ctx context.Context, db *sql.DB, id int) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ignoreDone(tx.Rollback())) }()
	if _, err := tx.ExecContext(ctx, "INSERT INTO orders VALUES (?, 'paid')", id); err != nil {
		return err
	}
	outbox, err := wmsql.NewPublisher(wmsql.TxFromStdSQL(tx), wmsql.PublisherConfig{SchemaAdapter: schema{}}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	event := message.NewMessage(fmt.Sprint("order-", id), fmt.Appendf(nil, `{"id":%d,"state":"paid"}`, id))
	if err := outbox.Publish("orders", event); err != nil {
		return err
	}
	return tx.Commit()
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

// newRouter publishes what is in the outbox. What Sync refuses for good goes to a topic of its own, "poison".
func newRouter(db *sql.DB, client *twiliosync.Client) (*message.Router, error) {
	beginner := wmsql.BeginnerFromStdSQL(db)
	subscriber, err := wmsql.NewSubscriber(beginner, wmsql.SubscriberConfig{
		SchemaAdapter: schema{}, OffsetsAdapter: offsets{}, InitializeSchema: true, PollInterval: 50 * time.Millisecond,
	}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	for _, topic := range []string{"orders", "poison"} {
		if err := subscriber.SubscribeInitialize(topic); err != nil {
			return nil, err
		}
	}
	poison, err := wmsql.NewPublisher(beginner, wmsql.PublisherConfig{SchemaAdapter: schema{}}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	publisher, err := syncmill.NewPublisher(client, syncmill.Config{ServiceSID: "default"})
	if err != nil {
		return nil, err
	}
	acknowledge, err := syncmill.AckByOutcome(poison, "poison", syncmill.Redeliver)
	if err != nil {
		return nil, err
	}
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return nil, err
	}
	router.AddMiddleware(acknowledge, middleware.Retry{MaxRetries: 3, InitialInterval: time.Second, Multiplier: 2, ShouldRetry: func(p middleware.RetryParams) bool {
		return twiliosync.Retryable(p.Err)
	}}.Middleware)
	router.AddConsumerHandler("orders to Sync", "orders", subscriber, func(m *message.Message) error {
		return publisher.Publish("orders", m)
	})
	return router, nil
}
