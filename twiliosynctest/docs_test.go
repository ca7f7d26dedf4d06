// The contents of ../docs/testing.md, which has each declaration of this file in the same words.

package twiliosynctest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// orderPaid tells the subscribers of the stream "orders" that an order is paid.
func orderPaid(ctx context.Context, client *twiliosync.Client, id int) error {
	_, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"event": "paid", "id": id})
	return err
}

func TestOrderPaidIsPublished(t *testing.T) {
	srv := twiliosynctest.NewServer(t)

	if err := orderPaid(t.Context(), srv.Client(), 42); err != nil {
		t.Fatal(err)
	}

	messages := srv.Messages("orders")
	if len(messages) != 1 {
		t.Fatalf("%d messages, want 1", len(messages))
	}
	if got, want := string(messages[0].Data), `{"event":"paid","id":42}`; got != want {
		t.Errorf("published %s, want %s", got, want)
	}
}

func TestOrderPaidWaitsWhenThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		srv.Next(2).WithHeader("Retry-After", "3").Answer(429, 54009)

		start := time.Now()
		if err := orderPaid(t.Context(), srv.Client(), 42); err != nil {
			t.Fatal(err)
		}

		if waited := time.Since(start); waited < 6*time.Second {
			t.Errorf("waited %v, want twice the 3 s that the service asked for", waited)
		}
		if n := len(srv.Requests()); n != 3 {
			t.Errorf("%d requests, want 3", n)
		}
	})
}

func TestOrderPaidSaysWhenTheOutcomeIsUnknown(t *testing.T) {
	srv := twiliosynctest.NewServer(t)
	srv.Next(1).LoseAnswer()

	err := orderPaid(t.Context(), srv.Client(), 42)

	if outcome := twiliosync.OutcomeOf(err); outcome != twiliosync.OutcomeUnknown {
		t.Errorf("outcome %v, want unknown: %v", outcome, err)
	}
	if twiliosync.Retryable(err) {
		t.Error("retryable, although the message may have been published")
	}
	if n := len(srv.Messages("orders")); n != 1 {
		t.Errorf("%d messages, want the one whose answer was lost", n)
	}
}

func TestOrderPaidNeedsItsStream(t *testing.T) {
	srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreams("invoices"))

	err := orderPaid(t.Context(), srv.Client(), 42)

	if !errors.Is(err, twiliosync.ErrNotFound) {
		t.Errorf("error %v, want not found", err)
	}
	if n := len(srv.Requests()); n != 1 {
		t.Errorf("%d requests, want 1: trying again is of no use", n)
	}
}

func TestOrdersPaidKeepTheStreamsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t, twiliosynctest.WithStreamRateLimit(300, 10*time.Second))
		client := srv.Client(twiliosync.WithStreamRateLimit(300, 10*time.Second))

		start := time.Now()
		for id := range 1000 {
			if err := orderPaid(t.Context(), client, id); err != nil {
				t.Fatal(err)
			}
		}

		if took := time.Since(start).Round(time.Second); took != 30*time.Second {
			t.Errorf("took %v, want 30 s", took)
		}
		if n := len(srv.Requests()); n != 1000 {
			t.Errorf("%d requests, want 1000: none is refused", n)
		}
	})
}

func TestOrderPaidSurvivesAnHourOfThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := twiliosynctest.NewServer(t)
		srv.For(time.Hour).Answer(429, 54009)
		client := srv.Client()

		start := time.Now()
		err := orderPaid(t.Context(), client, 42)
		for twiliosync.Retryable(err) {
			time.Sleep(time.Minute)
			err = orderPaid(t.Context(), client, 42)
		}

		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < time.Hour || took > time.Hour+2*time.Minute {
			t.Errorf("took %v, want little more than the hour", took)
		}
		if n := len(srv.Messages("orders")); n != 1 {
			t.Errorf("%d messages, want 1", n)
		}
	})
}

// Publisher is the part of the client that the shop uses.
type Publisher interface {
	Create(ctx context.Context, serviceSID, streamSID string, data any, opts ...twiliosync.CallOption) (*twiliosync.StreamMessage, *twiliosync.Response, error)
}

var _ Publisher = (*twiliosync.StreamMessageService)(nil) // client.StreamMessages
