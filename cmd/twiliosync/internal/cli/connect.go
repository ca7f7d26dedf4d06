package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

const emulatorAddress = "127.0.0.1:8080"

// serviceFlag adds the flag that names the Sync service.
func serviceFlag(c *cobra.Command, service *string) {
	c.Flags().StringVarP(service, "service", "s", "default", "SID or unique name of the Sync `service`")
}

// connect returns a client for Twilio, or for the emulator.
func (a *app) connect(opts ...twiliosync.Option) (*twiliosync.Client, error) {
	if a.emulator {
		username, password := twiliosynctest.New().Credentials()
		return twiliosync.NewClient(twiliosync.BasicAuth(username, password), append(opts, twiliosync.WithBaseURL("http://"+emulatorAddress))...)
	}
	if !isSet(credentials) {
		return nil, wrongUsage("no TWILIO_* credentials are set; set TWILIO_API_KEY and TWILIO_API_SECRET, or TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or use --emulator")
	}
	client, err := twiliosync.NewClientFromEnv(opts...)
	if err != nil {
		return nil, &usageError{err}
	}
	return client, nil
}

// usesFake tells whether connectOrFake goes to the fake.
func (a *app) usesFake() bool { return !a.emulator && !isSet(credentials) && !isSet(address) }

// connectOrFake is connect, but without any credentials it returns a client for
// a fake in this process. The function ends that.
func (a *app) connectOrFake(opts ...twiliosync.Option) (*twiliosync.Client, func(), error) {
	if !a.usesFake() {
		client, err := a.connect(opts...)
		return client, func() {}, err
	}
	fmt.Fprintln(a.Err, "No TWILIO_* credentials are set: publishing to the built-in fake service, nothing leaves this machine.")
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	fake := twiliosynctest.New(twiliosynctest.WithStreamRateLimit(300, 10*time.Second), twiliosynctest.WithRetention(1))
	fake.URL = "http://" + listener.Addr().String()
	server := &http.Server{Handler: fake, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return fake.Client(opts...), func() { _ = server.Close() }, nil
}

// What the SDK takes from the environment.
var (
	credentials = []string{"TWILIO_API_KEY", "TWILIO_API_SECRET", "TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"}
	address     = []string{"TWILIO_REGION", "TWILIO_EDGE", "TWILIO_SYNC_BASE_URL"}
)

func isSet(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return os.Getenv(name) != "" })
}
