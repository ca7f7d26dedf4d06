package emulator

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// FuzzAdmin looks for bodies that break the admin API, and for a refusal without a reason.
func FuzzAdmin(f *testing.F) {
	for _, body := range []string{
		`{"next":1,"stream":"orders","answer":{"status":429,"code":54009,"retryAfter":2}}`,
		`{"for":"5s","loseAnswer":true}`, `{"every":true,"delay":0.5}`, `{"next":1,"operation":"ListSyncStream","cutBody":true}`,
		`{"next":1e9}`, `{"for":{}}`, `{"stream":""}`, `[]`, `null`, `{`, "",
	} {
		f.Add("/_emulator/faults", body)
		f.Add("/_emulator/subscribers/disconnect", body)
	}
	f.Fuzz(func(t *testing.T, path, body string) {
		if path != "/_emulator/faults" && path != "/_emulator/subscribers/expire" && path != "/_emulator/reset" {
			path = "/_emulator/subscribers/disconnect"
		}
		e := New()
		defer e.Close()
		w := httptest.NewRecorder()
		e.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(body)))
		if w.Code == http.StatusBadRequest {
			assert.Contains(t, w.Body.String(), `"message":"`)
		} else {
			assert.Contains(t, []int{200, 201, 204}, w.Code)
		}
	})
}
