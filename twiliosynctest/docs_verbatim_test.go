package twiliosynctest_test

import (
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDocumentedCodeIsTheCodeThatRuns(t *testing.T) {
	page, err := os.ReadFile("../docs/testing.md")
	require.NoError(t, err)
	code, err := os.ReadFile("docs_test.go")
	require.NoError(t, err)

	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(page, -1)
	assert.Len(t, blocks, 9, "blocks of Go code on the page")
	for _, block := range blocks {
		assert.Contains(t, string(code), string(block[1]))
	}
}
