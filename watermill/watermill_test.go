package watermill_test

import (
	"context"
	"errors"
	"testing"
	"time"

	wm "github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
	"github.com/twiliosync/twiliosync-go/watermill"
)

// route runs a router from a Go channel to the fake service until it has these messages.
func route(t *testing.T, srv *twiliosynctest.Server, handle func(message.Publisher, *message.Message) error, payloads ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	channel := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, wm.NopLogger{})
	publisher, err := watermill.NewPublisher(srv.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1})), watermill.Config{})
	require.NoError(t, err)
	acknowledge, err := watermill.AckByOutcome(channel, "poison", watermill.Redeliver)
	require.NoError(t, err)
	router, err := message.NewRouter(message.RouterConfig{}, wm.NopLogger{})
	require.NoError(t, err)
	router.AddMiddleware(acknowledge)
	router.AddConsumerHandler("to Sync", "orders", channel, func(m *message.Message) error { return handle(publisher, m) })
	stopped := make(chan error, 1)
	go func() { stopped <- router.Run(ctx) }()
	<-router.Running()
	for _, payload := range payloads {
		require.NoError(t, channel.Publish("orders", message.NewMessage(wm.NewUUID(), message.Payload(payload))))
	}
	_, err = srv.WaitForMessages(ctx, "orders", len(payloads))
	require.NoError(t, err)
	require.NoError(t, router.Close())
	require.NoError(t, <-stopped)
}

func toStream(publisher message.Publisher, m *message.Message) error {
	return publisher.Publish("orders", m)
}

func TestTheOutcomeDecidesAboutTheAcknowledgement(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name     string
		unknown  watermill.UnknownPolicy
		fault    func(twiliosynctest.Fault)
		payload  string
		arrived  int
		poisoned int
	}{
		{"accepted", watermill.Redeliver, nil, `{"n":1}`, 1, 0},
		{"accepted, with an answer that can't be read", watermill.Redeliver, func(f twiliosynctest.Fault) { f.CutBody() }, `{"n":1}`, 1, 0},
		{"a 429 comes again", watermill.Redeliver, func(f twiliosynctest.Fault) { f.Answer(429, 54009) }, `{"n":1}`, 1, 0},
		{"a final refusal goes to the poison queue", watermill.Redeliver, func(f twiliosynctest.Fault) { f.Answer(403, 20403) }, `{"n":1}`, 0, 1},
		{"so does bad input", watermill.Redeliver, nil, `[1]`, 0, 1},
		{"an unknown outcome comes again", watermill.Redeliver, func(f twiliosynctest.Fault) { f.LoseAnswer() }, `{"n":1}`, 2, 0},
		{"or goes to the poison queue", watermill.Drop, func(f twiliosynctest.Fault) { f.LoseAnswer() }, `{"n":1}`, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := twiliosynctest.NewServer(t)
			if test.fault != nil {
				test.fault(srv.Next(1))
			}
			var poisoned int
			channel := poisonCounter{count: &poisoned}
			acknowledge, err := watermill.AckByOutcome(channel, "poison", test.unknown)
			require.NoError(t, err)
			publisher, err := watermill.NewPublisher(srv.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1})), watermill.Config{})
			require.NoError(t, err)
			handler := acknowledge(func(m *message.Message) ([]*message.Message, error) { return nil, publisher.Publish("orders", m) })
			for { // as a subscriber does
				m := message.NewMessage("1", message.Payload(test.payload))
				m.SetContext(t.Context())
				if _, err := handler(m); err == nil {
					break
				}
			}
			assert.Len(t, srv.Messages("orders"), test.arrived)
			assert.Equal(t, test.poisoned, poisoned)
		})
	}
}

type poisonCounter struct{ count *int }

func (c poisonCounter) Publish(_ string, messages ...*message.Message) error {
	for _, m := range messages {
		if m.Metadata.Get(middleware.ReasonForPoisonedKey) == "" {
			return errors.New("a poisoned message without a reason")
		}
		*c.count++
	}
	return nil
}

func (poisonCounter) Close() error { return nil }

func TestARouterPublishesWhatComesFromAChannel(t *testing.T) {
	t.Parallel()
	srv := twiliosynctest.NewServer(t)
	srv.Next(1).Answer(429, 54009)
	route(t, srv, toStream, `{"n":1}`, `{"n":2}`, `{"n":3}`)
	assert.Len(t, srv.Messages("orders"), 3)
}

func TestAnErrorOfTheHandlerItselfComesAgain(t *testing.T) {
	t.Parallel()
	srv := twiliosynctest.NewServer(t)
	tries := 0
	route(t, srv, func(p message.Publisher, m *message.Message) error {
		if tries++; tries == 1 {
			return errors.New("the database is away")
		}
		return toStream(p, m)
	}, `{"n":1}`)
	assert.Len(t, srv.Messages("orders"), 1)
}

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	_, err := watermill.NewPublisher(nil, watermill.Config{})
	assert.ErrorContains(t, err, "nil")
	_, err = watermill.AckByOutcome(nil, "poison", watermill.Drop)
	assert.ErrorContains(t, err, "poison queue")
	_, err = watermill.AckByOutcome(poisonCounter{}, "", watermill.Drop)
	assert.ErrorContains(t, err, "topic")
	_, err = watermill.AckByOutcome(poisonCounter{}, "poison", 7)
	assert.ErrorContains(t, err, "UnknownPolicy")
	publisher, err := watermill.NewPublisher(twiliosynctest.NewServer(t).Client(), watermill.Config{})
	require.NoError(t, err)
	require.NoError(t, publisher.Close())
	assert.ErrorContains(t, publisher.Publish("orders", message.NewMessage("1", nil)), "closed")
}
