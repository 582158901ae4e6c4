package grant

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
)

// model does what Table does in the most obvious way: it keeps every login for
// ever and works everything out anew.
type model struct {
	cfg    Config
	logins []modelLogin
	grants map[netip.Prefix]*modelGrant
}

type modelLogin struct {
	prefix netip.Prefix
	user   string
	when   time.Time
}

type modelGrant struct{ since, expires time.Time }

// users are those whose latest noted login from p is younger than a lifetime.
func (m *model) users(p netip.Prefix, now time.Time) map[string]bool {
	users := map[string]bool{}
	for _, l := range m.logins {
		if l.prefix == p && l.when.Add(m.cfg.Lifetime).After(now) {
			users[l.user] = true
		}
	}
	return users
}

// addresses counts where user logged in within a lifetime.
func (m *model) addresses(user string, now time.Time) map[netip.Prefix]bool {
	seen := map[netip.Prefix]bool{}
	for _, l := range m.logins {
		if l.user == user && l.when.Add(m.cfg.Lifetime).After(now) {
			seen[l.prefix] = true
		}
	}
	return seen
}

func (m *model) login(now time.Time, p netip.Prefix, user string) Kind {
	user = strings.ToLower(user)
	held := m.addresses(user, now)
	if !held[p] && len(held) >= m.cfg.MaxAddresses {
		return Refused
	}
	m.logins = append(m.logins, modelLogin{p, user, now})
	if len(m.users(p, now)) > m.cfg.MaxUsers {
		return Refused
	}
	g, ok := m.grants[p]
	if !ok {
		m.grants[p] = &modelGrant{now, now.Add(m.cfg.Lifetime)}
		return Granted
	}
	if until := now.Add(m.cfg.Lifetime); until.After(g.expires) {
		g.expires = until
	}
	return Renewed
}

func (m *model) expire(now time.Time) map[netip.Prefix]bool {
	gone := map[netip.Prefix]bool{}
	for p, g := range m.grants {
		if !g.expires.After(now) {
			gone[p] = true
			delete(m.grants, p)
		}
	}
	return gone
}

func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{Lifetime: 10 * time.Second, MaxUsers: 1 + int(seed%3), MaxAddresses: 1000, IPv6Prefix: 64}
		if seed%2 == 0 {
			cfg.MaxUsers, cfg.MaxAddresses = 1000, 2
		}
		compare(t, seed, rng, cfg)
	}
}

func compare(t *testing.T, seed uint64, rng *rand.Rand, cfg Config) {
	table := newTable(t, cfg)
	m := &model{cfg: table.cfg, grants: map[netip.Prefix]*modelGrant{}}
	clients := []string{"203.0.113.1", "203.0.113.2", "::ffff:203.0.113.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "203.0.113.3"}
	now := start
	for i := range 600 {
		now = now.Add(time.Duration(rng.IntN(256)) * tick)
		gone := m.expire(now)
		for _, c := range table.Expire(now) {
			if c.Kind == Rearmed {
				continue
			}
			if !gone[c.Grant.Prefix] {
				t.Fatalf("seed %d, step %d: %+v, not so in the model", seed, i, c)
			}
			delete(gone, c.Grant.Prefix)
		}
		if len(gone) > 0 {
			t.Fatalf("seed %d, step %d: %v did not expire", seed, i, gone)
		}
		client, user := clients[rng.IntN(len(clients))], []string{"alice", "ALICE", "bob", "carol", "dave"}[rng.IntN(5)]
		p := table.Key(netip.MustParseAddr(client))
		want := m.login(now, p, user)
		got, _ := table.Login(now, login(client, user))
		if got.Kind != want {
			t.Fatalf("seed %d, step %d: Login(%s, %s) = %v %q, the model says %v", seed, i, client, user, got.Kind, got.Reason, want)
		}
		check(t, fmt.Sprintf("seed %d, step %d", seed, i), table, m, now)
		if rng.IntN(20) == 0 {
			table.Revoke(now, p, "", "test")
			delete(m.grants, p)
			m.forget(p)
		}
	}
}

func (m *model) forget(p netip.Prefix) {
	kept := m.logins[:0]
	for _, l := range m.logins {
		if l.prefix != p {
			kept = append(kept, l)
		}
	}
	m.logins = kept
}

func check(t *testing.T, where string, table *Table, m *model, now time.Time) {
	t.Helper()
	list := table.List()
	if len(list) != len(m.grants) || table.Len() != len(m.grants) {
		t.Fatalf("%s: %d grants listed, %d counted, the model has %d", where, len(list), table.Len(), len(m.grants))
	}
	var next time.Time
	for _, g := range list {
		want := m.grants[g.Prefix]
		if want == nil || !g.Since.Equal(want.since) || !g.Expires.Equal(want.expires) {
			t.Fatalf("%s: %+v, the model has %+v", where, g, want)
		}
		if got, ok := table.Get(g.Prefix.Addr()); !ok || got.Prefix != g.Prefix {
			t.Fatalf("%s: Get(%v) = %v %v", where, g.Prefix.Addr(), got, ok)
		}
		if len(g.Users) == 0 || len(g.Users) > m.cfg.MaxUsers+1 {
			t.Fatalf("%s: %d users", where, len(g.Users))
		}
		if next.IsZero() || g.Expires.Before(next) {
			next = g.Expires
		}
	}
	if due, ok := table.Next(); !next.IsZero() && (!ok || due.After(next)) {
		t.Fatalf("%s: Next = %v %v, a grant expires at %v", where, due, ok, next)
	}
	holders := 0
	for i := range table.all() {
		for n := table.entry(i).links; n != 0; n = table.link(n).next {
			holders++
		}
	}
	if table.links.n != holders {
		t.Fatalf("%s: %d links, entries hold %d", where, table.links.n, holders)
	}
}

func FuzzLogin(f *testing.F) {
	f.Add("alice", "USER", "+OK", uint8(1), int64(0))
	f.Add("\xff\x00İ", "", "", uint8(2), int64(-1))
	f.Add(strings.Repeat("x", 1000), "PLAIN", "a OK", uint8(0), int64(1<<62))
	f.Fuzz(func(t *testing.T, user, mechanism, answer string, origin uint8, step int64) {
		table := newTable(t, Config{MaxUsers: 2})
		v := login("203.0.113.7", user)
		v.Mechanism, v.Answer, v.Origin = mechanism, answer, authz.Origin(origin)
		for i := range int64(4) {
			v.User += string(rune('a' + i))
			now := start.Add(time.Duration(step * i))
			table.Expire(now)
			c, ok := table.Login(now, v)
			if !ok || c.Kind == 0 {
				t.Fatalf("Login = %+v %v", c, ok)
			}
			if c.Kind != Refused && c.Grant.Expires.IsZero() {
				t.Fatalf("a login made a grant without a deadline: %+v", c)
			}
			for _, u := range c.Grant.Users {
				if len(u.Name) > authz.UserLimit {
					t.Fatalf("a name of %d bytes is kept", len(u.Name))
				}
			}
		}
	})
}
