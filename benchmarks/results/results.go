// Package results holds what a run has measured, and makes tables of it.
package results

import (
	"encoding/json"
	"math"
	"os"
	"slices"
)

// The publishers, in the order of the tables.
const (
	Leanest     = "leanest net/http"
	FullJob     = "full job"
	HandWritten = "hand-written"
	TwilioGo    = "twilio-go"
	Resty       = "resty"
	SDK         = "twiliosync-go"
)

// The ways to publish many messages.
const (
	Errgroup  = "errgroup over net/http"
	CreateAll = "CreateAll"
	Create    = "Create"
	Publisher = "Publisher"
)

// What is compared only as a dependency: net/http alone, and twilio-go without
// its root package.
const (
	Bare       = "net/http"
	TwilioSync = "twilio-go, rest/sync/v1 alone"
)

// Publishers are those of one message.
var Publishers = []string{Leanest, FullJob, HandWritten, TwilioGo, Resty, SDK}

// Results are the samples of a run: one number per round. What was not
// measured is missing.
type Results struct {
	Environment string
	Quick       bool
	Samples     map[string]map[string]map[string][]float64 // scenario, publisher, metric
}

// Add adds a sample.
func (r *Results) Add(scenario, publisher, metric string, value float64) {
	if r.Samples == nil {
		r.Samples = map[string]map[string]map[string][]float64{}
	}
	if r.Samples[scenario] == nil {
		r.Samples[scenario] = map[string]map[string][]float64{}
	}
	if r.Samples[scenario][publisher] == nil {
		r.Samples[scenario][publisher] = map[string][]float64{}
	}
	r.Samples[scenario][publisher][metric] = append(r.Samples[scenario][publisher][metric], value)
}

// Median is the median over the rounds; NaN if there are none.
func (r *Results) Median(scenario, publisher, metric string) float64 {
	return median(r.Samples[scenario][publisher][metric])
}

// Ratio is the median over the rounds of the ratio to base within the round.
func (r *Results) Ratio(scenario, publisher, base, metric string) float64 {
	values, bases := r.Samples[scenario][publisher][metric], r.Samples[scenario][base][metric]
	var ratios []float64
	for round := range min(len(values), len(bases)) {
		ratios = append(ratios, values[round]/bases[round])
	}
	return median(ratios)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 0 {
		return (sorted[middle-1] + sorted[middle]) / 2
	}
	return sorted[middle]
}

// Read reads what Write wrote.
func Read(path string) (*Results, error) {
	encoded, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r := new(Results)
	return r, json.Unmarshal(encoded, r)
}

// Write writes the results as JSON.
func (r *Results) Write(path string) error {
	encoded, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, encoded, 0o600)
}
