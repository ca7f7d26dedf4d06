// Command nethttp is the least program that publishes its argument by net/http
// alone, and prints the SID of the message, as the others do.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"net/url"
	"os"
	"strings"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	form := url.Values{"Data": {os.Args[1]}}
	req, err := http.NewRequest(http.MethodPost, "https://sync.twilio.com/v1/Services/default/Streams/orders/Messages", strings.NewReader(form.Encode()))
	if err != nil {
		log.Fatal(err)
	}
	req.SetBasicAuth(os.Getenv("TWILIO_API_KEY"), os.Getenv("TWILIO_API_SECRET"))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	var message struct {
		SID string `json:"sid"`
	}
	if err := json.NewDecoder(res.Body).Decode(&message); err != nil {
		log.Fatal(err)
	}
	log.Print(message.SID)
}
