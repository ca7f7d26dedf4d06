package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

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

// command is a run of the program in this process, against a fake.
type command struct {
	fake           *twiliosynctest.Server
	interrupts     chan os.Signal
	stdout, stderr lockedBuffer
}

func newCommand(t *testing.T) *command {
	return &command{fake: twiliosynctest.NewServer(t), interrupts: make(chan os.Signal, 2)}
}

func (c *command) run(stdin io.Reader, args ...string) int {
	return run(args, stdin, &c.stdout, &c.stderr, c.interrupts, func(_ io.Writer, opts ...twiliosync.Option) (*twiliosync.Client, func(), error) {
		return c.fake.Client(opts...), func() {}, nil
	})
}

// parseRecords returns the results by line, and checks that no line comes twice.
func parseRecords(t *testing.T, text string) map[int]record {
	t.Helper()
	records := map[int]record{}
	for line := range strings.Lines(text) {
		var r record
		require.NoError(t, json.Unmarshal([]byte(line), &r), line)
		require.NotContains(t, records, r.Line)
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

func TestEachLineGetsAResult(t *testing.T) {
	c := newCommand(t)
	c.fake.Every().ToStream("forbidden").Answer(403, 54056)
	c.fake.Every().ToStream("lossy").LoseAnswer()
	input := strings.Join([]string{
		`{"stream": "orders", "data": {"n": 1, "big": 12345678901234567890, "html": "<&>"}}`,
		``, // not a message
		`{"stream": "orders", "data": {"n": 3}`,
		`{"stream": "orders"}`,
		`{"data": {"n": 5}}`,
		`{"stream": "orders", "date": {"n": 6}}`,
		`{"stream": "orders", "data": [7]}`,
		`{"stream": "", "data": {"n": 8}}`,
		`{"stream": "forbidden", "data": {"n": 9}}`,
		`{"stream": "lossy", "data": {"n": 10}}`,
		`{"stream": "orders", "data": {"n": 11}} {"stream": "orders", "data": {"n": 11}}`,
		`{"stream": "orders", "data": {"a": "` + strings.Repeat("a", maxLine) + `"}}`,
		`   `,
		`{"stream": "orders", "data": {"n": 14}}`, // without a line break
	}, "\n")

	status := c.run(strings.NewReader(input))

	assert.Equal(t, 1, status)
	records := parseRecords(t, c.stdout.String())
	var sent []string
	for _, message := range c.fake.Messages("orders") {
		sent = append(sent, string(message.Data))
	}
	assert.ElementsMatch(t, []string{`{"n":1,"big":12345678901234567890,"html":"<&>"}`, `{"n":14}`}, sent)
	for number, want := range map[int]struct{ outcome, err string }{
		1:  {accepted, ""},
		3:  {notSent, "line 3: it is not of the form"},
		4:  {notSent, `line 4: it has no "data"`},
		5:  {notSent, `line 5: it has no "stream"`},
		6:  {notSent, `line 6: it is not of the form {"stream": "…", "data": {…}}: json: unknown field "date"`},
		7:  {notSent, "JSON array"},
		8:  {notSent, "streamSID: it is empty"},
		9:  {"rejected", "code 54056"},
		10: {unknown, "may have been published"},
		11: {notSent, "line 11: something follows"},
		12: {notSent, "line 12: it is longer than"},
		14: {accepted, ""},
	} {
		got, ok := records[number]
		require.True(t, ok, "line %d has a result", number)
		assert.Equal(t, want.outcome, got.Outcome, "line %d", number)
		assert.Contains(t, got.Error, want.err, "line %d", number)
		assert.Equal(t, want.outcome == accepted, got.SID != "", "line %d", number)
		assert.NotEmpty(t, got.Digest)
		delete(records, number)
	}
	assert.Empty(t, records, "results of other lines")
	assert.Equal(t, 54056, parseRecords(t, c.stdout.String())[9].Code)
	assert.Contains(t, c.stderr.String(), "line 3: it is not of the form", "refused lines are reported")
	assert.Contains(t, c.stderr.String(), "2 sent, 9 refused, 1 unknown")
	assert.Contains(t, c.stderr.String(), "10 of 12 lines were not certainly published")
}

func TestOrderedKeepsTheOrderOfTheInput(t *testing.T) {
	c := newCommand(t)
	require.Zero(t, c.run(strings.NewReader(lines("orders", 1, 200)), "-ordered"), c.stderr.String())
	messages := c.fake.Messages("orders")
	require.Equal(t, 200, len(messages))
	for i, message := range messages {
		require.Equal(t, fmt.Sprintf(`{"n":%d}`, i+1), string(message.Data))
	}
}

func TestResume(t *testing.T) {
	dir := t.TempDir()
	messages := filepath.Join(dir, "messages.ndjson")
	require.NoError(t, os.WriteFile(messages, []byte(lines("orders", 1, 4)+lines("forbidden", 5, 6)+lines("lossy", 7, 8)+lines("orders", 9, 9)), 0o600))
	first := filepath.Join(dir, "results.ndjson")
	c := newCommand(t)
	c.fake.Next(2).ToStream("forbidden").Answer(403, 54056)
	c.fake.Next(2).ToStream("lossy").LoseAnswer()
	require.Equal(t, 1, c.run(nil, "-results", first, messages), c.stderr.String())
	require.Len(t, recordsIn(t, first), 9)
	assert.Contains(t, c.stderr.String(), "4 of 9 lines were not certainly published; to publish the rest, run again with -resume "+first)

	t.Run("results are not overwritten", func(t *testing.T) {
		again := &command{fake: c.fake}
		assert.Equal(t, 2, again.run(nil, "-results", first, messages))
		assert.Contains(t, again.stderr.String(), "exists already")
		assert.Len(t, recordsIn(t, first), 9)
	})
	t.Run("another input is noticed", func(t *testing.T) {
		again := &command{fake: c.fake}
		before := len(c.fake.Requests())
		assert.Equal(t, 1, again.run(strings.NewReader(lines("orders", 2, 9)), "-resume", first))
		assert.Contains(t, again.stderr.String(), "line 1 is not the one that the results of -resume are about")
		assert.Len(t, c.fake.Requests(), before)
	})
	t.Run("what was refused is sent, what was accepted or is unknown is not", func(t *testing.T) {
		again := &command{fake: c.fake}
		complete := filepath.Join(dir, "complete.ndjson")
		assert.Equal(t, 1, again.run(nil, "-resume", first, "-results", complete, messages), "two are unknown still")
		assert.Contains(t, again.stderr.String(), "2 sent, 0 refused, 0 unknown; 7 skipped (5 accepted, 2 unknown earlier)")
		records := recordsIn(t, complete)
		assert.Len(t, records, 9, "the new file is complete, so that it can be resumed from")
		assert.Equal(t, unknown, records[7].Outcome)
		assert.Equal(t, accepted, records[5].Outcome)
		assert.Len(t, c.fake.Messages("orders"), 5)
		assert.Len(t, c.fake.Messages("forbidden"), 2)
		assert.Len(t, c.fake.Messages("lossy"), 2)
	})
	t.Run("a crash may have cut the last result", func(t *testing.T) {
		text, err := os.ReadFile(first)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(first, append(text, `{"line":3,"outco`...), 0o600))
	})
	t.Run("the file can be continued, and unknown ones sent again", func(t *testing.T) {
		again := &command{fake: c.fake}
		assert.Zero(t, again.run(nil, "-resume", first, "-results", first, "-resend-unknown", messages), again.stderr.String())
		assert.Contains(t, again.stderr.String(), "4 sent, 0 refused, 0 unknown; 5 skipped (5 accepted, 0 unknown earlier)")
		assert.Len(t, c.fake.Messages("lossy"), 4, "duplicates, as told")
		text, err := os.ReadFile(first)
		require.NoError(t, err)
		assert.Equal(t, 9+4, strings.Count(string(text), "\n"), "only what is new is added")
		records, err := readResults(first, true)
		require.NoError(t, err)
		require.Len(t, records, 9)
		for number, r := range records {
			assert.Equal(t, accepted, r.Outcome, "line %d", number)
		}
		assert.Zero(t, again.run(nil, "-resume", first, messages), "nothing is left to do")
	})
}

func TestAnAcceptedLineStaysAccepted(t *testing.T) {
	joined := filepath.Join(t.TempDir(), "joined.ndjson") // two files in the wrong order
	require.NoError(t, os.WriteFile(joined, []byte(`{"line":1,"outcome":"accepted","digest":""}
{"line":1,"outcome":"rejected","digest":""}
`), 0o600))
	records, err := readResults(joined, false)
	require.NoError(t, err)
	assert.Equal(t, accepted, records[1].Outcome)
}

func TestAStopEndsTheInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if the goroutine that reads is left
		for range 20 {
			stop := newStopper()
			in := &input{lines: readLines(strings.NewReader(lines("orders", 1, 9)), stop), stop: stop}
			synctest.Wait() // a line is there
			stop.stop()
			in.requests(func(twiliosync.StreamMessageRequest) bool {
				t.Error("another line is published")
				return true
			})
			assert.False(t, in.exhausted)
		}
	})
}

func TestWrongUsage(t *testing.T) {
	notResults := filepath.Join(t.TempDir(), "messages.ndjson")
	require.NoError(t, os.WriteFile(notResults, []byte(lines("orders", 1, 1)), 0o600))
	for name, test := range map[string]struct {
		args   []string
		status int
		stderr string
	}{
		"two files":                       {[]string{"a", "b"}, 2, "only one can be read"},
		"a missing file":                  {[]string{"no-such-file"}, 2, "no-such-file"},
		"a missing results file":          {[]string{"-resume", "no-such-file"}, 2, "no-such-file"},
		"messages in place of results":    {[]string{"-resume", notResults}, 2, "line 1 of " + notResults + " is not a result"},
		"-resend-unknown without -resume": {[]string{"-resend-unknown"}, 2, "no meaning without -resume"},
		"a negative -concurrency":         {[]string{"-concurrency", "-1"}, 2, "negative"},
		"an unknown flag":                 {[]string{"-x"}, 2, "flag provided but not defined"},
		"help":                            {[]string{"-h"}, 0, "usage: publish_ndjson"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCommand(t)
			assert.Equal(t, test.status, c.run(strings.NewReader(lines("orders", 1, 1)), test.args...))
			assert.Contains(t, c.stderr.String(), test.stderr)
			assert.Empty(t, c.fake.Requests())
		})
	}
}

// waitFor waits for what another goroutine, or process, does.
func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	require.Eventually(t, done, 30*time.Second, 5*time.Millisecond, what)
}

func TestAnInterruptWaitsForWhatIsOnItsWay(t *testing.T) {
	c := newCommand(t)
	release := make(chan struct{})
	c.fake.Every().Matching(func(twiliosynctest.Request) bool { <-release; return false }).Optional().Reset()
	stdin, feed := io.Pipe()
	defer feed.Close()
	status := make(chan int)
	go func() { status <- c.run(stdin) }()
	io.WriteString(feed, lines("orders", 1, 3))
	waitFor(t, "three requests", func() bool { return len(c.fake.Requests()) == 3 })
	c.interrupts <- os.Interrupt
	waitFor(t, "the program says that it stops", func() bool { return strings.Contains(c.stderr.String(), "Interrupt again to cancel") })
	close(release)
	assert.Equal(t, 1, <-status)
	records := parseRecords(t, c.stdout.String())
	require.Len(t, records, 3)
	for number, r := range records {
		assert.Equal(t, accepted, r.Outcome, "line %d", number)
	}
	assert.Contains(t, c.stderr.String(), "the lines after line 3 were not read")
}

func TestASecondInterruptCancels(t *testing.T) {
	c := newCommand(t)
	c.fake.Every().NeverAnswer()
	dir := t.TempDir()
	messages, results := filepath.Join(dir, "messages.ndjson"), filepath.Join(dir, "results.ndjson")
	require.NoError(t, os.WriteFile(messages, []byte(lines("orders", 1, 10)), 0o600))
	status := make(chan int)
	go func() { status <- c.run(nil, "-concurrency", "4", "-results", results, messages) }()
	waitFor(t, "four requests", func() bool { return len(c.fake.Requests()) == 4 })
	c.interrupts <- os.Interrupt
	c.interrupts <- os.Interrupt
	assert.Equal(t, 1, <-status)
	records := recordsIn(t, results)
	require.Len(t, records, 4, "what was pulled has a result")
	for number, r := range records {
		assert.Equal(t, unknown, r.Outcome, "line %d", number)
		assert.Contains(t, r.Error, "context canceled")
	}
	assert.Contains(t, c.stderr.String(), "6 lines are left, after line 4; to publish the rest, run again with -resume "+results)
}

func TestProgressWithoutATerminalIsALineFromTimeToTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCommand(t)
		c.fake.Next(1).ToStream("orders-0001").WithHeader("Retry-After", "7").Answer(429, 54009)
		c.fake.Next(2).ToStream("orders-0002").WithHeader("Retry-After", "12").Answer(429, 54009)
		c.fake.Every().ToStream("lossy").LoseAnswer()
		input := lines("orders-0001", 1, 1) + lines("orders-0002", 2, 3) + lines("lossy", 4, 4) + lines("orders-0003", 5, 10) + "{}\n"
		require.Equal(t, 1, c.run(strings.NewReader(input)))
		progress := c.stderr.String()
		assert.Contains(t, progress, "\n6 sent, 1 refused, 1 unknown, 2 streams paused, 2/s\n7 sent, 1 refused, 1 unknown, 1 streams paused, 1/s\n9 sent, 1 refused, 1 unknown\n")
	})
}

func TestProgressOnATerminalIsABar(t *testing.T) {
	for name, total := range map[string]int{"of a file": 20, "of standard input": -1} {
		t.Run(name, func(t *testing.T) {
			var out lockedBuffer
			p := newProgress(&out, total, true)
			p.set(counts{sent: 7, refused: 2, unknown: 1})
			p.paused["…0001"] = time.Now().Add(time.Hour)
			p.show()
			p.say("line 3: refused")
			p.start()
			p.finish()
			shown := out.String()
			assert.Contains(t, shown, "7 sent, 2 refused, 1 unknown, 1 streams paused")
			assert.Contains(t, shown, "line 3: refused\n")
			if total > 0 {
				assert.Contains(t, shown, "50%")
				assert.Contains(t, shown, "10/20")
			}
		})
	}
}

func TestNothingMoreIsPublishedWithoutAPlaceForTheResults(t *testing.T) {
	c := newCommand(t)
	full := &failingWriter{}
	status := run([]string{"-concurrency", "1"}, strings.NewReader(lines("orders", 1, 200)), full, &c.stderr, c.interrupts,
		func(_ io.Writer, opts ...twiliosync.Option) (*twiliosync.Client, func(), error) {
			return c.fake.Client(opts...), func() {}, nil
		})
	assert.Equal(t, 1, status)
	assert.Contains(t, c.stderr.String(), "the results can't be written: no space left; nothing more was read")
	assert.Less(t, len(c.fake.Requests()), 10)
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// TestTheProgram builds it and runs it with pipes.
func TestTheProgram(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "publish_ndjson")
	if runtime.GOOS == "windows" {
		binary += ".exe"
	}
	build := exec.Command("go", "build", "-o", binary, ".")
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	start := func(t *testing.T, args ...string) (cmd *exec.Cmd, stdin io.WriteCloser, stdout *bufio.Reader, stderr *lockedBuffer) {
		cmd = exec.Command(binary, args...)
		cmd.Env = []string{"HOME=" + t.TempDir()} // no credentials
		stderr = new(lockedBuffer)
		cmd.Stderr = stderr
		stdin, err := cmd.StdinPipe()
		require.NoError(t, err)
		pipe, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill() })
		return cmd, stdin, bufio.NewReader(pipe), stderr
	}

	t.Run("a result comes while the input stays open", func(t *testing.T) {
		cmd, stdin, stdout, stderr := start(t)
		for n := 1; n <= 3; n++ {
			io.WriteString(stdin, lines("orders", n, n))
			text, err := stdout.ReadString('\n')
			require.NoError(t, err, stderr.String())
			assert.Equal(t, accepted, parseRecords(t, text)[n].Outcome)
		}
		require.NoError(t, stdin.Close())
		_, err := stdout.ReadString('\n')
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, cmd.Wait(), stderr.String())
		assert.Contains(t, stderr.String(), "nothing leaves this machine")
		assert.Contains(t, stderr.String(), "3 sent, 0 refused, 0 unknown")
	})
	t.Run("an interrupt ends it although the input stays open", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("a process can't be sent an interrupt there")
		}
		cmd, stdin, stdout, stderr := start(t)
		defer stdin.Close()
		io.WriteString(stdin, lines("orders", 1, 1))
		_, err := stdout.ReadString('\n')
		require.NoError(t, err)
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		_, err = stdout.ReadString('\n')
		require.ErrorIs(t, err, io.EOF)
		var exit *exec.ExitError
		require.ErrorAs(t, cmd.Wait(), &exit)
		assert.Equal(t, 1, exit.ExitCode())
		assert.Contains(t, stderr.String(), "the lines after line 1 were not read")
	})
}

func TestALineThatWasRefusedCanBeRepaired(t *testing.T) {
	folder := t.TempDir()
	messages, results := filepath.Join(folder, "messages.ndjson"), filepath.Join(folder, "results.ndjson")
	first := `{"stream": "orders", "data": {"id": 1}}` + "\n"
	require.NoError(t, os.WriteFile(messages, []byte(first+"{oops\n"), 0o600))
	var stderr bytes.Buffer
	assert.Equal(t, 1, run([]string{"-results", results, messages}, nil, io.Discard, &stderr, nil, connect), stderr.String())

	require.NoError(t, os.WriteFile(messages, []byte(first+`{"stream": "orders", "data": {"id": 2}}`+"\n"), 0o600))
	stderr.Reset()
	assert.Zero(t, run([]string{"-resume", results, "-results", results, messages}, nil, io.Discard, &stderr, nil, connect), stderr.String())
	assert.Contains(t, stderr.String(), "1 sent, 0 refused, 0 unknown; 1 skipped")
}

func TestResultsOfTheFakeAreNotThoseOfTwilio(t *testing.T) {
	folder := t.TempDir()
	messages, results := filepath.Join(folder, "messages.ndjson"), filepath.Join(folder, "results.ndjson")
	require.NoError(t, os.WriteFile(messages, []byte(`{"stream": "orders", "data": {"id": 1}}`+"\n"), 0o600))
	var stderr bytes.Buffer
	require.Zero(t, run([]string{"-results", results, messages}, nil, io.Discard, &stderr, nil, connect), stderr.String())

	t.Setenv("TWILIO_API_KEY", "SK1")
	t.Setenv("TWILIO_API_SECRET", "secret")
	stderr.Reset()
	assert.Equal(t, 2, run([]string{"-resume", results, "-results", results, messages}, nil, io.Discard, &stderr, nil, connect))
	assert.Contains(t, stderr.String(), "has results of the fake service")
}
