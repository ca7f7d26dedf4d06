// Package emulator is Twilio Sync's Message Streams on your machine: the REST operations of messages and streams, the
// websocket of the official browser SDK, a page that shows what arrives, and faults by request from any language.
//
//	e := emulator.New()
//	defer e.Close()
//	http.ListenAndServe("127.0.0.1:8080", e)
//
// The command "twiliosync emulator" (go run ./cmd/twiliosync emulator) does that and prints how to connect:
//
//	/v1/Services/{service}/Streams…       REST, by package twiliosynctest, with its rules, limits and faults
//	/v3/wsconnect                         the websocket of the npm package twilio-sync
//	/                                     the live page
//	/_emulator/health                     200, without credentials
//	/_emulator/messages, requests,
//	           streams, subscribers       GET: JSON of what arrived and what is there, with the reason of each refusal
//	/_emulator/events                     GET: server-sent events of what happens
//	/_emulator/faults                     GET, POST, DELETE: the fault script
//	/_emulator/subscribers/disconnect,
//	                       expire         POST: cuts websockets, lets tokens expire
//	/_emulator/reset                      POST: forgets messages, streams, requests and faults
//
// docs/emulator.md in the repository describes each with examples, and lists what differs from Twilio.
//
// The credentials are known to everybody, so serve it on loopback addresses only. Requests that a web page of another
// origin makes, or one that has made its own name lead to this machine, are refused. The websocket is open to pages that
// are served on this machine.
//
// What it keeps is bounded: messages per stream and requests by [WithRetention], bodies and frames by 1 MiB, what waits
// for a slow subscriber by 4,096 frames or ten seconds, after which it is disconnected. A slow subscriber never slows a
// publisher.
package emulator
