package cli

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// result is what a command line did.
type result struct {
	status   int
	out, err string
}

// command runs a command line with standard input.
func command(stdin string, args ...string) result {
	var out, err bytes.Buffer
	status := Run(args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &err}, heard(nil))
	return result{status, out.String(), err.String()}
}

// heard listens to no other signals than those.
func heard(signals chan os.Signal) func() <-chan os.Signal {
	return func() <-chan os.Signal { return signals }
}

// withoutEnvironment takes care that no variable of the machine matters.
func withoutEnvironment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_REGION", "TWILIO_EDGE", "TWILIO_SYNC_BASE_URL"} {
		t.Setenv(name, "")
	}
}

func TestWrongUsageIsSaidOnceInOneSentence(t *testing.T) {
	withoutEnvironment(t)
	for _, row := range []struct{ name, line, says string }{
		{"an unknown command", "frob", `twiliosync has no command "frob"` + "\nSee twiliosync --help\n"},
		{"a command that is almost one", "publsh", `twiliosync has no command "publsh"; did you mean publish?` + "\nSee twiliosync --help\n"},
		{"an unknown flag", "publish --nix", "unknown flag: --nix\nSee twiliosync publish --help\n"},
		{"no stream", "publish", "an argument is missing; the form is: twiliosync publish STREAM [DATA|-] [flags]\nSee twiliosync publish --help\n"},
		{"one argument too many", "publish a {} b", `unexpected argument "b"; the form is: twiliosync publish STREAM [DATA|-] [flags]` + "\nSee twiliosync publish --help\n"},
		{"an unknown shell", "completion foo", `twiliosync completion has no command "foo"` + "\nSee twiliosync completion --help\n"},
		{"help for an unknown command", "help nosuch", `twiliosync has no command "nosuch"` + "\nSee twiliosync help --help\n"},
		{"help for an unknown command of one", "help streams nosuch", `twiliosync streams has no command "nosuch"` + "\nSee twiliosync help --help\n"},
		{"an unknown format", "version -o yaml", `there is no output format "yaml"; use text or json` + "\nSee twiliosync version --help\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			assert.Equal(t, result{2, "", row.says}, command("", strings.Fields(row.line)...))
		})
	}
}

// unbounded is a pipe that never blocks its writer.
type unbounded struct {
	mu    sync.Mutex
	more  *sync.Cond
	text  []byte
	ended bool
}

func pipe() *unbounded {
	u := &unbounded{}
	u.more = sync.NewCond(&u.mu)
	return u
}

func (u *unbounded) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.text = append(u.text, p...)
	u.more.Broadcast()
	return len(p), nil
}

func (u *unbounded) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.text) == 0 && !u.ended {
		u.more.Wait()
	}
	n := copy(p, u.text)
	u.text = u.text[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (u *unbounded) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	u.more.Broadcast()
}

// running is a command that runs beside the test.
type running struct {
	t        *testing.T
	out, err *bufio.Reader
	signals  chan os.Signal
	ended    chan int
}

// start runs a command line until a signal is sent.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	out, err, r := pipe(), pipe(), &running{t: t, signals: make(chan os.Signal, 2), ended: make(chan int, 1)}
	r.out, r.err = bufio.NewReader(out), bufio.NewReader(err)
	go func() {
		status := Run(args, Streams{In: strings.NewReader(""), Out: out, Err: err}, heard(r.signals))
		out.end()
		err.end()
		r.ended <- status
	}()
	return r
}

// until reads lines until one contains text, and returns them.
func (r *running) until(from *bufio.Reader, text string) string {
	r.t.Helper()
	var all strings.Builder
	for {
		line, err := from.ReadString('\n')
		all.WriteString(line)
		require.NoError(r.t, err, all.String())
		if strings.Contains(line, text) {
			return all.String()
		}
	}
}

// stop sends SIGTERM, and returns the exit status and what was still printed.
func (r *running) stop() (status int, out, err string) {
	r.t.Helper()
	r.signals <- syscall.SIGTERM
	status = <-r.ended
	restOut, _ := io.ReadAll(r.out)
	restErr, _ := io.ReadAll(r.err)
	return status, string(restOut), string(restErr)
}
