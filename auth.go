package twiliosync

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// Authenticator puts credentials on a request. It is asked on every attempt,
// so that a rotated secret or a refreshed bearer token is used from the next
// attempt on. It must be safe for concurrent use and obey ctx, which ends with
// the attempt.
//
// An error means that nothing is sent: the call ends with [OutcomeNotSent] and
// an [*Error] with its text, which errors.Is matches with the same error value. It
// is not asked again for this call, and [Retryable] is false, so an
// Authenticator that fetches tokens retries by itself. The request is its own:
// it may keep and change it, but only the header it leaves is taken over, and
// Idempotency-Key and X-Idempotency-Key are refused, because net/http would
// take them as leave to send the message again by itself.
type Authenticator interface {
	Authenticate(ctx context.Context, req *http.Request) error
}

// basicAuth keeps the credentials inside a closure: whatever fmt, slog or
// encoding/json print of a value that holds it, they can't look into a func.
type basicAuth struct {
	apply  func(http.Header)
	reason string // why the credentials can't be used; empty if they can
}

// BasicAuth returns an [Authenticator] for HTTP Basic authentication. It takes
// an API key SID (SK…) and its secret, which Twilio recommends for production,
// or the account SID (AC…) and its auth token. Empty values, a user name with
// a colon, values in the wrong order, leading or trailing space and invisible
// characters, and control characters are reported by [NewClient].
//
// Source: https://www.twilio.com/docs/usage/requests-to-twilio
func BasicAuth(username, password string) Authenticator {
	header := []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(username+":"+password))}
	auth := &basicAuth{apply: func(h http.Header) { h["Authorization"] = header }}
	switch {
	case username == "":
		auth.reason = "the user name is empty; pass an account SID (AC…) or an API key SID (SK…)"
	case password == "":
		auth.reason = "the password is empty; pass the auth token or the API key's secret"
	case strings.Contains(username, ":"):
		auth.reason = "the user name contains a colon; pass the SID alone and the secret as the password"
	case isCredentialSID(password) && !isCredentialSID(username):
		auth.reason = "the password is a SID and the user name is not; swap them"
	}
	for _, value := range []struct{ name, text string }{{"user name", username}, {"password", password}} {
		if fault := edgeFault(value.text); fault != "" && auth.reason == "" {
			auth.reason = "the " + value.name + " " + fault + "; was it read with its line break, or copied from a page?"
		}
	}
	return auth
}

func isCredentialSID(s string) bool { return isSID(s, "AC") || isSID(s, "SK") }

// Authenticate sets the Authorization header.
func (a *basicAuth) Authenticate(_ context.Context, req *http.Request) error {
	if a.reason != "" {
		return errors.New(a.reason)
	}
	a.apply(req.Header)
	return nil
}

// BasicAuthFromEnv returns [BasicAuth] with TWILIO_API_KEY and
// TWILIO_API_SECRET, or, if both are unset or empty, with TWILIO_ACCOUNT_SID
// and TWILIO_AUTH_TOKEN. Half a pair is an error that names what is missing.
func BasicAuthFromEnv() (Authenticator, error) {
	for _, pair := range [][2]string{
		{"TWILIO_API_KEY", "TWILIO_API_SECRET"},
		{"TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"},
	} {
		username, password := os.Getenv(pair[0]), os.Getenv(pair[1])
		switch {
		case username == "" && password == "":
			continue
		case pair[0] == "TWILIO_ACCOUNT_SID" && password == "":
			return nil, errors.New("twiliosync: TWILIO_ACCOUNT_SID is set but has no secret; set TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and TWILIO_API_SECRET")
		case username == "":
			return nil, fmt.Errorf("twiliosync: %s is set but %s is not; set both", pair[1], pair[0])
		case password == "":
			return nil, fmt.Errorf("twiliosync: %s is set but %s is not; set both", pair[0], pair[1])
		}
		auth := BasicAuth(username, password).(*basicAuth)
		if auth.reason != "" {
			return nil, fmt.Errorf("twiliosync: %s and %s: %s", pair[0], pair[1], auth.reason)
		}
		return auth, nil
	}
	return nil, errors.New("twiliosync: no credentials in the environment; set TWILIO_API_KEY and TWILIO_API_SECRET, or TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN")
}
