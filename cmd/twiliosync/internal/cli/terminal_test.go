//go:build linux || darwin

package cli

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestPipeOnATerminal looks at what a terminal gets: each redraw of the progress
// fits into one line of it, and what is refused stays where it is.
func TestPipeOnATerminal(t *testing.T) {
	for name, columns := range map[string][]uint16{
		"of 40 columns":               {40},
		"of 80 columns":               {80},
		"of 200 columns":              {200},
		"of 200 that become 40":       {200, 40},
		"of 40 that become 80":        {40, 80},
		"of a width that is not told": {0},
	} {
		t.Run(name, func(t *testing.T) {
			fake := withFake(t)
			fake.Every().ToStream("orders-4").Optional().WithHeader("Retry-After", "9").Answer(429, 54009)
			terminal, its, err := pty.Open()
			require.NoError(t, err)
			defer terminal.Close()
			require.NoError(t, pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: columns[0]}))
			cmd := exec.CommandContext(t.Context(), os.Args[0], "pipe", "--results", t.TempDir()+"/results", "--grace", "0")
			cmd.Env = append(os.Environ(), asProgram+"=1")
			cmd.Stderr = its
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			require.NoError(t, its.Close())
			shown := new(lockedBuffer)
			read := make(chan struct{})
			go func() {
				defer close(read)
				_, _ = io.Copy(shown, terminal) // until the program has ended, which the terminal tells by an error
			}()
			from := 0
			for i, width := range columns {
				require.NoError(t, pty.Setsize(terminal, &pty.Winsize{Rows: 24, Cols: width}))
				from = len(shown.String())
				for n := range 5 {
					_, _ = io.WriteString(stdin, lines(fmt.Sprint("orders-", n), 1, 3))
				}
				_, _ = io.WriteString(stdin, "{\"n\": 1}\n")
				want := fmt.Sprintf("%d lines", (i+1)*13)
				waitFor(t, "two redraws at the new width", func() bool { return strings.Count(shown.String()[from:], "\r"+want) >= 2 })
			}
			require.NoError(t, stdin.Close())
			require.NoError(t, cmd.Process.Signal(os.Interrupt))
			assert.Equal(t, 1, exitOf(t, cmd))
			<-read

			width := int(columns[len(columns)-1])
			if width == 0 {
				width = 80
			}
			parts := strings.Split(strings.TrimLeft(shown.String()[from:], " "), "\r")
			for i, part := range parts {
				isLine := strings.HasPrefix(part, "\n") || i+1 < len(parts) && strings.HasPrefix(parts[i+1], "\n")
				if !isLine && i > 4 { // the first may be of the width before
					assert.Less(t, utf8.RuneCountInString(part), width, "%q", part)
				}
			}
			all := shown.String()
			assert.Equal(t, len(columns), strings.Count(all, `it has "n"; a message has "stream" and "data" alone`+"\r\n"), "it stays: a line break follows")
			if width >= 80 {
				assert.Contains(t, all, "at its rate limit", "why it waits")
			}
			assert.NotContains(t, all, "\x1b", "no terminal has to understand more than a carriage return")
		})
	}
}
