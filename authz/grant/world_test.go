package grant

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"relaygate/authz"
)

// List is every grant, IPv4 first, sorted by prefix.
func (t *Table) List() []Grant {
	return slices.SortedFunc(t.All(), func(a, b Grant) int { return a.Prefix.Compare(b.Prefix) })
}

// Login admits a login and tells of it.
func (t *Table) Login(now time.Time, v authz.Verdict) (Change, bool) {
	var a Admission
	if !t.Admit(now, &v, &a) {
		return Change{}, false
	}
	return t.Explain(&a), true
}

// world is a table with everything around it in the most obvious form: a kernel
// whose elements end by themselves, sessions, denials, and what was promised.
type world struct {
	t      *testing.T
	where  string
	cfg    Config
	table  *Table
	now    time.Time
	kernel map[netip.Prefix]time.Time
	grants map[netip.Prefix]*promised
	denied map[netip.Prefix]time.Time // zero: for good
	paused bool
	next   uint64
	never  netip.Prefix
}

type promised struct {
	expires  time.Time
	sessions map[uint64]Session
}

func newWorld(t *testing.T, cfg Config) *world {
	w := &world{
		t: t, cfg: cfg.defaults(), now: start, table: New(cfg), never: netip.MustParsePrefix("203.0.113.4/32"),
		kernel: map[netip.Prefix]time.Time{}, grants: map[netip.Prefix]*promised{}, denied: map[netip.Prefix]time.Time{},
	}
	w.table.SetPolicy(w.now, policy(t, authz.Host{}, authz.Rules{Never: []netip.Prefix{w.never}}))
	return w
}

// until is when a grant closes if its sessions end now.
func (w *world) until(g *promised) time.Time {
	until := g.expires
	for _, s := range g.sessions {
		held := w.now
		if end := s.Begin.Add(w.cfg.MaxSession); end.Before(held) {
			held = end
		}
		if end := held.Add(w.cfg.Lifetime); end.After(until) {
			until = end
		}
	}
	return until
}

func (w *world) forbidden(p netip.Prefix) bool {
	for d := range w.denied {
		if d.Overlaps(p) {
			return true
		}
	}
	return w.paused || w.never.Overlaps(p)
}

// take carries changes into the kernel.
func (w *world) take(changes ...Change) {
	for _, c := range changes {
		switch {
		case c.Kind == Revoked || c.Kind == Expired:
			delete(w.kernel, c.Grant.Prefix)
			if g := w.grants[c.Grant.Prefix]; c.Kind == Expired && g != nil && w.until(g).After(w.now) {
				w.t.Fatalf("%s: %v expired, it is promised until %v", w.where, c.Grant.Prefix, w.until(g).Sub(start))
			}
			delete(w.grants, c.Grant.Prefix)
		case c.Arm:
			if !c.Grant.Expires.After(w.now) {
				w.t.Fatalf("%s: %v is armed for no time", w.where, c.Grant.Prefix)
			}
			w.kernel[c.Grant.Prefix] = c.Grant.Expires
		}
	}
}

// pass lets time pass, with a look at each deadline.
func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for {
		next, ok := w.table.Next()
		if !ok || next.After(end) {
			break
		}
		if next.Before(w.now) {
			w.t.Fatalf("%s: Next is %v ago", w.where, w.now.Sub(next))
		}
		w.now = next
		w.endDenials()
		w.take(w.table.Expire(w.now)...)
		w.check()
	}
	w.now = end
	w.endDenials()
	w.take(w.table.Expire(w.now)...)
	w.check()
}

func (w *world) endDenials() {
	maps.DeleteFunc(w.denied, func(_ netip.Prefix, until time.Time) bool { return !until.IsZero() && !until.After(w.now) })
}

// check compares everything that can be seen.
func (w *world) check() {
	w.t.Helper()
	for p, until := range w.kernel {
		switch g := w.grants[p]; {
		case g == nil:
			w.t.Fatalf("%s: the kernel holds %v, which nobody granted", w.where, p)
		case w.forbidden(p):
			w.t.Fatalf("%s: %v is open and forbidden", w.where, p)
		case until.After(w.until(g)):
			w.t.Fatalf("%s: %v is armed %v beyond its promise", w.where, p, until.Sub(w.until(g)))
		case !until.After(w.now):
			w.t.Fatalf("%s: the element of %v ran out %v ago, it is promised for %v more", w.where, p, w.now.Sub(until), w.until(g).Sub(w.now))
		case w.holding(g) == 0 && w.until(g).Sub(until) > w.cfg.Lifetime/8+2*tick:
			w.t.Fatalf("%s: the element of %v ends %v before its promise", w.where, p, w.until(g).Sub(until))
		}
	}
	list := w.table.List()
	if len(list) != len(w.grants) || len(w.kernel) != len(w.grants) {
		w.t.Fatalf("%s: %d listed, %d in the kernel, the model has %d", w.where, len(list), len(w.kernel), len(w.grants))
	}
	followed := 0
	for _, g := range list {
		want := w.grants[g.Prefix]
		if want == nil || !g.Expires.Equal(w.until(want)) || g.Sessions != w.holding(want) {
			w.t.Fatalf("%s: %v until %v with %d sessions, the model has %+v", w.where, g.Prefix, g.Expires.Sub(start), g.Sessions, want)
		}
		followed += g.Sessions
	}
	if w.table.Followed() != followed {
		w.t.Fatalf("%s: %d sessions are followed, grants have %d", w.where, w.table.Followed(), followed)
	}
}

// holding counts sessions. The table notices with its next look that one became
// too old: until then both numbers are good, and only Expires must be exact.
func (w *world) holding(g *promised) int {
	i := w.table.find(keyOf(w.prefixOf(g)))
	return len(w.table.sessions[i])
}

func (w *world) prefixOf(g *promised) netip.Prefix {
	for p, other := range w.grants {
		if other == g {
			return p
		}
	}
	return netip.Prefix{}
}

func (w *world) login(client netip.Addr, user string) {
	c, ok := w.table.Login(w.now, login(client.String(), user))
	p := w.table.Key(client)
	if !ok || (c.Kind == Refused) != w.forbidden(p) {
		w.t.Fatalf("%s: Login(%v) = %v %q, forbidden is %v", w.where, client, c.Kind, c.Reason, w.forbidden(p))
	}
	if c.Kind != Refused {
		w.extend(p, w.cfg.Lifetime)
	}
	w.take(c)
}

func (w *world) extend(p netip.Prefix, d time.Duration) {
	g := w.grants[p]
	if g == nil {
		g = &promised{sessions: map[uint64]Session{}}
		w.grants[p] = g
	}
	if until := w.now.Add(d); until.After(g.expires) {
		g.expires = until
	}
}

func (w *world) hold(client netip.Addr, user string) {
	s := Session{ID: w.next, Client: client, User: user, Begin: w.now}
	w.next++
	g := w.grants[w.table.Key(client)]
	if ok := w.table.Hold(w.now, s); ok != (g != nil && w.cfg.Follow) {
		w.t.Fatalf("%s: Hold(%v) = %v", w.where, client, ok)
	} else if ok {
		g.sessions[s.ID] = s
	}
}

func (w *world) releaseOne(client netip.Addr) {
	g := w.grants[w.table.Key(client)]
	if g == nil {
		if c, ok := w.table.Release(w.now, Session{ID: w.next, Client: client}, time.Time{}); ok {
			w.t.Fatalf("%s: Release of nothing = %+v", w.where, c)
		}
		return
	}
	for id, s := range g.sessions {
		g.expires = w.until(g)
		delete(g.sessions, id)
		if c, ok := w.table.Release(w.now, s, time.Time{}); ok {
			w.take(c)
		}
		return
	}
}

func (w *world) deny(p netip.Prefix, d time.Duration) {
	w.denied[p] = time.Time{}
	if d > 0 {
		w.denied[p] = w.now.Add(d)
	}
	w.take(w.table.Deny(w.now, p, d, "root (uid 0)", "")...)
}

// restart takes a new table for the old one. Sessions are not held again.
func (w *world) restart() {
	boot := Boot{"boot", w.now.Sub(start)}
	state, rows := saved(w.t, w.table, w.now, boot)
	w.table = New(w.cfg)
	w.table.SetPolicy(w.now, policy(w.t, authz.Host{}, authz.Rules{Never: []netip.Prefix{w.never}}))
	for _, g := range w.grants {
		g.expires = w.until(g)
		clear(g.sessions)
	}
	w.take(w.table.Restore(w.now, boot, state, rows)...)
	clear(w.kernel)
	for _, g := range w.table.List() {
		w.kernel[g.Prefix] = g.Expires
	}
}

func TestWorld(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := newWorld(t, Config{
			Lifetime: 8 * time.Second, MaxSession: 40 * time.Second, Follow: seed%4 != 0, IPv6Prefix: 64, MaxUsers: 1000, MaxAddresses: 1000,
		})
		play(w, seed, rng)
	}
}

func play(w *world, seed uint64, rng *rand.Rand) {
	var clients []netip.Addr
	for _, s := range []string{"203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"} {
		clients = append(clients, netip.MustParseAddr(s))
	}
	wide := prefixes("203.0.113.0/30", "203.0.113.2/31", "203.0.113.2/32", "2001:db8::/48", "2001:db8::2/128", "203.0.113.0/24", "2001:db8::/64")
	for step := range 400 {
		w.where = fmt.Sprintf("seed %d, step %d", seed, step)
		client, p := clients[rng.IntN(len(clients))], wide[rng.IntN(len(wide))]
		user := []string{"alice", "bob", "carol"}[rng.IntN(3)]
		switch rng.IntN(25) {
		case 24:
			w.restart()
		case 0:
			w.deny(p, time.Duration(rng.IntN(640))*tick)
		case 1, 2:
			for d := range w.denied {
				delete(w.denied, d)
				w.take(w.table.Undeny(w.now, d, "root (uid 0)", "")...)
				break
			}
		case 3:
			w.take(w.table.Pause(w.now, "root (uid 0)", "")...)
			w.paused = true
		case 4, 5:
			w.take(w.table.Resume(w.now, "root (uid 0)", "")...)
			w.paused = false
		case 6:
			w.take(w.table.Revoke(w.now, p, "root (uid 0)", "test")...)
		case 7:
			d := time.Duration(1+rng.IntN(2000)) * tick
			if whole := w.table.Key(p.Addr()); whole.Bits() < p.Bits() {
				p = whole // as the daemon does
			}
			c, ok := w.table.Manual(w.now, p, d, "root (uid 0)", "")
			if ok && c.Kind != Refused {
				w.extend(p, d)
			}
			w.take(c)
		case 8, 9, 10:
			w.releaseOne(client)
		case 11, 12, 13:
			w.login(client, user)
			w.hold(client, user)
		default:
			w.login(client, user)
		}
		w.check()
		w.pass(time.Duration(rng.IntN(256)) * tick)
	}
}
