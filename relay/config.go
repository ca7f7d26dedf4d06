package relay

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config names what the relay has in JetStream. Zero fields take the defaults.
// All publishers and workers of a relay must have the same.
type Config struct {
	// Name is that of the log, and the beginning of all other names: letters, digits, - and _. Default "TWILIOSYNC".
	Name string
	// Partitions are what workers share, 1 to 1,024; more workers than partitions are of no use. It is fixed once the
	// relay has been set up. Default 64.
	Partitions int
	// Replicas is how many servers of a cluster keep each message, 1 to 5. Default 1.
	Replicas int
	// MaxAge is how long a message stays in the log at most. Zero: until it is settled.
	MaxAge time.Duration
	// MaxBytes bounds the log. When it is full, Publish returns an error. Zero: no bound but the server's.
	MaxBytes int64
}

const (
	defaultName       = "TWILIOSYNC"
	defaultPartitions = 64
	maxPartitions     = 1024

	// memberTTL is how long a worker counts as living after its last beat.
	memberTTL = 2 * time.Second

	// ackWait is how long the server waits for a sign of life of a message before it delivers it again.
	ackWait = 2500 * time.Millisecond

	// pinTTL is how long a worker that asks for nothing keeps a partition.
	pinTTL = 2200 * time.Millisecond

	// maxHeld is how many messages of a partition a worker has taken from the log. Most of them without their data, so
	// that a stream with many waiting messages doesn't hide the others of its partition.
	maxHeld = 16384

	// maxLogged is the longest message of the log, with its headers: what another program writes can't be too long for a
	// dead letter.
	maxLogged = 16 << 10

	// deduplication is how long the log knows the IDs of messages.
	deduplication = 2 * time.Minute

	group              = "relay"
	partitionsMetadata = "twiliosync-partitions"
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9_-]{1,100}$`)

func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = defaultName
	}
	if c.Partitions == 0 {
		c.Partitions = defaultPartitions
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	switch {
	case !nameRule.MatchString(c.Name):
		return c, errors.New("relay: the Name has other characters than letters, digits, - and _, or more than 100")
	case c.Partitions < 1 || c.Partitions > maxPartitions:
		return c, fmt.Errorf("relay: there are 1 to %d Partitions", maxPartitions)
	case c.Replicas < 1 || c.Replicas > 5:
		return c, errors.New("relay: there are 1 to 5 Replicas")
	case c.MaxAge < 0 || c.MaxBytes < 0:
		return c, errors.New("relay: MaxAge and MaxBytes are not negative; use 0 for no bound")
	}
	return c, nil
}

func (c Config) dead() string           { return c.Name + "_DEAD" }
func (c Config) deadSubject() string    { return c.Name + ".dead" }
func (c Config) workers() string        { return c.Name + "_WORKERS" }
func (c Config) incoming() string       { return c.Name + ".in." }
func (c Config) consumer(n int) string  { return "partition-" + strconv.Itoa(n) }
func (c Config) partition(n int) string { return fmt.Sprintf("%s.p.%d.", c.Name, n) }

// explained names a missing permission where a call was not answered: NATS
// tells of it only on the side.
func explained(js jetstream.JetStream, err error) error {
	if last := js.Conn().LastError(); errors.Is(last, nats.ErrPermissionViolation) && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout)) {
		return fmt.Errorf("this NATS user lacks a permission: %w", last)
	}
	return err
}

// Setup makes the log, its partitions, the dead letters and the membership of
// workers in JetStream, or brings those that exist up to date. It may be called
// by every process that starts. What cannot be changed is refused.
func Setup(ctx context.Context, js jetstream.JetStream, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if _, err := cfg.open(ctx, js); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	window := deduplication
	if cfg.MaxAge > 0 {
		window = min(window, cfg.MaxAge)
	}
	maxBytes := cfg.MaxBytes
	if maxBytes == 0 {
		maxBytes = -1
	}
	for _, stream := range []jetstream.StreamConfig{{
		Name: cfg.Name, Description: "messages for Twilio Sync", Subjects: []string{cfg.incoming() + "*.*"},
		SubjectTransform: &jetstream.SubjectTransformConfig{
			Source:      cfg.incoming() + "*.*",
			Destination: fmt.Sprintf("%s.p.{{partition(%d,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}", cfg.Name, cfg.Partitions),
		},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, MaxAge: cfg.MaxAge, MaxBytes: maxBytes,
		Replicas: cfg.Replicas, Duplicates: window, AllowDirect: true, MaxMsgSize: maxLogged,
		Metadata: map[string]string{partitionsMetadata: strconv.Itoa(cfg.Partitions)},
	}, {
		Name: cfg.dead(), Description: "messages that Twilio Sync did not get", Subjects: []string{cfg.deadSubject()},
		Replicas: cfg.Replicas, Duplicates: deduplication, AllowDirect: true,
	}} {
		if _, err := js.CreateOrUpdateStream(ctx, stream); err != nil {
			return fmt.Errorf("relay: setting up the stream %s: %w", stream.Name, explained(js, err))
		}
	}
	for n := range cfg.Partitions {
		consumer := jetstream.ConsumerConfig{
			Durable: cfg.consumer(n), FilterSubject: cfg.partition(n) + ">",
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: 2 * maxHeld,
			PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{group}, PinnedTTL: pinTTL,
		}
		if _, err := js.CreateOrUpdateConsumer(ctx, cfg.Name, consumer); err != nil {
			return fmt.Errorf("relay: setting up partition %d: %w", n, explained(js, err))
		}
	}
	if _, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: cfg.workers(), TTL: memberTTL, Replicas: cfg.Replicas}); err != nil {
		return fmt.Errorf("relay: setting up the membership of workers: %w", explained(js, err))
	}
	_, err = cfg.open(ctx, js) // somebody else may have set it up at the same time, and otherwise
	return err
}

// open returns the log, if it is one of this configuration.
func (c Config) open(ctx context.Context, js jetstream.JetStream) (jetstream.Stream, error) {
	log, err := js.Stream(ctx, c.Name)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("relay: there is no log %s; call Setup first: %w", c.Name, err)
	case err != nil:
		return nil, fmt.Errorf("relay: looking for the log %s: %w", c.Name, explained(js, err))
	}
	if has := log.CachedInfo().Config.Metadata[partitionsMetadata]; has == "" {
		return nil, fmt.Errorf("relay: the stream %s was not made by Setup; use another Name", c.Name)
	} else if has != strconv.Itoa(c.Partitions) {
		return nil, fmt.Errorf("relay: the log %s has %s partitions, which is fixed, and not %d; use that number, or another Name", c.Name, has, c.Partitions)
	}
	return log, nil
}
