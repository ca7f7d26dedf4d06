package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

// dependent is a program of testdata/minimal as a module of its own, as a user
// would have it.
type dependent struct {
	name, program string
	module        string // what it requires
	slow          bool   // its build takes about a minute
}

var dependents = []dependent{
	{results.Bare, "nethttp", "", false},
	{results.SDK, "sdk", "github.com/twiliosync/twiliosync-go", false},
	{results.TwilioSync, "twilio-sync", "github.com/twilio/twilio-go", false},
	{results.TwilioGo, "twilio", "github.com/twilio/twilio-go", true},
	{results.Resty, "resty", "github.com/go-resty/resty/v2", false},
}

// dependencies is what it costs to depend on a publisher.
func dependencies(e extent, _ *service, r *results.Results) error {
	dir, err := os.MkdirTemp("", "dependents")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	std := filepath.Join(dir, "std") // a build cache with nothing but the standard library
	for _, d := range dependents {
		home := filepath.Join(dir, d.program)
		if err := d.create(home); err != nil {
			return err
		}
		standard, err := d.list(home, r)
		if err != nil {
			return err
		}
		if e.quick && d.slow {
			continue
		}
		if err := d.binary(home, r); err != nil {
			return err
		}
		if !e.quick {
			if _, err := goCommand(home, std, append([]string{"build", "-trimpath"}, standard...)...); err != nil {
				return err
			}
		}
	}
	if e.quick {
		return nil
	}
	return buildTimes(dir, std, r)
}

// create makes the module of a user who requires the newest version.
func (d dependent) create(home string) error {
	source, err := os.ReadFile(filepath.Join("testdata", "minimal", d.program, "main.go"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(home, "main.go"), source, 0o600); err != nil {
		return err
	}
	steps := [][]string{{"mod", "init", "example.com/user"}}
	switch {
	case d.name == results.SDK:
		root, err := filepath.Abs("..")
		if err != nil {
			return err
		}
		steps = append(steps, []string{"mod", "edit", "-require=" + d.module + "@v0.0.0", "-replace=" + d.module + "=" + root})
	case d.module != "":
		version, err := goCommand(".", "", "list", "-m", "-f", "{{.Version}}", d.module)
		if err != nil {
			return err
		}
		steps = append(steps, []string{"mod", "edit", "-require=" + d.module + "@" + strings.TrimSpace(version)})
	}
	for _, step := range append(steps, []string{"mod", "tidy"}) {
		if _, err := goCommand(home, "", step...); err != nil {
			return err
		}
	}
	return nil
}

// list counts modules, packages and lines, and returns the packages of the
// standard library.
func (d dependent) list(home string, r *results.Results) (standard []string, err error) {
	listed, err := goCommand(home, "", "list", "-m", "all")
	if err != nil {
		return nil, err
	}
	compiled, err := goCommand(home, "", "list", "-deps", "-json=ImportPath,Standard,Dir,GoFiles,Module", ".")
	if err != nil {
		return nil, err
	}
	var packages, lines int
	modules := map[string]bool{}
	for decoder := json.NewDecoder(strings.NewReader(compiled)); ; {
		var p struct {
			ImportPath, Dir string
			Standard        bool
			GoFiles         []string
			Module          struct{ Path string }
		}
		if err := decoder.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
		if p.Standard {
			if p.ImportPath != "unsafe" {
				standard = append(standard, p.ImportPath)
			}
			continue
		}
		packages++
		modules[p.Module.Path] = true
		for _, file := range p.GoFiles {
			source, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			lines += bytes.Count(source, []byte("\n"))
		}
	}
	add(r, "depend", d.name, map[string]float64{
		"modules listed":   float64(strings.Count(listed, "\n")),
		"modules compiled": float64(len(modules)),
		"packages":         float64(packages),
		"lines":            float64(lines),
	})
	return standard, nil
}

var initClock = regexp.MustCompile(`(?m)^init \S+ @\S+ ms, (\S+) ms clock`)

// binary takes the size of the stripped program, and how long the packages'
// init takes when it starts.
func (d dependent) binary(home string, r *results.Results) error {
	if _, err := goCommand(home, "", "build", "-trimpath", "-ldflags=-s -w", "-o", "program", "."); err != nil {
		return err
	}
	program := filepath.Join(home, "program")
	info, err := os.Stat(program)
	if err != nil {
		return err
	}
	r.Add("depend", d.name, "size", float64(info.Size()))
	for range 15 {
		command := exec.Command(program) // without an argument, it ends at once
		command.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		trace, err := command.CombinedOutput()
		if err != nil {
			return err
		}
		var total float64
		for _, match := range initClock.FindAllSubmatch(trace, -1) {
			milliseconds, err := strconv.ParseFloat(string(match[1]), 64)
			if err != nil {
				return err
			}
			total += milliseconds
		}
		r.Add("depend", d.name, "init", total)
	}
	return nil
}

// buildTimes builds each program from a cache that holds the standard library
// alone.
func buildTimes(dir, std string, r *results.Results) error {
	for round := range 5 {
		for _, d := range dependents {
			if d.slow && round > 0 {
				continue
			}
			cache := filepath.Join(dir, "cache")
			if err := os.CopyFS(cache, os.DirFS(std)); err != nil {
				return err
			}
			home := filepath.Join(dir, d.program)
			if err := os.Remove(filepath.Join(home, "program")); err != nil { // it would not be linked again
				return err
			}
			start := time.Now()
			if _, err := goCommand(home, cache, "build", "-trimpath", "-o", "program", "."); err != nil {
				return err
			}
			r.Add("depend", d.name, "build", time.Since(start).Seconds())
			if err := os.RemoveAll(cache); err != nil {
				return err
			}
		}
	}
	return nil
}

// goCommand runs the go command in a directory, with a build cache of its own
// if one is named.
func goCommand(dir, cache string, args ...string) (string, error) {
	command := exec.Command("go", args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
	if cache != "" {
		command.Env = append(command.Env, "GOCACHE="+cache)
	}
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(output), nil
}
