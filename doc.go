// Package twiliosync publishes messages to [Twilio Sync Message Streams], and
// tells for every call whether the message was published and whether it may be
// sent again.
//
//	client, err := twiliosync.NewClientFromEnv()
//	if err != nil {
//		log.Fatal(err)
//	}
//	message, _, err := client.StreamMessages.Create(ctx, "default", "orders", map[string]any{"id": 1, "state": "paid"})
//
// # Outcomes
//
// Publishing is a POST without an idempotency key: the service cannot tell a
// repeated message from a new one. So every call ends in one [Outcome], and
// only what is proven is claimed:
//
//   - [OutcomeAccepted]: Sync answered that it took the message.
//   - [OutcomeRejected]: Sync answered that it did not take the message.
//   - [OutcomeNotSent]: no complete request left this process.
//   - [OutcomeUnknown]: the request may have reached Sync, and no answer says
//     what became of it. Sending it again may publish it twice.
//
// [OutcomeOf] reads the outcome of an error, [Retryable] says whether the same
// call is safe to repeat, and errors.As with [*Error] gives the details.
//
// # Retries
//
// An attempt is repeated only where it is proven that it was not processed:
// the network failed before the header block was handed to a connection
// (except for a refused certificate or TLS handshake, and a proxy that refuses
// the tunnel for good), status 429, and status 503 with Twilio's code 20503.
// [RetryPolicy].AtLeastOnce adds the unknown outcomes that a repetition can
// settle, at the price of duplicates. The numbers:
//
//   - 3 attempts in all; 1 switches retrying off.
//   - The delay before attempt n+1 is random between 0 and 100 ms · 2ⁿ⁻¹ (1 s ·
//     2ⁿ⁻¹ after a 429), at most 20 s ("full jitter"). A Retry-After above zero
//     replaces it.
//   - A delay longer than 20 s, or one that ends after the context's deadline,
//     is not waited for: the error comes back at once, with RetryAfter filled.
//   - A quota per Client keeps an outage from tripling the load: 500 tokens, a
//     retry takes 14 (5 after a 429 or 503 that rejected the message), a
//     success gives 1 back. A dead server sees at most 35 retries. A retry that
//     the quota refused is told: the error matches [ErrRetryQuota].
//   - A 429 to a message of CreateAll or a Publisher uses up neither an attempt
//     nor the quota: it pauses its stream.
//
// # Many messages
//
// [StreamMessageService.CreateAll] publishes a sequence and yields one result
// for each message; a [Publisher] takes messages from many goroutines and tells
// the outcome of each to a function. Both keep the pace of every stream.
//
// # Limits
//
// Twilio documents 4 KiB of JSON per message, and 30 messages per second and
// stream with a burst window of 10 s. Messages are ephemeral; neither delivery
// nor order is guaranteed, and there is nothing to fetch afterwards.
//
// # Testing
//
// Package twiliosynctest is a fake of the service that throttles, loses answers
// and cuts connections, for the tests of programs that publish.
//
// [Twilio Sync Message Streams]: https://www.twilio.com/docs/sync/api/stream-message-resource
package twiliosync

//go:generate go run ./internal/docgen
