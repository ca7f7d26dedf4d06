package cli

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// result is what a command line did.
type result struct {
	status   int
	out, err string
}

// command runs a command line with standard input.
func command(stdin string, args ...string) result {
	var out, err bytes.Buffer
	status := Run(args, Streams{In: strings.NewReader(stdin), Out: &out, Err: &err}, make(chan os.Signal))
	return result{status, out.String(), err.String()}
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
		{"an unknown format", "version -o yaml", `there is no output format "yaml"; use text or json` + "\nSee twiliosync version --help\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			assert.Equal(t, result{2, "", row.says}, command("", strings.Fields(row.line)...))
		})
	}
}
