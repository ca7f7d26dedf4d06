package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// State is that of a relay at a moment.
type State struct {
	// Pending are messages in the log that no worker has taken yet.
	Pending uint64 `json:"pending"`
	// InFlight are messages that workers have taken and not settled.
	InFlight uint64 `json:"in_flight"`
	// DeadLetters is how many there are.
	DeadLetters uint64 `json:"dead_letters"`
	// Oldest is when the oldest message came into the log; zero if it is empty.
	Oldest time.Time `json:"oldest,omitzero"`
	// Partitions are all of them, in order.
	Partitions []PartitionState `json:"partitions"`
	// Workers are those that live, by ID.
	Workers []WorkerState `json:"workers"`
}

// PartitionState is that of one partition.
type PartitionState struct {
	// Partition is its number, from 0.
	Partition int `json:"partition"`
	// Worker is the ID of who holds it; empty: nobody.
	Worker string `json:"worker"`
	// Pending and InFlight are as in [State].
	Pending  uint64 `json:"pending"`
	InFlight uint64 `json:"in_flight"`
}

// WorkerState is that of one worker.
type WorkerState struct {
	// ID is new for each Run.
	ID string `json:"id"`
	// Partitions are those that it holds.
	Partitions []int `json:"partitions"`
	// Beat is when it last said that it lives.
	Beat time.Time `json:"beat"`
}

// Status returns the state of the relay.
func Status(ctx context.Context, js jetstream.JetStream, cfg Config) (State, error) {
	var state State
	cfg, err := cfg.withDefaults()
	if err != nil {
		return state, err
	}
	log, err := cfg.open(ctx, js)
	if err != nil {
		return state, err
	}
	dead, err := cfg.deadLetters(ctx, js)
	if err != nil {
		return state, err
	}
	if log.CachedInfo().State.Msgs > 0 {
		state.Oldest = log.CachedInfo().State.FirstTime
	}
	state.DeadLetters = dead.CachedInfo().State.Msgs
	if state.Workers, err = cfg.living(ctx, js); err != nil {
		return state, err
	}
	state.Partitions = make([]PartitionState, cfg.Partitions)
	for n := range state.Partitions {
		consumer, err := log.Consumer(ctx, cfg.consumer(n))
		if err != nil {
			return state, fmt.Errorf("relay: looking at partition %d: %w", n, err)
		}
		info := consumer.CachedInfo()
		inFlight := uint64(max(0, info.NumAckPending)) //nolint:gosec // it is not negative
		state.Partitions[n] = PartitionState{Partition: n, Pending: info.NumPending, InFlight: inFlight}
		state.Pending += info.NumPending
		state.InFlight += inFlight
	}
	for _, worker := range state.Workers {
		for _, n := range worker.Partitions {
			if n < len(state.Partitions) {
				state.Partitions[n].Worker = worker.ID
			}
		}
	}
	return state, nil
}

func (c Config) living(ctx context.Context, js jetstream.JetStream) ([]WorkerState, error) {
	beats, err := js.KeyValue(ctx, c.workers())
	if err != nil {
		return nil, fmt.Errorf("relay: there is no membership %s; call Setup first: %w", c.workers(), err)
	}
	ids, err := beats.Keys(ctx)
	if err != nil && !errors.Is(err, jetstream.ErrNoKeysFound) {
		return nil, fmt.Errorf("relay: looking at the workers: %w", err)
	}
	slices.Sort(ids)
	var workers []WorkerState
	for _, id := range ids {
		entry, err := beats.Get(ctx, id)
		if err != nil {
			continue // it has just left
		}
		var info beatInfo
		if json.Unmarshal(entry.Value(), &info) == nil {
			workers = append(workers, WorkerState{ID: id, Partitions: info.Partitions, Beat: entry.Created()})
		}
	}
	return workers, nil
}
