package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/twiliosync/twiliosync-go"
	"github.com/twiliosync/twiliosync-go/benchmarks/results"
)

const bulkConcurrency = 64

// inProcess is what publishes many messages without a network: CreateAll that
// encodes maps, a Publisher beside Create, and what a stream leaves behind.
func inProcess(e extent, _ *service, r *results.Results) error {
	for _, measure := range []func(extent, *results.Results) error{encoding, publisherBesideCreate, memoryOfStreams} {
		if err := measure(e, r); err != nil {
			return err
		}
	}
	return nil
}

func inMemoryClient(answer []byte, opts ...twiliosync.Option) (*twiliosync.Client, error) {
	opts = append(opts, twiliosync.WithBaseURL("http://127.0.0.1"), twiliosync.WithHTTPClient(&http.Client{Transport: inMemory{answer}}))
	return twiliosync.NewClient(twiliosync.BasicAuth(username, password), opts...)
}

// unpaced puts the limit out of reach, so that the work is compared and not
// the waiting.
func unpaced() twiliosync.Option {
	return twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second)
}

// encoding publishes maps of 4 KiB, whose encoding takes most of the time.
func encoding(e extent, r *results.Results) error {
	text := payload(4096)
	var data map[string]any
	if err := json.Unmarshal(text, &data); err != nil {
		return err
	}
	client, err := inMemoryClient(echo(string(text)), unpaced())
	if err != nil {
		return err
	}
	own := &http.Client{Timeout: 10 * time.Second, Transport: inMemory{echo(string(text))}}
	messages := e.bulkMessages / 2
	for round := range e.bulkRounds + 1 {
		for _, way := range []struct {
			name    string
			publish func() error
		}{
			{results.Errgroup, func() error { return publishByErrgroup(own, "http://127.0.0.1", 100, messages, data) }},
			{results.CreateAll, func() error { return publishByCreateAll(client, 100, messages, data) }},
		} {
			runtime.GC()
			before := used()
			if err := way.publish(); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			if round > 0 {
				add(r, "encoding", way.name, before.perMessage(messages))
			}
		}
	}
	return nil
}

// publisherBesideCreate is one goroutine that publishes.
func publisherBesideCreate(e extent, r *results.Results) error {
	data := payload(200)
	client, err := inMemoryClient(echo(string(data)), unpaced())
	if err != nil {
		return err
	}
	var failed error
	publisher, err := client.StreamMessages.NewPublisher(answersNow, func(result twiliosync.StreamMessageResult) {
		if result.Err != nil {
			failed = result.Err
		}
	}, nil)
	if err != nil {
		return err
	}
	ctx := context.Background()
	for round := range e.bulkRounds + 1 {
		runtime.GC()
		before := used()
		for range e.bulkMessages {
			if _, _, err := client.StreamMessages.Create(ctx, answersNow, streamSID, data); err != nil {
				return err
			}
		}
		if round > 0 {
			add(r, "publisher", results.Create, before.perMessage(e.bulkMessages))
		}
		runtime.GC()
		before = used()
		for range e.bulkMessages {
			if err := publisher.Publish(ctx, twiliosync.StreamMessageRequest{StreamSID: streamSID, Data: data}); err != nil {
				return err
			}
		}
		if err := publisher.Flush(ctx); err != nil {
			return err
		}
		if round > 0 {
			add(r, "publisher", results.Publisher, before.perMessage(e.bulkMessages))
		}
	}
	return errors.Join(publisher.Close(ctx), failed)
}

// memoryOfStreams is what the pace keeps of a stream that has had all its
// messages of a window.
func memoryOfStreams(e extent, r *results.Results) error {
	const limit, window = 300, time.Hour
	streams := e.bulkMessages / 100
	data := json.RawMessage("{}")
	client, err := inMemoryClient(echo("{}"), twiliosync.WithStreamRateLimit(limit, window))
	if err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := publishByCreateAll(client, streams, streams*limit, data); err != nil {
		return err
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	r.Add("streams", results.SDK, "bytes", float64(after.HeapAlloc-before.HeapAlloc)/float64(streams))
	runtime.KeepAlive(client)
	return nil
}

// bulk is CreateAll beside a loop with an errgroup over net/http, over plain
// loopback.
func bulk(e extent, server *service, r *results.Results) error {
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(username, password),
		twiliosync.WithBaseURL(server.Plain), unpaced())
	if err != nil {
		return err
	}
	own := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: bulkConcurrency}}
	defer client.CloseIdleConnections()
	defer own.CloseIdleConnections()
	data := payload(200)
	for round := range e.bulkRounds + 1 {
		for _, streams := range []int{1, 100, 10_000} {
			for _, way := range []struct {
				name    string
				publish func() error
			}{
				{results.Errgroup, func() error { return publishByErrgroup(own, server.Plain, streams, e.bulkMessages, data) }},
				{results.CreateAll, func() error { return publishByCreateAll(client, streams, e.bulkMessages, data) }},
			} {
				runtime.GC()
				before := used()
				if err := way.publish(); err != nil {
					return fmt.Errorf("%s: %w", way.name, err)
				}
				if round > 0 {
					add(r, fmt.Sprintf("bulk/%d", streams), way.name, before.perMessage(e.bulkMessages))
				}
			}
		}
	}
	return nil
}

func publishByCreateAll(client *twiliosync.Client, streams, messages int, data any) error {
	requests := func(yield func(twiliosync.StreamMessageRequest) bool) {
		for i := range messages {
			if !yield(twiliosync.StreamMessageRequest{StreamSID: fmt.Sprint("stream-", i%streams), Data: data}) {
				return
			}
		}
	}
	options := &twiliosync.CreateAllOptions{Concurrency: bulkConcurrency}
	for result := range client.StreamMessages.CreateAll(context.Background(), answersNow, requests, options) {
		if result.Err != nil {
			return result.Err
		}
	}
	return nil
}

// publishByErrgroup is the loop that CreateAll replaces, without the pace, the
// retries, and the outcomes.
func publishByErrgroup(client *http.Client, base string, streams, messages int, data any) error {
	group, ctx := errgroup.WithContext(context.Background())
	group.SetLimit(bulkConcurrency)
	for i := range messages {
		group.Go(func() error {
			text, err := json.Marshal(data)
			if err != nil {
				return err
			}
			return post(ctx, client, messagesURL(base, answersNow, fmt.Sprint("stream-", i%streams)), text)
		})
	}
	return group.Wait()
}
