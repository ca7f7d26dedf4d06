// Package twiliosynctest is a fake of Twilio Sync's "create a stream message" call, for testing programs that publish.
// It runs in the test's own process, keeps what was published, and misbehaves on request:
//
//	srv := twiliosynctest.NewServer(t)
//	srv.Next(2).Answer(429, 54009)
//	client := srv.Client()
//	// … run the code under test with client …
//	srv.Messages("orders")
//
// Inside a [testing/synctest] bubble the server uses an in-memory network instead of sockets, so that a test of an hour
// of throttling takes milliseconds. Nothing has to be configured for it: a bubble is recognized by its clock, which
// starts in the year 2000.
//
// # What the server checks
//
// A request is checked in this order, and the first objection is answered in Twilio's error format:
//
//	credentials         401  20003   HTTP Basic, one pair (see WithCredentials)
//	path                404  20404   /v1/Services/{service}/Streams/{stream}/Messages, nothing more or less
//	method              405  20004   POST
//	service and stream  404  20404   all exist unless WithStreams says otherwise
//	form                400  54008   if there is one, it is percent-encoded
//	Data is there       400  20001   in a body of type application/x-www-form-urlencoded
//	Data is JSON        400  54008   and UTF-8
//	Data is an object   400  54251
//	Data is not large   413  54006   at most 4096 bytes of JSON
//	concurrency         429  20429   with WithConcurrencyLimit
//	stream rate         429  54009   with WithStreamRateLimit
//
// A message that passes is recorded and answered with 201, a fresh SID and the bytes of Data as they came.
//
// # Faults
//
// A line of a fault script says which requests ([Server.Next], [Server.For], [Server.Every], narrowed by [Fault.ToStream]
// and [Fault.Matching]) meet what, and takes effect when that last verb is called. A request meets one fault at most, and
// faults come before all checks. Next wins over For, and For over Every, so that a long-running fault can be interrupted
// by a short one; among equals the first line wins. Requests that match no line go through.
//
// # Where Twilio's documentation is silent
//
// These are choices of this package. If your program depends on one, try it against the service.
//
//   - The order of the checks, and the statuses 400, 405 and 413 above: Twilio documents the codes; the statuses follow
//     from the codes' names.
//   - A missing service or stream answers 20404, which is what the sister resources (Documents, Maps) are seen to answer,
//     although the error dictionary also lists 54050, 54250 and 54300.
//   - Every service exists, and streams of one name share their SID and their Messages over all services: a program has
//     one service as a rule. [Message] tells them apart, and the stream rate is counted for each.
//   - Only a name that cannot exist is missing by default: longer than 320 characters, not UTF-8, "." or "..", or in the
//     form of another resource's SID, which reveals swapped arguments.
//   - Each path segment is percent-decoded once, so that a slash or a question mark can be part of a name. Whether the
//     service takes them is unknown; an SDK which does not encode them fails here as it would there.
//   - A body of another content type is reported as missing Data, as Twilio's Chat API does. If Data is given twice, the
//     first counts; Data in the query string does not.
//   - Arrays, strings and numbers are refused like null: Twilio documents an object, and its mobile SDKs decode one.
//   - The 4096 bytes are counted on Data as received after form decoding, spaces included.
//   - "30 messages per second, in a window of ten seconds" is read as 300 messages in any ten seconds. Refused messages
//     do not count, and the answer has no Retry-After, since none has been seen from Sync.
//   - A request beyond the concurrency limit is refused at once: it takes no slot and meets no fault.
//
// A stream's SID is derived from its name, so that it is the same in each run.
package twiliosynctest
