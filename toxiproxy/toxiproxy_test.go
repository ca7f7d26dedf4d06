package toxiproxy_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

func TestMain(m *testing.M) {
	// Where a toxic ends a link early, Toxiproxy leaves its own goroutines behind.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).read"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2.(*ToxicLink).write"),
		goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*ToxicStub).Run"))
}

// toxic is a line of JSON of Toxiproxy's API.
type toxic struct {
	Type       string         `json:"type"`
	Stream     string         `json:"stream"`
	Toxicity   float64        `json:"toxicity"`
	Attributes map[string]int `json:"attributes"`
}

const (
	upstream   = "upstream"   // requests
	downstream = "downstream" // answers
)

func always(kind, stream string, attributes map[string]int) toxic {
	return toxic{kind, stream, 1, attributes}
}

func (t toxic) String() string {
	return fmt.Sprint(t.Type, " ", t.Stream, " ", t.Attributes)
}

// network is a fake service behind a proxy.
type network struct {
	fake  *twiliosynctest.Server
	tls   *httptest.Server // nil: plain
	proxy *toxiproxy.Proxy
}

func newNetwork(t *testing.T, secure bool, toxics ...toxic) *network {
	t.Helper()
	n := &network{}
	var address string
	if secure {
		n.fake = twiliosynctest.New()
		n.tls = httptest.NewUnstartedServer(n.fake)
		n.tls.Config.ErrorLog = log.New(io.Discard, "", 0) // it complains about cut handshakes
		n.tls.StartTLS()
		address = n.tls.Listener.Addr().String()
	} else {
		n.fake = twiliosynctest.NewServer(t)
		address = strings.TrimPrefix(n.fake.URL, "http://")
	}
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	n.proxy = toxiproxy.NewProxy(server, "sync", "127.0.0.1:0", address)
	require.NoError(t, n.proxy.Start())
	for _, toxic := range toxics {
		line, err := json.Marshal(toxic)
		require.NoError(t, err)
		_, err = n.proxy.Toxics.AddToxicJson(strings.NewReader(string(line)))
		require.NoError(t, err)
	}
	return n
}

func (n *network) client(t *testing.T, timeout time.Duration, atLeastOnce bool) *twiliosync.Client {
	t.Helper()
	opts := []twiliosync.Option{
		twiliosync.WithTimeout(timeout),
		twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{BaseDelay: time.Millisecond, AtLeastOnce: atLeastOnce}),
	}
	if n.tls == nil {
		opts = append(opts, twiliosync.WithBaseURL("http://"+n.proxy.Listen))
	} else {
		opts = append(opts, twiliosync.WithBaseURL("https://"+n.proxy.Listen), twiliosync.WithHTTPClient(n.tls.Client()))
	}
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(n.fake.Credentials()), opts...)
	require.NoError(t, err)
	return client
}

// stop waits until nothing is under way any more.
func (n *network) stop() {
	n.proxy.Stop()
	n.fake.Close()
	if n.tls != nil {
		n.tls.Close()
	}
}

type result struct {
	id    string
	sends int
	err   error
}

// publish publishes messages, each to a stream of its own that is its id, by
// a few goroutines one after the other.
func publish(client *twiliosync.Client, messages int) (results []result) {
	const goroutines = 4
	filler := strings.Repeat("x", 2000)
	var mu sync.Mutex
	var callers sync.WaitGroup
	for g := range goroutines {
		callers.Go(func() {
			for i := range messages / goroutines {
				id := fmt.Sprintf("m%d-%d", g, i)
				_, response, err := client.StreamMessages.Create(context.Background(), "default", id, map[string]string{"id": id, "text": filler})
				r := result{id: id, err: err}
				var e *twiliosync.Error
				if errors.As(err, &e) {
					r.sends = e.Sends
				} else if response != nil {
					r.sends = response.Sends
				}
				mu.Lock()
				results = append(results, r)
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	client.CloseIdleConnections()
	return results
}

// tally is what became of many calls.
type tally struct {
	calls, duplicates, wrong int
	outcomes                 [4]int
}

func (n *tally) add(m tally) {
	n.calls += m.calls
	n.duplicates += m.duplicates
	n.wrong += m.wrong
	for i := range n.outcomes {
		n.outcomes[i] += m.outcomes[i]
	}
}

func (n tally) String() string {
	return fmt.Sprintf("%d calls: accepted %d, unknown %d, not sent %d, rejected %d; published twice %d, wrong %d", n.calls,
		n.outcomes[twiliosync.OutcomeAccepted], n.outcomes[twiliosync.OutcomeUnknown], n.outcomes[twiliosync.OutcomeNotSent],
		n.outcomes[twiliosync.OutcomeRejected], n.duplicates, n.wrong)
}

// check compares what was said of each call with what the service knows.
func (n *network) check(t *testing.T, results []result, atLeastOnce bool) (count tally) {
	t.Helper()
	requests := map[string]int{}
	for _, request := range n.fake.Requests() {
		requests[request.Stream]++
	}
	for _, r := range results {
		outcome, taken := twiliosync.OutcomeOf(r.err), len(n.fake.Messages(r.id))
		fault := ""
		switch {
		case taken > 1 && !atLeastOnce:
			fault = "published more than once"
		case taken > 0 && (outcome == twiliosync.OutcomeNotSent || outcome == twiliosync.OutcomeRejected):
			fault = "called " + outcome.String() + ", but published"
		case taken == 0 && outcome == twiliosync.OutcomeAccepted:
			fault = "called accepted, but never published"
		case r.sends < requests[r.id]:
			fault = fmt.Sprintf("the service got %d requests", requests[r.id])
		}
		if fault != "" {
			count.wrong++
			assert.Fail(t, fault, "message %s: outcome %q, %d sends, taken %d times: %v", r.id, outcome, r.sends, taken, r.err)
		}
		count.calls++
		count.outcomes[outcome]++
		count.duplicates += max(0, taken-1)
	}
	t.Logf("%v", count)
	return count
}

func TestToxics(t *testing.T) {
	const (
		patience  = 5 * time.Second       // never reached
		impatient = 30 * time.Millisecond // of each attempt, where the network is slower
	)
	type scenario struct {
		toxics   []toxic
		messages int
		timeout  time.Duration
	}
	var scenarios []scenario
	add := func(messages int, timeout time.Duration, toxics ...toxic) {
		scenarios = append(scenarios, scenario{toxics, messages, timeout})
	}
	for _, stream := range []string{upstream, downstream} {
		add(40, patience, always("latency", stream, map[string]int{"latency": 5, "jitter": 5}))
		add(40, impatient, always("latency", stream, map[string]int{"latency": 30, "jitter": 30}))
		add(8, impatient, always("timeout", stream, map[string]int{"timeout": 0}))
		add(20, patience, always("timeout", stream, map[string]int{"timeout": 5}))
		for _, timeout := range []int{0, 1, 3} {
			add(40, patience, always("reset_peer", stream, map[string]int{"timeout": timeout}))
		}
		for _, bytes := range []int{0, 1, 50, 100, 140, 150, 160, 200, 300, 400, 500, 700, 1000, 1500, 2000, 2300, 2400, 2500, 2600, 2700, 4000, 5400} {
			add(8, patience, always("limit_data", stream, map[string]int{"bytes": bytes}))
		}
		add(40, patience, always("slicer", stream, map[string]int{"average_size": 64, "size_variation": 32, "delay": 10}))
		add(12, patience, always("bandwidth", stream, map[string]int{"rate": 100}))
		add(12, impatient, always("bandwidth", stream, map[string]int{"rate": 10}))
		// Several at once, and some that spare half of the connections.
		add(20, patience, always("slicer", stream, map[string]int{"average_size": 20, "size_variation": 10, "delay": 5}),
			toxic{"limit_data", stream, 0.5, map[string]int{"bytes": 180}})
		add(40, patience, toxic{"reset_peer", upstream, 0.5, map[string]int{"timeout": 1}},
			always("latency", stream, map[string]int{"latency": 1, "jitter": 1}))
	}

	var mu sync.Mutex
	var total, atLeastOnce tally
	t.Run("all", func(t *testing.T) {
		for _, mode := range []struct {
			name                string
			secure, atLeastOnce bool
		}{
			{"plain", false, false},
			{"plain, at least once", false, true},
			{"TLS", true, false},
		} {
			for _, s := range scenarios {
				t.Run(fmt.Sprint(mode.name, ", ", s.toxics), func(t *testing.T) {
					t.Parallel()
					network := newNetwork(t, mode.secure, s.toxics...)
					messages := s.messages
					if mode.secure {
						messages = max(4, messages/2) // handshakes are expensive
					}
					results := publish(network.client(t, s.timeout, mode.atLeastOnce), messages)
					network.stop()
					count := network.check(t, results, mode.atLeastOnce)
					mu.Lock()
					defer mu.Unlock()
					if mode.atLeastOnce {
						atLeastOnce.add(count)
					} else {
						total.add(count)
					}
				})
			}
		}
	})
	t.Logf("in total: %v", total)
	t.Logf("in total, at least once: %v", atLeastOnce)
	for _, outcome := range []twiliosync.Outcome{twiliosync.OutcomeAccepted, twiliosync.OutcomeUnknown, twiliosync.OutcomeNotSent} {
		assert.NotZero(t, total.outcomes[outcome], "else the toxics don't do what they should: %v", outcome)
	}
	assert.NotZero(t, atLeastOnce.duplicates, "else no answer got lost")
}

// TestProxyGoesDown stops the network while messages are published, and starts
// it again.
func TestProxyGoesDown(t *testing.T) {
	network := newNetwork(t, false, always("latency", downstream, map[string]int{"latency": 2, "jitter": 2}))
	client := network.client(t, time.Second, false)
	address := network.proxy.Listen
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(7 * time.Millisecond):
			}
			network.proxy.Stop()
			network.proxy.Listen = address
			if !assert.NoError(t, network.proxy.Start()) {
				return
			}
		}
	}()
	results := publish(client, 400)
	close(stop)
	<-stopped
	network.stop()
	network.check(t, results, false)
}
