package emulator

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

const (
	maxWatchers      = 100              // pages and other readers of /_emulator/events
	maxWatcherQueue  = 4_096            // events waiting for one of them
	watcherHeartbeat = 15 * time.Second // so that a page that has gone is noticed
)

// watchers are the readers of /_emulator/events: the live page, and programs. One that is too slow misses events, and is
// told how many; it never slows a publisher.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]bool
}

type watcher struct {
	wake   chan struct{} // holds a value while there is something to take
	events [][]byte      // guarded by watchers.mu
	missed int           // guarded by watchers.mu
}

func newWatchers() *watchers { return &watchers{all: make(map[*watcher]bool)} }

// tell queues an event for every watcher.
func (ws *watchers) tell(name string, value any) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.all) == 0 {
		return
	}
	event := formatEvent(name, value) // one copy for all
	for w := range ws.all {
		if len(w.events) >= maxWatcherQueue {
			w.missed++
			continue
		}
		w.events = append(w.events, event)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func formatEvent(name string, value any) []byte {
	data, _ := json.Marshal(value) // of our own types: never fails
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", name, data)
}

// add returns nil if there are too many.
func (ws *watchers) add() *watcher {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if len(ws.all) >= maxWatchers {
		return nil
	}
	w := &watcher{wake: make(chan struct{}, 1)}
	ws.all[w] = true
	return w
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

// take returns the events that wait for a watcher, and how many it missed after them.
func (ws *watchers) take(w *watcher) (events [][]byte, missed int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	events, missed = w.events, w.missed
	w.events, w.missed = nil, 0
	return events, missed
}

// serveEvents sends what happens as server-sent events, until the client goes away.
func (e *Emulator) serveEvents(rw http.ResponseWriter, r *http.Request) {
	w := e.watchers.add()
	if w == nil {
		problem(rw, http.StatusServiceUnavailable, "", fmt.Sprintf("%d readers of events are connected already", maxWatchers))
		return
	}
	defer e.watchers.remove(w)
	rw.Header().Set("Content-Type", "text/event-stream")
	rw.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(rw)
	heartbeat := time.NewTicker(watcherHeartbeat)
	defer heartbeat.Stop()
	batch := [][]byte{[]byte("retry: 1000\n\n")}
	for {
		if err := writeBatch(rw, out, batch); err != nil {
			return
		}
		select {
		case <-w.wake:
			events, missed := e.watchers.take(w)
			if missed > 0 {
				events = append(events, formatEvent("missed", map[string]int{"events": missed}))
			}
			batch = events
		case <-heartbeat.C:
			batch = [][]byte{[]byte(":\n\n")}
		case <-r.Context().Done():
			return
		}
	}
}

func writeBatch(w http.ResponseWriter, out *http.ResponseController, batch [][]byte) error {
	_ = out.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every server has deadlines
	for _, event := range batch {
		if _, err := w.Write(event); err != nil {
			return err
		}
	}
	return out.Flush()
}
