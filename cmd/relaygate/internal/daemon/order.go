package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/story"
	"relaygate/nft"
)

// Order answers the control socket: the owner decides, the gate acknowledges,
// connections end, files and state are written, and then the answer goes out.
func (d *daemon) Order(ctx context.Context, by control.By, o control.Order) (control.Outcome, error) {
	out := control.Outcome{Changes: []control.Event{}, Warnings: []string{}}
	warn := func(format string, args ...any) { out.Warnings = append(out.Warnings, fmt.Sprintf(format, args...)) }
	err := d.orderable(ctx, &o, warn)
	if err != nil {
		return out, err
	}
	// Whoever ordered it may have left by now: what is asked of the owner is decided, and
	// what is decided is done, all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), doneWithin)
	defer cancel()
	if o.Verb == control.VerbReload {
		out.Result, err = d.orderReload(ctx, by, o.Note)
		return out, err
	}
	changes, after, err := d.decide(ctx, by, &o)
	if err != nil {
		return out, fmt.Errorf("relaygate ends, or is too busy and may carry it out yet: %w", err)
	}
	for i := range changes {
		if changes[i].Kind == grant.Refused {
			return out, &control.Refusal{Reason: changes[i].Reason}
		}
		if i < maxTold {
			out.Changes = append(out.Changes, control.NewChange(&changes[i]))
		}
	}
	unsettled := d.gate.Settle(ctx) // the rest is done all the same
	if words := d.gate.Status().Unfit; words != "" && o.Verb == control.VerbDeny {
		warn("%s", words)
	}
	if words := story.Observed(d.config.Load()); words != "" {
		warn("%s", words)
	}
	// Mode observe closes nothing.
	if list := cutFor(&o, changes); len(list) > 0 && d.gate.Status().Mode != nft.Observe.String() {
		keep := o.KeepConnections || o.Verb == control.VerbPause && !d.config.Load().Gate.CutOnExpiry
		out.Sockets, out.Entries, err = d.cutter.cut(ctx, list, keep)
		if err != nil {
			warn("connections in progress of what was closed may go on: %v", err)
		}
	}
	saved := make(chan error, 1)
	go func() { saved <- d.keeper.Save(ctx) }() // the file system of one may hang
	if err := d.files.flush(ctx); err != nil {
		warn("what the files say may be older: %v", err)
	}
	if err := <-saved; err != nil {
		warn("it holds now, and would be forgotten by a restart: %v", err)
	}
	if unsettled != nil {
		return out, fmt.Errorf("it is decided, and the gate does not hold it yet: %w", unsettled)
	}
	out.Result = result(&o, changes, after, time.Now()) + cutWords(out.Sockets, out.Entries) + "."
	return out, nil
}

// decide has the owner obey the order. On an error it may yet do so.
func (d *daemon) decide(ctx context.Context, by control.By, o *control.Order) ([]grant.Change, aftermath, error) {
	var changes []grant.Change
	var after aftermath
	err := d.owner.ask(ctx, func(now time.Time) {
		t := d.owner.grants()
		before := t.Len()
		changes = d.owner.engine.Record(obey(t, now, string(by), o, d.config.Load().Lifetime))
		after = aftermathOf(t, o.Prefix, before)
		for _, c := range changes {
			d.owner.change(now, c)
		}
	})
	if err != nil {
		return nil, aftermath{}, err // not what the owner may be about to write
	}
	return changes, after, nil
}

// doneWithin bounds the time that an order takes.
const doneWithin = 15 * time.Second

// maxTold bounds the changes in an answer; the number of all is in its words.
const maxTold = 1000

// orderable completes an order, or says why it cannot be obeyed here.
func (d *daemon) orderable(ctx context.Context, o *control.Order, warn func(string, ...any)) error {
	if o.For.Duration > grant.MaxLifetime {
		return &control.Refusal{Reason: authz.Span(o.For.Duration) + " are longer than a year: for what always holds there are the rules grant.always and grant.never"}
	}
	if o.Verb != control.VerbGrant || !o.Prefix.Addr().Is6() {
		return nil
	}
	// The gate's set of networks opens a /64 as a whole, and only with
	// ipv6_prefix 64: the table must say what the gate does.
	whole, err := d.widen(ctx, o.Prefix.Addr())
	switch {
	case err != nil:
		return fmt.Errorf("relaygate is ending: %w", err)
	case o.Prefix.Bits() > whole.Bits():
		warn("an IPv6 address is opened with its whole network, as by a login (grant.ipv6_prefix)")
		o.Prefix = whole
	case o.Prefix.Bits() == 64 && whole.Bits() != 64:
		return &control.Refusal{Reason: "a whole IPv6 /64 can be granted for a while with grant.ipv6_prefix = 64 alone, or by an always rule"}
	}
	return nil
}

// widen is what a login from an address opens.
func (d *daemon) widen(ctx context.Context, a netip.Addr) (p netip.Prefix, err error) {
	err = d.owner.ask(ctx, func(time.Time) { p = d.owner.grants().Key(a) })
	return p, err
}

// obey changes the table; it runs in the owner's goroutine.
func obey(t *grant.Table, now time.Time, by string, o *control.Order, lifetime time.Duration) []grant.Change {
	lasts := o.For.Duration
	switch o.Verb {
	case control.VerbGrant:
		if lasts == 0 {
			lasts = lifetime
		}
		if c, ok := t.Manual(now, o.Prefix, lasts, by, o.Note); ok {
			return []grant.Change{c}
		}
	case control.VerbRevoke:
		why := "revoked by " + authz.Quote(by)
		if o.Note != "" {
			why += ": " + authz.QuoteWords(o.Note)
		}
		return t.Revoke(now, o.Prefix, by, why)
	case control.VerbDeny:
		return t.Deny(now, o.Prefix, lasts, by, o.Note)
	case control.VerbUndeny:
		return t.Undeny(now, o.Prefix, by, o.Note)
	case control.VerbPause:
		return t.Pause(now, by, o.Note)
	case control.VerbResume:
		return t.Resume(now, by, o.Note)
	}
	return nil
}

// cutFor lists whose connections end: those of the order's prefix, and of wider
// grants that were closed for it. A pause is the end of every grant, and no order
// about other connections.
func cutFor(o *control.Order, changes []grant.Change) (list []netip.Prefix) {
	pause := o.Verb == control.VerbPause
	if o.Verb == control.VerbRevoke || o.Verb == control.VerbDeny {
		list = append(list, o.Prefix)
	} else if !pause {
		return nil
	}
	for i := range changes {
		if changes[i].Kind == grant.Revoked && (pause || wider(&changes[i], o.Prefix)) {
			list = append(list, changes[i].Grant.Prefix)
		}
		if pause {
			list = append(list, changes[i].Closed...)
		}
	}
	return list
}

// wider reports whether c is about more than p and all of it.
func wider(c *grant.Change, p netip.Prefix) bool {
	whole := c.Grant.Prefix
	return whole.Bits() < p.Bits() && whole.Contains(p.Addr())
}

// aftermath is what holds behind an order.
type aftermath struct {
	closed int            // grants
	rule   authz.Decision // of the order's prefix
	always netip.Prefix   // the first in it, or around it, that may always relay; invalid if none
}

func aftermathOf(t *grant.Table, p netip.Prefix, before int) aftermath {
	a := aftermath{closed: max(before-t.Len(), 0), rule: t.CheckPrefix(p)}
	if static := t.Static(); p.IsValid() {
		if i := slices.IndexFunc(static, p.Overlaps); i >= 0 {
			a.always = static[i]
		}
	}
	return a
}

// result tells what holds now, without the final full stop.
func result(o *control.Order, changes []grant.Change, after aftermath, now time.Time) string {
	target := authz.PrefixString(o.Prefix)
	until := func(t time.Time) string {
		if t.IsZero() {
			return "for good"
		}
		return fmt.Sprintf("until %s (%s)", t.Local().Format("2006-01-02 15:04:05"), authz.Span(t.Sub(now)))
	}
	ended := ""
	switch {
	case after.closed == 1:
		ended = "; its grant ended"
	case after.closed > 1:
		ended = fmt.Sprintf("; %d grants ended", after.closed)
	}
	for i := range changes {
		if c := &changes[i]; c.Kind == grant.Revoked && c.Grant.Source != grant.Always && wider(c, o.Prefix) {
			ended += ", that of all " + authz.PrefixString(changes[i].Grant.Prefix)
		}
	}
	switch o.Verb {
	case control.VerbGrant:
		if len(changes) == 0 {
			return target + " may relay anyhow: it is always allowed"
		}
		return target + " may relay " + until(changes[0].Grant.Expires)
	case control.VerbRevoke:
		switch {
		case after.always.IsValid():
			return target + " holds no grant now" + ended + ", but " + authz.PrefixString(after.always) + " may always relay, says the configuration: deny closes it"
		case after.closed == 0:
			return target + " held no grant: nothing was open"
		}
		return target + " is closed" + ended
	case control.VerbDeny:
		return target + " is closed and denied " + until(changes[0].Grant.Expires) + ended
	case control.VerbUndeny:
		switch {
		case after.always.IsValid():
			return target + " is denied no more, and " + authz.PrefixString(after.always) + " may always relay, says the configuration"
		case !after.rule.Allow:
			return target + " has no denial of its own any more, but it " + after.rule.Reason
		}
		return target + " is denied no more: the next login may open it"
	case control.VerbPause:
		if len(changes) == 0 {
			return "It is paused already"
		}
		return "Paused: nobody but the always rules may relay" + strings.Replace(ended, "its", "one", 1)
	}
	if len(changes) == 0 {
		return "It is not paused"
	}
	return "Resumed: the next login may open its address"
}
