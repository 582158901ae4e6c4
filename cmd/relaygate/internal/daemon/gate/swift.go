package gate

import (
	"net/netip"
	"time"

	"relaygate/authz/grant"
)

// The elements of new grants do not wait until another goroutine is scheduled:
// the owner writes them itself whenever the gate's goroutine has nothing to
// write, which is nearly always. That one is never waited for: it may be in the
// middle of a long transaction, and then the elements go the usual way, into
// its queue.

// maxSwift bounds the elements that are written in one transaction: who comes
// first waits for no more than some logins to be read.
const maxSwift = 64

// Admit takes the elements of a new grant; Flush, which must follow soon, writes them.
// caused is when the answer to its login left the server.
func (g *Gate) Admit(prefix netip.Prefix, expires, now, caused time.Time) {
	for p := range grant.Members(prefix) {
		if e, ok := element(p, expires, g.lifetime, now); ok {
			g.swift = append(g.swift, operation{element: e, made: now, caused: caused})
		}
	}
}

// Flush writes what Admit took. In a crowd (more, says the caller, will come at
// once) it lets elements gather, as one transaction for many is cheaper.
func (g *Gate) Flush(more bool) {
	if len(g.swift) == 0 || more && len(g.swift) < maxSwift {
		return
	}
	if !g.writeSwiftly() {
		for _, op := range g.swift {
			g.send(op)
		}
	}
	g.swift = g.swift[:0]
}

// writeSwiftly writes them if nothing else is being written or waits to be:
// order matters. On an error they are tried again by who knows what to do then.
func (g *Gate) writeSwiftly() bool {
	if g.queued.Load() > 0 || !g.writing.TryLock() {
		return false
	}
	defer g.writing.Unlock()
	return g.addAll(g.swift) == nil
}

// addAll writes ops that add, in one transaction. Behind a long one they waited for
// seconds, which counts.
func (g *Gate) addAll(ops []operation) error {
	g.batch = g.batch[:0]
	begin, add := time.Now(), g.nft.Add
	for i := range ops {
		if ops[i].held {
			add = g.nft.Renew
		}
		e := ops[i].element
		if e.Remaining -= begin.Sub(ops[i].made); e.Remaining > 0 {
			g.batch = append(g.batch, e)
		}
	}
	if err := add(g.batch...); err != nil {
		return err
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range ops {
		g.stats.Adds++
		if ops[i].caused.IsZero() {
			continue
		}
		delay := now.Sub(ops[i].caused)
		g.stats.LastDelay.Duration = delay
		g.stats.MaxDelay.Duration = max(g.stats.MaxDelay.Duration, delay)
	}
	return nil
}

// alone runs do while the owner writes nothing itself.
func (g *Gate) alone(do func()) {
	g.writing.Lock()
	defer g.writing.Unlock()
	do()
}
