package emulator_test

import (
	"flag"
	"os/exec"
	"testing"

	"github.com/twiliosync/twiliosync-go/emulator"
)

var screenshot = flag.String("screenshot", "", "write a picture of the live page to this file")

func TestTheLivePageInChromium(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("the live page is not tested: no chromium on this machine")
	}
	s := serve(t, emulator.WithStreamRateLimit(0, 0))
	args := []string{s.url, browser}
	if *screenshot != "" {
		args = append(args, *screenshot)
	}
	node(t, "page.js", args...).wait()
}
