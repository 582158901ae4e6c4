package grant

import (
	"iter"
	"net/netip"
	"time"

	"relaygate/authz"
)

// Import takes over an element that the kernel held before the start. What
// remains is clamped to the lifetime; nothing that has no time left is taken, and
// no single address where its network would be opened now. It reports false if
// nothing changed.
func (t *Table) Import(now time.Time, a netip.Addr, remaining time.Duration) (Change, bool) {
	p := t.Key(a)
	if !p.IsValid() || ticks(remaining) == 0 || p.Addr() != a.Unmap() {
		return Change{}, false
	}
	if t.policy.CheckPrefix(p).Rule == authz.RuleAlways {
		return Change{}, false
	}
	return t.put(now, p, min(remaining, t.cfg.Lifetime), Import, "found in the kernel's table at the start")
}

// Manual grants a prefix for a while, as the administrator asked. The policy
// holds for it too, the brakes do not. by and note go into the evidence. It
// reports false if nothing changed.
func (t *Table) Manual(now time.Time, p netip.Prefix, lifetime time.Duration, by, note string) (Change, bool) {
	n, err := authz.NormalPrefix(p)
	switch {
	case err != nil:
		return refusal(now, p, by, notAPrefix), true
	case !expressible(n):
		return refusal(now, n, by, "is too wide to be granted for a while: take at most 1024 addresses or an IPv6 /64, or an always rule"), true
	case ticks(lifetime) == 0, t.policy.CheckPrefix(n).Rule == authz.RuleAlways:
		return Change{}, false
	}
	c, ok := t.put(now, n, lifetime, Manual, "granted by "+words(by, note))
	if !ok {
		return c, false
	}
	c.By = by
	if c.Kind != Refused {
		t.detailOf(t.find(keyOf(n)), true).admin = &admin{by, note}
		c.Grant.By, c.Grant.Note = by, note
	}
	return c, true
}

const notAPrefix = "is not a prefix"

// refusal is the answer to an order that cannot be obeyed.
func refusal(now time.Time, p netip.Prefix, by, reason string) Change {
	return Change{Kind: Refused, Time: now, Grant: Grant{Prefix: p}, By: by, Reason: reason}
}

// words names who did something, safe to print.
func words(by, note string) string {
	if by == "" {
		by = "the administrator"
	}
	if note != "" {
		return authz.Quote(by) + ": " + authz.QuoteWords(note)
	}
	return authz.Quote(by)
}

// maxMembers bounds the elements of one grant.
const maxMembers = 1024

// expressible reports whether a gate whose sets hold single addresses and IPv6
// /64s can hold the prefix: an element of an interval set has no time of its
// own that could be renewed.
func expressible(p netip.Prefix) bool {
	return p.Addr().BitLen()-p.Bits() <= 10 || p.Addr().Is6() && p.Bits() == 64
}

// Members are the elements that a grant of a prefix needs: its addresses, or
// the IPv6 /64 itself.
func Members(p netip.Prefix) iter.Seq[netip.Prefix] {
	return func(yield func(netip.Prefix) bool) {
		if !expressible(p) || p.Addr().Is6() && p.Bits() == 64 {
			yield(p)
			return
		}
		a := p.Addr()
		for n := 0; n < maxMembers && p.Contains(a); n++ {
			if !yield(netip.PrefixFrom(a, a.BitLen())) {
				return
			}
			a = a.Next()
		}
	}
}

// put opens or extends a grant that needs no login, also beside an always rule.
func (t *Table) put(now time.Time, p netip.Prefix, lifetime time.Duration, s Source, reason string) (Change, bool) {
	at := t.see(now)
	if d := t.policy.CheckPrefix(p); !d.Allow {
		return t.refused(now, p, d.Reason), true
	}
	if t.paused != nil {
		return t.refused(now, p, t.paused.words()), true
	}
	i := t.find(keyOf(p))
	isNew := i == 0
	if isNew {
		if t.entries.n >= t.cfg.MaxGrants {
			return t.refused(now, p, t.full()), true
		}
		i = t.insert(keyOf(p))
	}
	kind := t.extend(i, at, ticks(lifetime), s)
	arm := t.entry(i).arm(0)
	switch {
	case isNew:
		t.due.push(timer{t.attention(i, at), i})
	case kind == Granted:
		t.reschedule(at) // its timer may be for a later time
	}
	return Change{Kind: kind, Time: now, Grant: t.grant(i), Arm: arm, Reason: reason}, true
}

// Revoke closes before its time what lets any address of a prefix relay: what
// is inside it, and what is wider, for nothing less closes it. Always rules
// stay: they are the configuration's.
func (t *Table) Revoke(now time.Time, p netip.Prefix, by, reason string) []Change {
	at := t.see(now)
	n, err := authz.NormalPrefix(p)
	if err != nil {
		return nil
	}
	var gone tally
	for _, i := range t.overlapping(n) {
		why := reason
		if q := t.entry(i).key().prefix(); q.Bits() < n.Bits() {
			why = "contains " + authz.PrefixString(n) + ": " + reason
		}
		t.revoke(&gone, now, i, why, by)
	}
	t.compact(at)
	return gone.sorted()
}

// revoke closes and forgets one entry.
func (t *Table) revoke(gone *tally, now time.Time, i uint32, reason, by string) {
	if e := t.entry(i); e.state == open {
		gone.revoke(e.key().prefix(), func() Change { return Change{Kind: Revoked, Time: now, Grant: t.grant(i), Reason: reason, By: by} })
	}
	t.bury(i)
}

// overlapping lists the entries that share an address with p. For one address
// it does not depend on the size of the table.
func (t *Table) overlapping(p netip.Prefix) []uint32 {
	var out []uint32
	if !p.IsSingleIP() {
		for i, e := range t.all() {
			if q := e.key().prefix(); p.Overlaps(q) {
				out = append(out, i)
			}
		}
		return out
	}
	for i := range t.covering(p.Addr()) {
		out = append(out, i)
	}
	return out
}

// covering goes through the entries that hold an address, the narrowest first.
func (t *Table) covering(a netip.Addr) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		k, shortest := keyOf(netip.PrefixFrom(a, a.BitLen())), 0
		if a.Is4() {
			shortest = 96
		}
		for bits := 128; bits >= shortest; bits-- {
			if t.lengths[bits] == 0 {
				continue
			}
			if i := t.find(k.narrow(bits)); i != 0 && !yield(i) {
				return
			}
		}
	}
}
