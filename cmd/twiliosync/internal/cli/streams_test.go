package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// withFake lets the environment lead to a fake service.
func withFake(t *testing.T, opts ...twiliosynctest.Option) *twiliosynctest.Server {
	t.Helper()
	withoutEnvironment(t)
	fake := twiliosynctest.NewServer(t, opts...)
	username, password := fake.Credentials()
	t.Setenv("TWILIO_SYNC_BASE_URL", fake.URL)
	t.Setenv("TWILIO_ACCOUNT_SID", username)
	t.Setenv("TWILIO_AUTH_TOKEN", password)
	return fake
}

func TestTheLifeOfAStream(t *testing.T) {
	fake := withFake(t, twiliosynctest.WithStreams())
	sid := fake.StreamSID("orders")
	line := sid + "\torders\tnever\n"

	assert.Equal(t, result{0, line, ""}, command("", "streams", "create", "orders"))
	assert.Equal(t, result{0, line, ""}, command("", "streams", "get", "orders"))
	assert.Equal(t, result{0, line, ""}, command("", "streams", "get", sid))
	assert.Equal(t, result{0, line, ""}, command("", "streams", "ensure", "orders"))

	again := command("", "streams", "create", "orders")
	assert.Equal(t, 1, again.status)
	assert.Contains(t, again.err, "54301")
	assert.Equal(t, 1, strings.Count(again.err, "\n"))

	updated := command("", "streams", "update", "orders", "--ttl", "24h")
	require.Zero(t, updated.status, updated.err)
	fields := strings.Split(strings.TrimSpace(updated.out), "\t")
	require.Len(t, fields, 3)
	expires, err := time.Parse(time.RFC3339, fields[2])
	require.NoError(t, err)
	assert.WithinDuration(t, time.Now().Add(24*time.Hour), expires, time.Minute)

	assert.Equal(t, updated.out, command("", "streams", "ensure", "orders").out, "without --ttl it stays as it is")
	assert.Equal(t, result{0, line, ""}, command("", "streams", "ensure", "orders", "--ttl", "0"))

	assert.Equal(t, result{0, "orders\n", ""}, command("", "streams", "delete", "orders"))
	gone := command("", "streams", "get", "orders")
	assert.Equal(t, 1, gone.status)
	assert.Empty(t, gone.out)
	assert.Contains(t, gone.err, "404")
	assert.Empty(t, fake.Streams("default"))
}

func TestAStreamAsJSON(t *testing.T) {
	withFake(t)
	var stream map[string]any
	created := command("", "streams", "create", "orders", "--ttl", "1h", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(created.out), &stream))
	assert.Equal(t, "orders", stream["unique_name"])
	assert.NotEmpty(t, stream["date_expires"])

	require.NoError(t, json.Unmarshal([]byte(command("", "streams", "ensure", "orders", "--ttl", "0", "-o", "json").out), &stream))
	assert.Nil(t, stream["date_expires"], "not the year 1")
	assert.Equal(t, result{0, `{"deleted":"orders"}` + "\n", ""}, command("", "streams", "delete", "orders", "-o", "json"))
}

func TestAStreamWithoutANameHasItsSIDOnly(t *testing.T) {
	withFake(t)
	assert.Regexp(t, `^TO[0-9a-f]{32}\t\tnever\n$`, command("", "streams", "create").out)
}

func TestStreamsAreListedOverAllPages(t *testing.T) {
	withFake(t)
	for n := range 103 {
		require.Zero(t, command("", "streams", "create", fmt.Sprint("stream-", n)).status)
	}
	all := command("", "streams", "list")
	assert.Equal(t, 104, strings.Count(all.out, "\n"))
	assert.True(t, strings.HasPrefix(all.out, "SID\tNAME\tEXPIRES\nTO"))
	assert.Equal(t, 3, strings.Count(command("", "streams", "list", "--limit", "3", "-o", "json").out, "\n"))
	assert.Equal(t, 102, strings.Count(command("", "streams", "list", "--limit", "102", "-o", "json").out, "\n"))
	assert.Equal(t, result{0, "SID\tNAME\tEXPIRES\n", ""}, command("", "streams", "list", "--service", "another"))
}

func TestATextThatWouldBreakATableIsQuoted(t *testing.T) {
	assert.Equal(t, `"a\tb\x1b[2J"`, cell("a\tb\x1b[2J"))
	assert.Equal(t, "Bestellungen für Köln 🎉", cell("Bestellungen für Köln 🎉"))
}

func TestWrongUsageOfStreams(t *testing.T) {
	withFake(t)
	for line, says := range map[string]string{
		"streams frob":                      `twiliosync streams has no command "frob"`,
		"streams get":                       "an argument is missing",
		"streams list orders":               `unexpected argument "orders"`,
		"streams list --limit -1":           "--limit -1 is negative",
		"streams update orders":             "--ttl is missing",
		"streams update --ttl 24h":          "an argument is missing",
		"streams create orders --ttl a-day": "--ttl",
	} {
		got := command("", strings.Fields(line)...)
		assert.Equal(t, 2, got.status, line)
		assert.Contains(t, got.err, says)
		assert.Equal(t, 2, strings.Count(got.err, "\n"), got.err)
	}
	assert.Equal(t, 2, command("", "streams", "create", "").status)
}

func TestStreamsNeedCredentials(t *testing.T) {
	withoutEnvironment(t)
	for _, line := range []string{"streams create orders", "streams ensure orders", "streams list", "streams get orders", "streams update orders --ttl 1h", "streams delete orders"} {
		got := command("", strings.Fields(line)...)
		assert.Equal(t, 2, got.status, line)
		assert.Contains(t, got.err, "no TWILIO_* credentials are set")
	}
}

func TestARefusedTimeToLiveIsSaidByTheSDK(t *testing.T) {
	withFake(t)
	got := command("", "streams", "create", "orders", "--ttl", "1500ms")
	assert.Equal(t, 2, got.status)
	assert.Contains(t, got.err, "whole seconds")
}
