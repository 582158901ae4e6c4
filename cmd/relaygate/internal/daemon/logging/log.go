// Package logging writes the daemon's log. A line goes through the limiter, which holds
// back what comes again and again, into the queue, which keeps whoever logs from waiting
// for whoever reads. Changes of grants, of which a storm has one per login, go straight
// into the queue.
package logging

import (
	"io"
	"log/slog"
	"time"

	"relaygate/authz/grant"
)

// Log is the log. Its methods, but Change, may be called from many goroutines.
type Log struct {
	*slog.Logger
	queue   *queue
	limiter *limiter
	changes changeLog
}

// New makes a log that is written to w.
func New(w io.Writer) *Log {
	q := newQueue(w)
	l := newLimiter(slog.NewTextHandler(q, nil))
	return &Log{Logger: slog.New(l), queue: q, limiter: l, changes: changeLog{w: q}}
}

// Change writes what happened to a grant. It is for one goroutine.
func (l *Log) Change(now time.Time, c *grant.Change) { l.changes.tell(now, c) }

// Dropped counts the lines that found no room in the queue.
func (l *Log) Dropped() uint64 { return l.queue.total.Load() }

// Close writes what is held and queued. Nobody may log any more.
func (l *Log) Close() {
	l.limiter.close()
	l.queue.close()
}
