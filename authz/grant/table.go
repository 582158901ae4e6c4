package grant

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
)

// Config bounds a table. A zero field takes its default.
type Config struct {
	// Lifetime is how long a login holds an address open (30 min).
	Lifetime time.Duration
	// IPv6Prefix is the length to which IPv6 addresses are widened (128).
	IPv6Prefix int
	// MaxUsers is how many users may log in from one address within one
	// lifetime; with more the address counts as shared (5).
	MaxUsers int
	// MaxAddresses is how many addresses one user may hold open (20).
	MaxAddresses int
	// MaxGrants bounds the table (1,048,576, the size of the kernel's sets).
	MaxGrants int
}

// MaxLifetime bounds every deadline from now on.
const MaxLifetime = 366 * 24 * time.Hour

// Table is who may relay now. Make one with New.
type Table struct {
	cfg    Config
	policy *authz.Policy
	always []Grant // sorted, none inside another

	// base is what all offsets count from, last the latest time seen.
	base, last time.Time

	entries  []entry
	free     []int32
	index    map[key]int32
	lengths  [129]int // entries per prefix length, as keys count it
	due      deadlines
	accounts map[string]*account
	granted  int
}

// entry is a prefix that is open, or that was and whose users still count.
type entry struct {
	key key
	// since, expires and forget are offsets from base. The grant stands until
	// expires; the users count until forget, which keeps a shared address
	// shared after its grant ran out.
	since, expires, forget int64

	position int32 // in the heap
	open     bool
	source   Source
	tls      bool
	logins   int
	users    []holder // newest first
	conn     authz.Conn
	// mechanism and answer are those of the last login; held says why a later
	// one did not renew.
	mechanism, answer, held string
}

// holder is a user who logged in from an entry's prefix.
type holder struct {
	account   *account
	seen      int64
	protocol  authz.Protocol
	mechanism string
}

// account knows the entries that name one user; there are never more than
// MaxAddresses, but for the account without a name, which has no slots.
type account struct {
	name, folded string
	addresses    int
	slots        []int32
}

// New makes an empty table. Until SetPolicy it grants nothing.
func New(cfg Config) *Table {
	cfg.Lifetime = min(cmp.Or(cfg.Lifetime, 30*time.Minute), MaxLifetime)
	cfg.IPv6Prefix = cmp.Or(cfg.IPv6Prefix, 128)
	cfg.MaxUsers = cmp.Or(cfg.MaxUsers, 5)
	cfg.MaxAddresses = cmp.Or(cfg.MaxAddresses, 20)
	cfg.MaxGrants = cmp.Or(cfg.MaxGrants, 1<<20)
	t := &Table{cfg: cfg, index: make(map[key]int32), accounts: make(map[string]*account)}
	t.due.table = t
	return t
}

// SetPolicy puts a new policy in force: always rules open and close, and what
// may no longer be granted is revoked. A nil policy closes everything.
func (t *Table) SetPolicy(now time.Time, p *authz.Policy) []Change {
	t.offset(now)
	t.policy = p
	changes := t.setAlways(now, p.Always())
	var gone []Change
	for i := range t.entries {
		e := &t.entries[i]
		if !e.open {
			continue
		}
		prefix := e.key.prefix()
		if d := p.CheckPrefix(prefix); !d.Allow {
			gone = append(gone, Change{Kind: Revoked, Time: now, Grant: t.grant(e), Reason: d.Reason})
			t.remove(int32(i))
		}
	}
	slices.SortFunc(gone, byPrefix)
	return append(changes, gone...)
}

func (t *Table) setAlways(now time.Time, want []netip.Prefix) []Change {
	var changes []Change
	old := t.always
	t.always = make([]Grant, 0, len(want))
	kept := make(map[netip.Prefix]Grant, len(old))
	for _, g := range old {
		kept[g.Prefix] = g
	}
	for _, p := range want {
		g, ok := kept[p]
		if !ok {
			g = Grant{Prefix: p, Since: now, Source: Always}
			changes = append(changes, Change{Kind: Granted, Time: now, Grant: g, Reason: "always allowed by the configuration"})
		}
		delete(kept, p)
		t.always = append(t.always, g)
	}
	for _, g := range old {
		if _, ok := kept[g.Prefix]; ok {
			changes = append(changes, Change{Kind: Revoked, Time: now, Grant: g, Reason: "no longer always allowed by the configuration"})
		}
	}
	return changes
}

// Import takes over an element that the kernel held before the start. What
// remains is clamped to the lifetime; nothing that has no time left is taken.
// It reports false if nothing changed.
func (t *Table) Import(now time.Time, a netip.Addr, remaining time.Duration) (Change, bool) {
	return t.put(now, t.Key(a), min(remaining, t.cfg.Lifetime), Import, "found in the kernel's table at the start")
}

// Manual grants a prefix for a while, as the administrator asked. The policy
// holds for it too. It reports false if nothing changed.
func (t *Table) Manual(now time.Time, p netip.Prefix, lifetime time.Duration) (Change, bool) {
	n, err := authz.NormalPrefix(p)
	if err != nil {
		return Change{Kind: Refused, Time: now, Grant: Grant{Prefix: p}, Reason: "is not a prefix"}, true
	}
	return t.put(now, n, min(lifetime, MaxLifetime), Manual, "granted by the administrator")
}

// put opens or extends a grant that needs no login.
func (t *Table) put(now time.Time, p netip.Prefix, lifetime time.Duration, s Source, reason string) (Change, bool) {
	off := t.offset(now)
	if !p.IsValid() || lifetime <= 0 {
		return Change{}, false
	}
	if d := t.policy.CheckPrefix(p); !d.Allow {
		return t.refused(now, p, d.Reason), true
	} else if d.Rule == authz.RuleAlways {
		return Change{}, false
	}
	i, ok := t.index[keyOf(p)]
	if !ok {
		if len(t.index) >= t.cfg.MaxGrants {
			return t.refused(now, p, t.full()), true
		}
		i = t.insert(keyOf(p))
	}
	e := &t.entries[i]
	kind := t.extend(e, off, lifetime, s)
	return Change{Kind: kind, Time: now, Grant: t.grant(e), Reason: reason}, true
}

// Revoke closes what a prefix holds before its time, the prefix itself and all
// inside it. Always rules stay: they are the configuration's.
func (t *Table) Revoke(now time.Time, p netip.Prefix, reason string) []Change {
	t.offset(now)
	n, err := authz.NormalPrefix(p)
	if err != nil {
		return nil
	}
	var changes []Change
	for i := range t.entries {
		e := &t.entries[i]
		if e.source == 0 || int(e.key.bits) < int(keyOf(n).bits) || !n.Contains(e.key.prefix().Addr()) {
			continue
		}
		if e.open {
			changes = append(changes, Change{Kind: Revoked, Time: now, Grant: t.grant(e), Reason: reason})
		}
		t.remove(int32(i))
	}
	slices.SortFunc(changes, byPrefix)
	return changes
}

// Expire closes what ran out until now, in the order in which it did. Call it
// before Login of the same moment, and at Next.
func (t *Table) Expire(now time.Time) []Change {
	off := t.offset(now)
	var changes []Change
	for len(t.due.slots) > 0 {
		i := t.due.slots[0]
		e := &t.entries[i]
		if e.deadline() > off {
			break
		}
		if e.open {
			changes = append(changes, Change{Kind: Expired, Time: now, Grant: t.grant(e), Reason: t.expiry(e)})
			e.open = false
			t.granted--
		}
		if e.forget <= off {
			t.remove(i)
		} else {
			heap.Fix(&t.due, 0)
		}
	}
	return changes
}

func (t *Table) expiry(e *entry) string {
	if e.held != "" {
		return "its time ran out and it was not renewed: " + e.held
	}
	if e.source == Login {
		return fmt.Sprintf("no login for %v", t.cfg.Lifetime)
	}
	return "its time ran out"
}

// Next is when Expire has something to do; false if never.
func (t *Table) Next() (time.Time, bool) {
	if len(t.due.slots) == 0 {
		return time.Time{}, false
	}
	return t.time(t.entries[t.due.slots[0]].deadline()), true
}

// offset turns a time into a distance from base, by the monotonic clock where
// both times have its reading.
func (t *Table) offset(now time.Time) int64 {
	if t.base.IsZero() {
		t.base, t.last = now, now
	}
	if now.Sub(t.last) > 0 {
		t.last = now
	}
	return int64(now.Sub(t.base))
}

// time turns an offset into a time, counted from the latest time seen: a step
// of the wall clock since then moves what is shown, not what is left.
func (t *Table) time(off int64) time.Time {
	return t.last.Add(time.Duration(off - int64(t.last.Sub(t.base))))
}

// after adds without overflow.
func after(off int64, d time.Duration) int64 {
	if off > math.MaxInt64-int64(d) {
		return math.MaxInt64
	}
	return off + int64(d)
}

func byPrefix(a, b Change) int { return a.Grant.Prefix.Compare(b.Grant.Prefix) }
