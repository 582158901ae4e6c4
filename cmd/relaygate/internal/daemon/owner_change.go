//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"time"

	"relaygate/authz"
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
		o.gate.restatic(static(o.engine))
	}
	if c.Rebuild { // more changed than is told
		o.gate.refresh()
	}
	if c.Grant.Source == grant.Always {
		return
	}
	switch {
	case c.Arm:
		o.gate.add(c.Grant, now, caused)
	case c.Kind == grant.Revoked, c.Kind == grant.Expired:
		o.gate.remove(c.Grant, now, o.engine.Get)
		if c.By == "" { // an order says itself what becomes of connections
			o.cutter.ranOut(c.Grant.Prefix)
		}
	}
}

// tell carries a change to the files, the log and the watchers.
func (o *owner) tell(now time.Time, c *grant.Change) {
	o.files.changed()
	o.keeper.changed(c)
	o.log.LogAttrs(context.Background(), slog.LevelInfo, c.Kind.String(), attributes(c)...)
	if o.hub.Watched() {
		o.hub.Publish(now, control.NewChange(c))
	}
}

// attributes are what the log says of a change, where there is something to say.
func attributes(c *grant.Change) (list []slog.Attr) {
	if c.Grant.Prefix.IsValid() {
		list = append(list, slog.String("address", grantName(&c.Grant)))
	}
	if len(c.Grant.Users) > 0 && c.Grant.Users[0].Name != "" {
		list = append(list, slog.String("user", authz.Quote(c.Grant.Users[0].Name)))
	}
	if !c.Grant.Expires.IsZero() {
		list = append(list, slog.String("until", c.Grant.Expires.Format(time.RFC3339)))
	}
	return append(list, slog.String("reason", c.Reason))
}

func grantName(g *grant.Grant) string { return authz.PrefixString(g.Prefix) }
