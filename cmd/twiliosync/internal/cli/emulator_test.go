package cli

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWrongUsageOfTheEmulator(t *testing.T) {
	withoutEnvironment(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for _, row := range []struct {
		name   string
		args   []string
		status int
		says   string
	}{
		{"a taken port", []string{"--addr", taken.Addr().String()}, 1, "choose another address"},
		{"no address", []string{"--addr", "8080"}, 2, "use the form 127.0.0.1:8080"},
		{"an address for all", []string{"--addr", "0.0.0.0:0"}, 2, "--listen-anywhere"},
		{"an address without a host", []string{"--addr", ":0"}, 2, "--listen-anywhere"},
		{"a name that isn't here", []string{"--addr", "example.com:80"}, 2, "not on this machine"},
		{"an argument", []string{"8080"}, 2, "the address goes into --addr"},
		{"an unknown flag", []string{"--port", "1"}, 2, "unknown flag: --port"},
		{"a retention of nothing", []string{"--retention", "0"}, 2, "--retention 0 keeps nothing"},
		{"a negative retention", []string{"--retention", "-1"}, 2, "--retention -1 keeps nothing"},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := command("", append([]string{"emulator"}, row.args...)...)
			assert.Equal(t, row.status, got.status)
			assert.Contains(t, got.err, row.says)
			assert.Empty(t, got.out)
		})
	}
}

func TestTheEmulatorGreetsAndPrintsWhatArrivesAndWhatIsRefused(t *testing.T) {
	withoutEnvironment(t)
	r := start(t, "emulator", "--addr", "127.0.0.1:0", "--strict")
	hello := r.until(r.out, "wsconnect\" } })")
	address := regexp.MustCompile(`http://[0-9.:]+`).FindString(hello)
	assert.Contains(t, hello, "export TWILIO_SYNC_BASE_URL="+address)
	assert.Equal(t, http.StatusNotFound, post(t, address))
	line := r.until(r.out, "refused")
	assert.Contains(t, line, "status=404")
	status, _, stderr := r.stop()
	assert.Zero(t, status)
	assert.Empty(t, stderr)
	_, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
	assert.Error(t, err, "it has stopped")
}

func TestTheEmulatorAsJSONPrintsWhatArrivesOnly(t *testing.T) {
	withoutEnvironment(t)
	r := start(t, "emulator", "--addr", "127.0.0.1:0", "-o", "json", "--retention", "10")
	address := regexp.MustCompile(`http://[0-9.:]+`).FindString(r.until(r.err, "wsconnect\" } })"))
	assert.Equal(t, http.StatusCreated, post(t, address))
	line, err := r.out.ReadBytes('\n')
	require.NoError(t, err)
	assert.True(t, json.Valid(line), "%s", line)
	status, _, _ := r.stop()
	assert.Zero(t, status)
}

func post(t *testing.T, address string) (status int) {
	t.Helper()
	address = strings.Replace(address, "http://", "http://AC00000000000000000000000000000000:auth-token@", 1)
	res, err := http.PostForm(address+"/v1/Services/default/Streams/orders/Messages", url.Values{"Data": {`{"a":1}`}})
	require.NoError(t, err)
	res.Body.Close()
	return res.StatusCode
}
