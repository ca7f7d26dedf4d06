package main

import (
	"html"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

func TestTablesReplaceWhatIsBetweenTheMarks(t *testing.T) {
	page := filepath.Join(t.TempDir(), "performance.md")
	require.NoError(t, os.WriteFile(page, []byte("before\n<!-- measured: script/bench -write -->\nold\n<!-- /measured -->\nafter\n"), 0o600))
	for range 2 { // the second time changes nothing more
		require.NoError(t, writeTables(page, "new\n"))
	}
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Equal(t, "before\n<!-- measured: script/bench -write -->\n\nnew\n\n<!-- /measured -->\nafter\n", string(text))
}

func TestAPageWithoutMarksIsLeftAlone(t *testing.T) {
	page := filepath.Join(t.TempDir(), "performance.md")
	require.NoError(t, os.WriteFile(page, []byte("text\n"), 0o600))
	require.Error(t, writeTables(page, "new\n"))
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	assert.Equal(t, "text\n", string(text))
}

func TestPlotsNameWhatTheyShow(t *testing.T) {
	var r results.Results
	for i, name := range results.Publishers {
		r.Add("memory/200", name, "allocs", float64(i))
		for _, goroutines := range results.Goroutines {
			for _, metric := range []string{"rate", "cpu", "connections"} {
				r.Add("now/"+goroutines, name, metric, float64(i+1))
			}
		}
	}
	for _, streams := range results.Streams {
		for _, way := range []string{results.Errgroup, results.CreateAll} {
			for _, metric := range []string{"rate", "cpu", "bytes"} {
				r.Add("bulk/"+streams, way, metric, 1)
			}
		}
	}
	dir := t.TempDir()
	require.NoError(t, drawAll(&r, dir))
	for _, f := range figures(&r) {
		svg, err := os.ReadFile(filepath.Join(dir, f.file))
		require.NoError(t, err)
		for _, text := range append([]string{f.title, f.x, f.y}, f.names...) {
			assert.Contains(t, string(svg), ">"+html.EscapeString(text)+"<", f.file)
		}
	}
	assert.FileExists(t, filepath.Join(dir, "performance-allocations.svg"))
}
