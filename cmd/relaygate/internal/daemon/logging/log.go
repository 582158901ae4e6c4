//go:build linux

// Package logging writes the daemon's log. A line goes through a limiter, which holds
// back what comes again and again, into the queue, which keeps whoever logs from waiting
// for whoever reads. Changes of grants, of which a storm has one per login, go straight
// into the queue, but for refusals: a member can have as many as it likes.
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
	queue    *queue
	limiter  *limiter
	changes  changeLog
	refusals *limiter // has kinds of its own, as members choose their names
}

// New makes a log that is written to w. If journal, each line begins with its priority
// (sd-daemon(3)).
func New(w io.Writer, journal bool) *Log {
	q := newQueue(w, journal)
	text := slog.NewTextHandler(q, nil)
	l := newLimiter(text)
	return &Log{Logger: slog.New(l), queue: q, limiter: l, changes: changeLog{w: q}, refusals: newLimiter(text)}
}

// Change writes what happened to a grant. It is for one goroutine.
func (l *Log) Change(now time.Time, c *grant.Change) {
	if c.Kind == grant.Refused {
		_ = l.refusals.Handle(context.Background(), record(now, c)) // the queue behind it never fails
		return
	}
	l.changes.tell(now, c)
}

// Dropped counts the lines that found no room in the queue.
func (l *Log) Dropped() uint64 { return l.queue.total.Load() }

// Close writes what is held and queued. Nobody may log any more.
func (l *Log) Close() {
	l.limiter.close()
	l.refusals.close()
	l.queue.close()
}
