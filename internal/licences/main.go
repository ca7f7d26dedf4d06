// Command licences reads the licence of every module that is linked into a
// program or a package of the modules in the given directories, on Linux, macOS
// and Windows, and fails where one isn't known or isn't allowed:
//
//	go run . ../../cmd/twiliosync ../..
//	go run . -notices FILE ../../cmd/twiliosync
//
// The second writes the texts of the licences that go with a program, that of
// the directory. What only tests need isn't linked into anything.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed are licences that ask of a user of the SDK no more than that their
// text goes with it, or, with MPL-2.0, the source of the files under it.
var allowed = []string{"0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}

// known is how much of a file, in percent of its words, must be the text of
// licences. The rest is names, years and headings.
const known = 75

// own is the prefix of the modules that are under the licence of this repository.
const own = "github.com/twiliosync/"

var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-_.].*)?$`)

func main() {
	notices := flag.String("notices", "", "`file` for the texts of the licences")
	flag.Parse()
	if err := run(os.Stdout, *notices, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "licences:", err)
		os.Exit(1)
	}
}

func run(out io.Writer, notices string, dirs []string) error {
	pattern := "./..."
	if notices != "" {
		pattern = "." // the program alone
	}
	directories := map[string][]string{} // by module: those where a licence may be
	for _, dir := range dirs {
		for _, system := range []string{"linux", "darwin", "windows"} {
			if err := linked(dir, pattern, system, directories); err != nil {
				return err
			}
		}
	}
	var texts strings.Builder
	var wrong []error
	for _, module := range sorted(directories) {
		ids, files, err := licencesIn(directories[module])
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", module, err))
			continue
		}
		fmt.Fprintf(out, "%-60s %s\n", module, strings.Join(ids, ", "))
		for _, file := range files {
			fmt.Fprintf(&texts, "%s\n%s\n\n%s\n\n", module, strings.Repeat("=", len(module)), strings.TrimSpace(file))
		}
	}
	if err := errors.Join(wrong...); err != nil || notices == "" {
		return err
	}
	return os.WriteFile(notices, []byte(texts.String()), 0o644) //nolint:gosec // everybody may read it
}

// linked adds to directories those of the packages that the packages in
// dir need on an operating system, up to the roots of their modules.
func linked(dir, pattern, system string, directories map[string][]string) error {
	command := exec.Command("go", "list", "-deps", "-json=Dir,Module", pattern) //nolint:noctx,gosec // it ends by itself, and pattern is one of two
	command.Dir, command.Stderr = dir, os.Stderr
	command.Env = append(os.Environ(), "GOWORK=off", "GOOS="+system, "GOARCH=amd64", "CGO_ENABLED=0") // as the releases are built
	output, err := command.Output()
	if err != nil {
		return fmt.Errorf("go list in %s: %w", dir, err)
	}
	for decoder := json.NewDecoder(strings.NewReader(string(output))); decoder.More(); {
		var p struct {
			Dir    string
			Module *struct{ Path, Version, Dir string }
		}
		if err := decoder.Decode(&p); err != nil {
			return err
		}
		if p.Module == nil || strings.HasPrefix(p.Module.Path, own) { // the standard library, and this repository
			continue
		}
		module := p.Module.Path + " " + p.Module.Version
		for dir := p.Dir; strings.HasPrefix(dir, p.Module.Dir); dir = filepath.Dir(dir) {
			if !slices.Contains(directories[module], dir) {
				directories[module] = append(directories[module], dir)
			}
		}
	}
	return nil
}

// licencesIn returns the names of the licences in directories, and the files.
func licencesIn(directories []string) (ids, files []string, err error) {
	slices.Sort(directories)
	for _, dir := range directories {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, nil, err
		}
		for _, entry := range entries {
			if entry.IsDir() || !licenceFile.MatchString(entry.Name()) || strings.HasSuffix(entry.Name(), ".go") {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, entry.Name())) //nolint:gosec // of the module cache
			if err != nil {
				return nil, nil, err
			}
			found, err := licencesOf(text)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", filepath.Join(dir, entry.Name()), err)
			}
			ids, files = append(ids, found...), append(files, string(text))
		}
	}
	if ids == nil {
		return nil, nil, errors.New("there is no licence")
	}
	slices.Sort(ids)
	return slices.Compact(ids), files, nil
}

// licencesOf returns the names of the licences in a text, all of them allowed.
func licencesOf(text []byte) (ids []string, err error) {
	coverage := licensecheck.Scan(text)
	if coverage.Percent < known {
		return nil, fmt.Errorf("only %.0f %% of it is the text of a licence that is known", coverage.Percent)
	}
	for _, match := range coverage.Match {
		if match.IsURL {
			continue // beside the text that it leads to
		}
		if !slices.Contains(allowed, match.ID) {
			return nil, fmt.Errorf("%s is not among the licences that are allowed: %s", match.ID, strings.Join(allowed, ", "))
		}
		ids = append(ids, match.ID)
	}
	return ids, nil
}

func sorted(directories map[string][]string) (modules []string) {
	for module := range directories {
		modules = append(modules, module)
	}
	slices.Sort(modules)
	return modules
}
