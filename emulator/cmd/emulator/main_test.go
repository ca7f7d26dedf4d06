package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWrongUsageIsOneClearSentence(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for name, test := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"a taken port":           {[]string{"-addr", taken.Addr().String()}, 1, "choose another address"},
		"no address":             {[]string{"-addr", "8080"}, 2, "use the form 127.0.0.1:8080"},
		"an address for all":     {[]string{"-addr", "0.0.0.0:0"}, 2, "-listen-anywhere"},
		"an argument":            {[]string{"8080"}, 2, "-addr"},
		"an unknown flag":        {[]string{"-port", "1"}, 2, "flag provided but not defined"},
		"help":                   {[]string{"-h"}, 0, "-strict"},
		"a name that isn't here": {[]string{"-addr", "example.com:80"}, 2, "not on this machine"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			assert.Equal(t, test.status, run(t.Context(), test.args, &stdout, &stderr))
			assert.Contains(t, stderr.String(), test.says)
			assert.Empty(t, stdout.String())
		})
	}
}

func TestItGreetsAndPrintsWhatArrivesAndWhatIsRefused(t *testing.T) {
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int)
	go func() {
		ended <- run(ctx, []string{"-addr", "127.0.0.1:0", "-strict"}, writer, io.Discard)
		writer.Close()
	}()
	greeting := readUntil(t, reader, "wsconnect\" } })\n\n")
	address := regexp.MustCompile(`http://[0-9.:]+`).FindString(greeting)
	assert.Contains(t, greeting, "export TWILIO_SYNC_BASE_URL="+address)

	answered := make(chan int, 1)
	go func() {
		res, err := http.PostForm(strings.Replace(address, "http://", "http://AC00000000000000000000000000000000:auth-token@", 1)+"/v1/Services/default/Streams/orders/Messages",
			url.Values{"Data": {`{"a":1}`}})
		if assert.NoError(t, err) {
			res.Body.Close()
			answered <- res.StatusCode
		}
	}()
	line := readUntil(t, reader, "\n")
	assert.Equal(t, http.StatusNotFound, <-answered)
	assert.Contains(t, line, "refused")
	assert.Contains(t, line, "status=404")
	cancel()
	go io.Copy(io.Discard, reader)
	assert.Zero(t, <-ended)
}

func readUntil(t *testing.T, reader io.Reader, end string) string {
	t.Helper()
	var text []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(text), end); {
		_, err := reader.Read(one)
		require.NoError(t, err, "%s", text)
		text = append(text, one...)
	}
	return string(text)
}
