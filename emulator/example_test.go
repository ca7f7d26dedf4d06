package emulator_test

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/emulator"
)

func Example() {
	e := emulator.New(emulator.WithStrictStreams())
	server := httptest.NewServer(e)
	defer server.Close()
	defer e.Close() // before the server, which waits for its websockets and pages
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(e.Credentials()), twiliosync.WithBaseURL(server.URL))
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	if _, _, err := client.Streams.Ensure(ctx, "default", "orders", nil); err != nil {
		log.Fatal(err)
	}
	_, _, err = client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"id": 7})
	fmt.Println(err, string(e.Fake().Messages("orders")[0].Data))
	// Output:
	// <nil> {"id":7}
}

// TestTheCodeInTheDocsIsCompiled: it is that of the example.
func TestTheCodeInTheDocsIsCompiled(t *testing.T) {
	page, err := os.ReadFile("../docs/emulator.md")
	require.NoError(t, err)
	example, err := os.ReadFile("example_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		for line := range strings.Lines(block[1]) {
			assert.Contains(t, string(example), strings.TrimSpace(line))
		}
	}
}
