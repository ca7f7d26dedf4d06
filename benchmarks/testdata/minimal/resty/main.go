// Command resty is the least program that publishes its argument by resty.
package main

import (
	"log"
	"os"

	"github.com/go-resty/resty/v2"
)

func main() {
	if len(os.Args) < 2 {
		return
	}
	client := resty.New().SetBaseURL("https://sync.twilio.com").SetBasicAuth(os.Getenv("TWILIO_API_KEY"), os.Getenv("TWILIO_API_SECRET"))
	res, err := client.R().SetFormData(map[string]string{"Data": os.Args[1]}).Post("/v1/Services/default/Streams/orders/Messages")
	if err != nil {
		log.Fatal(err)
	}
	log.Print(res.Status())
}
