package main

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

// concurrent is many goroutines over TLS, which publish as fast as they can.
func concurrent(e extent, server *service, r *results.Results) error {
	for _, answers := range []string{answersNow, answersLate} {
		for _, goroutines := range []int{1, 16, 64, 256} {
			if err := crowd(e, server, r, fmt.Sprintf("%s/%d", answers, goroutines), answers, goroutines); err != nil {
				return err
			}
		}
	}
	return nil
}

func crowd(e extent, server *service, r *results.Results, scenario, answers string, goroutines int) error {
	j := job{baseURL: server.TLS, serviceSID: answers, payload: payload(200)}
	return interleave(e.crowdRounds, j, func(round int, p publisher) error {
		duration := e.crowdDuration
		if round == 0 {
			duration *= 4 // opening 256 connections takes longer than a round
		}
		opened, before := server.connections(), used()
		latencies := publishFor(duration, goroutines, p.publish, answers == answersError)
		metrics := before.perMessage(len(latencies))
		connections := float64(server.connections() - opened)
		if round == 0 {
			r.Add(scenario, p.name, "connections first", connections)
			return nil
		}
		slices.Sort(latencies)
		metrics["p50"] = float64(latencies[len(latencies)/2])
		metrics["p99"] = float64(latencies[len(latencies)*99/100])
		metrics["connections"] = 1000 * connections / float64(len(latencies))
		add(r, scenario, p.name, metrics)
		return nil
	})
}

// publishFor publishes for a while, and returns how long each message took.
func publishFor(duration time.Duration, goroutines int, publish func() error, wantError bool) []time.Duration {
	var (
		all []time.Duration
		mu  sync.Mutex
		wg  sync.WaitGroup
		end = time.Now().Add(duration)
	)
	for range goroutines {
		wg.Go(func() {
			own := make([]time.Duration, 0, 4096) // growing would count as the publisher's work
			for start := time.Now(); start.Before(end); start = time.Now() {
				expect(publish(), wantError)
				own = append(own, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, own...)
		})
	}
	wg.Wait()
	return all
}

func expect(err error, wantError bool) {
	if wantError && err == nil {
		err = fmt.Errorf("the answer should have been an error")
	} else if wantError {
		return
	}
	must(err)
}

// oddAnswers shows who keeps connections when an answer has no
// Content-Length, or is an error.
func oddAnswers(e extent, server *service, r *results.Results) error {
	for _, answers := range []string{answersChunked, answersError} {
		for _, make := range publishers {
			whatIsLeft(server, r, make(job{baseURL: server.TLS, serviceSID: answers, payload: payload(200)}), answers)
		}
	}
	for _, answers := range []string{answersChunked, answersError} {
		if err := crowd(e, server, r, answers+"/16", answers, 16); err != nil {
			return err
		}
	}
	return nil
}

// whatIsLeft counts connections and goroutines after 200 messages.
func whatIsLeft(server *service, r *results.Results, p publisher, answers string) {
	opened, goroutines := server.connections(), runtime.NumGoroutine()
	for range 200 {
		expect(p.publish(), answers == answersError)
	}
	p.close()
	left := runtime.NumGoroutine() - goroutines
	for range 20 { // the goroutines of closed connections take a moment to end
		if left <= 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
		left = runtime.NumGoroutine() - goroutines
	}
	r.Add(answers, p.name, "connections", float64(server.connections()-opened))
	r.Add(answers, p.name, "goroutines", float64(max(0, left)))
}

// bursts are messages that come all at once, with pauses between.
func bursts(e extent, server *service, r *results.Results) error {
	for _, size := range []int{16, 64} {
		j := job{baseURL: server.TLS, serviceSID: answersLate, payload: payload(200)}
		for _, make := range publishers {
			p := make(j)
			for burst := range e.bursts + 1 {
				before := server.connections()
				var wg sync.WaitGroup
				for range size {
					wg.Go(func() { must(p.publish()) })
				}
				wg.Wait()
				opened := server.connections() - before
				if burst > 0 {
					r.Add(fmt.Sprintf("burst/%d", size), p.name, "connections", 1000*float64(opened)/float64(size))
				}
				time.Sleep(200 * time.Millisecond)
			}
			p.close()
		}
	}
	return nil
}
