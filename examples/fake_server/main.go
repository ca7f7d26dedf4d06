// Command fake_server serves a fake of Twilio Sync to programs in any language, and prints each message they publish:
//
//	go run ./examples/fake_server -addr 127.0.0.1:8080
//
// It takes the credentials it prints, every service and every stream. It stops on interrupt.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

func main() {
	log.SetFlags(0)
	addr := flag.String("addr", "127.0.0.1:8080", "loopback `address` to listen on")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, addr string, out io.Writer) error {
	if !isLoopback(addr) {
		return fmt.Errorf("the fake server takes credentials that everybody knows, so it doesn't listen on %q but only on a loopback address such as 127.0.0.1:8080", addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	lines := log.New(out, "", 0) // one line at a time, also of messages that arrive together
	fake := twiliosynctest.New(twiliosynctest.OnMessage(func(m twiliosynctest.Message) { lines.Print(describe(m)) }))
	lines.Print(greeting(fake, listener.Addr()))

	server := &http.Server{Handler: fake}
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

func greeting(fake *twiliosynctest.Server, addr net.Addr) string {
	username, password := fake.Credentials()
	return fmt.Sprintf(`Twilio Sync, a fake, on http://%[1]s with user name %[2]s and password %[3]s. Try:

curl -u %[2]s:%[3]s --data-urlencode 'Data={"hello":"world"}' http://%[1]s/v1/Services/default/Streams/orders/Messages
`, addr, username, password)
}

// describe returns a message on one line.
func describe(m twiliosynctest.Message) string {
	var data bytes.Buffer
	_ = json.Compact(&data, m.Data) // the fake accepts valid JSON only
	return fmt.Sprintf("%s %s %q %s", m.Time.Format(time.TimeOnly), m.SID, m.Stream, data.Bytes())
}
