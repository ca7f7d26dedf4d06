package twiliosync_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/twiliosync/twiliosync-go"
)

func TestATryOfAWrapperThatMayHaveArrivedIsNotForgottenForALaterOne(t *testing.T) {
	arrived := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived++
		panic(http.ErrAbortHandler) // the answer is lost
	}))
	defer server.Close()
	retrying := func(own http.RoundTripper) http.RoundTripper {
		return roundTripFunc(func(req *http.Request) (*http.Response, error) {
			again := req.Clone(req.Context())
			again.Body, _ = req.GetBody()
			if res, err := own.RoundTrip(req); err == nil {
				return res, nil
			}
			server.Close() // nobody listens to the second
			return own.RoundTrip(again)
		})
	}
	client := clientFor(t, server.URL, append(hurried(), twiliosync.WithTransportWrapper(retrying))...)
	_, _, err := publish(client)
	assert.Equal(t, 1, arrived)
	assertProof(t, unknownAndNotResent, err)
}
