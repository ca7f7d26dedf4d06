package emulator

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/twiliosync/twiliosync-go/twiliosynctest"
)

// Option configures an [Emulator].
type Option func(*settings)

type settings struct {
	rateMessages int
	rateWindow   time.Duration
	strict       bool
	retention    int
	logger       *slog.Logger
}

func defaultSettings() settings {
	return settings{
		rateMessages: 300, // Twilio documents 30/s and a window of ten seconds
		rateWindow:   10 * time.Second,
		retention:    1_000,
		logger:       slog.New(slog.DiscardHandler),
	}
}

// WithStreamRateLimit refuses a stream's messages beyond this number in any window of this length, with 429 and code
// 54009. The default is what Twilio documents, 30 messages per second in a window of ten seconds:
// WithStreamRateLimit(300, 10*time.Second). 0 messages stand for no limit. It panics if the values make no sense.
func WithStreamRateLimit(messages int, window time.Duration) Option {
	if messages < 0 || messages > 0 && window <= 0 {
		panic(fmt.Sprintf("emulator: WithStreamRateLimit(%d, %v): both values must be positive, or the number 0 for no limit", messages, window))
	}
	return func(s *settings) { s.rateMessages, s.rateWindow = messages, window }
}

// WithStrictStreams answers requests about a stream that doesn't exist with 404, as Twilio does. By default publishing to
// a stream creates it, and so does opening it in a browser.
func WithStrictStreams() Option { return func(s *settings) { s.strict = true } }

// WithRetention keeps the newest messages of each stream, up to this number, and as many requests, so that the emulator
// can run for days. The default is 1,000. It panics if messages is not positive.
func WithRetention(messages int) Option {
	if messages <= 0 {
		panic(fmt.Sprintf("emulator: WithRetention(%d): the value must be positive", messages))
	}
	return func(s *settings) { s.retention = messages }
}

// WithLogger logs each message and each subscriber that comes or goes at level Info, and each refused request at level
// Warn, with its reason. It panics if logger is nil.
func WithLogger(logger *slog.Logger) Option {
	if logger == nil {
		panic("emulator: WithLogger: the logger must not be nil")
	}
	return func(s *settings) { s.logger = logger }
}

// newFake returns the service that the settings describe.
func (s settings) newFake(onMessage func(twiliosynctest.Message), onRequest func(twiliosynctest.Request)) *twiliosynctest.Server {
	opts := []twiliosynctest.Option{
		twiliosynctest.WithStreamRateLimit(s.rateMessages, s.rateWindow),
		twiliosynctest.WithRetention(s.retention),
		twiliosynctest.OnMessage(onMessage),
		twiliosynctest.OnRequest(onRequest),
	}
	if s.strict {
		opts = append(opts, twiliosynctest.WithStreams())
	}
	return twiliosynctest.New(opts...)
}
