package daemon

import (
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// change carries a change that no packet caused to the gate and to everybody.
func (o *owner) change(now time.Time, c grant.Change) {
	o.write(now, &c)
	if c.Kind != grant.Rearmed {
		o.tell(now, &c)
	} else {
		o.keeper.Changed(&c)
	}
}

// write hands a change to the gate. What a grant that ran out let in, and nothing else
// does, is cut where the configuration says so; an order says itself what becomes of
// connections.
func (o *owner) write(now time.Time, c *grant.Change) {
	o.gate.Write(o.grants(), c, now)
	ended := c.Kind == grant.Revoked || c.Kind == grant.Expired
	if ended && c.Grant.Source != grant.Always && c.By == "" && !o.grants().Covers(c.Grant.Prefix) {
		o.cutter.ranOut(c.Grant.Prefix)
	}
}

// tell carries a change to the files, the log and the watchers.
func (o *owner) tell(now time.Time, c *grant.Change) {
	o.files.changed()
	if c.Kind != grant.Granted || c.Cause == nil || !o.keeper.Granted(o.engine, now, o.boot.At(now), c.Grant) {
		o.keeper.Changed(c)
	}
	o.out.Change(now, c)
	if o.hub.Watched() {
		o.hub.Publish(now, control.NewChange(c))
	}
}

// bitten notes in the journal, and tells watchers, whose connections a brake
// refused. It runs in the owner's goroutine.
func (o *owner) bitten(now time.Time, list []nft.Bitten) {
	for _, b := range list {
		p := netip.PrefixFrom(b.Addr, b.Addr.BitLen())
		if g, ok := o.grants().Get(b.Addr); ok {
			p = g.Prefix
		}
		o.bite(now, p, b.TooFast, reasonTooFast)
		o.bite(now, p, b.TooMany, reasonTooMany)
	}
}

// What is told of a connection that a brake refused.
const (
	reasonTooFast = "an SMTP connection was refused: too many new ones in a minute (gate.max_new_per_minute)"
	reasonTooMany = "an SMTP connection was refused: too many open at the same time (gate.max_concurrent)"
)

func (o *owner) bite(now time.Time, p netip.Prefix, n uint64, reason string) {
	if n == 0 {
		return
	}
	o.note(now, &authz.Event{Kind: authz.EventBraked, Count: int(min(n, 1<<31)), Prefix: p, Reason: reason}, "brake")
	o.log.Warn("braked", "address", authz.PrefixString(p), "times", n, "reason", reason)
}

// note puts an event in the journal that no change of a grant is, and tells watchers.
func (o *owner) note(now time.Time, e *authz.Event, name string) {
	e.Time, e.Last = now, now
	o.engine.Evidence().Add(*e)
	o.keeper.Noted(e.Prefix)
	shape := control.NewEvent(e)
	shape.Event = name
	o.hub.Publish(now, shape)
}
