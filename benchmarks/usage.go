package main

import (
	"runtime"
	"syscall"
	"time"
)

// usage is what this process has used so far.
type usage struct {
	wall           time.Time
	cpu            time.Duration // user and system, from getrusage
	mallocs, bytes uint64
}

func used() usage {
	var r syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{time.Now(), time.Duration(r.Utime.Nano() + r.Stime.Nano()), m.Mallocs, m.TotalAlloc}
}

// perMessage is the use since u, as the metrics of the tables.
func (u usage) perMessage(messages int) map[string]float64 {
	now, n := used(), float64(messages)
	return map[string]float64{
		"time":   float64(now.wall.Sub(u.wall)) / n,
		"rate":   n / now.wall.Sub(u.wall).Seconds(),
		"cpu":    float64(now.cpu-u.cpu) / n,
		"allocs": float64(now.mallocs-u.mallocs) / n,
		"bytes":  float64(now.bytes-u.bytes) / n,
	}
}
