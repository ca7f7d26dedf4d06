package cli

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPublishPrintsWhatIsProven(t *testing.T) {
	fake := withFake(t)
	fake.Every().ToStream("forbidden").Answer(403, 54056)
	fake.Every().ToStream("lossy").LoseAnswer()
	for _, row := range []struct {
		name, stream, data string
		status             int
		outcome            string
	}{
		{"a message that is accepted", "orders", `{"n": 1}`, 0, accepted},
		{"one that comes from standard input", "orders", "-", 0, accepted},
		{"one that is rejected", "forbidden", `{}`, 1, rejected},
		{"one whose answer is lost", "lossy", `{}`, 1, unknown},
		{"one that is no object", "orders", `[]`, 2, notSent},
		{"a stream that can't be", "..", `{}`, 2, notSent},
	} {
		t.Run(row.name, func(t *testing.T) {
			stdin := "\ufeff{\"n\": 2}\r\n"
			got := command(stdin, "publish", row.stream, row.data, "-o", "json")
			assert.Equal(t, row.status, got.status)
			assert.Empty(t, got.err)
			var printed struct{ Outcome, SID, Error string }
			require.NoError(t, json.Unmarshal([]byte(got.out), &printed))
			assert.Equal(t, row.outcome, printed.Outcome)
			assert.Equal(t, row.status == 0, printed.SID != "")
			assert.Equal(t, row.status != 0, printed.Error != "")

			got = command(stdin, "publish", row.stream, row.data)
			assert.Equal(t, row.status, got.status)
			if row.status == 0 {
				assert.Regexp(t, `^TZ[0-9a-f]{32}\taccepted\n$`, got.out)
				assert.Empty(t, got.err)
			} else {
				assert.Empty(t, got.out)
				assert.Contains(t, got.err, "twiliosync: "+row.outcome)
			}
		})
	}
}

func TestFailuresOfStreamsAreJSONToo(t *testing.T) {
	withFake(t)
	got := command("", "streams", "get", "nope", "-o", "json")
	assert.Equal(t, 1, got.status)
	assert.Empty(t, got.err)
	assert.Contains(t, got.out, `"code":20404`)
}
