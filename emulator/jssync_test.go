package emulator_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/emulator"
)

// The official SDK, in both of the majors that are in use.
var officialSDKs = []string{"twilio-sync-4", "twilio-sync-3"}

var manyMessages = flag.Int("messages", 1_000, "messages that one client of the official SDK receives as fast as they come")

// installed makes the npm packages of jssync once, or says why there are none.
var installed = sync.OnceValue(func() string {
	if _, err := exec.LookPath("node"); err != nil {
		return "no node on this machine"
	}
	if _, err := os.Stat("jssync/node_modules/twilio-sync-4"); err == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund")
	install.Dir = "jssync"
	if output, err := install.CombinedOutput(); err != nil {
		return fmt.Sprintf("npm ci in jssync: %v: %s", err, output)
	}
	return ""
})

// program is a running program of jssync.
type program struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

// node starts a program of jssync, or skips the test where that is impossible.
func node(t *testing.T, script string, args ...string) *program {
	t.Helper()
	if why := installed(); why != "" {
		t.Skipf("the official SDK is not tested: %s", why)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "node", append([]string{script}, args...)...)
	cmd.Dir = "jssync"
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return &program{t, script, cmd, bufio.NewScanner(stdout)}
}

// until logs what the program prints until it prints this line.
func (p *program) until(line string) {
	p.t.Helper()
	for p.lines.Scan() {
		if p.lines.Text() == line {
			return
		}
		p.t.Log(p.lines.Text())
	}
	p.t.Fatalf("%s ended before it was %q: %v", p.name, line, p.cmd.Wait())
}

// wait logs what the program prints until it ends, and fails the test if it failed.
func (p *program) wait() {
	p.t.Helper()
	for p.lines.Scan() {
		p.t.Log(p.lines.Text())
	}
	assert.NoError(p.t, p.cmd.Wait(), p.name)
}

func TestOfficialSDKDoesAllItCanWithStreams(t *testing.T) {
	for _, sdk := range officialSDKs {
		t.Run(sdk, func(t *testing.T) {
			t.Parallel()
			srv := serve(t)
			node(t, "conformance.js", sdk, srv.url).wait()
		})
	}
}

func TestOfficialSDKReceivesEachMessageOnceInOrder(t *testing.T) {
	for _, tt := range []struct {
		name              string
		clients, messages int
		publish           func(*testing.T, server, int)
	}{
		{"20 clients, 300 messages at 100/s", 20, 300, publishPaced},
		{fmt.Sprintf("1 client, %d messages as fast as they come", *manyMessages), 1, *manyMessages, publishAll},
	} {
		for _, sdk := range officialSDKs {
			t.Run(tt.name+", "+sdk, func(t *testing.T) {
				srv := serve(t, emulator.WithStreamRateLimit(0, 0))
				receiver := node(t, "receive.js", sdk, srv.url, "orders", fmt.Sprint(tt.clients), fmt.Sprint(tt.messages))
				receiver.until("ready")
				tt.publish(t, srv, tt.messages)
				receiver.wait()
			})
		}
	}
}

type numbered struct {
	N  int   `json:"n"`
	At int64 `json:"at"` // milliseconds
}

// publishPaced publishes 100 messages a second.
func publishPaced(t *testing.T, srv server, n int) {
	client := srv.client(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for i := range n {
		<-tick.C
		_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", numbered{i, time.Now().UnixMilli()})
		require.NoError(t, err)
	}
}

// publishAll publishes with CreateAll, one in flight for the order's sake.
func publishAll(t *testing.T, srv server, n int) {
	requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
		for i := range n {
			if !yield(twiliosync.StreamMessageRequest{StreamSID: "orders", Data: numbered{i, time.Now().UnixMilli()}}) {
				return
			}
		}
	}
	client := srv.client(t, twiliosync.WithStreamRateLimit(1_000_000, time.Second))
	start := time.Now()
	for result := range client.StreamMessages.CreateAll(t.Context(), "default", iter.Seq[twiliosync.StreamMessageRequest](requests), &twiliosync.CreateAllOptions{Ordered: true}) {
		require.NoError(t, result.Err)
	}
	t.Logf("published %d messages in %v", n, time.Since(start).Round(time.Millisecond))
}
