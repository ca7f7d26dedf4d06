package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhatIsStoredIsPublished(t *testing.T) {
	var stdout strings.Builder
	require.NoError(t, run(t.Context(), t.TempDir(), &stdout))
	assert.Equal(t, `published {"id":0,"state":"paid"}
published {"id":1,"state":"paid"}
published {"id":2,"state":"paid"}
`, stdout.String())
}
