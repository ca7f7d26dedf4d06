package relay

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFieldsAreAddedToTheObject(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, text, want, refusal string }{
		{"to a field", `{"n":1}`, `{"n":1,"id":"7","again":true}`, ""},
		{"to none", ` { } `, `{ "id":"7","again":true}`, ""},
		{"to more than one line", "{\n\"n\":1\n}\n", "{\n\"n\":1\n,\"id\":\"7\",\"again\":true}", ""},
		{"the same id is left", `{"id":"7"}`, `{"id":"7","again":true}`, ""},
		{"so is another one", `{"id":7}`, `{"id":7,"again":true}`, ""},
		{"also if its name is escaped", `{"\u0069d":7}`, `{"\u0069d":7,"again":true}`, ""},
		{"what can't be marked is refused", `{"again":1}`, "", "a field \"again\" of its own"},
		{"a name inside is no field of it", `{"a":{"id":7},"b":"id"}`, `{"a":{"id":7},"b":"id","id":"7","again":true}`, ""},
		{"an array is left", `[1]`, `[1]`, ""},
		{"so is null", `null`, `null`, ""},
		{"so is what is no JSON", `{"a":"}`, `{"a":"}`, ""},
		{"and nothing", ``, ``, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := withFields([]byte(test.text), field{name: "id", value: "7"}, field{}, field{"again", true, true})
			if test.refusal != "" {
				assert.ErrorContains(t, err, test.refusal)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, test.want, string(got))
		})
	}
}

func TestTokensOfSubjectsComeBack(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"orders", "a.b", "*", ">", "a b", "ä/ö?", "100%", "\u0000"} {
		service, stream, err := identifiers("TWILIOSYNC.p.7." + token("default") + "." + token(name))
		require.NoError(t, err)
		assert.Equal(t, "default", service)
		assert.Equal(t, name, stream)
		assert.NotRegexp(t, `[.*> ]`, token(name))
	}
}
