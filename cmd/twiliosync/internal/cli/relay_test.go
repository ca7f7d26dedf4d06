package cli

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// startNATS starts a NATS server, and returns its URL.
func startNATS(t *testing.T, options server.Options) string {
	t.Helper()
	options.Host, options.Port, options.StoreDir, options.NoSigs = "127.0.0.1", server.RANDOM_PORT, t.TempDir(), true
	s, err := server.NewServer(&options)
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(10*time.Second))
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s.ClientURL()
}

// withRelay lets NATS_URL lead to a server with a relay of four partitions, and
// the environment to a fake.
func withRelay(t *testing.T, opts ...twiliosynctest.Option) *twiliosynctest.Server {
	t.Helper()
	fake := withFake(t, opts...)
	t.Setenv("NATS_URL", startNATS(t, server.Options{JetStream: true}))
	done(t, "relay setup --partitions 4")
	return fake
}

// done runs a command line that succeeds, and returns what it prints.
func done(t *testing.T, line string) string {
	t.Helper()
	got := command(`{"n":1}`, strings.Fields(line)...)
	require.Zero(t, got.status, "%s: %s", line, got.err)
	return got.out
}

// not runs a command line that fails with one sentence, and returns that.
func not(t *testing.T, status int, line string) string {
	t.Helper()
	got := command(`{"n":1}`, strings.Fields(line)...)
	assert.Equal(t, status, got.status, "%s: %s", line, got.err)
	assert.Empty(t, got.out, line)
	assert.Equal(t, status, strings.Count(got.err, "\n"), "%s: %s", line, got.err) // wrong usage: with where to look
	return got.err
}

func TestTheStoryOfARelay(t *testing.T) {
	fake := withRelay(t, twiliosynctest.WithStreams("orders"))

	assert.Equal(t, "order-1\n", done(t, "relay publish orders --id order-1 --partitions 4"))
	assert.Regexp(t, `^\{"id":"[A-Z2-7]{26}","service":"default","stream":"orders"\}\n$`, done(t, "relay publish orders - -o json --partitions 4"))
	assert.Equal(t, "order-2\n", done(t, "relay publish missing --id order-2 --partitions 4"))
	assert.Contains(t, not(t, 2, "relay publish orders [1] --id order-3 --partitions 4"), "object")
	before := until(t, "relay status --partitions 4", "pending\t3\n") // a consumer counts a message a little after the log has it
	assert.Contains(t, before, "pending\t3\nin flight\t0\ndead letters\t0\noldest\t20")
	assert.Contains(t, before, "workers\t0\n")

	r := start(t, strings.Fields("relay run --partitions 4 -o json")...)
	outcomes := map[any]any{}
	for range 3 {
		var settled map[string]any
		require.NoError(t, json.Unmarshal([]byte(r.until(r.out, "}")), &settled))
		outcomes[settled["id"]] = settled["outcome"]
		assert.Equal(t, settled["outcome"] == "rejected", settled["error"] != nil && settled["dead_lettered"] != nil)
	}
	assert.Len(t, outcomes, 3)
	assert.Equal(t, "accepted", outcomes["order-1"])
	assert.Equal(t, "rejected", outcomes["order-2"])
	assert.Regexp(t, "pending\t0\nin flight\t0\ndead letters\t1\noldest\tnone\nworkers\t1\nworker \\S+\tpartitions 0-3\n", until(t, "relay status --partitions 4", "in flight\t0\n"))
	status, _, said := r.stop()
	assert.Zero(t, status)
	assert.Contains(t, said, "Publishing what is in the log TWILIOSYNC of the NATS server at nats://127.0.0.1:")
	assert.Contains(t, said, "dead letter: order-2 of missing: ")
	assert.Contains(t, said, "3 settled: 2 accepted, 1 rejected. Dead letters: 1; see twiliosync relay dlq list.\n")
	require.Len(t, fake.Messages("orders"), 2)
	assert.JSONEq(t, `{"n":1,"id":"order-1"}`, string(fake.Messages("orders")[0].Data))

	assert.Regexp(t, "^SEQUENCE\tID\tSTREAM\tOUTCOME\tREASON\tTIME\n1\torder-2\tmissing\trejected\t.*404.*\t20.*Z\n$", done(t, "relay dlq list --partitions 4"))
	assert.Empty(t, done(t, "relay dlq list --reason another -o json --partitions 4"))
	assert.Equal(t, "there is no such dead letter with the ID nobody\n", not(t, 1, "relay dlq requeue --id nobody --partitions 4"))
	assert.Equal(t, "there is no such dead letter with the sequence 7\n", not(t, 1, "relay dlq delete --sequence 7 --partitions 4"))
	assert.Empty(t, done(t, "relay dlq delete --all --reason another --partitions 4"))
	assert.Equal(t, "1\torder-2\n", done(t, "relay dlq requeue --id order-2 --partitions 4"))

	var state map[string]any
	require.NoError(t, json.Unmarshal([]byte(done(t, "relay status -o json --partitions 4")), &state))
	assert.EqualValues(t, 1, state["pending"])
	assert.EqualValues(t, 0, state["dead_letters"])

	again := start(t, strings.Fields("relay run --partitions 4")...)
	again.until(again.err, "dead letter: order-2")
	status, out, _ := again.stop()
	assert.Zero(t, status)
	assert.Empty(t, out)
	var letter map[string]any
	require.NoError(t, json.Unmarshal([]byte(done(t, "relay dlq delete --all -o json --partitions 4")), &letter))
	assert.Equal(t, map[string]any{"n": 1.}, letter["data"])
	assert.Equal(t, "order-2", letter["id"])
	assert.Empty(t, done(t, "relay dlq list -o json --partitions 4"))
	assert.Empty(t, done(t, "relay dlq delete --all --partitions 4"))
}

// until runs a command line until it prints text.
func until(t *testing.T, line, text string) (out string) {
	t.Helper()
	require.Eventually(t, func() bool {
		out = done(t, line)
		return strings.Contains(out, text)
	}, time.Minute, 50*time.Millisecond)
	return out
}

func TestADeadLetterThatIsNoJSONIsListedAsText(t *testing.T) {
	withRelay(t)
	conn, err := nats.Connect(os.Getenv("NATS_URL"))
	require.NoError(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "TWILIOSYNC.in.default.orders", []byte("hello"), jetstream.WithMsgID("1"))
	require.NoError(t, err)
	r := start(t, strings.Fields("relay run --partitions 4")...)
	r.until(r.err, "dead letter: 1 of orders")
	r.stop()
	assert.Contains(t, done(t, "relay dlq list -o json --partitions 4"), `"data":"hello"`)
}

// blocking lets a fake hold each message until a channel is closed.
func blocking() (arrived, release chan struct{}, option twiliosynctest.Option) {
	arrived, release = make(chan struct{}, 10), make(chan struct{})
	return arrived, release, twiliosynctest.OnMessage(func(twiliosynctest.Message) {
		arrived <- struct{}{}
		<-release
	})
}

func TestASignalDrains(t *testing.T) {
	arrived, release, option := blocking()
	fake := withRelay(t, option)
	for range 2 { // of one stream, so that one waits for the other
		done(t, "relay publish orders --partitions 4")
	}
	r := start(t, strings.Fields("relay run --partitions 4 --grace 1m")...)
	<-arrived
	r.signals <- syscall.SIGTERM
	r.until(r.err, "Stopping: what is in flight has 59s.")
	close(release)
	assert.Zero(t, <-r.ended)
	assert.Equal(t, "1 settled: 1 accepted.\n", r.until(r.err, "settled"))
	assert.Len(t, fake.Messages("orders"), 1)
	assert.NotContains(t, done(t, "relay status --partitions 4"), "oldest\tnone", "the other one waits in the log")
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	arrived, release, option := blocking()
	withRelay(t, option)
	defer close(release)
	done(t, "relay publish orders --partitions 4")
	r := start(t, strings.Fields("relay run --partitions 4 --grace 1h")...)
	<-arrived
	r.signals <- syscall.SIGTERM
	r.until(r.err, "Stopping")
	r.signals <- syscall.SIGINT
	assert.Equal(t, 1, <-r.ended)
	r.until(r.err, "stopped at once: what was in flight stays in the log")
}

func TestRunStopsWhenItsResultsCannotBeWritten(t *testing.T) {
	withRelay(t)
	done(t, "relay publish orders --partitions 4")
	err := pipe()
	status := Run(strings.Fields("relay run --partitions 4 -o json"), Streams{In: strings.NewReader(""), Out: broken{}, Err: err}, heard(nil))
	err.end()
	said, _ := io.ReadAll(err)
	assert.Equal(t, 1, status)
	assert.Contains(t, string(said), "can't be written any more, so it stopped: broken pipe")
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAnUnknownOutcomeIsDroppedOnRequest(t *testing.T) {
	fake := withRelay(t)
	fake.Next(1).LoseAnswer()
	done(t, "relay publish orders --id 1 --partitions 4")
	r := start(t, strings.Fields("relay run --partitions 4 --unknown drop --id-field key")...)
	r.until(r.err, "dead letter: 1 of orders: unknown")
	_, _, said := r.stop()
	assert.Contains(t, said, "1 settled: 1 unknown. Dead letters: 1;")
	require.Len(t, fake.Messages("orders"), 1)
	assert.JSONEq(t, `{"n":1,"key":"1"}`, string(fake.Messages("orders")[0].Data))
}

func TestAServerInTheProcess(t *testing.T) {
	fake := withFake(t)
	dir := filepath.Join(t.TempDir(), "relay")
	flags := " --partitions 4 --embedded " + dir

	assert.Contains(t, not(t, 1, "relay status"+flags), "can't find the directory of --embedded, which relay setup makes")
	r := start(t, strings.Fields("relay run --nats 127.0.0.1:0"+flags)...)
	url := regexp.MustCompile(`nats://\S+`).FindString(r.until(r.err, "Publishing what is in the log"))
	done(t, "relay publish orders --id 1"+flags)
	done(t, "relay publish orders --id 2 --partitions 4 --nats "+url)
	assert.Contains(t, until(t, "relay status"+flags, "pending\t0\nin flight\t0\n"), "workers\t1\n")
	assert.Equal(t, "another process has its NATS server in "+dir+"; use --nats "+url+" instead of --embedded\n", not(t, 1, "relay run"+flags))
	status, _, said := r.stop()
	assert.Zero(t, status, said)
	assert.Contains(t, said, "2 settled: 2 accepted.")
	assert.Len(t, fake.Messages("orders"), 2)
	assert.Contains(t, not(t, 1, "relay status --partitions 4 --nats "+url), "no NATS server answers at "+url)

	assert.Equal(t, "3\n", done(t, "relay publish orders --id 3"+flags))
	assert.Contains(t, until(t, "relay status"+flags, "pending\t1\n"), "pending\t1\n", "what one command has written is there in the next")

	lock := flock.New(filepath.Join(dir, "twiliosync.lock"))
	require.NoError(t, lock.Lock())
	assert.Equal(t, "another command works in "+dir+"; try again when it has ended\n", not(t, 1, "relay publish orders"+flags))
	require.NoError(t, lock.Unlock())

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	assert.Contains(t, not(t, 1, "relay run --nats "+taken.Addr().String()+flags), "address already in use")
	require.NoError(t, os.WriteFile(urlFile(dir), []byte(url), 0o600)) // as if one had been killed
	assert.Contains(t, until(t, "relay status"+flags, "pending\t1\n"), "pending\t1\n")
	assert.NoFileExists(t, urlFile(dir), "nobody else is led to a server that is gone")
}

func TestRunKeepsWhatSetupHasSetUnlessItIsTold(t *testing.T) {
	withFake(t)
	flags := " --nats 127.0.0.1:0 --partitions 4 --embedded " + t.TempDir()
	done(t, "relay setup --max-bytes 1000000"+flags)
	for _, row := range []struct {
		flag string
		want int64
	}{{"", 1000000}, {" --max-bytes 2000000", 2000000}} {
		r := start(t, strings.Fields("relay run"+flags+row.flag)...)
		conn, err := nats.Connect(regexp.MustCompile(`nats://\S+`).FindString(r.until(r.err, "Publishing")))
		require.NoError(t, err)
		js, err := jetstream.New(conn)
		require.NoError(t, err)
		log, err := js.Stream(t.Context(), "TWILIOSYNC")
		require.NoError(t, err)
		assert.Equal(t, row.want, log.CachedInfo().Config.MaxBytes)
		conn.Close()
		r.stop()
	}
}

func TestSetupSaysWhatItHasSetUp(t *testing.T) {
	withFake(t)
	flags := " --partitions 2 --embedded " + t.TempDir()
	assert.Equal(t, "log\tTWILIOSYNC\npartitions\t2\nreplicas\t1\nmax age\tuntil settled\nmax bytes\tno bound\n", done(t, "relay setup"+flags))
	assert.Equal(t, `{"max_age_seconds":3600,"max_bytes":1000000,"name":"TWILIOSYNC","partitions":2,"replicas":1}`+"\n", done(t, "relay setup -o json --max-age 1h --max-bytes 1000000"+flags))
}

func TestWhatKeepsARelayFromWorkingIsOneSentence(t *testing.T) {
	withFake(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	free := listener.Addr().String()
	require.NoError(t, listener.Close())
	url := startNATS(t, server.Options{JetStream: true})
	plain := startNATS(t, server.Options{})
	for _, each := range []string{"setup", "publish orders --id 1", "run", "status", "dlq list", "dlq delete --all"} {
		said := not(t, 1, "relay "+each+" --nats nats://someone:secret@"+free)
		assert.Equal(t, "no NATS server answers at nats://"+free+"; start one (nats-server -js), say with --nats where it is, or use --embedded DIR\n", said)
		if each != "setup" {
			stderr := command("{}", strings.Fields("relay "+each+" --nats "+url)...).err
			assert.Contains(t, stderr, "run twiliosync relay setup first", each)
		}
		got := command("{}", strings.Fields("relay "+each+" --nats "+plain)...)
		assert.Equal(t, 1, got.status)
		if !strings.HasPrefix(each, "publish") { // which is told only that nobody has taken it
			assert.Contains(t, got.err, "this NATS server has no JetStream", each)
		}
	}
	done(t, "relay setup --partitions 2 --nats "+url)
	for _, each := range []string{"setup", "status"} {
		assert.Equal(t, "relay: the log TWILIOSYNC has 2 partitions, which is fixed, and not 4; use that number, or another Name\n", not(t, 1, "relay "+each+" --partitions 4 --nats "+url))
	}
	assert.Contains(t, command("", strings.Fields("relay run --partitions 4 --nats "+url)...).err, "has 2 partitions")
	assert.Contains(t, not(t, 1, "relay status --creds /nowhere/x.creds --nats "+url), "no such file")
}

func TestWrongUsageOfTheRelay(t *testing.T) {
	withFake(t)
	t.Setenv("NATS_URL", "")
	for line, says := range map[string]string{
		"relay frob":                                     `twiliosync relay has no command "frob"`,
		"relay dlq frob":                                 `twiliosync relay dlq has no command "frob"`,
		"relay setup --partitions 0":                     "--partitions 0 is out of range; use 1 to 1024",
		"relay setup --replicas 6":                       "--replicas 6 is out of range; use 1 to 5",
		"relay setup --name a.b":                         `--name "a.b" has other characters`,
		"relay setup --max-age -1s":                      "not negative",
		"relay setup now":                                `unexpected argument "now"`,
		"relay publish":                                  "an argument is missing",
		"relay run --unknown perhaps":                    `--unknown is redeliver or drop, and not "perhaps"`,
		"relay run --grace 0s":                           "--grace",
		"relay run --drop-after -1s":                     "--drop-after",
		"relay run --max-pending 0":                      "--max-pending",
		"relay run --id-field a --redelivered-field a":   "choose two names",
		"relay run --embedded x --nats example.com:4222": "an address of this machine",
		"relay status --nats nats://user:secret@[::1":    "is not the URL of a NATS server",
		"relay dlq requeue":                              "say which dead letters",
		"relay dlq delete --all --id 1":                  "--all leaves nothing to choose",
		"relay dlq delete order-1":                       `unexpected argument "order-1"`,
	} {
		assert.Contains(t, not(t, 2, line), says, line)
	}
	withoutEnvironment(t)
	assert.Contains(t, not(t, 2, "relay run"), "no TWILIO_* credentials are set")
}

func TestPartitionsAreShownAsRanges(t *testing.T) {
	assert.Equal(t, "0-3, 7, 9-10", ranges([]int{0, 1, 2, 3, 7, 9, 10}))
	assert.Equal(t, "none", ranges(nil))
}
