// Command report writes the measured part of docs/performance.md and its plots
// from the results of runs, of which the first is drawn. script/bench -write calls it.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: report RESULTS.json... DOCS")
	}
	docs := args[len(args)-1]
	var tables []string
	for _, path := range slices.Backward(args[:len(args)-1]) { // the first is drawn
		r, err := results.Read(path)
		if err != nil {
			return err
		}
		tables = append([]string{r.Tables()}, tables...)
		if err := drawAll(r, docs); err != nil {
			return err
		}
	}
	return writeTables(filepath.Join(docs, "performance.md"), strings.Join(tables, "\n"))
}

// writeTables replaces what is between the two marks of the page.
func writeTables(page, tables string) error {
	const begin, end = "<!-- measured: script/bench -write -->\n", "<!-- /measured -->"
	text, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no marks to write between", page)
	}
	return os.WriteFile(page, []byte(before+begin+"\n"+tables+"\n"+end+after), 0o644)
}
