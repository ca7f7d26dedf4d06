package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/relay"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// startNATS starts a NATS server in the process, with its files in dir.
func startNATS(t testing.TB, dir string, port int, users ...*server.User) *server.Server {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, JetStream: true, StoreDir: dir, NoSigs: true, Users: users})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

func connect(t testing.TB, s *server.Server, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	conn, err := nats.Connect(s.ClientURL(), append(opts, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	return js
}

var small = relay.Config{Partitions: 4}

// world is a NATS server with a relay, and a fake Sync service.
type world struct {
	t    *testing.T
	nats *server.Server
	js   jetstream.JetStream
	sync *twiliosynctest.Server
	log  *relay.Publisher

	mu      sync.Mutex
	settled []relay.Settled
}

func newWorld(t *testing.T, opts ...twiliosynctest.Option) *world {
	t.Helper()
	w := &world{t: t, nats: startNATS(t, t.TempDir(), -1), sync: twiliosynctest.NewServer(t, opts...)}
	w.js = connect(t, w.nats)
	require.NoError(t, relay.Setup(t.Context(), w.js, small))
	w.log = relay.NewPublisher(w.js, small)
	return w
}

func (w *world) publish(stream, id string, data any) {
	w.t.Helper()
	require.NoError(w.t, w.log.Publish(w.t.Context(), relay.Message{ID: id, ServiceSID: "default", StreamSID: stream, Data: data}))
}

// run starts a worker, and returns what stops it.
func (w *world) run(opts relay.Options) (stop func()) {
	w.t.Helper()
	opts.Config = small
	opts.OnSettled = func(s relay.Settled) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.settled = append(w.settled, s)
	}
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	client := w.sync.Client(twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
	js := connect(w.t, w.nats)
	go func() { done <- relay.Run(ctx, js, client, opts) }()
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(w.t, <-done)
	})
	w.t.Cleanup(stop)
	return stop
}

func (w *world) results() []relay.Settled {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.settled)
}

// untilEmpty waits until the log has nothing more.
func (w *world) untilEmpty() relay.State {
	w.t.Helper()
	var state relay.State
	require.Eventually(w.t, func() bool {
		var err error
		state, err = relay.Status(w.t.Context(), w.js, small)
		require.NoError(w.t, err)
		return state.Pending == 0 && state.InFlight == 0
	}, time.Minute, 50*time.Millisecond)
	return state
}

type published struct {
	N           int    `json:"n"`
	ID          string `json:"id"`
	Redelivered bool   `json:"redelivered"`
}

func (w *world) published(stream string) (all []published) {
	w.t.Helper()
	for _, message := range w.sync.Messages(stream) {
		var p published
		require.NoError(w.t, json.Unmarshal(message.Data, &p))
		all = append(all, p)
	}
	return all
}

// assertEachOnceInOrder looks at stream-0, stream-1 and so on, which have n messages together.
func (w *world) assertEachOnceInOrder(streams, n int) {
	w.t.Helper()
	total := 0
	for s := range streams {
		last := -1
		for _, p := range w.published(fmt.Sprint("stream-", s)) {
			require.Greater(w.t, p.N, last)
			last = p.N
			total++
		}
	}
	assert.Equal(w.t, n, total)
}

func TestWhatIsWrittenToTheLogIsPublishedInOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		w.run(relay.Options{})
	}
	const streams, each = 20, 50
	for n := range each {
		for s := range streams {
			w.publish(fmt.Sprint("stream ", s), fmt.Sprintf("%d-%d", s, n), map[string]int{"n": n})
		}
	}
	state := w.untilEmpty()
	assert.Zero(t, state.DeadLetters)
	for s := range streams {
		got := w.published(fmt.Sprint("stream ", s))
		require.Len(t, got, each)
		for n, p := range got { // those that changed hands when the workers came are marked
			assert.Equal(t, published{N: n, ID: fmt.Sprintf("%d-%d", s, n), Redelivered: p.Redelivered}, p)
		}
	}
	assert.Len(t, state.Workers, 3)
	for _, partition := range state.Partitions {
		assert.NotEmpty(t, partition.Worker)
	}
	for _, settled := range w.results() {
		assert.Equal(t, twiliosync.OutcomeAccepted, settled.Outcome)
		assert.Empty(t, settled.DeadLettered)
	}
}

func TestBadInputNeverEntersTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good := relay.Message{ID: "1", ServiceSID: "default", StreamSID: "orders", Data: map[string]int{"a": 1}}
	for name, change := range map[string]func(*relay.Message){
		"no ID":                func(m *relay.Message) { m.ID = "" },
		"an ID of two lines":   func(m *relay.Message) { m.ID = "1\nNats-Rollup: all" },
		"too long an ID":       func(m *relay.Message) { m.ID = strings.Repeat("x", 256) },
		"no stream":            func(m *relay.Message) { m.StreamSID = "" },
		"no service":           func(m *relay.Message) { m.ServiceSID = "" },
		"no data":              func(m *relay.Message) { m.Data = nil },
		"no object":            func(m *relay.Message) { m.Data = []int{1} },
		"too much data":        func(m *relay.Message) { m.Data = map[string]string{"a": strings.Repeat("x", 5000)} },
		"text that isn't JSON": func(m *relay.Message) { m.Data = json.RawMessage("{") },
		"names beyond a line": func(m *relay.Message) {
			m.ServiceSID, m.StreamSID = strings.Repeat("ä", 320), strings.Repeat("ö", 320)
		},
		"a path instead of one": func(m *relay.Message) { m.StreamSID = "../orders" },
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			change(&m)
			err := w.log.Publish(t.Context(), m)
			var parameter *twiliosync.ParameterError
			require.ErrorAs(t, err, &parameter)
			assert.NotEmpty(t, parameter.Reason)
		})
	}
	state, err := relay.Status(t.Context(), w.js, small)
	require.NoError(t, err)
	assert.Zero(t, state.Pending)
}

func TestTheSameIDIsTakenOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for range 3 {
		w.publish("orders", "7", map[string]int{"n": 7})
	}
	w.run(relay.Options{})
	w.untilEmpty()
	assert.Equal(t, []published{{N: 7, ID: "7"}}, w.published("orders"))
}

func TestTheOutcomeDecides(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		opts    relay.Options
		fault   func(twiliosynctest.Fault)
		stream  []published // what subscribers get
		reason  string      // of the dead letter
		outcome twiliosync.Outcome
	}{
		{"a 429 is waited for", relay.Options{}, func(f twiliosynctest.Fault) { f.Answer(429, 54009) }, []published{{N: 1, ID: "1"}, {N: 2, ID: "2"}}, "", 0},
		{"a 503 that is Twilio's own is tried again", relay.Options{}, func(f twiliosynctest.Fault) { f.Answer(503, 20503) }, []published{{N: 1, ID: "1"}, {N: 2, ID: "2"}}, "", 0},
		{"an unknown outcome is published again, and marked", relay.Options{}, func(f twiliosynctest.Fault) { f.LoseAnswer() },
			[]published{{N: 1, ID: "1"}, {N: 1, ID: "1", Redelivered: true}, {N: 2, ID: "2"}}, "", 0},
		{"an unknown outcome is dropped, where that is the policy", relay.Options{Unknown: relay.Drop}, func(f twiliosynctest.Fault) { f.LoseAnswer() },
			[]published{{N: 1, ID: "1"}, {N: 2, ID: "2"}}, "unknown", twiliosync.OutcomeUnknown},
		{"a final refusal is a dead letter", relay.Options{}, func(f twiliosynctest.Fault) { f.Answer(403, 20403) }, []published{{N: 2, ID: "2"}}, "403", twiliosync.OutcomeRejected},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			test.fault(w.sync.Next(1))
			w.publish("orders", "1", map[string]int{"n": 1})
			w.publish("orders", "2", map[string]int{"n": 2})
			w.run(test.opts)
			w.untilEmpty()
			assert.Equal(t, test.stream, w.published("orders"))
			var letters []relay.DeadLetter
			for letter, err := range relay.DeadLetters(t.Context(), w.js, small) {
				require.NoError(t, err)
				letters = append(letters, letter)
			}
			if test.reason == "" {
				assert.Empty(t, letters)
				return
			}
			require.Len(t, letters, 1)
			assert.Equal(t, "1", letters[0].ID)
			assert.Equal(t, "orders", letters[0].StreamSID)
			assert.Equal(t, test.outcome, letters[0].Outcome)
			assert.Contains(t, letters[0].Reason, test.reason)

			require.NoError(t, letters[0].Requeue(t.Context()))
			w.untilEmpty()
			all := w.published("orders")
			assert.Equal(t, published{N: 1, ID: "1", Redelivered: test.outcome == twiliosync.OutcomeUnknown}, all[len(all)-1])
			for letter, err := range relay.DeadLetters(t.Context(), w.js, small) {
				t.Error(letter, err)
			}
		})
	}
}

func TestWhatAnotherProgramWroteNeverBlocksItsStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	conn := w.js.Conn()
	write := func(subject, id, data string) {
		msg := nats.NewMsg(subject)
		msg.Data = []byte(data)
		if id != "" {
			msg.Header.Set(jetstream.MsgIDHeader, id)
		}
		_, err := conn.RequestMsg(msg, 5*time.Second)
		require.NoError(t, err)
	}
	write("TWILIOSYNC.in.default.orders", "array", `[1]`)
	write("TWILIOSYNC.in.default.orders", "", `{"n":1}`)
	write("TWILIOSYNC.in.default.orders", "long", `{"n":"`+strings.Repeat("x", 4086)+`"}`) // no room for the id
	write("TWILIOSYNC.in.default.%", "percent", `{}`)
	write("TWILIOSYNC.in.default.orders", "good", `{"n":2}`)
	write("TWILIOSYNC.in.default.orders", "empty", `{}`)
	w.run(relay.Options{})
	w.untilEmpty()
	assert.Equal(t, []published{{N: 2, ID: "good"}, {ID: "empty"}}, w.published("orders"))
	reasons := map[string]string{}
	for letter, err := range relay.DeadLetters(t.Context(), w.js, small) {
		require.NoError(t, err)
		reasons[letter.ID] = letter.Reason
	}
	assert.Len(t, reasons, 4)
	for id, part := range map[string]string{"array": "object", "": "no ID", "long": "4096", "percent": "percent-encoded"} {
		assert.Contains(t, reasons[id], part)
	}
}

func TestAnOldMessageIsDropped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish("cursor", "1", map[string]int{"n": 1})
	time.Sleep(50 * time.Millisecond)
	w.run(relay.Options{DropAfter: time.Millisecond})
	state := w.untilEmpty()
	assert.EqualValues(t, 1, state.DeadLetters)
	assert.Empty(t, w.published("cursor"))
}

func TestAHotStreamLeavesTheOthersTheirShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t, twiliosynctest.WithStreamRateLimit(0, 0))
	const hot, streams, each = 1500, 40, 5
	for n := range hot {
		w.publish("hot", fmt.Sprint("hot-", n), map[string]int{"n": n})
	}
	for n := range each {
		for s := range streams {
			w.publish(fmt.Sprint("other-", s), fmt.Sprintf("%d-%d", s, n), map[string]int{"n": n})
		}
	}
	w.sync.Every().ToStream("hot").Optional().Delay(5 * time.Millisecond)
	w.run(relay.Options{MaxPending: 32})
	require.Eventually(t, func() bool {
		for s := range streams {
			if len(w.sync.Messages(fmt.Sprint("other-", s))) < each {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond)
	assert.Less(t, len(w.sync.Messages("hot")), hot, "the others did not wait for it")
	w.untilEmpty()
	for n, p := range w.published("hot") {
		require.Equal(t, n, p.N)
	}
}

func TestStoppingLeavesNothingUnknown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 400
	for i := range n {
		w.publish(fmt.Sprint("stream-", i%10), fmt.Sprint(i), map[string]int{"n": i})
	}
	w.sync.Every().Optional().Delay(2 * time.Millisecond)
	stop := w.run(relay.Options{})
	require.Eventually(t, func() bool { return len(w.results()) > n/4 }, 30*time.Second, time.Millisecond)
	stop()
	assert.Less(t, len(w.results()), n)
	w.run(relay.Options{})
	w.untilEmpty()
	w.assertEachOnceInOrder(10, n)
}

func TestNATSIsRestarted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := &world{t: t, nats: startNATS(t, dir, -1), sync: twiliosynctest.NewServer(t)}
	w.js = connect(t, w.nats)
	require.NoError(t, relay.Setup(t.Context(), w.js, small))
	w.log = relay.NewPublisher(w.js, small)
	const n = 600
	for i := range n {
		w.publish(fmt.Sprint("stream-", i%10), fmt.Sprint(i), map[string]int{"n": i})
	}
	w.sync.Every().Optional().Delay(3 * time.Millisecond)
	w.run(relay.Options{})
	require.Eventually(t, func() bool { return len(w.results()) > n/4 }, 30*time.Second, time.Millisecond)
	port := w.nats.Addr().(*net.TCPAddr).Port
	w.nats.Shutdown()
	w.nats.WaitForShutdown()
	time.Sleep(100 * time.Millisecond)
	held := len(w.results())
	startNATS(t, dir, port)
	w.untilEmpty()
	t.Logf("%d of %d were settled when it went down", held, n)
	w.assertEachOnceInOrder(10, n)
}

func TestWrongSetUpIsSaidInOneSentence(t *testing.T) {
	t.Parallel()
	nats := startNATS(t, t.TempDir(), -1)
	js := connect(t, nats)
	client := twiliosynctest.NewServer(t).Client()
	ctx := t.Context()
	message := relay.Message{ID: "1", ServiceSID: "default", StreamSID: "orders", Data: struct{ A int }{1}}

	assert.ErrorContains(t, relay.Run(ctx, js, client, relay.Options{}), "call Setup first")
	assert.ErrorContains(t, relay.NewPublisher(js, relay.Config{}).Publish(ctx, message), "call Setup first")
	_, err := relay.Status(ctx, js, relay.Config{})
	assert.ErrorContains(t, err, "call Setup first")
	for _, err := range relay.DeadLetters(ctx, js, relay.Config{}) {
		assert.ErrorContains(t, err, "call Setup first")
	}

	require.NoError(t, relay.Setup(ctx, js, small))
	require.NoError(t, relay.Setup(ctx, js, small), "again")
	require.NoError(t, relay.Setup(ctx, js, relay.Config{Partitions: 4, MaxAge: time.Hour, MaxBytes: 1 << 20}), "what can be changed is changed")
	assert.ErrorContains(t, relay.Setup(ctx, js, relay.Config{Partitions: 8}), "4 partitions, which is fixed")
	assert.ErrorContains(t, relay.Run(ctx, js, client, relay.Options{}), "4 partitions, which is fixed, and not 64")
	assert.ErrorContains(t, relay.Setup(ctx, js, relay.Config{Name: "a.b"}), "Name")
	assert.ErrorContains(t, relay.Setup(ctx, js, relay.Config{Partitions: 5000}), "Partitions")
	assert.ErrorContains(t, relay.Run(ctx, nil, client, relay.Options{Config: small}), "nil")
	assert.ErrorContains(t, relay.Run(ctx, js, nil, relay.Options{Config: small}), "nil")
	assert.ErrorContains(t, relay.Run(ctx, js, client, relay.Options{Config: small, IDField: "x", RedeliveredField: "x"}), "the same")

	log := relay.NewPublisher(js, small)
	err = nil
	message.Data = map[string]string{"a": strings.Repeat("x", 4000)}
	for i := 0; err == nil && i < 1000; i++ {
		message.ID = fmt.Sprint("fill ", i)
		err = log.Publish(ctx, message)
	}
	assert.ErrorContains(t, err, "is full")
	var none *relay.Publisher
	assert.Error(t, none.Publish(ctx, message))
	assert.Error(t, new(relay.Publisher).Publish(ctx, message))
	assert.Error(t, errors.Join(relay.DeadLetter{}.Delete(ctx), relay.DeadLetter{}.Requeue(ctx)))
}

func TestAMissingPermissionIsNamed(t *testing.T) {
	t.Parallel()
	admin := &server.User{Username: "admin", Password: "secret"}
	limited := &server.User{Username: "limited", Password: "secret", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"TWILIOSYNC.in.>", "$JS.API.STREAM.INFO.*"}}}}
	s := startNATS(t, t.TempDir(), -1, admin, limited)
	as := func(user string) jetstream.JetStream {
		return connect(t, s, nats.UserInfo(user, "secret"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	}
	require.NoError(t, relay.Setup(t.Context(), as("admin"), small))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	message := relay.Message{ID: "1", ServiceSID: "default", StreamSID: "orders", Data: map[string]int{"n": 1}}
	err := relay.NewPublisher(as("limited"), small).Publish(ctx, message)
	assert.ErrorContains(t, err, "lacks a permission")
	assert.ErrorContains(t, err, "TWILIOSYNC.in.default.orders")
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	err = relay.Run(ctx, as("limited"), twiliosynctest.NewServer(t).Client(), relay.Options{Config: small})
	assert.ErrorContains(t, err, "lacks a permission")
}

func TestARepairedDeadLetterIsRequeued(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sync.Next(1).Answer(400, 20001)
	w.publish("orders", "1", map[string]int{"n": 1})
	w.run(relay.Options{})
	w.untilEmpty()
	for letter, err := range relay.DeadLetters(t.Context(), w.js, small) {
		require.NoError(t, err)
		letter.Data = []int{1}
		require.Error(t, letter.Requeue(t.Context()), "by the rules of Publish")
		letter.Data = map[string]int{"n": 2}
		letter.StreamSID = "repaired"
		require.NoError(t, letter.Requeue(t.Context()))
	}
	w.untilEmpty()
	assert.Equal(t, []published{{N: 2, ID: "1"}}, w.published("repaired"))
}

func TestAWorkersOwnFaultMakesNoDeadLetters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sync.Next(3).Answer(401, 20003)
	w.publish("orders", "1", map[string]int{"n": 1})
	w.run(relay.Options{})
	state := w.untilEmpty()
	assert.Zero(t, state.DeadLetters)
	assert.Equal(t, []published{{N: 1, ID: "1"}}, w.published("orders"))
}

func TestAnAnswerOfSomebodyElseDoesNotBlockAStreamForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.sync.Every().Matching(func(r twiliosynctest.Request) bool { return strings.Contains(string(r.Data), `"n":1`) }).Respond(403, "<html>blocked</html>")
	w.publish("orders", "1", map[string]int{"n": 1})
	w.publish("orders", "2", map[string]int{"n": 2})
	w.run(relay.Options{})
	require.Eventually(t, func() bool { return len(w.published("orders")) == 1 }, 2*time.Minute, 100*time.Millisecond)
	w.untilEmpty()
	for letter, err := range relay.DeadLetters(t.Context(), w.js, small) {
		require.NoError(t, err)
		assert.Equal(t, twiliosync.OutcomeUnknown, letter.Outcome)
		assert.Equal(t, "1", letter.ID)
	}
	assert.Equal(t, []published{{N: 2, ID: "2"}}, w.published("orders"))
}

// TestWhatIsTooOldForTheLogBlocksNothing: the log lets messages go that a worker holds.
func TestWhatIsTooOldForTheLogBlocksNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, relay.Setup(t.Context(), w.js, relay.Config{Partitions: 4, MaxAge: 2 * time.Second}))
	for n := range 200 {
		w.publish("orders", fmt.Sprint(n), map[string]int{"n": n})
	}
	w.sync.Every().Optional().Delay(30 * time.Millisecond) // 200 take six seconds
	w.run(relay.Options{MaxPending: 8})
	time.Sleep(3 * time.Second)
	w.publish("orders", "late", map[string]int{"n": 1000})
	require.Eventually(t, func() bool {
		all := w.published("orders")
		return len(all) > 0 && all[len(all)-1].N == 1000
	}, 30*time.Second, 50*time.Millisecond)
	assert.Less(t, len(w.published("orders")), 200)
}

// TestALogThatIsMadeAnewHasNothingOfTheOldOne: its messages have the numbers of those that a living worker has settled.
func TestALogThatIsMadeAnewHasNothingOfTheOldOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run(relay.Options{})
	for n := range 20 {
		w.publish("stream-0", fmt.Sprint("old ", n), map[string]int{"n": n})
	}
	w.untilEmpty()
	require.NoError(t, w.js.DeleteStream(t.Context(), "TWILIOSYNC"))
	require.NoError(t, relay.Setup(t.Context(), w.js, small))
	for n := range 20 {
		w.publish("stream-0", fmt.Sprint("new ", n), map[string]int{"n": 20 + n})
	}
	w.untilEmpty()
	w.assertEachOnceInOrder(1, 40)
}
