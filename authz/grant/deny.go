package grant

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
)

// Denial says that nothing in a prefix is granted, whatever else holds.
type Denial struct {
	Prefix netip.Prefix
	Since  time.Time
	// Until is when it ends; the zero Time means never.
	Until    time.Time
	By, Note string
	// Deadline is Until by the clock since boot, where the denial is kept.
	Deadline Boot
}

// Keep is the denial as a state file keeps it. boot is the same moment as now.
func (d Denial) Keep(now time.Time, boot Boot) Denial {
	if !d.Until.IsZero() {
		d.Deadline = Boot{ID: boot.ID, At: boot.At + d.Until.Sub(now)}
	}
	return d
}

// kept is the reverse: after a reboot the wall clock counts. Where that went back, a
// denial begins anew at most.
func (d Denial) kept(now time.Time, boot Boot) Denial {
	switch {
	case d.Until.IsZero():
	case d.Deadline.ID == boot.ID && boot.ID != "":
		d.Until = now.Add(d.Deadline.At - boot.At)
	default:
		d.Until = now.Add(min(d.Until.Round(0).Sub(now.Round(0)), d.Until.Round(0).Sub(d.Since.Round(0))))
	}
	d.Deadline = Boot{}
	return d
}

// words complete the sentence "is denied …".
func (d *Denial) words() string {
	s := "by " + words(d.By, d.Note)
	if !d.Until.IsZero() {
		s += ", until " + d.Until.UTC().Format(time.RFC3339)
	}
	return s
}

// Deny lets nothing in a prefix be granted for a while (0: for good), and
// closes what lets any of its addresses relay: grants inside it, and wider ones
// as a whole. Of always rules only what is denied closes. A denial of the same
// prefix is replaced. The first change is the denial, or Refused.
func (t *Table) Deny(now time.Time, p netip.Prefix, duration time.Duration, by, note string) []Change {
	t.see(now)
	n, err := authz.NormalPrefix(p)
	_, known := t.denials[n]
	switch {
	case err != nil:
		return []Change{refusal(now, p, by, notAPrefix)}
	case duration < 0:
		return []Change{refusal(now, n, by, "cannot be denied for less than no time")}
	case !known && len(t.denials) >= t.cfg.MaxDenials:
		return []Change{refusal(now, n, by, fmt.Sprintf("cannot be denied: there are %d denials, which is the limit", len(t.denials)))}
	}
	d := Denial{Prefix: n, Since: now, By: by, Note: note}
	if duration != 0 {
		d.Until = now.Add(duration)
	}
	t.denials[n] = d
	static := t.enforce(now)
	c := Change{
		Kind: Denied, Time: now, Grant: Grant{Prefix: n, Since: now, Expires: d.Until}, By: by,
		Reason: "denied " + d.words(),
	}
	changes := append([]Change{c}, static...)
	return append(changes, t.Revoke(now, n, by, "is denied "+d.words())...)
}

// Undeny ends the denial of exactly this prefix. The first change says so, or
// is Refused.
func (t *Table) Undeny(now time.Time, p netip.Prefix, by, note string) []Change {
	t.see(now)
	n, err := authz.NormalPrefix(p)
	if err != nil {
		return []Change{refusal(now, p, by, notAPrefix)}
	}
	if _, ok := t.denials[n]; !ok {
		reason := "has no denial of its own"
		if d := t.policy.CheckPrefix(n); d.Rule == authz.RuleDeny {
			reason += "; it " + d.Reason
		}
		return []Change{refusal(now, n, by, reason)}
	}
	return t.undeny(now, n, by, "its denial was taken back by "+words(by, note))
}

func (t *Table) undeny(now time.Time, p netip.Prefix, by, reason string) []Change {
	delete(t.denials, p)
	static := t.enforce(now)
	c := Change{Kind: Undenied, Time: now, Grant: Grant{Prefix: p}, By: by, Reason: reason}
	return append([]Change{c}, static...)
}

// endDenials ends those whose time ran out.
func (t *Table) endDenials(now time.Time) []Change {
	if t.denialEnds.IsZero() || t.denialEnds.After(now) {
		return nil
	}
	var changes []Change
	for _, d := range t.Denials() {
		if !d.Until.IsZero() && !d.Until.After(now) {
			changes = append(changes, t.undeny(now, d.Prefix, "", "its denial ran out: it was denied by "+words(d.By, d.Note))...)
		}
	}
	return changes
}

// Denials lists what is denied, sorted by prefix. As with grants a step of the wall clock
// moves what is shown.
func (t *Table) Denials() []Denial {
	out := make([]Denial, 0, len(t.denials))
	for _, d := range t.denials {
		d.Since = t.clock.shown(d.Since)
		if !d.Until.IsZero() {
			d.Until = t.clock.shown(d.Until)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b Denial) int { return a.Prefix.Compare(b.Prefix) })
	return out
}

// Static lists what may always relay: the always rules without what is denied
// or never granted. It is what a gate keeps without deadlines.
func (t *Table) Static() []netip.Prefix {
	out := make([]netip.Prefix, len(t.always))
	for i, g := range t.always {
		out[i] = g.Prefix
	}
	return out
}

// Pause says that nothing is granted for now.
type Pause struct {
	By, Note string
	Since    time.Time
}

func (p *Pause) words() string {
	return fmt.Sprintf("nothing is granted: paused by %s, since %s", words(p.By, p.Note), p.Since.UTC().Format(time.RFC3339))
}

// Pause closes everything but always rules and grants nothing until Resume. The
// first change says so; there is none if the table is paused already.
func (t *Table) Pause(now time.Time, by, note string) []Change {
	t.see(now)
	if t.paused != nil {
		return nil
	}
	t.paused = &Pause{By: by, Note: note, Since: now}
	var gone tally
	for i, e := range t.all() {
		if e.state != open {
			continue
		}
		gone.revoke(e.key().prefix(), func() Change {
			return Change{Kind: Revoked, Time: now, Grant: t.grant(i), Reason: t.paused.words(), By: by}
		})
		t.close(i) // its users count still
	}
	return append([]Change{{Kind: Paused, Time: now, By: by, Reason: t.paused.words()}}, gone.sorted()...)
}

// Resume lets logins be granted again. There is no change if the table was not
// paused.
func (t *Table) Resume(now time.Time, by, note string) []Change {
	t.see(now)
	if t.paused == nil {
		return nil
	}
	t.paused = nil
	return []Change{{Kind: Resumed, Time: now, By: by, Reason: "resumed by " + words(by, note)}}
}

// Paused tells who paused the table, if it is paused.
func (t *Table) Paused() (Pause, bool) {
	if t.paused == nil {
		return Pause{}, false
	}
	return *t.paused, true
}
