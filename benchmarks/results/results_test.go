package results

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMedian(t *testing.T) {
	for _, tt := range []struct {
		name   string
		values []float64
		want   float64
	}{
		{"of an odd number it is the middle one", []float64{9, 1, 2}, 2},
		{"of an even number it is between the middle ones", []float64{9, 1, 2, 4}, 3},
		{"of one it is that", []float64{7}, 7},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, median(tt.values)) })
	}
	assert.True(t, math.IsNaN(median(nil)))
}

func TestRatioIsTakenWithinEachRound(t *testing.T) {
	var r Results
	for _, round := range []struct{ base, value float64 }{{1, 2}, {100, 200}, {3, 15}} {
		r.Add("s", Leanest, "cpu", round.base)
		r.Add("s", SDK, "cpu", round.value)
	}
	// That of the medians would be 5.
	assert.Equal(t, 2.0, r.Ratio("s", SDK, Leanest, "cpu"))
	assert.True(t, math.IsNaN(r.Ratio("s", TwilioGo, Leanest, "cpu")))
}

func TestTablesSayWhatWasNotMeasured(t *testing.T) {
	r := Results{Environment: "Go"}
	r.Add("memory/200", SDK, "allocs", 53.4)
	r.Add("memory/200", Leanest, "allocs", 6)
	tables := r.Tables()
	assert.Contains(t, tables, "200 B: allocations | 6 | – | ≤ 34 | 53 |")
	for line := range strings.Lines(tables) {
		assert.NotContains(t, line, "NaN")
	}
}

func TestResultsSurviveAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "results.json")
	var r Results
	r.Add("s", SDK, "cpu", 1.5)
	require.NoError(t, r.Write(path))
	read, err := Read(path)
	require.NoError(t, err)
	assert.Equal(t, &r, read)
}
