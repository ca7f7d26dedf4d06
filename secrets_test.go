package twiliosync_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/twiliosync/twiliosync-go"
)

func TestSecretsNeverPrint(t *testing.T) {
	var logged bytes.Buffer
	client, server := setup(t, twiliosync.WithLogger(slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))))
	auth := twiliosync.BasicAuth(testUser, testSecret)
	_, response, err := publish(client)
	require.NoError(t, err)
	server.answer = func(w http.ResponseWriter, r *http.Request) { // a proxy that shows the request
		_, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "<html>%s %s</html>", r.Header.Get("Authorization"), password)
	}
	_, failed, err := publish(client)
	require.Error(t, err)
	refused := asError(t, err)

	type holder struct {
		client *twiliosync.Client
		auth   twiliosync.Authenticator
		err    error
		byVal  twiliosync.Error
	}
	values := map[string]any{
		"Client": client, "Client by value": clientByValue(client), "Authenticator": auth,
		"Response": response, "Response by value": *response, "http.Response": response.Response, "http.Request": response.Request,
		"the failed Response": failed, "its http.Request": failed.Request, "its header": failed.Request.Header,
		"Error": refused, "Error by value": *refused, "its cause": refused.Err,
		"a caller's struct":           holder{client, auth, err, *refused},
		"a pointer to it":             &holder{client, auth, err, *refused},
		"a slice of Authenticators":   []twiliosync.Authenticator{auth},
		"a map of Authenticators":     map[string]twiliosync.Authenticator{"a": auth},
		"an anonymous struct of them": struct{ A any }{auth},
	}
	for name, value := range values {
		t.Run(name, func(t *testing.T) {
			for _, verb := range strings.Split("v +v #v s q d x X o b e g t c U T p", " ") {
				assertNoSecret(t, fmt.Sprintf("%"+verb, value))
			}
			assertNoSecret(t, marshal(value))
			var text, asJSON bytes.Buffer
			slog.New(slog.NewTextHandler(&text, nil)).Info("x", "value", value)
			slog.New(slog.NewJSONHandler(&asJSON, nil)).Info("x", "value", value)
			assertNoSecret(t, text.String())
			assertNoSecret(t, asJSON.String())
			assertNoSecret(t, panicText(value))
		})
	}
	assertNoSecret(t, logged.String())
	assert.Equal(t, "text/html, 146 bytes", refused.Body)
}

// assertNoSecret looks for the test's secret in the forms it could appear in.
func assertNoSecret(t *testing.T, text string) {
	t.Helper()
	credentials := testUser + ":" + testSecret
	for form, secret := range map[string]string{
		"the secret":          testSecret,
		"its Base64 form":     base64.StdEncoding.EncodeToString([]byte(credentials)),
		"its bytes":           strings.Trim(fmt.Sprint([]byte(testSecret)), "[]"),
		"its hexadecimals":    hex.EncodeToString([]byte(testSecret)),
		"its upper case hex":  strings.ToUpper(hex.EncodeToString([]byte(testSecret))),
		"the Base64 in hex":   hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(credentials)))),
		"the secret in Go":    strings.Trim(fmt.Sprintf("%q", testSecret), `"`),
		"its first half only": testSecret[:len(testSecret)/2],
	} {
		assert.False(t, strings.Contains(text, secret), "%s is printed in: %.300s", form, text)
	}
}

// clientByValue copies a Client as nobody should, to see what it would print.
func clientByValue(client *twiliosync.Client) any {
	return reflect.ValueOf(client).Elem().Interface()
}

func marshal(v any) string {
	text, err := json.Marshal(v)
	return fmt.Sprint(string(text), err)
}

func panicText(v any) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	panic(v)
}
