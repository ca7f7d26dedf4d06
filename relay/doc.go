// Package relay publishes messages to Twilio Sync Message Streams from many
// processes, through a log in NATS JetStream that none of them can lose.
//
// A [Publisher] writes a message to the log. Any number of workers [Run], share
// the log's partitions among them, and publish what is in it. The outcome of
// each call decides what becomes of the message in the log:
//
//	accepted                                acknowledged
//	rejected or not sent, and retryable     kept in its place, and tried again
//	rejected or not sent, and final         moved to the dead letters
//	unknown                                 tried again and marked, or moved to the dead letters
//
// Delivery is at-least-once: a message is published more than once only if
// nobody can know whether it was, and then its later copies say so in a field.
// Of one stream, messages are published in the order of the log.
//
// docs/relay.md in the repository says when to use it, and how to run it.
package relay
