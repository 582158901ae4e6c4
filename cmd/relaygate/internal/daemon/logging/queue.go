package logging

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"relaygate/cmd/relaygate/internal/daemon/message"
)

// queue keeps whoever logs from waiting for whoever reads the log. Lines
// gather for a moment and are written together: a goroutine that wakes for each
// would cost more than the login that the line tells of. What finds no room is
// counted, and told when there is room again.
type queue struct {
	journal bool // each line bears its priority

	mu      sync.Mutex
	text    []byte
	dropped uint64 // not told yet

	total atomic.Uint64 // dropped since the start
	first chan struct{} // there is text now
	end   chan struct{} // closed to end
	ended chan struct{}
}

const (
	// maxQueued bounds the lines that wait.
	maxQueued = 1 << 20
	// gather is how long they gather.
	gather = 100 * time.Millisecond
	// lastWithin is how long the end waits for the last lines to be written: whoever
	// reads the log may hang, and the next daemon waits for the end of this one.
	lastWithin = 2 * time.Second
)

func newQueue(w io.Writer, journal bool) *queue {
	q := &queue{journal: journal, first: make(chan struct{}, 1), end: make(chan struct{}), ended: make(chan struct{})}
	go q.run(w)
	return q
}

func (q *queue) run(w io.Writer) {
	defer close(q.ended)
	var text []byte
	for done := false; !done; {
		select {
		case <-q.first:
			select {
			case <-time.After(gather):
			case <-q.end:
			}
		case <-q.end:
			done = true
		}
		if text = q.take(text[:0]); len(text) > 0 {
			// There is no other place to say that the log cannot be written.
			n, _ := w.Write(text)
			q.total.Add(uint64(bytes.Count(text[n:], []byte("\n"))))
		}
	}
}

// take swaps what there is for room.
func (q *queue) take(room []byte) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	text := q.text
	q.text = room
	if q.dropped > 0 {
		text = q.append(text, fmt.Appendf(nil, "level=WARN msg=\"%d lines of the log were dropped\"\n", q.dropped))
		q.dropped = 0
	}
	return text
}

// Write takes one line; it never waits and never fails.
func (q *queue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.text)+len(line) > maxQueued {
		q.dropped++
		q.total.Add(1)
		return len(line), nil
	}
	if len(q.text) == 0 {
		message.Wake(q.first)
	}
	q.text = q.append(q.text, line)
	return len(line), nil
}

// append appends a line to text, in the journal's form if that reads it.
func (q *queue) append(text, line []byte) []byte {
	if q.journal {
		text = append(text, priority(line)...)
	}
	return append(text, line...)
}

// priority is a line's in the words of sd-daemon(3). Before its level no line has any
// other text than its time.
func priority(line []byte) string {
	_, level, _ := bytes.Cut(line, []byte("level="))
	switch {
	case bytes.HasPrefix(level, []byte("ERROR")):
		return "<3>"
	case bytes.HasPrefix(level, []byte("WARN")):
		return "<4>"
	}
	return "<6>"
}

// close writes what is queued, if that can be done. Nobody may log any more.
func (q *queue) close() {
	close(q.end)
	select {
	case <-q.ended:
	case <-time.After(lastWithin):
	}
}
