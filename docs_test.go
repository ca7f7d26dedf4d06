package twiliosync_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// The Go code in README.md and docs/ is compiled and vetted, all of it. A block
// fenced as go that begins with its package clause is a program of its own. The
// other blocks of a page share a package: declarations stand at package level,
// and statements in a function whose parameters are
//
//	ctx, client, message, response, err
//
// which they may use, or declare themselves without using them. Imports are
// added for the packages of snippetImports. Of a block fenced as diff, the new
// side is compiled, and the old side is not ours.
var snippetImports = []string{
	"context", "encoding/json", "errors", "fmt", "io", "iter", "log", "log/slog", "net", "net/http", "net/http/httptest", "net/url",
	"os", "os/signal", "slices", "strings", "sync", "sync/atomic", "testing", "testing/synctest", "time",
	"github.com/twiliosync/twiliosync-go", "github.com/twiliosync/twiliosync-go/twiliosynctest",
}

const snippetFunction = `
func _(ctx context.Context, client *twiliosync.Client, message *twiliosync.StreamMessage, response *twiliosync.Response, err error) (_ error) {
	{
//line %s:%d
%s
		_, _, _, _, _ = ctx, client, message, response, err
	}
	return nil
}
`

// documentation returns README.md and the pages of docs/ by name.
func documentation(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	pages := map[string]string{}
	for _, name := range append(names, "README.md") {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		pages[filepath.ToSlash(name)] = string(text)
	}
	return pages
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^[ \\t]*```([^\n]*)\n(.*?)^[ \\t]*```[ \\t]*$")
	inlineCode  = regexp.MustCompile("`[^`\n]*`")
)

// pagesOfNestedModules have code that needs those; their own tests compile it.
var pagesOfNestedModules = []string{"docs/emulator.md", "docs/observability.md", "docs/relay.md"}

// snippet is Go code on a page.
type snippet struct {
	page string
	line int // of the first line of code
	code string
}

func snippetsOf(page, text string) (snippets []snippet) {
	for _, at := range fencedBlock.FindAllStringSubmatchIndex(text, -1) {
		language, code := text[at[2]:at[3]], text[at[4]:at[5]]
		switch {
		case language == "diff":
			code = newSide(code)
		case !strings.HasPrefix(language, "go"): // "golang" and "go title" count
			continue
		}
		snippets = append(snippets, snippet{page, 1 + strings.Count(text[:at[4]], "\n"), code})
	}
	return snippets
}

// newSide keeps the number of the lines.
func newSide(diff string) string {
	lines := strings.Split(diff, "\n")
	for i, line := range lines {
		switch {
		case strings.HasPrefix(line, "-"):
			lines[i] = ""
		case line != "":
			lines[i] = line[1:]
		}
	}
	return strings.Join(lines, "\n")
}

// file returns the name of the snippet's file and what goes into it.
func (s snippet) file(root string) (name, contents string) {
	origin := filepath.Join(root, s.page)
	packageName := strings.NewReplacer("docs/", "", ".md", "", "-", "").Replace(strings.ToLower(s.page))
	declarations := fmt.Sprintf("//line %s:%d\n%s", origin, s.line, s.code)
	if strings.HasPrefix(s.code, "package ") {
		return fmt.Sprintf("%s%d/main.go", packageName, s.line), declarations
	}
	name, clause := fmt.Sprintf("%s/line%d.go", packageName, s.line), "package "+packageName+"\n"
	file, err := parser.ParseFile(token.NewFileSet(), "", clause+declarations, 0)
	switch {
	case err != nil:
		declarations = fmt.Sprintf(snippetFunction, origin, s.line, s.code)
	case len(file.Imports) > 0 && len(file.Decls) == 1: // nothing else, so nothing uses them
		return name, clause + regexp.MustCompile(`(?m)^(\s*)"`).ReplaceAllString(declarations, `${1}_ "`)
	case len(file.Imports) > 0:
		return name, clause + declarations
	}
	return name, clause + importsFor(clause+declarations) + declarations
}

// importsFor returns the imports that a file needs.
func importsFor(text string) string {
	var imports strings.Builder
	file, _ := parser.ParseFile(token.NewFileSet(), "", text, 0) // the compiler reports a syntax error
	for _, importPath := range snippetImports {
		name := strings.TrimSuffix(path.Base(importPath), "-go")
		used := false
		ast.Inspect(file, func(n ast.Node) bool {
			selector, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			of, ok := selector.X.(*ast.Ident)
			used = used || ok && of.Name == name
			return true
		})
		if used {
			fmt.Fprintf(&imports, "import %q\n", importPath)
		}
	}
	return imports.String()
}

// moduleOfSnippets returns the directory of a new module that requires this
// one from root, by the command that README.md shows. It needs no network.
func moduleOfSnippets(t *testing.T, root, readme string) (dir string) {
	t.Helper()
	const module = "github.com/twiliosync/twiliosync-go"
	dir = t.TempDir()
	goMod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	goMod = bytes.Replace(goMod, []byte("module "+module), []byte("module example.com/snippets\n\nrequire "+module+" v0.0.0"), 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), goMod, 0o644))
	goSum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), goSum, 0o644))

	replace := regexp.MustCompile(`(?m)^go (mod edit -replace \S+=)\.\./twiliosync-go$`).FindStringSubmatch(readme)
	require.NotNil(t, replace, "README.md shows the go mod edit -replace for a checkout")
	output, err := goCommand(dir, strings.Fields(replace[1]+root)...)
	require.NoError(t, err, output)
	return dir
}

func goCommand(dir string, args ...string) (output string, err error) {
	command := exec.Command("go", args...)
	command.Dir = dir
	command.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOPROXY=off")
	out, err := command.CombinedOutput()
	return string(out), err
}

func TestDocumentedCodeCompiles(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs(".")
	require.NoError(t, err)
	pages := documentation(t)
	dir := moduleOfSnippets(t, root, pages["README.md"])
	for page, text := range pages {
		if slices.Contains(pagesOfNestedModules, page) {
			continue
		}
		for _, snippet := range snippetsOf(page, text) {
			name, contents := snippet.file(root)
			name = filepath.Join(dir, name)
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.WriteFile(name, []byte(contents), 0o644))
		}
	}
	// A fragment may end with a return, which makes the end of its function unreachable.
	output, err := goCommand(dir, "vet", "-unreachable=false", "./...")
	require.NoError(t, err, output)
}

// TestLostAnswer is the test that README.md shows.
func TestLostAnswer(t *testing.T) {
	srv := twiliosynctest.NewServer(t)
	srv.Next(1).LoseAnswer() // the message is published, but nobody says so

	_, _, err := srv.Client().StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"id": 7})

	if twiliosync.OutcomeOf(err) != twiliosync.OutcomeUnknown || len(srv.Messages("orders")) != 1 {
		t.Errorf("%d messages: %v", len(srv.Messages("orders")), err)
	}
}

func TestReadmeShowsTheTestThatRuns(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("docs_test.go")
	require.NoError(t, err)
	shown := regexp.MustCompile(`(?ms)^func TestLostAnswer.*?^}$`)
	assert.Equal(t, shown.FindString(string(source)), shown.FindString(documentation(t)["README.md"]))
}

func TestReadmeFirstScreen(t *testing.T) {
	t.Parallel()
	text := documentation(t)["README.md"]
	lines := strings.Split(text, "\n")
	assert.LessOrEqual(t, len(lines), 150, "lines")
	for _, command := range []string{
		"go mod edit -replace github.com/twiliosync/twiliosync-go=../twiliosync-go", "go mod tidy",
		"go run ./examples/create_stream_message", "go test ./...",
	} {
		assert.True(t, slices.Contains(lines[:45], command), command)
	}
	program := snippetsOf("README.md", text)[0]
	assert.True(t, strings.HasPrefix(program.code, "package main\n"), "the first code is a complete program")
	assert.LessOrEqual(t, program.line+strings.Count(program.code, "\n"), 30, "line of its end")
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	pages := documentation(t)
	for page, text := range pages {
		prose := inlineCode.ReplaceAllString(fencedBlock.ReplaceAllString(text, ""), "")
		for _, found := range link.FindAllStringSubmatch(prose, -1) {
			if strings.HasPrefix(found[1], "https://") {
				continue
			}
			file, anchor, _ := strings.Cut(found[1], "#")
			target := path.Join(path.Dir(page), file)
			if file == "" {
				target = page
			}
			_, err := os.Stat(target)
			assert.NoError(t, err, "%s links to %s", page, found[1])
			if anchor != "" {
				assert.Contains(t, anchors(pages[target]), anchor, "%s links to %s", page, found[1])
			}
		}
	}
}

// anchors returns what GitHub calls the headings of a page.
func anchors(text string) (anchors []string) {
	for _, found := range heading.FindAllStringSubmatch(fencedBlock.ReplaceAllString(text, ""), -1) {
		title := link.ReplaceAllString(strings.ToLower(found[1]), "]")
		anchor := strings.ReplaceAll(regexp.MustCompile(`[^\p{L}\p{N}_ -]`).ReplaceAllString(title, ""), " ", "-")
		for unique, n := anchor, 1; ; n++ {
			if !slices.Contains(anchors, unique) {
				anchors = append(anchors, unique)
				break
			}
			unique = fmt.Sprintf("%s-%d", anchor, n)
		}
	}
	return anchors
}

// exported returns the names that a pattern finds in a source file.
func exported(t *testing.T, file, pattern string) (names []string) {
	t.Helper()
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(pattern).FindAllStringSubmatch(string(source), -1) {
		names = append(names, found[1])
	}
	require.NotEmpty(t, names, "of %s in %s", pattern, file)
	return names
}

func TestPagesNameWhatTheyAreAbout(t *testing.T) {
	t.Parallel()
	pages := documentation(t)
	fieldsOf := func(value any) (names []string) {
		for _, field := range reflect.VisibleFields(reflect.TypeOf(value)) {
			if field.IsExported() {
				names = append(names, field.Name)
			}
		}
		return names
	}
	for page, names := range map[string][][]string{
		"docs/configuration.md": {
			exported(t, "options.go", `(?m)^func (With\w+)\(.*\) (?:Call)?Option`),
			exported(t, "client.go", `"(TWILIO_\w+)"`), exported(t, "auth.go", `"(TWILIO_\w+)"`),
			fieldsOf(twiliosync.RetryPolicy{}), fieldsOf(twiliosync.Attempt{}),
		},
		"docs/errors.md": {
			exported(t, "errors.go", `(?m)^\t(Err\w+) +error = `), exported(t, "outcome.go", `(?m)^\t(Outcome\w+)`),
			exported(t, "errors.go", `(?m)^\t(\d{5}): +Err`),
			fieldsOf(twiliosync.Error{}), fieldsOf(twiliosync.ParameterError{}),
		},
	} {
		for _, name := range slices.Concat(names...) {
			assert.True(t, regexp.MustCompile(`\b`+name+`\b`).MatchString(pages[page]), "%s has nothing about %s", page, name)
		}
	}
}

// The table of Twilio's codes in docs/errors.md says what the SDK does.
func TestTableOfCodesIsTrue(t *testing.T) {
	t.Parallel()
	sentinels := map[string]error{
		"ErrInvalidParameter": twiliosync.ErrInvalidParameter, "ErrUnauthorized": twiliosync.ErrUnauthorized,
		"ErrForbidden": twiliosync.ErrForbidden, "ErrNotFound": twiliosync.ErrNotFound,
		"ErrTooLarge": twiliosync.ErrTooLarge, "ErrRateLimited": twiliosync.ErrRateLimited,
	}
	rows := regexp.MustCompile("(?m)^\\| (\\d{5})[^|]*\\| (\\d{3})[^|]*\\|(?: `(\\w+)`)? \\|.*\\| ([^|]*) \\|$").FindAllStringSubmatch(documentation(t)["docs/errors.md"], -1)
	require.Greater(t, len(rows), 20)
	for _, row := range rows {
		code, _ := strconv.Atoi(row[1])
		status, _ := strconv.Atoi(row[2])
		t.Run(row[1], func(t *testing.T) {
			srv := twiliosynctest.NewServer(t)
			srv.Every().Answer(status, code)
			client := srv.Client(twiliosync.WithRetryPolicy(twiliosync.RetryPolicy{MaxAttempts: 1}))
			_, _, err := client.StreamMessages.Create(t.Context(), "default", "orders", map[string]any{"id": 7})
			for name, sentinel := range sentinels {
				assert.Equal(t, name == row[3], errors.Is(err, sentinel), name)
			}
			assert.Equal(t, strings.Contains(row[4], "the SDK sends it again"), twiliosync.Retryable(err), "retryable")
			assert.Equal(t, strings.Contains(row[4], "unknown outcome"), twiliosync.OutcomeOf(err) == twiliosync.OutcomeUnknown, "unknown")
		})
	}
}
