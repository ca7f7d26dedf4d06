package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A comparison is fair only if all do the same job.
func TestPublishersSendTheSameMessage(t *testing.T) {
	for _, size := range sizes {
		for _, make := range publishers {
			var got []string
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				assert.NoError(t, err)
				form, err := url.ParseQuery(string(body))
				assert.NoError(t, err)
				user, secret, _ := r.BasicAuth()
				got = append(got, r.Method, r.URL.Path, r.Header.Get("Content-Type"), user, secret, form.Get("Data"))
				w.WriteHeader(http.StatusCreated)
				_, _ = w.Write(echo(form.Get("Data")))
			}))
			p := make(job{baseURL: server.URL, serviceSID: answersNow, payload: payload(size)})

			require.NoError(t, p.publish(), p.name)

			assert.Equal(t, []string{
				http.MethodPost, "/v1/Services/now/Streams/" + streamSID + "/Messages", "application/x-www-form-urlencoded",
				username, password, string(payload(size)),
			}, got, p.name)
			server.Close()
		}
	}
}

func TestServiceAnswersAsItsNameSays(t *testing.T) {
	server := httptest.NewServer(handler())
	defer server.Close()
	for _, tt := range []struct {
		service   string
		wantError bool
	}{{answersNow, false}, {answersLate, false}, {answersChunked, false}, {answersError, true}} {
		for _, make := range publishers {
			p := make(job{baseURL: server.URL, serviceSID: tt.service, payload: payload(200)})
			err := p.publish()
			assert.Equal(t, tt.wantError, err != nil, "%s to %s: %v", p.name, tt.service, err)
			p.close()
		}
	}
}

func TestServiceRefusesADifferentJob(t *testing.T) {
	for _, tt := range []struct{ name, user, body string }{
		{"without credentials", "", "Data=%7B%7D"},
		{"without data", username, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := httptest.NewRequest(http.MethodPost, "/v1/Services/now/Streams/x/Messages", nil)
			req.URL.RawQuery = tt.body
			req.SetBasicAuth(tt.user, password)
			w := httptest.NewRecorder()
			handler().ServeHTTP(w, req)
			assert.Equal(t, http.StatusBadRequest, w.Code)
		})
	}
}

func TestAnswersInMemoryAreThoseOfTheService(t *testing.T) {
	for _, make := range publishers {
		p := make(inMemoryJob(200))
		require.NoError(t, p.publish(), p.name)
	}
}

func TestPayloadHasItsSize(t *testing.T) {
	for _, size := range sizes {
		assert.Len(t, payload(size), size)
		assert.True(t, json.Valid(payload(size)))
	}
}
