// Command twilio-sync is the least program that publishes its argument by
// twilio-go's package for Sync alone.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/twilio/twilio-go/client"
	sync "github.com/twilio/twilio-go/rest/sync/v1"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	credentials := client.NewCredentials(os.Getenv("TWILIO_API_KEY"), os.Getenv("TWILIO_API_SECRET"))
	api := sync.NewApiServiceWithClient(&client.Client{Credentials: credentials})
	params := (&sync.CreateStreamMessageParams{}).SetData(json.RawMessage(os.Args[1]))
	message, err := api.CreateStreamMessage("default", "orders", params)
	if err != nil {
		log.Fatal(err)
	}
	log.Print(*message.Sid)
}
