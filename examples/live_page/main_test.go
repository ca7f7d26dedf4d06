package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestThePageDrawsWhatIsPublished(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("the page is not tested: no chromium on this machine")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("the page is not tested: no " + program + " on this machine")
		}
	}
	install, err := exec.CommandContext(t.Context(), "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund").CombinedOutput()
	require.NoError(t, err, string(install))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var stdout bytes.Buffer
	served := make(chan error, 1)
	go func() { served <- serve(ctx, listener, &stdout) }()

	output, err := exec.CommandContext(ctx, "node", "browser_test.js", "http://"+listener.Addr().String()+"/live", browser).CombinedOutput()

	require.NoError(t, err, string(output))
	cancel()
	require.NoError(t, <-served)
	assert.Regexp(t, `\n[1-9]\d* published, \d+ superseded by a newer one, 0 failed\n$`, stdout.String())
}

func TestWrongUsageIsSaidInOneSentence(t *testing.T) {
	for name, args := range map[string][]string{
		"an argument":           {"now"},
		"no address":            {"-addr", "here"},
		"an address for others": {"-addr", "0.0.0.0:0"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr strings.Builder
			assert.Equal(t, 2, run(t.Context(), args, io.Discard, &stderr))
			assert.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr.String())
		})
	}
}
