package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

// sizes of the payloads, in bytes of JSON.
var sizes = []int{200, 4096}

// interleave measures every publisher in every round, so that what disturbs
// the machine disturbs all of them. Round 0 is there to warm up.
func interleave(rounds int, j job, measure func(round int, p publisher) error) error {
	var all []publisher
	for _, make := range publishers {
		all = append(all, make(j))
	}
	for round := range rounds + 1 {
		for _, p := range all {
			runtime.GC()
			if err := measure(round, p); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	for _, p := range all {
		p.close()
	}
	return nil
}

// ownWork is what a publisher does itself: the network is replaced by an
// answer in memory.
func ownWork(e extent, _ *service, r *results.Results) error {
	for _, size := range sizes {
		if err := oneByOne(e, r, fmt.Sprintf("memory/%d", size), inMemoryJob(size)); err != nil {
			return err
		}
	}
	if e.quick {
		return nil
	}
	return instructions(r)
}

func inMemoryJob(size int) job {
	data := payload(size)
	return job{baseURL: "http://127.0.0.1", serviceSID: answersNow, payload: data, transport: inMemory{echo(string(data))}}
}

// sequential is one goroutine over loopback.
func sequential(e extent, server *service, r *results.Results) error {
	for _, size := range sizes {
		for _, base := range []string{server.Plain, server.TLS} {
			scheme, _, _ := strings.Cut(base, ":")
			j := job{baseURL: base, serviceSID: answersNow, payload: payload(size)}
			if err := oneByOne(e, r, fmt.Sprintf("%s/%d", scheme, size), j); err != nil {
				return err
			}
		}
	}
	return nil
}

func oneByOne(e extent, r *results.Results, scenario string, j job) error {
	return interleave(e.rounds, j, func(round int, p publisher) error {
		before := used()
		for range e.messages {
			if err := p.publish(); err != nil {
				return err
			}
		}
		if round > 0 {
			add(r, scenario, p.name, before.perMessage(e.messages))
		}
		return nil
	})
}

func add(r *results.Results, scenario, publisher string, metrics map[string]float64) {
	for metric, value := range metrics {
		r.Add(scenario, publisher, metric, value)
	}
}

// instructions counts those of the own work by valgrind, if it is there: the
// difference between two runs, so that the start of the program doesn't count.
func instructions(r *results.Results) error {
	valgrind, _ := exec.LookPath("valgrind")
	if valgrind == "" {
		fmt.Fprintln(os.Stderr, "valgrind is not installed: instructions are not counted")
		return nil
	}
	for _, name := range results.Publishers {
		const few, many = 200, 1200
		less, err := count(valgrind, name, few)
		if err != nil {
			return err
		}
		more, err := count(valgrind, name, many)
		if err != nil {
			return err
		}
		r.Add("memory/200", name, "instructions", (more-less)/(many-few))
	}
	return nil
}

var collected = regexp.MustCompile(`Collected : (\d+)`)

func count(valgrind, name string, messages int) (float64, error) {
	program, err := os.Executable()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "callgrind")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	command := exec.Command(valgrind, "--tool=callgrind", "--callgrind-out-file="+filepath.Join(dir, "out"), program, "count", name, strconv.Itoa(messages))
	command.Env = append(os.Environ(), "GOGC=off", "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
	output, err := command.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w\n%s", err, output)
	}
	match := collected.FindSubmatch(output)
	if match == nil {
		return 0, fmt.Errorf("no count in valgrind's output:\n%s", output)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

// publishOften is the program that valgrind runs.
func publishOften(name string, messages int) error {
	for _, make := range publishers {
		p := make(inMemoryJob(sizes[0]))
		if p.name != name {
			continue
		}
		for range messages {
			if err := p.publish(); err != nil {
				return err
			}
		}
	}
	return nil
}
