// Command twiliosync publishes to Twilio Sync Message Streams from a shell: one
// message, files of any size, the streams themselves, and the tools around
// them. See docs/cli.md, or
//
//	go run ./cmd/twiliosync --help
package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/twiliosync/twiliosync-go/cmd/twiliosync/internal/cli"
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(cli.Run(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, signals))
}
