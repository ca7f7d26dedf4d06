//go:build linux

// Command chaos breaks a relay in the middle of its work, and counts what
// became of the messages:
//
//	go run . -event kill -runs 20
//
// NATS servers and workers are processes of their own, on this machine alone,
// which has to be Linux: they end with the harness.
// The Sync service is the fake one, with faults. docs/relay.md has the figures
// of a run of all events by script/relay-chaos.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

// events by name. Each happens once, when two of five messages are published,
// except churn, which goes on until all are.
var events = map[string]func(context.Context, *run) error{
	"none":    func(context.Context, *run) error { return nil },
	"kill":    killWorker,
	"killall": killAll,
	"stop":    stopWorker,
	"term":    terminateWorker,
	"restart": restartNATS,
	"cut":     cutNetwork,
	"leader":  killLeader,
	"churn":   churn,
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "worker":
			must(work(os.Args[2], os.Args[3], len(os.Args) > 4))
			return
		case "createall":
			messages, err := strconv.Atoi(os.Args[2])
			must(err)
			must(createAll(messages, os.Args[3]))
			return
		case "server":
			must(serveNATS(os.Args[2:]))
			return
		}
	}
	var names []string
	for name := range events {
		names = append(names, name)
	}
	slices.Sort(names)
	event := flag.String("event", "kill", "what happens: "+strings.Join(names, ", ")+"; throughput, hot and growth break nothing, and measure")
	runs := flag.Int("runs", 1, "how often")
	messages := flag.Int("messages", 10_000, "how many messages to publish")
	faults := flag.Bool("faults", true, "the service fails as services do")
	flag.IntVar(&streams, "streams", streams, "over how many streams; with 20, each has more messages than its pace allows at once")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	switch *event {
	case "throughput":
		must(throughput(ctx, *messages, os.Stdout))
		return
	case "hot":
		must(hot(ctx, os.Stdout))
		return
	case "growth":
		must(growth(ctx, os.Stdout))
		return
	}
	bad := 0
	fmt.Println("| event | lost | duplicates not marked | order breaks | duplicates | of these, the marked copy first | in flight and unknown | longest pause of a stream | most of a stream in 10 s | seconds |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|")
	for i := range *runs {
		r, err := perform(ctx, *event, *messages, *faults, uint64(i))
		must(err)
		fmt.Printf("| %s | %d | %d | %d | %d | %d | %d | %.1f | %d | %.0f |\n", *event, r.lost, r.unmarked, r.breaks, r.duplicates, r.late, r.doubtful, r.pause.Seconds(), r.most, r.took.Seconds())
		if !r.good() {
			bad++
		}
	}
	if bad > 0 {
		fmt.Fprintf(os.Stderr, "%d of %d runs were not as they should be\n", bad, *runs)
		os.Exit(1)
	}
}

// report is what became of the messages of a run.
type report struct {
	lost       int // neither published nor among the dead letters
	unmarked   int // further copies, none of which is marked
	late       int // unmarked copies that came after a marked one: a stopped worker had just begun them
	breaks     int // first published after a later message of the stream
	duplicates int
	doubtful   int           // in flight at the event, or with an outcome that nobody knows: each may be published twice
	pause      time.Duration // between two messages of a stream, at most: how long a takeover takes
	most       int           // of a stream in any 10 s, as the service counts
	took       time.Duration
}

func (r report) good() bool {
	return r.lost == 0 && r.unmarked == 0 && r.breaks == 0 && r.duplicates <= r.doubtful
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}
