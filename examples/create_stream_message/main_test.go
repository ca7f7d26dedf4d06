package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCommand(t *testing.T) {
	for _, test := range []struct {
		name           string
		args           []string
		stdin          string
		env            map[string]string
		status         int
		stdout, stderr string
	}{
		{name: "without arguments it publishes to the fake and says so", stdout: "A subscriber would have received:\n  {\"hello\": \"world\"}", stderr: "nothing leaves this machine"},
		{name: "a message from standard input", args: []string{"-data", "-"}, stdin: "{\"id\": 7}\n", stdout: "  {\"id\": 7}\n"},
		{name: "a stream with any name", args: []string{"-stream", "orders#1/eu"}, stdout: `stream "orders#1/eu"`},
		{name: "a stream that is made first", args: []string{"-create", "-stream", "new"}, stdout: `stream "new"`},
		{name: "a name that can't be made", args: []string{"-create", "-stream", ".."}, status: 1, stderr: "dot segment"},
		{name: "JSON for scripts", args: []string{"-json"}, stdout: `"outcome":"accepted"`},
		{name: "a message that is no object", args: []string{"-data", "[1]"}, status: 1, stderr: "twiliosync: not sent: data: it encodes to a JSON array"},
		{name: "the same for scripts", args: []string{"-json", "-data", "[1]"}, status: 1, stdout: `"outcome":"not sent"`},
		{name: "a message without -data", args: []string{`{"id":7}`}, status: 2, stderr: "the message goes into -data"},
		{name: "an unknown flag", args: []string{"-x"}, status: 2, stderr: "flag provided but not defined"},
		{name: "help", args: []string{"-h"}, stderr: "-stream"},
		{name: "half the credentials are not replaced by the fake", env: map[string]string{"TWILIO_API_KEY": "SK1"}, status: 2, stderr: "TWILIO_API_SECRET is not"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, name := range []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"} {
				t.Setenv(name, test.env[name])
			}
			var stdout, stderr bytes.Buffer
			status := run(context.Background(), test.args, strings.NewReader(test.stdin), &stdout, &stderr)
			assert.Equal(t, test.status, status, stderr.String())
			assert.Contains(t, stdout.String(), test.stdout)
			assert.Contains(t, stderr.String(), test.stderr)
			if strings.HasPrefix(stdout.String(), "{") {
				require.True(t, json.Valid(stdout.Bytes()), stdout.String())
			}
		})
	}
}
