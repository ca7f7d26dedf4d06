package main

import (
	"context"
	"encoding/json"
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

// bulk is CreateAll beside a loop with an errgroup over net/http, over plain
// loopback. CreateAll would pace each stream to 300 messages in 10 s; here its
// limit is out of reach, so that the work is compared and not the waiting.
func bulk(e extent, server *service, r *results.Results) error {
	client, err := twiliosync.NewClient(twiliosync.BasicAuth(username, password),
		twiliosync.WithBaseURL(server.Plain), twiliosync.WithStreamRateLimit(math.MaxInt32, time.Second))
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

func publishByCreateAll(client *twiliosync.Client, streams, messages int, data json.RawMessage) error {
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
func publishByErrgroup(client *http.Client, base string, streams, messages int, data json.RawMessage) error {
	group, ctx := errgroup.WithContext(context.Background())
	group.SetLimit(bulkConcurrency)
	for i := range messages {
		group.Go(func() error {
			return post(ctx, client, messagesURL(base, answersNow, fmt.Sprint("stream-", i%streams)), data)
		})
	}
	return group.Wait()
}
