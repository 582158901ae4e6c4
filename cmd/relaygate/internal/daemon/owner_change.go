//go:build linux

package daemon

import (
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
)

// change carries a change that no packet caused to the gate and to everybody.
func (o *owner) change(now time.Time, c grant.Change) {
	o.write(now, &c, now)
	if c.Kind != grant.Rearmed {
		o.tell(now, &c)
	} else {
		o.keeper.changed(&c)
	}
}

// write hands a change to the gate. caused is when the packet came that caused
// it. Always rules are static members of the gate.
func (o *owner) write(now time.Time, c *grant.Change, caused time.Time) {
	if c.Static {
		o.gate.restatic(o.grants().Static())
	}
	if c.Rebuild { // more changed than is told
		o.gate.shutLater(c.Closed...)
		o.gate.refresh()
	}
	if c.Grant.Source == grant.Always {
		return
	}
	switch {
	case c.Arm:
		o.gate.add(c.Grant, now, caused)
	case c.Kind == grant.Revoked, c.Kind == grant.Expired:
		o.gate.remove(c.Grant, now, o.grants().Get)
		if c.By == "" { // an order says itself what becomes of connections
			o.cutter.ranOut(c.Grant.Prefix)
		}
	}
}

// tell carries a change to the files, the log and the watchers.
func (o *owner) tell(now time.Time, c *grant.Change) {
	o.files.changed()
	if c.Kind != grant.Granted || c.Cause == nil || !o.keeper.granted(o.engine, now, o.boot.at(now), c.Grant) {
		o.keeper.changed(c)
	}
	o.out.Change(now, c)
	if o.hub.Watched() {
		o.hub.Publish(now, control.NewChange(c))
	}
}
