package intermediaries

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// service stands for Sync. It counts how often it has handled each message,
// which it has as soon as it has read the whole form, and then does what the
// scenario wants.
type service struct {
	*httptest.Server
	then func(w http.ResponseWriter, id int)

	mu      sync.Mutex
	handled map[int]int
}

func newService(t *testing.T, secure bool, then func(w http.ResponseWriter, id int)) *service {
	t.Helper()
	s := &service{then: then, handled: map[int]int{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = nil
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var message struct{ ID int }
	if json.Unmarshal([]byte(r.FormValue("Data")), &message) != nil || message.ID == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.handled[message.ID]++
	s.mu.Unlock()
	s.then(w, message.ID)
}

// count returns how often a message was handled.
func (s *service) count(id int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handled[id]
}

func accept(w http.ResponseWriter, id int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"sid":"TZ%032x","data":{"id":%d}}`, id, id)
}

// slowly gives reloads time to come in the middle.
func slowly(w http.ResponseWriter, id int) {
	time.Sleep(10 * time.Millisecond)
	accept(w, id)
}

// every does something else with each nth message, once it is handled.
func every(nth int, other func(w http.ResponseWriter, id int)) func(http.ResponseWriter, int) {
	return func(w http.ResponseWriter, id int) {
		if id%nth == 0 {
			other(w, id)
			return
		}
		accept(w, id)
	}
}

// die ends the connection without an answer.
func die(http.ResponseWriter, int) { panic(http.ErrAbortHandler) }

// fail is an error of the service's own, after the message was handled.
func fail(w http.ResponseWriter, _ int) { http.Error(w, "oops", http.StatusInternalServerError) }

// dawdle answers too late.
func dawdle(w http.ResponseWriter, id int) {
	time.Sleep(700 * time.Millisecond)
	accept(w, id)
}

// freePort is a port of loopback that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
