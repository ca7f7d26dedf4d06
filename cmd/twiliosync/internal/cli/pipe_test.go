package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	sync1 "github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

var million = flag.Bool("million", false, "pipe a million lines")

// asProgram makes the test binary the program itself.
const asProgram = "TWILIOSYNC_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(Run(os.Args[1:], Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, Signals))
	}
	os.Exit(m.Run())
}

// lockedBuffer can be written and read at the same time.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// pipes are the standard outputs of the programs.
var pipes = map[*exec.Cmd]io.Closer{}

// startProcess starts the program in a process of its own.
func startProcess(t *testing.T, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser, stdout *bufio.Reader, stderr *lockedBuffer) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	stderr = new(lockedBuffer)
	cmd.Stderr = stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	pipes[cmd] = pipe
	return cmd, stdin, bufio.NewReader(pipe), stderr
}

// waitFor waits for what another goroutine, or process, does.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	require.Eventually(t, done, 30*time.Second, 5*time.Millisecond, what)
}

// parseRecords returns the results by line, and checks that no line comes twice
// and that each was announced, if any was.
func parseRecords(t *testing.T, text string) map[int]record {
	t.Helper()
	records, started := map[int]record{}, map[int]bool{}
	for line := range strings.Lines(text) {
		var r record
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		if r.Started {
			require.False(t, started[r.Line], "announced once")
			started[r.Line] = true
			continue
		}
		require.NotContains(t, records, r.Line)
		if len(started) > 0 && r.Attempts > 0 {
			require.True(t, started[r.Line], "line %d was announced", r.Line)
		}
		records[r.Line] = r
	}
	return records
}

func recordsIn(t *testing.T, path string) map[int]record {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return parseRecords(t, string(text))
}

// lines returns lines of a stream with the numbers first to last.
func lines(stream string, first, last int) string {
	var text strings.Builder
	for n := first; n <= last; n++ {
		fmt.Fprintf(&text, "{\"stream\": %q, \"data\": {\"n\": %d}}\n", stream, n)
	}
	return text.String()
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

var (
	accepted = sync1.OutcomeAccepted.String()
	rejected = sync1.OutcomeRejected.String()
	unknown  = sync1.OutcomeUnknown.String()
	notSent  = sync1.OutcomeNotSent.String()
)

func TestPipeGivesEachLineOneResult(t *testing.T) {
	fake := withFake(t)
	fake.Every().ToStream("forbidden").Answer(403, 54056)
	fake.Every().ToStream("lossy").LoseAnswer()
	cases := []struct{ text, outcome, says string }{
		{"\ufeff" + `{"stream": "orders", "data": {"n": 1, "big": 12345678901234567890, "html": "<&>"}}`, accepted, ""},
		{``, "", "not a message"},
		{`{"stream": "orders", "data": {"n": 3}`, notSent, "it is not valid JSON: unexpected end of JSON input at byte 37"},
		{`{"stream": "orders"}`, notSent, `it has no "data"`},
		{`{"data": {"n": 5}}`, notSent, `it has no "stream"`},
		{`{"stream": "orders", "date": {"n": 6}}`, notSent, `it has "date"; a message has "stream" and "data" alone`},
		{`{"stream": "orders", "data": [7]}`, notSent, "JSON array"},
		{`{"stream": "", "data": {"n": 8}}`, notSent, "streamSID: it is empty"},
		{`{"stream": "forbidden", "data": {"n": 9}}`, rejected, "code 54056"},
		{`{"stream": "lossy", "data": {"n": 10}}`, unknown, "may have been published"},
		{`{"stream": "orders", "data": {"n": 11}} {"stream": "orders", "data": {"n": 11}}`, notSent, "it is not valid JSON: invalid character '{' after top-level value at byte 41"},
		{`{"stream": "orders", "data": {"a": "` + strings.Repeat("a", maxLine) + `"}}`, notSent, "it is longer than 1048576 bytes"},
		{`   `, "", "not a message"},
		{`{"stream": "orders", "data": {"n": 14}}` + "\r", accepted, ""},
		{`{"Stream": "orders", "data": {"n": 15}}`, notSent, `it has "Stream", which is spelled "stream"`},
		{`{"stream": "orders", "data": {"n": 16}, "data": {"n": 0}}`, notSent, `it has "data" twice`},
		{`{"stream": 17, "data": {}}`, notSent, `its "stream" is a number; it has to be a string`},
		{`{"stream": null, "data": {}}`, notSent, `its "stream" is null; it has to be a string`},
		{`["orders", {}]`, notSent, `it is an array; a message is {"stream": "…", "data": {…}}`},
		{`true`, notSent, `it is a boolean`},
		{`{"stream": "\ud800", "data": {}}`, notSent, `its "stream" is not valid Unicode`},
		{"{\"stream\": \"orders\xff\", \"data\": {}}", notSent, `it is not valid UTF-8`},
		{`{"stream": "orders", "data": ` + strings.Repeat("[", 20000) + `}`, notSent, "it is not valid JSON"},
		{`{"stream": "orders", "data": {"n": 24}}`, accepted, ""}, // without a line break
	}
	var texts []string
	for _, c := range cases {
		texts = append(texts, c.text)
	}

	got := command(strings.Join(texts, "\n"), "pipe")

	assert.Equal(t, 1, got.status)
	var sent []string
	for _, message := range fake.Messages("orders") {
		sent = append(sent, string(message.Data))
	}
	assert.ElementsMatch(t, []string{`{"n": 1, "big": 12345678901234567890, "html": "<&>"}`, `{"n": 14}`, `{"n": 24}`}, sent)
	records := parseRecords(t, got.out)
	for i, c := range cases {
		r, ok := records[i+1]
		assert.Equal(t, c.outcome != "", ok, "line %d has a result", i+1)
		assert.Equal(t, c.outcome, r.Outcome, "line %d", i+1)
		if ok {
			assert.Contains(t, r.Error, c.says, "line %d", i+1)
			assert.Equal(t, c.outcome == accepted, r.SID != "", "line %d", i+1)
			assert.NotContains(t, r.Error, "json:", "Go's words")
		}
		if c.outcome == notSent || c.outcome == rejected {
			assert.Contains(t, got.err, fmt.Sprintf("line %d: %s\n", i+1, r.Error), "refused lines are said")
		}
	}
	assert.Contains(t, got.err, "3 accepted, 1 rejected, 17 not sent, 1 unknown\n19 of 22 lines were not certainly published\n")
}

func TestPipeDoesNotSayEachOfManyRefusedLines(t *testing.T) {
	withFake(t)
	got := command(strings.Repeat("{}\n", 1000), "pipe")
	assert.Len(t, parseRecords(t, got.out), 1000)
	assert.Equal(t, 20, strings.Count(got.err, `it has no "stream"`))
	assert.Contains(t, got.err, "line 20: it has no \"stream\"\nMore refused lines are in the results.\n0 accepted, 0 rejected, 1000 not sent, 0 unknown\n")
}

func TestPipeOrderedKeepsTheOrderOfTheInput(t *testing.T) {
	fake := withFake(t)
	got := command(lines("orders", 1, 200), "pipe", "--ordered")
	require.Zero(t, got.status, got.err)
	for i, message := range fake.Messages("orders") {
		require.Equal(t, fmt.Sprintf(`{"n": %d}`, i+1), string(message.Data))
	}
}

func TestPipeResumes(t *testing.T) {
	fake := withFake(t)
	dir := t.TempDir()
	messages := write(t, dir, "messages.ndjson", lines("orders", 1, 4)+lines("forbidden", 5, 6)+lines("lossy", 7, 8)+lines("orders", 9, 9))
	results := filepath.Join(dir, "results.ndjson")
	fake.Next(2).ToStream("forbidden").Answer(403, 54056)
	fake.Next(2).ToStream("lossy").LoseAnswer()
	first := command("", "pipe", "--results", results, messages)
	require.Equal(t, 1, first.status, first.err)
	assert.Empty(t, first.out)
	require.Len(t, recordsIn(t, results), 9)
	assert.Contains(t, first.err, "4 of 9 lines were not certainly published; to publish the rest, run it again with --results "+results+" --resume\n")

	t.Run("results are not overwritten", func(t *testing.T) {
		got := command("", "pipe", "--results", results, messages)
		assert.Equal(t, 2, got.status)
		assert.Contains(t, got.err, results+" exists already; name another file, or go on with it by --resume\n")
		assert.Len(t, recordsIn(t, results), 9)
	})
	t.Run("another input is noticed", func(t *testing.T) {
		before := len(fake.Requests())
		got := command(lines("orders", 2, 9), "pipe", "--results", results, "--resume")
		assert.Equal(t, 1, got.status)
		assert.Contains(t, got.err, "line 1 is not the one that the results are about; resume with the same input, --service and TWILIO_* variables; 0 of 0 lines were not certainly published, and what comes after line 1 was not read")
		assert.Len(t, fake.Requests(), before)
	})
	t.Run("what was refused is sent, what was accepted or is unknown is not", func(t *testing.T) {
		got := command("", "pipe", "--results", results, "--resume", messages)
		assert.Equal(t, 1, got.status, "two are unknown still")
		assert.Contains(t, got.err, "2 accepted, 0 rejected, 0 not sent, 0 unknown; skipped from earlier runs: 5 accepted, 2 unknown\n2 of 9 lines")
		assert.Len(t, fake.Messages("orders"), 5)
		assert.Len(t, fake.Messages("forbidden"), 2)
		assert.Len(t, fake.Messages("lossy"), 2)
	})
	t.Run("a crash may have cut the last result", func(t *testing.T) {
		text, err := os.ReadFile(results)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(results, append(text, `{"line":3,"outco`...), 0o600))
	})
	t.Run("unknown ones are sent again if that is wished", func(t *testing.T) {
		got := command("", "pipe", "--results", results, "--resume", "--resend-unknown", messages)
		assert.Zero(t, got.status, got.err)
		assert.Contains(t, got.err, "2 accepted, 0 rejected, 0 not sent, 0 unknown; skipped from earlier runs: 7 accepted, 0 unknown\n")
		assert.Len(t, fake.Messages("lossy"), 4, "duplicates, as told")
		got = command("", "pipe", "--results", results, "--resume", messages)
		assert.Zero(t, got.status, "nothing is left to do")
	})
}

func TestPipeKnowsWhatResultsProve(t *testing.T) {
	fake := withFake(t)
	for _, c := range []struct {
		name, results string
		sends         bool
		outcome       string // that is written
	}{
		{"a line without results is sent", ``, true, accepted},
		{"an accepted line stays so", `S A S R`, false, ""},
		{"a line that was announced and has no result may be published", `S`, false, unknown},
		{"also if a later run was not able to send it", `S S R`, false, ""},
		{"an unknown one stays so, whatever a later run proves for itself", `S U S R`, false, ""},
		{"a rejected one is sent", `S R`, true, accepted},
		{"one that was refused here is sent", `N`, true, accepted},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := `{"stream":"orders","data":{"n":1}}`
			at := place{1, digestOf("default\n"+fake.URL+"\n", []byte(text))}
			var results strings.Builder
			for _, word := range strings.Fields(c.results) {
				r := map[string]record{"S": at.record(0), "A": at.record(sync1.OutcomeAccepted), "R": at.record(sync1.OutcomeRejected), "U": at.record(sync1.OutcomeUnknown), "N": at.record(sync1.OutcomeNotSent)}[word]
				if word == "S" {
					r.Started, r.Outcome = true, ""
				}
				require.NoError(t, json.NewEncoder(&results).Encode(r))
			}
			path := write(t, t.TempDir(), "results.ndjson", results.String())
			before := len(fake.Requests())
			command(text, "pipe", "--results", path, "--resume")
			assert.Equal(t, c.sends, len(fake.Requests()) > before)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			added := strings.TrimPrefix(string(after), results.String())
			if c.outcome == "" {
				assert.Empty(t, added)
			} else {
				assert.Contains(t, added, `"outcome":"`+c.outcome+`"`)
			}
		})
	}
}

func TestPipeRefusesWrongUsage(t *testing.T) {
	fake := withFake(t)
	dir := t.TempDir()
	captured := command(lines("orders", 1, 1), "pipe").out
	fakes := strings.ReplaceAll(captured, `"digest"`, `"fake":true,"digest"`)
	for _, c := range []struct {
		name   string
		args   []string
		says   string
		status int // 0: 2
	}{
		{"two files", []string{"a", "b"}, `unexpected argument "b"`, 0},
		{"a missing file", []string{"no-such-file"}, "no-such-file", 0},
		{"missing results", []string{"--results", "no-such-file", "--resume"}, "no-such-file", 1},
		{"an empty name of results", []string{"--results", ""}, "--results is empty", 0},
		{"a directory", []string{dir}, "the input can't be read", 1},
		{"a foreign file without a line break", []string{"--results", write(t, dir, "precious", "precious"), "--resume"}, "the end of " + filepath.Join(dir, "precious") + " is not a result of this program", 0},
		{"results with a digest that is none", []string{"--results", write(t, dir, "d", `{"line":1,"outcome":"accepted","digest":"00"}`+"\n"), "--resume"}, "line 1 of " + filepath.Join(dir, "d") + " is not a result", 0},
		{"no results to resume", []string{"--resume"}, "--resume needs the --results of the earlier run", 0},
		{"messages in place of results", []string{"--results", write(t, dir, "m", lines("orders", 1, 1)), "--resume"}, "line 1 of " + filepath.Join(dir, "m") + " is not a result of this program", 0},
		{"results that came on standard output", []string{"--results", write(t, dir, "c", captured), "--resume"}, "c was not written by --results, so it can't tell what was in flight when it ended", 0},
		{"results of a fake", []string{"--results", write(t, dir, "f", fakes), "--resume"}, "f has results of a fake service, or this run would publish to one", 0},
		{"--resend-unknown alone", []string{"--resend-unknown"}, "no meaning without --resume", 0},
		{"no concurrency", []string{"--concurrency", "0"}, "--concurrency is at least 1", 0},
		{"a negative grace", []string{"--grace", "-1s"}, "--grace is not negative", 0},
		{"a grace without unit", []string{"--grace", "5"}, `invalid argument "5" for "--grace" flag`, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(fake.Requests())
			got := command(lines("orders", 1, 1), append([]string{"pipe"}, c.args...)...)
			assert.Equal(t, cmp.Or(c.status, 2), got.status)
			assert.Contains(t, got.err, c.says)
			assert.Empty(t, got.out)
			assert.Len(t, fake.Requests(), before)
		})
	}
	text, err := os.ReadFile(filepath.Join(dir, "precious"))
	require.NoError(t, err)
	assert.Equal(t, "precious", string(text), "it is as it was")
	t.Run("a service that can't be", func(t *testing.T) {
		got := command(lines("orders", 1, 1), "pipe", "--service", "")
		assert.Equal(t, 2, got.status)
		assert.Contains(t, got.err, "--service is empty")
	})
}

func TestPipeReadsAsItWrites(t *testing.T) {
	withFake(t)
	cmd, stdin, stdout, stderr := startProcess(t, "pipe")
	for n := 1; n <= 3; n++ {
		_, _ = io.WriteString(stdin, lines("orders", n, n))
		text, err := stdout.ReadString('\n')
		require.NoError(t, err, stderr.String())
		assert.Equal(t, accepted, parseRecords(t, text)[n].Outcome)
	}
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait(), stderr.String())
	assert.Equal(t, "3 accepted, 0 rejected, 0 not sent, 0 unknown\n", stderr.String())
}

func TestPipeWithoutCredentialsGoesToTheFake(t *testing.T) {
	withoutEnvironment(t)
	got := command(lines("orders", 1, 3), "pipe")
	require.Zero(t, got.status, got.err)
	assert.Contains(t, got.err, "nothing leaves this machine")
	for _, r := range parseRecords(t, got.out) {
		assert.True(t, r.Fake)
	}
}

// exitOf waits for the program's end.
func exitOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil {
		require.ErrorAs(t, err, &exit)
	}
	return cmd.ProcessState.ExitCode()
}

func skipWithoutSignals(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process can't be sent a signal there")
	}
}

func TestPipeStopsInOrderAtTheFirstSignal(t *testing.T) {
	skipWithoutSignals(t)
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			fake := withFake(t)
			release := make(chan struct{})
			fake.Every().ToStream("slow").Matching(func(twiliosynctest.Request) bool { <-release; return false }).Optional().Reset()
			results := filepath.Join(t.TempDir(), "results.ndjson")
			cmd, stdin, _, stderr := startProcess(t, "pipe", "--results", results, "--grace", "20s")
			defer stdin.Close()
			go func() { _, _ = io.WriteString(stdin, lines("slow", 1, 5000)) }() // 300 may be sent, the rest waits for its pace
			waitFor(t, "requests", func() bool { return len(fake.Requests()) == 64 })
			require.NoError(t, cmd.Process.Signal(sig))
			waitFor(t, "a word that it stops", func() bool { return strings.Contains(stderr.String(), "A second signal cancels it") })
			close(release)
			assert.Equal(t, 1, exitOf(t, cmd))
			byOutcome := map[string]int{}
			records := recordsIn(t, results)
			for n := 1; n <= len(records); n++ {
				byOutcome[records[n].Outcome]++ // without gaps
			}
			assert.Equal(t, 64, byOutcome[accepted], "what was in flight")
			assert.Equal(t, len(records)-64, byOutcome[notSent], "what waited")
			assert.Equal(t, 64, len(fake.Messages("slow")))
			assert.Less(t, strings.Count(stderr.String(), "\n"), 5, "not a line for each that waited:\n"+stderr.String())
		})
	}
}

func TestPipeCancelsAtTheSecondSignal(t *testing.T) {
	skipWithoutSignals(t)
	fake := withFake(t)
	fake.Every().NeverAnswer()
	dir := t.TempDir()
	messages, results := write(t, dir, "messages.ndjson", lines("orders", 1, 10)), filepath.Join(dir, "results.ndjson")
	cmd, _, _, stderr := startProcess(t, "pipe", "--concurrency", "4", "--grace", "1h", "--results", results, messages)
	waitFor(t, "four requests", func() bool { return len(fake.Requests()) == 4 })
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	waitFor(t, "a word that it stops", func() bool { return strings.Contains(stderr.String(), "A second signal cancels it") })
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Equal(t, 1, exitOf(t, cmd))
	unknowns := 0
	for number, r := range recordsIn(t, results) {
		if r.Outcome == unknown {
			unknowns++
			assert.Contains(t, r.Error, "context canceled", "line %d", number)
		}
	}
	assert.Equal(t, 4, unknowns)
	assert.Contains(t, stderr.String(), "to publish the rest, run it again with --results "+results+" --resume")
}

func TestPipeEndsWhatIsInFlightAfterItsGrace(t *testing.T) {
	skipWithoutSignals(t)
	fake := withFake(t)
	fake.Every().NeverAnswer()
	cmd, stdin, stdout, _ := startProcess(t, "pipe", "--grace", "100ms")
	defer stdin.Close()
	go func() { _, _ = io.WriteString(stdin, lines("orders", 1, 20_000)) }()
	waitFor(t, "requests", func() bool { return len(fake.Requests()) == 64 })
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	text, err := io.ReadAll(stdout)
	require.NoError(t, err)
	assert.Equal(t, 1, exitOf(t, cmd))
	byOutcome := map[string]int{}
	for _, r := range parseRecords(t, string(text)) {
		byOutcome[r.Outcome]++
	}
	assert.Equal(t, 64, byOutcome[unknown])
}

func TestPipeIsResumedAfterAKill(t *testing.T) {
	skipWithoutSignals(t)
	fake := withFake(t, twiliosynctest.WithStreamRateLimit(0, 0))
	dir := t.TempDir()
	var input strings.Builder
	for n := range 100 {
		input.WriteString(lines(fmt.Sprint("stream-", n), 1, 30))
	}
	messages, results := write(t, dir, "messages.ndjson", input.String()), filepath.Join(dir, "results.ndjson")
	for kill := 1; ; kill++ {
		args := []string{"pipe", "--results", results, messages}
		if kill > 1 {
			args = append(args, "--resume")
		}
		cmd, _, _, _ := startProcess(t, args...)
		before := len(fake.Requests())
		if kill == 4 {
			cmd.Wait()
			break
		}
		waitFor(t, "requests", func() bool { return len(fake.Requests()) > before+500 })
		require.NoError(t, cmd.Process.Kill())
		cmd.Wait()
	}
	text, err := os.ReadFile(results)
	require.NoError(t, err)
	final := map[int]string{}
	for line := range strings.Lines(string(text)) {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil && r.Outcome != "" {
			final[r.Line] = r.Outcome
		}
	}
	require.Len(t, final, 3000, "each line has a result")
	published := map[string]int{}
	for n := range 100 {
		for _, m := range fake.Messages(fmt.Sprint("stream-", n)) {
			published[fmt.Sprint(n, string(m.Data))]++
		}
	}
	unsure := 0
	for line, outcome := range final {
		n := line - 1
		key := fmt.Sprint(n/30, fmt.Sprintf(`{"n": %d}`, n%30+1))
		assert.LessOrEqual(t, published[key], 1, "line %d is there twice", line)
		if outcome == unknown {
			unsure++
		} else {
			assert.Equal(t, accepted, outcome)
			assert.Equal(t, 1, published[key], "line %d", line)
		}
	}
	assert.LessOrEqual(t, unsure, 3*64, "those in flight")
	t.Logf("3 kills: %d of 3000 lines unknown", unsure)
}

func TestPipeRefusesASecondRunOnItsResults(t *testing.T) {
	fake := withFake(t)
	dir := t.TempDir()
	results := filepath.Join(dir, "results.ndjson")
	cmd, stdin, _, stderr := startProcess(t, "pipe", "--results", results)
	_, _ = io.WriteString(stdin, lines("orders", 1, 1))
	waitFor(t, "a request", func() bool { return len(fake.Requests()) == 1 })
	got := command(lines("orders", 1, 1), "pipe", "--results", results, "--resume")
	assert.Equal(t, 1, got.status)
	assert.Contains(t, got.err, "another run writes to "+results+"; wait until it has ended\n")
	require.NoError(t, stdin.Close())
	require.NoError(t, cmd.Wait(), stderr.String())
	assert.Zero(t, command(lines("orders", 1, 1), "pipe", "--results", results, "--resume").status)
}

// limitedWriter has room for so many bytes, like a disk.
type limitedWriter struct {
	lockedBuffer
	room int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errors.New("no space left on device")
	}
	return w.lockedBuffer.Write(p)
}

func TestPipeSendsNothingWithoutAPlaceForTheResults(t *testing.T) {
	fake := withFake(t)
	full := &limitedWriter{room: 5000}
	var stderr lockedBuffer
	status := Run([]string{"pipe"}, Streams{In: strings.NewReader(lines("orders", 1, 200)), Out: full, Err: &stderr}, heard(nil))
	assert.Equal(t, 1, status)
	said := stderr.String()
	assert.Contains(t, said, "the results can't be written: no space left on device; ")
	assert.Contains(t, said, "These results could not be written:\n")
	records := parseRecords(t, full.String())
	_, rest, _ := strings.Cut(said, "could not be written:\n")
	for line := range strings.Lines(rest) {
		var r record
		if json.Unmarshal([]byte(line), &r) == nil {
			require.NotContains(t, records, r.Line)
			records[r.Line] = r
		}
	}
	count := 0
	for _, r := range records {
		if r.Outcome == accepted {
			count++
		}
	}
	assert.Equal(t, len(fake.Messages("orders")), count, "each message has its result, there or here")
	assert.Less(t, count, 200)
}

func TestPipeSendsNothingThatItCannotAnnounce(t *testing.T) {
	skipWithoutSignals(t)
	fake := withFake(t)
	// a disk that becomes full: the shell bounds the size of files
	dir := t.TempDir()
	var input strings.Builder
	for n := range 100 {
		input.WriteString(lines(fmt.Sprint("stream-", n), 1, 20))
	}
	messages, results := write(t, dir, "messages.ndjson", input.String()), filepath.Join(dir, "results.ndjson")
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `ulimit -f 1; exec "$@"`, "sh", os.Args[0], "pipe", "--results", results, messages)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	output, _ := cmd.CombinedOutput()
	assert.Equal(t, 1, cmd.ProcessState.ExitCode(), string(output))
	assert.Contains(t, string(output), "file too large; ")
	written, err := os.ReadFile(results)
	require.NoError(t, err)
	assert.Less(t, len(fake.Requests()), 200)
	assert.LessOrEqual(t, len(fake.Requests()), strings.Count(string(written), `"started":true`), "each was announced")
	got := command("", "pipe", "--results", results, "--resume", messages) // now there is room
	assert.Equal(t, 1, got.status)
	assert.Contains(t, got.err, "skipped from earlier runs")
	for n := range 100 {
		seen := map[string]bool{}
		for _, m := range fake.Messages(fmt.Sprint("stream-", n)) {
			assert.False(t, seen[string(m.Data)], "%s is there twice", m.Data)
			seen[string(m.Data)] = true
		}
	}
}

func TestPipeEndsWhenNobodyReadsItsResults(t *testing.T) {
	skipWithoutSignals(t)
	fake := withFake(t)
	cmd, stdin, stdout, stderr := startProcess(t, "pipe", "--concurrency", "4")
	defer stdin.Close()
	_, _ = io.WriteString(stdin, lines("orders", 1, 1))
	_, err := stdout.ReadString('\n')
	require.NoError(t, err)
	closer, ok := pipes[cmd]
	require.True(t, ok)
	require.NoError(t, closer.Close())
	go func() { _, _ = io.WriteString(stdin, lines("orders", 2, 500)) }()
	assert.Equal(t, 1, exitOf(t, cmd))
	said := stderr.String()
	assert.Contains(t, said, "the results can't be written: ")
	assert.Contains(t, said, "broken pipe; ")
	assert.Equal(t, len(fake.Messages("orders"))-1, strings.Count(said, `"outcome":"accepted"`), "what could not be written is said")
}

func TestPipeEndsInTimeAlsoIfNobodyReadsWhatItSays(t *testing.T) {
	skipWithoutSignals(t)
	withFake(t)
	cmd, stdin, stdout, _ := startProcess(t, "pipe", "--grace", "1s")
	go func() { _, _ = io.WriteString(stdin, lines("orders", 1, 290)+strings.Repeat("{}\n", 5000)) }() // more than a pipe holds
	_, err := stdout.ReadString('\n')
	require.NoError(t, err)
	time.Sleep(200 * time.Millisecond) // until its writes block
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = cmd.Process.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it still runs")
	}
}

func TestASignalEndsWhatOnlyReadsItsInput(t *testing.T) {
	skipWithoutSignals(t)
	withFake(t)
	cmd, stdin, _, _ := startProcess(t, "publish", "orders")
	_, _ = io.WriteString(stdin, "{")
	time.Sleep(200 * time.Millisecond) // until it reads; earlier, the signal would end it too
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	state, err := cmd.Process.Wait()
	require.NoError(t, err)
	assert.False(t, state.Success())
}

func TestPublishSaysThatAMessageIsPublishedAlsoIfItCannotPrintIt(t *testing.T) {
	fake := withFake(t)
	var stderr lockedBuffer
	status := Run([]string{"publish", "orders", "{}"}, Streams{In: strings.NewReader(""), Out: &limitedWriter{}, Err: &stderr}, heard(nil))
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr.String(), "the message is published as "+fake.Messages("orders")[0].SID+", but that can't be printed")
}

func TestALastLineThatFillsTheBufferIsRead(t *testing.T) {
	withFake(t)
	text := lines("orders", 1, 1)
	padded := strings.TrimSpace(text) + strings.Repeat(" ", 64<<10-len(strings.TrimSpace(text)))
	got := command(padded, "pipe")
	assert.Zero(t, got.status, got.err)
	assert.Len(t, parseRecords(t, got.out), 1)
}

func TestPipeProgressOnATerminalFitsAnyWidth(t *testing.T) {
	now := progressNow{counts: counts{accepted: 123456, rejected: 12, notSent: 3, unknown: 7}, atLimit: 12}
	for width, want := range map[int]string{
		20:  "123478/400000 lines",
		40:  "123478/400000 lines, 0/s, 15 refused",
		60:  "123478/400000 lines, 0/s, 12 streams at their rate limit",
		80:  "123478/400000 lines, 0/s, 12 streams at their rate limit, 15 refused, 7 unknown",
		200: "123478/400000 lines, 0/s, 12 streams at their rate limit, 15 refused, 7 unknown  30%",
	} {
		t.Run(fmt.Sprint(width), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var out lockedBuffer
				p := newProgress(&out, 400_000)
				p.width = func() int { return width }
				p.display(now)
				shown, cleared := strings.CutPrefix(out.String(), p.clear())
				assert.True(t, cleared)
				assert.True(t, strings.HasPrefix(shown, want), shown)
				assert.Less(t, len([]rune(shown)), width)
			})
		})
	}
}

func TestPipeProgressSaysWhyItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bulk := func(concurrency int) sync1.CreateAllOptions { return sync1.CreateAllOptions{Concurrency: concurrency} }
		l := &ledger{open: map[int]*opened{}, out: &results{Writer: io.Discard}, show: newProgress(io.Discard, -1)}
		for i := range 10 {
			l.pulled(i, sync1.StreamMessageRequest{StreamSID: fmt.Sprint("stream-", i/2), Tag: place{}})
		}
		l.begin(0, true)
		assert.Zero(t, l.now(bulk(64)).atLimit, "not yet")
		time.Sleep(2 * time.Second)
		assert.Equal(t, 5, l.now(bulk(64)).atLimit, "lines wait although there is room")
		assert.Zero(t, l.now(bulk(1)).atLimit, "they wait for their turn")
		l.attempted(sync1.Attempt{Index: 0, StatusCode: 429, RetryIn: time.Second})
		assert.Equal(t, 5, l.now(bulk(1)).atLimit)
	})
}

func TestPipeShowsPlainLinesWhereThereIsNoTerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		p := newProgress(&out, -1)
		done := 0
		p.start(func() progressNow { done += 100; return progressNow{counts: counts{accepted: done}} })
		time.Sleep(11 * time.Second)
		p.finish()
		assert.Equal(t, "100 lines, 20/s\n200 lines, 20/s\n", out.String())
	})
}

func TestPipeTakesAMillionLinesInBoundedMemory(t *testing.T) {
	count := 20_000
	if *million {
		count = 1_000_000
	}
	withFake(t, twiliosynctest.WithStreamRateLimit(0, 0), twiliosynctest.WithRetention(1))
	dir := t.TempDir()
	results := filepath.Join(dir, "results.ndjson")
	file, err := os.Create(filepath.Join(dir, "messages.ndjson"))
	require.NoError(t, err)
	buffered := bufio.NewWriter(file)
	for n := range count {
		fmt.Fprintf(buffered, "{\"stream\": \"s%d\", \"data\": {\"n\": %d}}\n", n%5000, n)
	}
	require.NoError(t, buffered.Flush())
	require.NoError(t, file.Close())
	for _, args := range [][]string{{}, {"--resume"}} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		highest, over := make(chan uint64), make(chan struct{})
		go func() {
			most := uint64(0)
			for {
				select {
				case <-over:
					highest <- most
					return
				case <-time.After(200 * time.Millisecond):
					runtime.ReadMemStats(&after)
					most = max(most, after.HeapAlloc)
				}
			}
		}()
		got := command("", append([]string{"pipe", "--results", results, file.Name()}, args...)...)
		close(over)
		most := <-highest
		require.Zero(t, got.status, got.err)
		t.Logf("%d lines %v: heap %.1f MiB before, at most %.1f MiB; %s", count, args, float64(before.HeapAlloc)/(1<<20), float64(most)/(1<<20), strings.TrimSpace(got.err))
		if *million && len(args) > 0 {
			assert.Less(t, most-before.HeapAlloc, uint64(100*count), "100 bytes a line, garbage included")
		}
	}
}
