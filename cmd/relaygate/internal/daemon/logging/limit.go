package logging

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// limiter is a slog.Handler that keeps from filling the log what comes again and
// again: another program that flushes the ruleset in a loop, a disk that stays full.
// The first lines of a kind are written at once; of those that follow the last is
// written after a while, with how many there were, and then ever more rarely.
type limiter struct {
	slog.Handler

	mu    sync.Mutex
	kinds map[string]*lineKind
}

// lineKind is what is known of the lines that are alike: see kindOf.
type lineKind struct {
	written int // since the last quiet time
	held    slog.Record
	times   int // lines that held stands for
	wait    time.Duration
	due     *time.Timer
}

const (
	// burst lines of a kind are written at once.
	burst = 6
	// hold is how long the next are held at first, doubled each time up to
	// maxHold. A kind of which nothing comes for so long begins anew.
	hold    = time.Minute
	maxHold = time.Hour
	// maxKinds bounds the kinds; beyond, all count as one.
	maxKinds = 256
)

func newLimiter(h slog.Handler) *limiter {
	return &limiter{Handler: h, kinds: make(map[string]*lineKind)}
}

// Handle writes a line, or holds it.
func (l *limiter) Handle(ctx context.Context, r slog.Record) error {
	key := kindOf(&r)
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.kinds[key]
	if k == nil && len(l.kinds) >= maxKinds {
		key = ""
		k = l.kinds[key]
	}
	if k == nil {
		k = &lineKind{wait: hold}
		k.due = time.AfterFunc(k.wait, func() { l.look(key, k) })
		l.kinds[key] = k
	}
	if k.written < burst {
		k.written++
		return l.Handler.Handle(ctx, r)
	}
	k.held, k.times = r.Clone(), k.times+1
	return nil
}

// look writes what a kind holds; one that was quiet is forgotten.
func (l *limiter) look(key string, k *lineKind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.times == 0 {
		delete(l.kinds, key)
		return
	}
	l.flush(k)
	k.wait = min(2*k.wait, maxHold)
	k.due.Reset(k.wait)
}

func (l *limiter) flush(k *lineKind) {
	if k.times == 0 {
		return
	}
	k.held.AddAttrs(slog.Int("lines like this one", k.times))
	_ = l.Handler.Handle(context.Background(), k.held) // the queue behind it never fails
	k.times = 0
}

// close writes what is held. Nobody may log any more.
func (l *limiter) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, k := range l.kinds {
		k.due.Stop()
		l.flush(k)
		delete(l.kinds, key)
	}
}

// addressKey is that of the address which a line is about, userKey that of its user.
const (
	addressKey = "address"
	userKey    = "user"
)

// kindOf is a line without its time, digits and address: members choose theirs. A user's
// digits tell who it is, as of web1 and web2.
func kindOf(r *slog.Record) string {
	var b strings.Builder
	b.WriteString(withoutDigits(r.Message))
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == addressKey {
			return true
		}
		b.WriteString("\x00" + a.Key + "=")
		switch {
		case a.Key == userKey:
			b.WriteString(a.Value.String())
		case a.Value.Kind() != slog.KindDuration: // its unit is no digit
			b.WriteString(withoutDigits(a.Value.String()))
		}
		return true
	})
	return b.String()
}

func withoutDigits(s string) string {
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return -1
		}
		return c
	}, s)
}
