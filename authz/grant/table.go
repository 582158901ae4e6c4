package grant

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"time"

	"relaygate/authz"
)

// Config bounds a table. A zero field takes its default.
type Config struct {
	// Lifetime is how long a login holds an address open (30 min).
	Lifetime time.Duration
	// Follow lets an open session hold its grant: the lifetime starts when it
	// closes. MaxSession bounds that, from the session's begin (24 h; at most
	// 180 days).
	Follow     bool
	MaxSession time.Duration
	// IPv6Prefix is the length to which IPv6 addresses are widened (128).
	IPv6Prefix int
	// MaxUsers is how many users may log in from one address within one
	// lifetime; with more the address counts as shared (5).
	MaxUsers int
	// MaxAddresses is how many addresses one user may hold open (20).
	MaxAddresses int
	// MaxGrants bounds the table (1,048,576, the size of the kernel's sets),
	// MaxDetails the grants whose users and logins can be told (16,384),
	// MaxSessions the sessions that are followed (131,072), MaxDenials the
	// denials (4,096).
	MaxGrants, MaxDetails, MaxSessions, MaxDenials int
}

// MaxLifetime bounds every deadline from now on.
const MaxLifetime = 366 * 24 * time.Hour

// maxSession bounds Config.MaxSession: a begin that is older is not told from
// one at tick 0.
const maxSession = 180 * 24 * time.Hour

func (cfg Config) defaults() Config {
	cfg.Lifetime = min(cmp.Or(cfg.Lifetime, 30*time.Minute), MaxLifetime)
	cfg.MaxSession = min(cmp.Or(cfg.MaxSession, 24*time.Hour), maxSession)
	cfg.IPv6Prefix = cmp.Or(cfg.IPv6Prefix, 128)
	cfg.MaxUsers = cmp.Or(cfg.MaxUsers, 5)
	cfg.MaxAddresses = cmp.Or(cfg.MaxAddresses, 20)
	cfg.MaxGrants = cmp.Or(cfg.MaxGrants, 1<<20)
	cfg.MaxDetails = cmp.Or(cfg.MaxDetails, 1<<14)
	cfg.MaxSessions = cmp.Or(cfg.MaxSessions, 1<<17)
	cfg.MaxDenials = cmp.Or(cfg.MaxDenials, 1<<12)
	return cfg
}

// Table is who may relay now. Make one with New.
type Table struct {
	cfg Config
	// lifetime and slack in ticks. Slack is how much earlier than promised an
	// element of the kernel may end if nobody is there to renew it.
	lifetime, slack, maxSession uint32

	base    *authz.Policy // as set
	policy  *authz.Policy // base with the denials
	denials map[netip.Prefix]Denial
	// denialEnds is when the first denial does, zero if none does.
	denialEnds time.Time
	paused     *Pause
	always     []Grant // sorted, none inside another

	clock   clock
	seed    maphash.Seed
	entries rows[entry, *entry]
	links   rows[link, *link]
	due     timers
	dead    int         // entries that wait for their timers
	lengths [129]uint32 // entries per prefix length, as keys count it
	granted int

	details  map[uint32]*detail
	sessions map[uint32][]session
	followed int
	dropped  Dropped
	stopped  Stopped
}

// Stopped counts the proved logins that a brake kept from granting: Users those
// from addresses with too many users, Addresses those of users with too many
// addresses.
type Stopped struct{ Users, Addresses uint64 }

// Dropped counts what a bound left out since the start.
type Dropped struct {
	// Details are grants whose users cannot be told, Sessions such as are not
	// followed: their grants run out a lifetime after the login.
	Details, Sessions uint64
}

// New makes an empty table. Until SetPolicy it grants nothing.
func New(cfg Config) *Table {
	t := &Table{
		seed: maphash.MakeSeed(), denials: make(map[netip.Prefix]Denial),
		details: make(map[uint32]*detail), sessions: make(map[uint32][]session),
	}
	t.configure(cfg)
	return t
}

func (t *Table) configure(cfg Config) {
	t.cfg = cfg.defaults()
	t.lifetime, t.maxSession = max(ticks(t.cfg.Lifetime), 1), ticks(t.cfg.MaxSession)
	t.slack = t.lifetime / 8
}

// SetConfig puts new bounds in force. What a login promised is cut to one
// lifetime from now where that is shorter; other bounds hold from the next
// login on.
func (t *Table) SetConfig(now time.Time, cfg Config) []Change {
	at := t.see(now)
	followed := t.cfg.Follow
	t.configure(cfg)
	var changed tally
	for i, e := range t.all() {
		if e.state != open {
			continue
		}
		if followed && !t.cfg.Follow && len(t.sessions[i]) > 0 {
			e.expires = max(e.expires, at+t.lifetime)
			t.dropSessions(i)
		}
		if e.source != Manual {
			e.expires = min(e.expires, at+t.lifetime)
		}
		if e.armed > e.expires {
			e.armed = e.expires
			changed.add(func() Change {
				return Change{Kind: Rearmed, Time: now, Grant: t.grant(i), Arm: true, Reason: "the configured lifetime is shorter now"}
			})
		}
	}
	t.reschedule(at)
	return changed.sorted()
}

// SetPolicy puts a new policy in force: always rules open and close, and what
// may no longer be granted is revoked. A nil policy closes everything. Denials
// of the table stay.
func (t *Table) SetPolicy(now time.Time, p *authz.Policy) []Change {
	at := t.see(now)
	t.base = p
	changes := t.enforce(now)
	var gone tally
	for i, e := range t.all() {
		if e.state != open {
			continue
		}
		if d := t.policy.CheckPrefix(e.key().prefix()); !d.Allow {
			t.revoke(&gone, now, i, d.Reason, "")
		}
	}
	t.compact(at)
	return append(changes, gone.sorted()...)
}

// enforce joins policy and denials, and opens and closes always rules.
func (t *Table) enforce(now time.Time) []Change {
	denials := make([]authz.Denial, 0, len(t.denials))
	t.denialEnds = time.Time{}
	for p, d := range t.denials {
		denials = append(denials, authz.Denial{Prefix: p, Words: d.words()})
		if !d.Until.IsZero() && (t.denialEnds.IsZero() || d.Until.Before(t.denialEnds)) {
			t.denialEnds = d.Until
		}
	}
	p, err := t.base.Denying(denials)
	if err != nil {
		p = nil // cannot be: Deny takes nothing else; if it is, nothing is granted
	}
	t.policy = p
	return t.setAlways(now, p.Always())
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
			changes = append(changes, Change{Kind: Revoked, Time: now, Grant: g, Reason: "no longer always allowed"})
		}
	}
	if len(changes) > 0 {
		changes[0].Static = true
	}
	return changes
}

// Check is what the policy with the table's denials says about an address.
func (t *Table) Check(a netip.Addr) authz.Decision { return t.policy.Check(a) }

// CheckPrefix is Check for every address of a prefix.
func (t *Table) CheckPrefix(p netip.Prefix) authz.Decision { return t.policy.CheckPrefix(p) }

// see takes note of the time, in ticks. Once in a year all ticks are set back.
func (t *Table) see(now time.Time) uint32 {
	at, n := t.clock.see(now)
	if n == 0 {
		return at
	}
	for _, e := range t.all() {
		e.since, e.expires, e.armed = back(e.since, n), back(e.expires, n), back(e.armed, n)
		for i := e.links; i != 0; i = t.link(i).next {
			t.link(i).seen = back(t.link(i).seen, n)
		}
	}
	for _, list := range t.sessions {
		for i := range list {
			list[i].begin = back(list[i].begin, n)
		}
	}
	t.reschedule(at)
	return at
}

// Slept says that the machine slept for d, while the monotonic clock stood
// still: every deadline comes that much earlier. The gate holds its elements
// too long then: write what Project yields.
func (t *Table) Slept(d time.Duration) {
	if d > 0 && !t.clock.base.IsZero() {
		t.clock.slept(d)
	}
}
