//go:build linux

package main

import (
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain is a worker or a server where the harness has started it as one.
func TestMain(m *testing.M) {
	if os.Getenv("CHAOS_CHILD") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

var all = flag.Bool("all", false, "all events; script/relay-chaos has more of each")

func TestNothingIsLostWhateverHappens(t *testing.T) {
	for event := range events {
		if !*all && event != "kill" && event != "restart" && event != "term" {
			continue
		}
		t.Run(event, func(t *testing.T) {
			r, err := perform(t.Context(), event, 1500, event != "term", 1)
			require.NoError(t, err)
			t.Logf("%+v", r)
			assert.Zero(t, r.lost)
			assert.Zero(t, r.unmarked, "duplicates not marked")
			assert.Zero(t, r.breaks, "order breaks")
			assert.LessOrEqual(t, r.duplicates, r.doubtful)
		})
	}
}
