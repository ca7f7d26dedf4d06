// Package conformance validates what goes over the wire against Twilio's
// OpenAPI description of Sync: every request of the SDK, and every answer of
// the fake service in twiliosynctest, to the SDK and to curl.
//
// It is a module of its own, so that users of the SDK never see the validator
// among their dependencies, and has nothing but tests:
//
//	go test -v ./...
//
// With -v each test reports how many requests and answers it validated. The
// tests skip where the description is absent; the environment variable
// TWILIO_SYNC_SPEC says where it is.
package conformance
