//go:build linux

package daemon

import (
	"bytes"
	"fmt"
	"io"
	"sync/atomic"
)

// logQueue keeps whoever logs from waiting for whoever reads the log. What
// finds no room is counted, and told when there is room again.
type logQueue struct {
	lines   chan []byte
	dropped atomic.Uint64 // not told yet
	total   atomic.Uint64 // dropped since the start
	ended   chan struct{}
}

const logLines = 4096

func newLogQueue(w io.Writer) *logQueue {
	q := &logQueue{lines: make(chan []byte, logLines), ended: make(chan struct{})}
	go func() {
		defer close(q.ended)
		for line := range q.lines {
			if n := q.dropped.Swap(0); n > 0 {
				line = append(fmt.Appendf(nil, "%d lines of the log were dropped\n", n), line...)
			}
			// There is no other place to say that the log cannot be written.
			_, _ = w.Write(line)
		}
	}()
	return q
}

// Write takes one line; it never waits and never fails.
func (q *logQueue) Write(line []byte) (int, error) {
	select {
	case q.lines <- bytes.Clone(line):
	default:
		q.dropped.Add(1)
		q.total.Add(1)
	}
	return len(line), nil
}

// close writes what is queued. Nobody may log any more.
func (q *logQueue) close() {
	close(q.lines)
	<-q.ended
}
