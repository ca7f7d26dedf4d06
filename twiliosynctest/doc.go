// Package twiliosynctest is a fake of Twilio Sync's streams and their messages, for testing programs that publish. It runs
// in the test's own process, keeps what was published, and misbehaves on request:
//
//	srv := twiliosynctest.NewServer(t)
//	srv.Next(2).Answer(429, 54009)
//	client := srv.Client()
//	// … run the code under test with client …
//	srv.Messages("orders")
//
// Inside a [testing/synctest] bubble the server uses an in-memory network instead of sockets, so that a test of an hour
// of throttling takes milliseconds. Nothing has to be configured for it: a bubble is recognized by its clock, which
// starts in the year 2000. Make the server and its clients in the bubble that uses them: a bubble can't wait for the world
// outside. [Server.Client] and the clients it makes say so where they find out; a client that you make yourself is refused
// at once by the URL that the server has in a bubble.
//
// # What the server checks
//
// It serves the operations CreateStreamMessage, CreateSyncStream, FetchSyncStream, UpdateSyncStream, DeleteSyncStream and
// ListSyncStream, by the names of Twilio's OpenAPI description. A request is checked in this order, and the first objection
// is answered in Twilio's error format:
//
//	credentials         401  20003   HTTP Basic, one pair (see WithCredentials)
//	concurrency         429  20429   with WithConcurrencyLimit
//	path                404  20404   /v1/Services/{service}/Streams, …/{stream} and …/{stream}/Messages, nothing more or less
//	method              405  20004   one of an operation's with this path
//	service and stream  404  20404   services exist; streams, see below
//	form                400          if there is one, it is percent-encoded: 54008 for a message, 20001 for a stream
//
// A message goes on with
//
//	Data is there       400  20001   in a body of type application/x-www-form-urlencoded
//	Data is JSON        400  54008   and UTF-8
//	Data is an object   400  54251
//	Data is not large   413  54006   at most 4096 bytes of JSON
//	stream rate         429  54009   with WithStreamRateLimit
//
// and is recorded and answered with 201, a fresh SID and the bytes of Data as they came. The other operations go on with
//
//	Ttl                 400  54011   to create and update: whole seconds, 0 to 31,536,000; 0, empty or none: never expires
//	Ttl is there        400  54010   to update
//	UniqueName          400  54302   to create: 1 to 320 characters, not in the form of a SID
//	it is free          409  54301   to create
//	PageSize            400  54454   to list: 1 to 100; 50 if there is none
//	Page, PageToken     400  54453   to list: a number from 0, and a token that came in a URL of a page
//
// and are answered with 201, 200 or, for a deleted stream, 204.
//
// # Which streams exist
//
// As a rule a stream exists in a service as soon as a message is published to it, as if somebody had created it, so that a
// test has nothing to prepare; and it can be created, too. [WithStreams] makes the server strict, as Twilio is: only the
// given streams exist, in each service, and those created. Either way a stream is gone when it is deleted or its time is
// over, by the clock of the bubble in a bubble, and its name can be created again. Its messages stay.
//
// # Faults
//
// A line of a fault script says which requests ([Server.Next], [Server.For], [Server.Every], narrowed by [Fault.ToStream],
// [Fault.ToOperation] and [Fault.Matching]) meet what, and takes effect when that last verb is called. A request meets one
// fault at most, and faults come before all checks. Next wins over For, and For over Every, so that a long-running fault
// can be interrupted by a short one; among equals the first line wins. Requests that match no line go through.
//
// A fault that no request met fails the test of [NewServer] at its end, also if [Server.Recover] or the time removed it: it
// was scripted to show something, and showed nothing. A fault that was met less often than it could have been is all right.
// [Fault.Optional] allows that a fault is never met.
//
// # Where Twilio's documentation is silent
//
// These are choices of this package. If your program depends on one, try it against the service.
//
//   - The order of the checks, and the statuses 400, 405 and 413 above: Twilio documents the codes; the statuses follow
//     from the codes' names.
//   - A missing service or stream answers 20404, which is what the sister resources (Documents, Maps) are seen to answer,
//     although the error dictionary also lists 54050, 54250 and 54300.
//   - Every service exists. Streams of one name share their SID and their Messages over all services: a program has one
//     service as a rule. [Message] tells them apart; the streams themselves, their rates and their lives are each service's
//     own. "default" is a service of its own, not another name of one with a SID.
//   - Only a name that cannot exist is missing by default: longer than 320 characters, not UTF-8, "." or "..", or in the
//     form of another resource's SID, which reveals swapped arguments. None of these can be created, either.
//   - Each path segment is percent-decoded once, so that a slash or a question mark can be part of a name. Whether the
//     service takes them is unknown; an SDK which does not encode them fails here as it would there.
//   - A body of another content type is reported as missing Data, as Twilio's Chat API does. If a field is given twice, the
//     first counts; Data in the query string does not. Fields are separated by "&" alone: a semicolon is data.
//   - Arrays, strings and numbers are refused like null: Twilio documents an object, and its mobile SDKs decode one.
//   - The 4096 bytes are counted on Data as received after form decoding, spaces included.
//   - "30 messages per second, in a window of ten seconds" is read as 300 messages in any ten seconds. Refused messages
//     do not count, and the answer has no Retry-After, since none has been seen from Sync.
//   - A request beyond the concurrency limit is refused at once: it takes no slot and meets no fault.
//   - A stream is gone in the moment its time is over, while Twilio deletes it some time later. Publishing doesn't renew its
//     life; an update does, counting from then. An update without Ttl is refused.
//   - A stream that is created again under its name has its SID again, since a stream's SID is derived from its name, so
//     that it is the same in each run. Streams without a name have fresh ones. The service's SID is derived from its name
//     likewise.
//   - Pages are in order of creation. A PageToken says after or before which stream the page lies, so that nothing is
//     skipped or repeated when streams come and go; Page alone only comes back, as "client state" does. There is a next
//     page exactly if there are more streams. URLs lead to the host that the request named.
//   - created_by is "system", as for all that is made by REST. An account_sid is the user name of the credentials if that
//     is one. The limit of 20 created streams per second is not enforced.
package twiliosynctest
