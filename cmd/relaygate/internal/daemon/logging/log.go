// Package logging writes the daemon's log. A line goes through a limiter, which holds
// back what comes again and again, into the queue, which keeps whoever logs from waiting
// for whoever reads. What opens or closes a grant goes straight into the queue: each
// address has its line.
package logging

import (
	"context"
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
	// logins limits lines that a member can have as often as it logs in. It has kinds of
	// its own, as members choose their names.
	logins *limiter
}

// New makes a log that is written to w. If journal, each line begins with its priority
// (sd-daemon(3)).
func New(w io.Writer, journal bool) *Log {
	q := newQueue(w, journal)
	text := slog.NewTextHandler(q, nil)
	l := newLimiter(text)
	return &Log{Logger: slog.New(l), queue: q, limiter: l, changes: changeLog{w: q}, logins: newLimiter(text)}
}

// Change writes what happened to a grant. It is for one goroutine.
func (l *Log) Change(now time.Time, c *grant.Change) {
	if c.Kind == grant.Refused || c.Kind == grant.Renewed {
		_ = l.logins.Handle(context.Background(), record(now, c)) // the queue behind it never fails
		return
	}
	l.changes.tell(now, c)
}

// Dropped counts the lines that found no room in the queue.
func (l *Log) Dropped() uint64 { return l.queue.total.Load() }

// Close writes what is held and queued. Nobody may log any more.
func (l *Log) Close() {
	l.limiter.close()
	l.logins.close()
	l.queue.close()
}
