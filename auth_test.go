package twiliosync_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

func TestBasicAuthFromEnv(t *testing.T) {
	for _, test := range []struct {
		name               string
		env                map[string]string
		username, password string
		says               string
	}{
		{name: "an API key", env: map[string]string{"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "secret"}, username: "SK1", password: "secret"},
		{name: "an account", env: map[string]string{"TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token"}, username: "AC1", password: "token"},
		{name: "the API key wins over the account", env: map[string]string{"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "secret", "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token"}, username: "SK1", password: "secret"},
		{name: "an API key beside an account SID alone, as twilio-cli has it", env: map[string]string{"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "secret", "TWILIO_ACCOUNT_SID": "AC1"}, username: "SK1", password: "secret"},
		{name: "nothing", says: "no credentials in the environment"},
		{name: "an API key without secret", env: map[string]string{"TWILIO_API_KEY": "SK1"}, says: "TWILIO_API_SECRET is not"},
		{name: "half an API key is not silently replaced by the account", env: map[string]string{"TWILIO_API_SECRET": "secret", "TWILIO_ACCOUNT_SID": "AC1", "TWILIO_AUTH_TOKEN": "token"}, says: "TWILIO_API_KEY is not"},
		{name: "an account SID alone", env: map[string]string{"TWILIO_ACCOUNT_SID": "AC1"}, says: "set TWILIO_AUTH_TOKEN"},
		{name: "an auth token alone", env: map[string]string{"TWILIO_AUTH_TOKEN": "token"}, says: "TWILIO_ACCOUNT_SID is not"},
		{name: "a secret with its line break", env: map[string]string{"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "hush-hush\n"}, says: "TWILIO_API_SECRET: the password ends with a line break"},
	} {
		t.Run(test.name, func(t *testing.T) {
			setEnvironment(t, test.env)
			auth, err := twiliosync.BasicAuthFromEnv()
			if test.says != "" {
				require.Error(t, err)
				assert.Nil(t, auth)
				assert.Contains(t, err.Error(), test.says)
				assert.NotContains(t, err.Error(), "hush")
				_, err = twiliosync.NewClientFromEnv()
				require.Error(t, err)
				assert.Contains(t, err.Error(), test.says)
				return
			}
			require.NoError(t, err)
			req, err := http.NewRequest(http.MethodPost, "https://example.com", nil)
			require.NoError(t, err)
			require.NoError(t, auth.Authenticate(context.Background(), req))
			username, password, ok := req.BasicAuth()
			assert.True(t, ok)
			assert.Equal(t, [2]string{test.username, test.password}, [2]string{username, password})
		})
	}
}

// bearer is what a user writes for OAuth tokens.
type bearer string

func (b bearer) Authenticate(_ context.Context, req *http.Request) error {
	req.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

func TestAuthenticatorOfTheCaller(t *testing.T) {
	server := &recorder{answer: answer(201, testAnswer)}
	client := clientOf(t, server, bearer("eyJhbGciOi"))
	_, response, err := publish(client)
	require.NoError(t, err)
	assert.Equal(t, "Bearer eyJhbGciOi", server.all()[0].header.Get("Authorization"))
	assert.Empty(t, response.Request.Header.Get("Authorization"))
}

// bodyReader is an Authenticator that reads the body in order to sign it.
type bodyReader struct{ signed []byte }

func (b *bodyReader) Authenticate(_ context.Context, req *http.Request) error {
	var err error
	b.signed, err = io.ReadAll(req.Body)
	return err
}

func TestAuthenticatorMayReadTheBody(t *testing.T) {
	server := &recorder{answer: answer(201, testAnswer)}
	auth := &bodyReader{}
	_, _, err := publish(clientOf(t, server, auth))
	require.NoError(t, err)
	assert.Equal(t, "Data=%7B%22a%22%3A1%7D", server.all()[0].body)
	assert.Equal(t, server.all()[0].body, string(auth.signed))
}

// wanderer is an Authenticator that does more than it may.
type wanderer struct{ host *string }

func (w wanderer) Authenticate(_ context.Context, req *http.Request) error {
	*w.host = req.Host
	req.URL.Path, req.URL.RawPath, req.URL.Host = "/elsewhere", "", "127.0.0.1:1"
	*req = http.Request{Method: http.MethodGet, Host: "elsewhere.example.com", Header: req.Header, Close: true}
	return nil
}

func TestAuthenticatorCanNotRedirectTheMessage(t *testing.T) {
	server := &recorder{answer: answer(201, testAnswer)}
	var host string
	_, response, err := publish(clientOf(t, server, wanderer{&host}))
	require.NoError(t, err)
	sent := server.all()[0]
	assert.Equal(t, http.MethodPost, sent.method)
	assert.Equal(t, "/prefix/v1/Services/default/Streams/orders/Messages", sent.requestURI)
	assert.Equal(t, "Data=%7B%22a%22%3A1%7D", sent.body)
	assert.Empty(t, sent.header["Connection"])
	assert.Equal(t, host, sent.host, "an Authenticator that signs the host sees the one that is sent")
	assert.Equal(t, "http://"+host+sent.requestURI, response.Request.URL.String())
}
