// Command sdk is the least program that publishes its argument by this SDK.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"github.com/twiliosync/twiliosync-go"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	client, err := twiliosync.NewClientFromEnv()
	if err != nil {
		log.Fatal(err)
	}
	message, _, err := client.StreamMessages.Create(context.Background(), "default", "orders", json.RawMessage(os.Args[1]))
	if err != nil {
		log.Fatal(err)
	}
	log.Print(message.SID)
}
