package results

import (
	"fmt"
	"math"
	"strings"
)

// Tables returns the results as Markdown.
func (r *Results) Tables() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n", r.Environment)
	if r.Quick {
		fmt.Fprint(&b, "A quick run: the counts are right, the times are rough. ")
	}
	fmt.Fprint(&b, "Times, CPU and rates are ratios to the leanest net/http unless the table says otherwise; \"–\" was not measured.\n")
	for _, table := range []func(*Results, *strings.Builder){
		(*Results).gain, (*Results).targets, (*Results).ownWork, (*Results).sequential, (*Results).concurrent,
		(*Results).oddAnswers, (*Results).bursts, (*Results).dependencies, (*Results).bulk,
	} {
		fmt.Fprintln(&b)
		table(r, &b)
	}
	return b.String()
}

// gain is the table for those who choose.
func (r *Results) gain(b *strings.Builder) {
	perCore := func(scenario, publisher string) string { return thousands(1e9 / r.Median(scenario, publisher, "cpu")) }
	table(b, "What one core of a client publishes over TLS, in messages a second", "", "200 B", "4 KiB", "200 B, 64 goroutines", "connections that these 64 open for each 1,000")
	for _, p := range []string{SDK, TwilioGo, Resty, HandWritten} {
		row(b, p, perCore("https/200", p), perCore("https/4096", p), perCore("now/64", p), number(r.Median("now/64", p, "connections")))
	}
}

// targets is the table of what is to be reached.
func (r *Results) targets(b *strings.Builder) {
	count := func(scenario, publisher, metric string) string { return number(r.Median(scenario, publisher, metric)) }
	both := func(scenario, publisher, first, second string) string {
		return count(scenario, publisher, first) + " / " + count(scenario, publisher, second)
	}
	ratio := func(scenario, publisher, base, metric string) string {
		return decimal(r.Ratio(scenario, publisher, base, metric))
	}
	table(b, "What is to be reached", "", Leanest, TwilioGo, "to reach", "this SDK, this run")
	for _, t := range []struct {
		what, goal string
		base       string
		cell       func(publisher string) string
	}{
		{"own work over an in-memory RoundTripper, 200 B: allocations", "≤ 34", Leanest, func(p string) string { return count("memory/200", p, "allocs") }},
		{"the same: instructions", "≤ 43 k", Leanest, func(p string) string { return thousands(r.Median("memory/200", p, "instructions")) }},
		{"own work, 4 KiB: KB / CPU of twilio-go's", "≤ 22 / ≤ 0.30", Leanest, func(p string) string {
			return decimal(r.Median("memory/4096", p, "bytes")/1000) + " / " + ratio("memory/4096", p, TwilioGo, "cpu")
		}},
		{"over TLS loopback, 200 B: allocations / CPU of the full job", "≤ 72 / ≤ 1.00", Leanest, func(p string) string {
			return count("https/200", p, "allocs") + " / " + ratio("https/200", p, FullJob, "cpu")
		}},
		{"over TLS loopback, 4 KiB: CPU of the full job", "≤ 0.85", Leanest, func(p string) string {
			return ratio("https/4096", p, FullJob, "cpu")
		}},
		{"64 goroutines, TLS, no latency: rate of the leanest, of the full job, new connections per 1,000 after warm-up", "≥ 0.80 / ≥ 1.0 / 0", Leanest, func(p string) string {
			return ratio("now/64", p, Leanest, "rate") + " / " + ratio("now/64", p, FullJob, "rate") + " / " + count("now/64", p, "connections")
		}},
		{"bursts of 16 and 64 after idling: new connections per 1,000", "0 / 0", Leanest, func(p string) string {
			return count("burst/16", p, "connections") + " / " + count("burst/64", p, "connections")
		}},
		{"200 chunked answers: connections / goroutines left", "1 / 0", Leanest, func(p string) string { return both("chunked", p, "connections", "goroutines") }},
		{"200 chunked 429s: connections / goroutines left", "1 / 0", Leanest, func(p string) string { return both("error", p, "connections", "goroutines") }},
		{"modules in a user's build list, compiled", "≤ 9 / ≤ 3", Bare, func(p string) string { return both("depend", p, "modules listed", "modules compiled") }},
		{"lines not std", "≤ 6 k", Bare, func(p string) string { return thousands(r.Median("depend", p, "lines")) }},
		{"std-cached build of a minimal program, of bare net/http's", "≤ 1.8", Bare, func(p string) string { return ratio("depend", p, Bare, "build") }},
		{"stripped binary over bare net/http", "≤ +230 KB", Bare, r.growth},
	} {
		row(b, t.what, t.cell(t.base), t.cell(TwilioGo), t.goal, t.cell(SDK))
	}
	fmt.Fprintln(b)
	table(b, "The same for many messages", "", "to reach", "this run")
	row(b, "CreateAll over loopback, 100 streams: CPU of an errgroup's / KB a message", "≤ 0.85 / ≤ 6.8",
		ratio("bulk/100", CreateAll, Errgroup, "cpu")+" / "+decimal(r.Median("bulk/100", CreateAll, "bytes")/1000))
	row(b, "CreateAll of maps of 4 KiB, in memory: rate of an errgroup's", "≥ 0.95", ratio("encoding", CreateAll, Errgroup, "rate"))
	row(b, "what the pace keeps of a stream that had 300 messages: KB", "≤ 3.1", decimal(r.Median("streams", SDK, "bytes")/1000))
	row(b, "Publisher beside Create, in memory: allocations more / time", "≤ 3 / ≤ 1.15",
		number(r.Median("publisher", Publisher, "allocs")-r.Median("publisher", Create, "allocs"))+" / "+ratio("publisher", Publisher, Create, "time"))
}

// growth is by how much the binary is larger than the one on net/http.
func (r *Results) growth(publisher string) string {
	bytes := r.Median("depend", publisher, "size") - r.Median("depend", Bare, "size")
	return unknownOr(bytes, fmt.Sprintf("%+.0f KB", bytes/1000))
}

func (r *Results) ownWork(b *strings.Builder) {
	table(b, "Own work, over an in-memory RoundTripper", "", "payload", "allocations", "bytes", "time", "CPU", "CPU of twilio-go's", "instructions")
	for _, size := range []string{"200", "4096"} {
		scenario := "memory/" + size
		for _, p := range Publishers {
			row(b, p, size+" B", number(r.Median(scenario, p, "allocs")), number(r.Median(scenario, p, "bytes")),
				decimal(r.Ratio(scenario, p, Leanest, "time")), decimal(r.Ratio(scenario, p, Leanest, "cpu")),
				decimal(r.Ratio(scenario, p, TwilioGo, "cpu")), thousands(r.Median(scenario, p, "instructions")))
		}
	}
}

func (r *Results) sequential(b *strings.Builder) {
	table(b, "One after the other, over loopback", "", "scheme", "payload", "allocations", "time", "CPU")
	for _, scheme := range []string{"http", "https"} {
		for _, size := range []string{"200", "4096"} {
			scenario := scheme + "/" + size
			for _, p := range Publishers {
				row(b, p, scheme, size+" B", number(r.Median(scenario, p, "allocs")),
					decimal(r.Ratio(scenario, p, Leanest, "time")), decimal(r.Ratio(scenario, p, Leanest, "cpu")))
			}
		}
	}
}

// Goroutines are the numbers of goroutines that publish at the same time.
var Goroutines = []string{"1", "16", "64", "256"}

func (r *Results) concurrent(b *strings.Builder) {
	table(b, "Many goroutines, over TLS, 200 B", "", "latency", "goroutines", "rate", "p50", "p99", "CPU", "connections at first", "later, per 1,000")
	for _, answers := range []struct{ scenario, latency string }{{"now", "0"}, {"20ms", "20 ms"}} {
		for _, goroutines := range Goroutines {
			r.crowds(b, answers.scenario+"/"+goroutines, answers.latency, goroutines)
		}
	}
}

func (r *Results) oddAnswers(b *strings.Builder) {
	table(b, "Answers without Content-Length, 16 goroutines, over TLS", "", "answers", "goroutines", "rate", "p50", "p99", "CPU", "connections at first", "later, per 1,000")
	for _, answers := range []struct{ scenario, name string }{{"chunked", "201"}, {"error", "429"}} {
		r.crowds(b, answers.scenario+"/16", answers.name, "16")
	}
	fmt.Fprintln(b)
	table(b, "200 answers without Content-Length, one after the other", "", "answers", "connections", "goroutines left")
	for _, answers := range []struct{ scenario, name string }{{"chunked", "201"}, {"error", "429"}} {
		for _, p := range Publishers {
			row(b, p, answers.name, number(r.Median(answers.scenario, p, "connections")), number(r.Median(answers.scenario, p, "goroutines")))
		}
	}
}

func (r *Results) crowds(b *strings.Builder, scenario string, labels ...string) {
	for _, p := range Publishers {
		cells := append([]string{p}, labels...)
		for _, metric := range []string{"rate", "p50", "p99", "cpu"} {
			cells = append(cells, decimal(r.Ratio(scenario, p, Leanest, metric)))
		}
		row(b, append(cells, number(r.Median(scenario, p, "connections first")), number(r.Median(scenario, p, "connections")))...)
	}
}

func (r *Results) bursts(b *strings.Builder) {
	table(b, "Bursts after idling, over TLS, 20 ms latency: new connections per 1,000 messages", "", "16 at once", "64 at once")
	for _, p := range Publishers {
		row(b, p, number(r.Median("burst/16", p, "connections")), number(r.Median("burst/64", p, "connections")))
	}
}

func (r *Results) dependencies(b *strings.Builder) {
	table(b, "What it costs to depend on it", "", "modules listed", "modules compiled", "packages compiled", "lines, not std", "build, of net/http's", "binary over net/http's", "init, of net/http's")
	for _, p := range []string{Bare, SDK, TwilioSync, TwilioGo, Resty} {
		row(b, p, number(r.Median("depend", p, "modules listed")), number(r.Median("depend", p, "modules compiled")),
			number(r.Median("depend", p, "packages")), number(r.Median("depend", p, "lines")),
			decimal(r.Ratio("depend", p, Bare, "build")), r.growth(p), decimal(r.Ratio("depend", p, Bare, "init")))
	}
}

// Streams are the numbers of streams that the messages of a bulk go to.
var Streams = []string{"1", "100", "10000"}

func (r *Results) bulk(b *strings.Builder) {
	table(b, "CreateAll beside an errgroup, 64 at a time, over plain loopback", "streams", "rate of the errgroup's", "CPU of the errgroup's",
		"bytes a message", "the errgroup's", "CPU of its own at 1 stream", "the errgroup's")
	for _, streams := range Streams {
		scenario := "bulk/" + streams
		growth := func(way string) string {
			return decimal(r.Median(scenario, way, "cpu") / r.Median("bulk/1", way, "cpu"))
		}
		row(b, streams, decimal(r.Ratio(scenario, CreateAll, Errgroup, "rate")), decimal(r.Ratio(scenario, CreateAll, Errgroup, "cpu")),
			number(r.Median(scenario, CreateAll, "bytes")), number(r.Median(scenario, Errgroup, "bytes")), growth(CreateAll), growth(Errgroup))
	}
}

func table(b *strings.Builder, title string, columns ...string) {
	fmt.Fprintf(b, "#### %s\n\n", title)
	row(b, columns...)
	row(b, strings.Split(strings.TrimSuffix(strings.Repeat("---,", len(columns)), ","), ",")...)
}

func row(b *strings.Builder, cells ...string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

func number(v float64) string    { return unknownOr(v, fmt.Sprintf("%.0f", v)) }
func decimal(v float64) string   { return unknownOr(v, fmt.Sprintf("%.2f", v)) }
func thousands(v float64) string { return unknownOr(v, fmt.Sprintf("%.1f k", v/1000)) }

func unknownOr(v float64, text string) string {
	if math.IsNaN(v) {
		return "–"
	}
	return text
}
