package control

import (
	"encoding/json"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/authz"
)

// Hub hands events to watchers. Publishing never blocks: a watcher that is too
// slow loses events and is told how many.
type Hub struct {
	watched  atomic.Int32
	mu       sync.Mutex
	watchers map[*watcher]struct{}
	dropped  uint64
}

type watcher struct {
	lines   chan []byte
	dropped uint64
}

// watchQueue bounds what one watcher may be behind, in events.
const watchQueue = 1024

// NewHub makes a hub without watchers.
func NewHub() *Hub { return &Hub{watchers: make(map[*watcher]struct{})} }

// Watched says whether anybody would see what is published now.
func (h *Hub) Watched() bool { return h.watched.Load() > 0 }

// Publish hands v, in JSON, to everybody who watches.
func (h *Hub) Publish(now time.Time, v any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) == 0 {
		return
	}
	line, err := json.Marshal(v)
	if err != nil {
		line, _ = json.Marshal(Event{Event: "drop", Time: Time{now}, Reason: "an event could not be encoded"})
	}
	for w := range h.watchers {
		if !w.send(now, append(line, '\n')) {
			h.dropped++
		}
	}
}

// Tell publishes what happened to no address in particular.
func (h *Hub) Tell(now time.Time, event, reason string) {
	h.Publish(now, Event{Event: event, Time: Time{now}, Reason: reason})
}

// Dropped counts the events that a watcher was too slow for.
func (h *Hub) Dropped() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dropped
}

// send queues a line; the first that finds room again is preceded by the count
// of those that did not. It reports false if the line was dropped.
func (w *watcher) send(now time.Time, line []byte) bool {
	if w.dropped > 0 && len(w.lines) < cap(w.lines)-1 {
		note, err := json.Marshal(Event{
			Event: "drop", Time: Time{now},
			Reason: "this watcher was too slow for " + authz.Count(w.dropped, "event"),
		})
		if err == nil {
			w.lines <- append(note, '\n')
			w.dropped = 0
		}
	}
	if w.dropped > 0 {
		w.dropped++
		return false
	}
	select {
	case w.lines <- line:
		return true
	default:
		w.dropped++
		return false
	}
}

func (h *Hub) add() (*watcher, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) >= maxWatchers {
		return nil, false
	}
	w := &watcher{lines: make(chan []byte, watchQueue)}
	h.watchers[w] = struct{}{}
	h.watched.Add(1)
	return w, true
}

func (h *Hub) remove(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
	h.watched.Add(-1)
}

// serve streams lines until the client leaves.
func (h *Hub) serve(rw http.ResponseWriter, r *http.Request) {
	w, ok := h.add()
	if !ok {
		http.Error(rw, "too many watchers", http.StatusServiceUnavailable)
		return
	}
	defer h.remove(w)
	rc := http.NewResponseController(rw)
	rw.Header().Set("Content-Type", "application/x-ndjson")
	rw.WriteHeader(http.StatusOK)
	for {
		if rc.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil || rc.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case line := <-w.lines:
			if _, err := rw.Write(line); err != nil {
				return
			}
		}
	}
}
