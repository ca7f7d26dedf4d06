package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	index     = "docs/README.md"
	api       = "docs/SyncV1StreamMessageApi.md"
	streamAPI = "docs/SyncV1StreamApi.md"
	model     = "docs/SyncV1ServiceSyncStreamStreamMessage.md"
)

func TestPagesAreFresh(t *testing.T) {
	stale, err := update("../..", true)
	require.NoError(t, err)
	assert.Empty(t, stale, "run go generate")
}

// copySource returns a copy of what docgen reads, with fresh pages.
func copySource(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "docs"), 0o755))
	for _, pattern := range []string{"*.go", "docs/*.md"} {
		names, err := filepath.Glob(filepath.Join("../..", pattern))
		require.NoError(t, err)
		for _, name := range names {
			text, err := os.ReadFile(name)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(root, filepath.Dir(pattern), filepath.Base(name)), text, 0o644))
		}
	}
	_, err := update(root, false)
	require.NoError(t, err)
	return root
}

// edit replaces text that must be in a file.
func edit(t *testing.T, root, name, old, replacement string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	require.NoError(t, err)
	require.Contains(t, string(text), old, "the test edits text that is gone from %s", name)
	text = []byte(strings.ReplaceAll(string(text), old, replacement))
	require.NoError(t, os.WriteFile(filepath.Join(root, name), text, 0o644))
}

func readPages(t *testing.T, root string) (pages []string) {
	t.Helper()
	for _, name := range []string{index, api, model} {
		text, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		pages = append(pages, string(text))
	}
	return pages
}

func TestWhatMakesPagesStale(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		file, old, replacement string
		stale                  []string
	}{
		"the summary of a method":          {"stream_message.go", "// Create publishes data to", "// Create sends data to", []string{index, api}},
		"the description of a method":      {"create_all.go", "Up to Concurrency messages", "At most Concurrency messages", []string{api}},
		"the description of a parameter":   {"stream_message.go", "of the Sync service", "of a Sync service", []string{api}},
		"the name of a parameter":          {"stream_message.go", "streamSID", "streamID", []string{api}},
		"the operation":                    {"stream_message.go", "POST /v1/", "POST /v2/", []string{index, api}},
		"the address of its source":        {"stream_message.go", "#create-a-stream-message-resource", "#create", []string{api}},
		"the name of the form's field":     {"stream_message.go", `url:"Data"`, `url:"DATA"`, []string{api}},
		"the base URL":                     {"options.go", `"https://sync.twilio.com"`, `"https://sync.example.com"`, []string{index, api, streamAPI}},
		"the type of the content":          {"exchange.go", `"application/x-www-form-urlencoded"`, `"application/json"`, []string{api, streamAPI}},
		"the type of the answer":           {"client.go", `{"application/json"}`, `{"application/xml"}`, []string{api, streamAPI}},
		"the comment of a property":        {"models.go", "SID identifies the message", "SID names the message", []string{model}},
		"the JSON name of a property":      {"models.go", "`json:\"sid\"`\n\t// Data", "`json:\"SID\"`\n\t// Data", []string{model}},
		"the type of a property":           {"models.go", "Data json.RawMessage", "Data any", []string{model}},
		"the comment of an option":         {"create_all.go", "Default 64.", "Default 65.", []string{api}},
		"an example":                       {"example_test.go", `order{ID: 7, State: "paid"}`, `order{ID: 8, State: "paid"}`, []string{api}},
		"the description of credentials":   {"auth.go", "an API key SID (SK…) and its secret", "an API key", []string{index}},
		"the title of a hand-written page": {"docs/testing.md", "# Testing code that publishes", "# Testing", []string{index}},
		"an edit by hand":                  {model, "# Sync", "# My Sync", []string{model}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := copySource(t)
			edit(t, root, test.file, test.old, test.replacement)
			before := readPages(t, root)

			stale, err := update(root, true)
			require.NoError(t, err)
			assert.Equal(t, test.stale, stale)
			assert.Equal(t, before, readPages(t, root), "a check writes nothing")
		})
	}
}

func TestWhatIsNotForReadersMakesNoPageStale(t *testing.T) {
	t.Parallel()
	root := copySource(t)
	edit(t, root, "stream_message.go", "// createStreamMessage checks the arguments", "// createStreamMessage looks at the arguments")
	edit(t, root, "example_test.go", "fakeSync starts the fake service", "fakeSync begins the fake service")
	stale, err := update(root, true)
	require.NoError(t, err)
	assert.Empty(t, stale)
}

func TestStalePagesAreWritten(t *testing.T) {
	t.Parallel()
	root := copySource(t)
	before := readPages(t, root)
	edit(t, root, "stream_message.go", "// Create publishes data to", "// Create sends data to")

	stale, err := update(root, false)
	require.NoError(t, err)
	assert.Equal(t, []string{index, api}, stale)
	assert.NotEqual(t, before, readPages(t, root))

	stale, err = update(root, true)
	require.NoError(t, err)
	assert.Empty(t, stale)
}

func TestHandWrittenPagesAreListed(t *testing.T) {
	t.Parallel()
	root := copySource(t)
	require.NoError(t, os.WriteFile(filepath.Join(root, "docs/zoo.md"), []byte("# All animals\n"), 0o644))
	stale, err := update(root, false)
	require.NoError(t, err)
	assert.Equal(t, []string{index}, stale)
	assert.Contains(t, readPages(t, root)[0], "\n- [All animals](zoo.md)\n")
}

func TestWhatThePagesCantDoWithout(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ file, old, replacement, complaint string }{
		"an Example function of Create": {"example_test.go", "func ExampleStreamMessageService_Create()", "func ExampleFoo()", "the example files have no ExampleStreamMessageService_Create"},
		"the operation of Create":       {"stream_message.go", "// Operation: ", "// Call: ", "doc comment of Create needs both a paragraph Operation: and one that begins with serviceSID"},
		"each parameter of Create":      {"stream_message.go", "streamSID the SID", "the second one the SID", "doc comment of Create needs both a paragraph Operation: and one that begins with streamSID"},
		"the base URL":                  {"options.go", "defaultBaseURL ", "theBaseURL ", "no string for defaultBaseURL"},
		"the content type":              {"exchange.go", `formType = `, `theType = `, "no string for formType"},
		"the model":                     {"models.go", "type SyncV1ServiceSyncStreamStreamMessage struct", "type Message struct", "no exported type SyncV1ServiceSyncStreamStreamMessage"},
		"titles":                        {"docs/testing.md", "# Testing code", "Testing code", "docs/testing.md doesn't begin with a heading"},
		"source that can be parsed":     {"models.go", "package twiliosync", "packet twiliosync", "models.go:1:1: expected 'package'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := copySource(t)
			before := readPages(t, root)
			edit(t, root, test.file, test.old, test.replacement)
			_, err := update(root, false)
			assert.ErrorContains(t, err, test.complaint)
			assert.Equal(t, before, readPages(t, root), "nothing is written")
		})
	}
}
