// A program can't add to the system's certificates, and the server's own one
// has to get into transports that nobody configures: as a fallback, it can.
//
//go:debug x509usefallbackroots=1

// Command benchmarks measures this SDK beside what a user would pick instead.
// Run it by script/bench; docs/performance.md explains the method.
package main

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

// extent is how much a run measures. The rounds are many and short, so that the
// rounds that something else disturbs don't reach the median.
type extent struct {
	quick         bool
	rounds        int // of one goroutine
	messages      int // in each
	crowdRounds   int // of many goroutines
	crowdDuration time.Duration
	bursts        int
	bulkRounds    int
	bulkMessages  int
}

func main() {
	quick := flag.Bool("quick", false, "measure less, in under a minute")
	output := flag.String("o", "", "also write the samples to this file, as JSON")
	flag.Parse()
	switch flag.Arg(0) {
	case "serve":
		must(serve())
	case "count":
		messages, err := strconv.Atoi(flag.Arg(2))
		must(err)
		must(publishOften(flag.Arg(1), messages))
	default:
		must(run(*quick, *output))
	}
}

func run(quick bool, output string) error {
	e := extent{
		rounds: 40, messages: 100, crowdRounds: 12, crowdDuration: 100 * time.Millisecond,
		bursts: 10, bulkRounds: 7, bulkMessages: 10_000,
	}
	if quick {
		e = extent{
			quick: true, rounds: 5, messages: 50, crowdRounds: 2, crowdDuration: 40 * time.Millisecond,
			bursts: 3, bulkRounds: 1, bulkMessages: 5_000,
		}
	}
	server, err := startService()
	if err != nil {
		return err
	}
	defer server.stop()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(server.Certificate)) {
		return errors.New("the server's certificate is not usable")
	}
	x509.SetFallbackRoots(roots)

	r := &results.Results{Quick: quick, Environment: fmt.Sprintf("Go %s, %s/%s, %d CPUs", runtime.Version()[2:], runtime.GOOS, runtime.GOARCH, runtime.NumCPU())}
	for _, step := range []struct {
		title   string
		measure func(extent, *service, *results.Results) error
	}{
		{"own work, in memory", ownWork},
		{"one after the other, over loopback", sequential},
		{"many goroutines", concurrent},
		{"chunked and error answers", oddAnswers},
		{"bursts after idling", bursts},
		{"CreateAll", bulk},
		{"many messages, in memory", inProcess},
		{"cost of depending on it", dependencies},
	} {
		start := time.Now()
		if err := step.measure(e, server, r); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
		fmt.Fprintf(os.Stderr, "%-36s %4.0f s\n", step.title, time.Since(start).Seconds())
	}
	fmt.Print(r.Tables())
	if output == "" {
		return nil
	}
	return r.Write(output)
}

// must ends the program: a benchmark with a failure in it has no result.
func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}
