package twiliosync_test

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An action is run with the rights of its workflow, and a tag can be moved to
// other code. A commit can't.
func TestEveryActionIsPinnedToACommit(t *testing.T) {
	t.Parallel()
	uses := regexp.MustCompile(`(?m)^\s*(?:- )?uses:.*$`)
	pinned := regexp.MustCompile(`^\s*(?:- )?uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	commits := map[string]string{} // by action with version: one commit, wherever it is used
	names, err := filepath.Glob(".github/workflows/*")
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for _, line := range uses.FindAllString(string(text), -1) {
			if !assert.Regexp(t, pinned, line, name) {
				continue
			}
			action, rest, _ := strings.Cut(strings.TrimSpace(line[strings.Index(line, "uses: ")+len("uses: "):]), "@")
			commit, version, _ := strings.Cut(rest, " # ")
			owner := strings.Join(strings.SplitN(action, "/", 3)[:2], "/") + " " + version
			if commits[owner] == "" {
				commits[owner] = commit
			}
			assert.Equal(t, commits[owner], commit, owner)
		}
		assert.Regexp(t, `(?m)^permissions:`, string(text), "%s says what it may do", name)
	}
}

func TestDependabotKnowsEveryModule(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(".github/dependabot.yml")
	require.NoError(t, err)
	directories := map[string][]string{} // by ecosystem
	for _, block := range strings.Split(string(text), "- package-ecosystem: ")[1:] {
		ecosystem, rest, _ := strings.Cut(block, "\n")
		for _, found := range regexp.MustCompile(`(?m)^ +(?:- |directory: )(/\S*)$`).FindAllStringSubmatch(rest, -1) {
			directories[ecosystem] = append(directories[ecosystem], found[1])
		}
	}
	there := map[string][]string{"github-actions": {"/"}}
	err = filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch ecosystem := map[string]string{"go.mod": "gomod", "package.json": "npm", "Dockerfile": "docker"}[entry.Name()]; {
		case entry.IsDir() && (entry.Name() == "node_modules" || entry.Name() == ".git" || name == "dist" || name == "build"):
			return fs.SkipDir
		case ecosystem != "":
			there[ecosystem] = append(there[ecosystem], path.Join("/", filepath.ToSlash(filepath.Dir(name))))
		}
		return nil
	})
	require.NoError(t, err)
	for _, ecosystem := range []string{"gomod", "npm", "docker", "github-actions"} {
		assert.ElementsMatch(t, there[ecosystem], directories[ecosystem], ecosystem)
	}
	assert.Len(t, directories, len(there))
}
