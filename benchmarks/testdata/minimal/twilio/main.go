// Command twilio is the least program that publishes its argument by
// twilio-go, as its README shows it.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/twilio/twilio-go"
	sync "github.com/twilio/twilio-go/rest/sync/v1"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	client := twilio.NewRestClient()
	params := (&sync.CreateStreamMessageParams{}).SetData(json.RawMessage(os.Args[1]))
	message, err := client.SyncV1.CreateStreamMessage("default", "orders", params)
	if err != nil {
		log.Fatal(err)
	}
	log.Print(*message.Sid)
}
