package twiliosync_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestReferencesBetweenFilesRunOneWay compares the package with the floors in
// CONTRIBUTING.md.
func TestReferencesBetweenFilesRunOneWay(t *testing.T) {
	t.Parallel()
	floors := floorsOf(t)
	fileSet := token.NewFileSet()
	var files []*ast.File
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fileSet, source, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, file)
		if source != "doc.go" {
			assert.Contains(t, floors, source, "the table in CONTRIBUTING.md has no floor for it")
		}
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: emptyPackages{}, Error: func(error) {}} // what others declare is of no interest
	this, _ := config.Check("github.com/twiliosync/twiliosync-go", fileSet, files, info)
	require.NotNil(t, this)
	require.Greater(t, len(info.Uses), 5_000, "else little was looked at")

	for identifier, object := range info.Uses {
		if object.Pkg() != this || !object.Pos().IsValid() {
			continue
		}
		from, to := fileSet.Position(identifier.Pos()), fileSet.Position(object.Pos())
		if from.Filename != to.Filename && floors[to.Filename] >= floors[from.Filename] {
			t.Errorf("%s (floor %d) refers to %s in %s (floor %d)", from, floors[from.Filename], object.Name(), to, floors[to.Filename])
		}
	}
}

// emptyPackages stand for all that is imported.
type emptyPackages struct{}

func (emptyPackages) Import(path string) (*types.Package, error) {
	empty := types.NewPackage(path, filepath.Base(path))
	empty.MarkComplete()
	return empty, nil
}

func floorsOf(t *testing.T) map[string]int {
	text, err := os.ReadFile("CONTRIBUTING.md")
	require.NoError(t, err)
	floors := map[string]int{}
	var order []int
	for _, row := range regexp.MustCompile("(?m)^\\| (\\d+) \\| `(\\w+\\.go)` \\|").FindAllStringSubmatch(string(text), -1) {
		floor, err := strconv.Atoi(row[1])
		require.NoError(t, err)
		floors[row[2]] = floor
		order = append(order, floor)
	}
	require.Greater(t, len(floors), 10)
	require.True(t, slices.IsSorted(order), "the floors are in order")
	return floors
}
