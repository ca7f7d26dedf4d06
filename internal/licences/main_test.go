package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const isc = `Copyright (c) 2026 Somebody

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`

const wtfpl = `            DO WHAT THE FUCK YOU WANT TO PUBLIC LICENSE
                    Version 2, December 2004

 Copyright (C) 2004 Sam Hocevar <sam@hocevar.net>

 Everyone is permitted to copy and distribute verbatim or modified
 copies of this license document, and changing it is allowed as long
 as the name is changed.

            DO WHAT THE FUCK YOU WANT TO PUBLIC LICENSE
   TERMS AND CONDITIONS FOR COPYING, DISTRIBUTION AND MODIFICATION

  0. You just DO WHAT THE FUCK YOU WANT TO.
`

func TestWhatIsSaidOfALicence(t *testing.T) {
	for _, row := range []struct{ name, text, says string }{
		{"one that is allowed", isc, ""},
		{"one that is known but not allowed", wtfpl, "WTFPL is not among"},
		{"words of one's own", strings.Repeat("You may use this on Sundays. ", 20), "only 0 %"},
		{"one with conditions after it", isc + strings.Repeat("But you may use this on Sundays only. ", 20), "of it is the text"},
	} {
		t.Run(row.name, func(t *testing.T) {
			ids, err := licencesOf([]byte(row.text))
			if row.says != "" {
				require.ErrorContains(t, err, row.says)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, []string{"ISC"}, ids)
		})
	}
}

func TestLicencesBesideThePackagesCountToo(t *testing.T) {
	root := t.TempDir()
	inner := filepath.Join(root, "inner")
	require.NoError(t, os.Mkdir(inner, 0o755))
	_, _, err := licencesIn([]string{root, inner})
	require.ErrorContains(t, err, "there is no licence")

	require.NoError(t, os.WriteFile(filepath.Join(root, "LICENSE.txt"), []byte(isc), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "license.go"), []byte("package x"), 0o644))
	ids, files, err := licencesIn([]string{root, inner})
	require.NoError(t, err)
	assert.Equal(t, []string{"ISC"}, ids)
	assert.Len(t, files, 1)

	require.NoError(t, os.WriteFile(filepath.Join(inner, "COPYING"), []byte(wtfpl), 0o644))
	_, _, err = licencesIn([]string{root, inner})
	assert.ErrorContains(t, err, "WTFPL")
}

func TestTheModulesOfTheToolAreFound(t *testing.T) {
	notices := filepath.Join(t.TempDir(), "NOTICES")
	var out strings.Builder
	require.NoError(t, run(&out, notices, []string{"../../cmd/twiliosync"}))
	assert.Regexp(t, `(?m)^github.com/spf13/cobra v\S+ +Apache-2.0$`, out.String())
	assert.Regexp(t, `(?m)^github.com/inconshreveable/mousetrap v\S+ +Apache-2.0$`, out.String(), "on Windows")
	assert.NotContains(t, out.String(), "testify", "what only tests need")
	text, err := os.ReadFile(notices)
	require.NoError(t, err)
	assert.Contains(t, string(text), "Redistribution and use in source and binary forms", "go-querystring")
}
