// Command twiliosync publishes to Twilio Sync Message Streams from a shell: one
// message, files of any size, the streams themselves, and the tools around
// them. See docs/cli.md, or
//
//	go run ./cmd/twiliosync --help
package main

import (
	"os"

	"github.com/twiliosync/twiliosync-go/cmd/twiliosync/internal/cli"
)

func main() {
	os.Exit(cli.Run(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, cli.Signals))
}
