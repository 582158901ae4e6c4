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
	// renewed and refused limit lines that a member can have as often as it logs in. They
	// have kinds of their own, as members choose their names; and where many members renew
	// their grants, one who is refused is told.
	renewed, refused *limiter
}

// New makes a log that is written to w. If journal, each line begins with its priority
// (sd-daemon(3)).
func New(w io.Writer, journal bool) *Log {
	q := newQueue(w, journal)
	text := slog.NewTextHandler(q, nil)
	l := newLimiter(text)
	return &Log{
		Logger: slog.New(l), queue: q, limiter: l, changes: changeLog{w: q},
		renewed: newLimiter(text), refused: newLimiter(text),
	}
}

// Change writes what happened to a grant. It is for one goroutine.
func (l *Log) Change(now time.Time, c *grant.Change) {
	limited := l.refused
	switch c.Kind {
	case grant.Refused:
	case grant.Renewed:
		limited = l.renewed
	default:
		l.changes.tell(now, c)
		return
	}
	_ = limited.Handle(context.Background(), record(now, c)) // the queue behind it never fails
}

// Dropped counts the lines that found no room in the queue.
func (l *Log) Dropped() uint64 { return l.queue.total.Load() }

// Close writes what is held and queued. Nobody may log any more.
func (l *Log) Close() {
	for _, limited := range []*limiter{l.limiter, l.renewed, l.refused} {
		limited.close()
	}
	l.queue.close()
}
