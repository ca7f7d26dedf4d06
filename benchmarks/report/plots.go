package main

import (
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

// figure is a plot with one line per name, over a few steps.
type figure struct {
	file, title, x, y string
	steps, names      []string
	value             func(name, step string) float64
}

func figures(r *results.Results) []figure {
	ratioNow := func(metric string) func(name, goroutines string) float64 {
		return func(name, goroutines string) float64 {
			return r.Ratio("now/"+goroutines, name, results.Leanest, metric)
		}
	}
	return []figure{
		{
			"performance-rate.svg", "Messages per second over TLS, no latency", "goroutines", "rate, 1 = leanest net/http",
			results.Goroutines, results.Publishers, ratioNow("rate"),
		},
		{
			"performance-cpu.svg", "CPU per message over TLS, no latency", "goroutines", "CPU, 1 = leanest net/http",
			results.Goroutines, results.Publishers, ratioNow("cpu"),
		},
		{
			"performance-connections.svg", "New connections after the first round, over TLS", "goroutines", "per 1,000 messages",
			results.Goroutines, results.Publishers, func(name, goroutines string) float64 {
				return r.Median("now/"+goroutines, name, "connections")
			},
		},
		{
			"performance-bulk.svg", "CreateAll beside an errgroup over net/http", "streams", "1 = the errgroup's",
			results.Streams, []string{"rate", "cpu", "bytes"}, func(metric, streams string) float64 {
				return r.Ratio("bulk/"+streams, results.CreateAll, results.Errgroup, metric)
			},
		},
	}
}

func drawAll(r *results.Results, dir string) error {
	for _, f := range figures(r) {
		if err := f.draw(filepath.Join(dir, f.file)); err != nil {
			return err
		}
	}
	return drawAllocations(r, filepath.Join(dir, "performance-allocations.svg"))
}

func (f figure) draw(path string) error {
	p := newPlot(f.title, f.x, f.y)
	p.NominalX(f.steps...)
	for i, name := range f.names {
		points := make(plotter.XYs, len(f.steps))
		for x, step := range f.steps {
			points[x].X, points[x].Y = float64(x), f.value(name, step)
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return err
		}
		line.Color, line.Width = plotutil.Color(i), vg.Points(2)
		dots.Color, dots.Shape = plotutil.Color(i), plotutil.Shape(i)
		p.Add(line, dots)
		p.Legend.Add(name, line, dots)
	}
	p.Y.Max *= 1.4 // room for the legend
	return p.Save(16*vg.Centimeter, 9*vg.Centimeter, path)
}

// drawAllocations draws one bar per publisher.
func drawAllocations(r *results.Results, path string) error {
	p := newPlot("Allocations per message of 200 B, over an in-memory RoundTripper", "", "allocations")
	p.NominalX(results.Publishers...)
	var values plotter.Values
	for _, name := range results.Publishers {
		values = append(values, r.Median("memory/200", name, "allocs"))
	}
	bars, err := plotter.NewBarChart(values, vg.Points(36))
	if err != nil {
		return err
	}
	bars.Color, bars.LineStyle.Width = plotutil.Color(0), 0
	p.Add(bars)
	return p.Save(16*vg.Centimeter, 9*vg.Centimeter, path)
}

func newPlot(title, x, y string) *plot.Plot {
	plot.DefaultFont.Variant = "Sans"
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.Padding = vg.Points(8)
	p.Y.Min = 0
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.Padding = vg.Points(8), vg.Points(2)
	p.Add(plotter.NewGrid())
	return p
}
