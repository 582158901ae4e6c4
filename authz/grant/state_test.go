package grant

import (
	"encoding/json"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
)

// saved takes what a table holds through JSON, as a state file would.
func saved(t *testing.T, table *Table, now time.Time, boot Boot) (State, iter.Seq[Saved]) {
	t.Helper()
	s := State{Denials: table.Denials(), Paused: table.paused}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	s = State{}
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	var rows []Saved
	for g := range table.All() {
		data, err := json.Marshal(Save(now, boot, g))
		if err != nil {
			t.Fatal(err)
		}
		var row Saved
		if err := json.Unmarshal(data, &row); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row)
	}
	return s, slices.Values(rows)
}

func TestRestore(t *testing.T) {
	const boot = "6ad4d6c3"
	before := func(t *testing.T) *Table {
		table := New(Config{})
		table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Always: prefixes("192.0.2.0/24")}))
		must(t, table, at(5*m), "203.0.113.7", "alice", Granted)
		must(t, table, at(10*m), "203.0.113.7", "bob", Renewed)
		table.Import(at(10*m), addr("203.0.113.8"), 20*m)
		table.Manual(at(10*m), pfx("203.0.113.16/28"), 3*time.Hour, root, "moved")
		table.Deny(at(10*m), pfx("198.51.100.0/24"), time.Hour, root, "spam")
		return table
	}
	const whole = "[renewed 203.0.113.7/32 renewed 203.0.113.8/32 renewed 203.0.113.16/28]"
	const over = "[expired 203.0.113.7/32 expired 203.0.113.8/32 expired 203.0.113.16/28]"
	for _, tt := range []struct {
		name string
		// elapsed by the clock since boot, and what the wall clock shows then
		elapsed, wall time.Duration
		boot          string
		want          string
		left          []time.Duration
	}{
		{"at once", 0, 10 * m, boot, whole, []time.Duration{30 * m, 20 * m, 180 * m}},
		{"later", 5 * m, 15 * m, boot, whole, []time.Duration{25 * m, 15 * m, 175 * m}},
		{"the clock was set back", 5 * m, -1000 * m, boot, whole, []time.Duration{25 * m, 15 * m, 175 * m}},
		{"the clock was set forward", 5 * m, 1000 * m, boot, whole, []time.Duration{25 * m, 15 * m, 175 * m}},
		{"too late for two", 30 * m, 40 * m, boot, "[expired 203.0.113.7/32 expired 203.0.113.8/32 renewed 203.0.113.16/28]", []time.Duration{0, 0, 150 * m}},
		{"rebooted", 0, 15 * m, "another", whole, []time.Duration{25 * m, 15 * m, 175 * m}},
		{"rebooted, no boot id", 0, 15 * m, "", whole, []time.Duration{25 * m, 15 * m, 175 * m}},
		{"rebooted, and nobody knows for how long", 0, 4 * m, "another", over, nil},
		{"rebooted, the clock is behind what was kept last", 0, 12*m - 1, "another", over, nil},
		{"rebooted at once", 0, 12 * m, "another", whole, []time.Duration{28 * m, 18 * m, 178 * m}},
		{"rebooted much later", 0, 300 * m, "another", over, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			state, rows := saved(t, before(t), at(10*m), Boot{boot, 1000 * time.Hour})
			state.Kept = at(12 * m)
			table := newTable(t, Config{})
			now := at(tt.wall)
			table.SetPolicy(now, policy(t, authz.Host{}, authz.Rules{}))
			got := table.Restore(now, Boot{tt.boot, 1000*time.Hour + tt.elapsed}, state, rows)
			slices.SortFunc(got, byPrefix)
			if kinds(got) != tt.want {
				t.Fatalf("Restore: %s, want %s", kinds(got), tt.want)
			}
			for i, c := range got {
				if c.Kind == Expired {
					if unknown := strings.HasPrefix(c.Reason, "nobody knows"); c.Time.After(now) || unknown != c.Grant.Expires.After(now) || !unknown && !c.Time.Equal(c.Grant.Expires) {
						t.Errorf("%v: it ran out at %v: %s", c.Grant.Prefix, c.Time, c.Reason)
					}
					continue
				}
				if left := c.Grant.Expires.Sub(now); left != tt.left[i] || !c.Arm {
					t.Errorf("%v: %v left, want %v; arm %v", c.Grant.Prefix, left, tt.left[i], c.Arm)
				}
				switch c.Grant.Source {
				case Login:
					if u := c.Grant.Users; len(u) != 2 || u[0].Name != "bob" || u[1].Name != "alice" || c.Grant.Answer != "+OK Logged in." || c.Grant.Logins != 2 {
						t.Errorf("%+v", c.Grant)
					}
				case Manual:
					if c.Grant.By != root || c.Grant.Note != "moved" {
						t.Errorf("%+v", c.Grant)
					}
				default:
				}
			}
			if d := table.Denials(); len(d) != 1 || d[0].Note != "spam" {
				t.Errorf("Denials = %+v", d)
			}
		})
	}
}

func TestRestoreIsJudgedAgain(t *testing.T) {
	table := newTable(t, Config{Lifetime: 30 * m, MaxUsers: 2, MaxAddresses: 2})
	table.SetPolicy(start, policy(t, authz.Host{}, authz.Rules{Never: prefixes("203.0.113.9/32"), Always: prefixes("203.0.113.1/32")}))
	row := func(prefix string, source Source, left time.Duration, users ...string) Saved {
		g := Grant{Source: source, Since: at(-time.Hour), Expires: at(left)}
		g.Prefix, _ = netip.ParsePrefix(prefix)
		for _, u := range users {
			g.Users = append(g.Users, User{Name: u, Seen: at(left - 30*m)})
		}
		return Save(start, Boot{"x", 0}, g)
	}
	rows := []Saved{
		row("203.0.113.9/32", Login, 10*m, "alice"), // never
		row("203.0.113.1/32", Login, 10*m, "alice"), // always: it stands when that rule goes
		row("203.0.113.2/32", Always, 10*m),         // the configuration's
		row("203.0.113.3/32", 99, 10*m),             // nobody's
		row("203.0.113.0/24", Login, 10*m, "alice"), // no login makes that
		row("2001:db8::/48", Import, 10*m),
		row("0.0.0.0/0", Manual, 10*m),
		row("", Login, 10*m),
		row("203.0.113.4/32", Login, 0),
		row("203.0.113.5/32", Login, 1000*time.Hour, "alice"), // clamped
		row("203.0.113.6/32", Login, 10*m, "alice", "bob"),
		row("203.0.113.7/32", Manual, 10000*time.Hour),
		row("198.51.100.7/32", Login, 10*m, "carol"), // denied
	}
	state := State{Denials: []Denial{{Prefix: pfx("198.51.100.0/24"), By: root}, {}}}
	for _, c := range table.Restore(start, Boot{"x", 0}, state, slices.Values(rows)) {
		if open := c.Grant.Source != 0 && c.Kind == Granted; open && c.Grant.Expires.Sub(start) > 30*m && c.Grant.Source == Login {
			t.Errorf("%v stands until %v", c.Grant.Prefix, c.Grant.Expires.Sub(start))
		}
	}
	var open []string
	for _, g := range table.List() {
		if g.Source != Always {
			open = append(open, g.Prefix.String())
		}
	}
	if want := []string{"203.0.113.1/32", "203.0.113.5/32", "203.0.113.6/32", "203.0.113.7/32"}; !slices.Equal(open, want) {
		t.Errorf("open: %v, want %v", open, want)
	}
	if g, _ := table.Get(addr("203.0.113.7")); g.Expires.After(start.Add(MaxLifetime)) {
		t.Errorf("manual until %v", g.Expires)
	}
	// The brakes know what stands.
	must(t, table, start, "203.0.113.10", "alice", Refused)
	must(t, table, start, "203.0.113.6", "carol", Refused)
}

// A manual grant does not come back where the gate would open more than it names, or
// something else.
func TestRestoreOpensNoMore(t *testing.T) {
	for _, tt := range []struct {
		prefix        string
		before, after int // IPv6Prefix
		want          string
	}{
		{"2001:db8::7/128", 128, 128, "[renewed 2001:db8::7/128]"},
		{"2001:db8::/120", 128, 128, "[renewed 2001:db8::/120]"},
		{"2001:db8::/64", 64, 64, "[renewed 2001:db8::/64]"},
		{"2001:db8::7/128", 128, 64, "[]"},
		{"2001:db8::/120", 128, 64, "[]"},
		{"2001:db8::/64", 64, 128, "[]"},
		{"64:ff9b::cb00:7107/128", 128, 64, "[renewed 64:ff9b::cb00:7107/128]"},
		{"203.0.113.0/24", 128, 64, "[renewed 203.0.113.0/24]"},
	} {
		table := newTable(t, Config{IPv6Prefix: tt.before})
		if c, ok := table.Manual(start, pfx(tt.prefix), time.Hour, root, ""); !ok || c.Kind != Granted {
			t.Fatalf("%s: %+v", tt.prefix, c)
		}
		state, rows := saved(t, table, start, Boot{"x", 0})
		again := newTable(t, Config{IPv6Prefix: tt.after})
		if got := again.Restore(at(m), Boot{"x", m}, state, rows); kinds(got) != tt.want {
			t.Errorf("%s, with %d after %d: %s, want %s", tt.prefix, tt.after, tt.before, kinds(got), tt.want)
		}
	}
}

func TestRestorePaused(t *testing.T) {
	table := newTable(t, Config{})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	_, rows := saved(t, table, start, Boot{"x", 0})
	table.Pause(start, root, "attack")
	state, _ := saved(t, table, start, Boot{"x", 0})
	again := newTable(t, Config{})
	if got := again.Restore(at(m), Boot{"x", m}, state, rows); len(got) != 0 || again.Len() != 0 {
		t.Errorf("Restore while paused: %s", kinds(got))
	}
	if p, ok := again.Paused(); !ok || p.By != root || p.Note != "attack" || !p.Since.Equal(start) {
		t.Errorf("Paused = %+v %v", p, ok)
	}
}

func TestRestoredDenialEnds(t *testing.T) {
	table := newTable(t, Config{})
	table.Deny(start, pfx("203.0.113.7/32"), time.Hour, root, "")
	state, _ := saved(t, table, start, Boot{})
	again := newTable(t, Config{})
	again.Restore(at(30*m), Boot{}, state, nil)
	must(t, again, at(59*m), "203.0.113.7", "alice", Refused)
	if got := again.Expire(at(60 * m)); kinds(got) != "[undenied 203.0.113.7/32]" {
		t.Errorf("Expire: %s", kinds(got))
	}
}

// A denial ends when it was to, however the wall clock was set meanwhile.
func TestRestoredDenialKeepsItsTime(t *testing.T) {
	for _, wall := range []time.Duration{-1000 * m, 30 * m, 1000 * m} { // half an hour later, by it
		d := Denial{Prefix: pfx("203.0.113.7/32"), Since: start, Until: start.Add(time.Hour), By: root}.Keep(start, Boot{"x", 5 * m})
		again := New(Config{})
		again.SetPolicy(at(wall), policy(t, authz.Host{}, authz.Rules{}))
		again.Restore(at(wall), Boot{"x", 35 * m}, State{Denials: []Denial{d}}, nil)
		must(t, again, at(wall+30*m-tick), "203.0.113.7", "alice", Refused)
		if got := again.Expire(at(wall + 30*m)); kinds(got) != "[undenied 203.0.113.7/32]" {
			t.Errorf("the clock shows %v later: Expire: %s", wall, kinds(got))
		}
	}
}

// After a reboot with a clock that went back, a denial begins anew: it neither ends early
// nor lasts for as long as the clock is wrong.
func TestRestoredDenialWithAWrongClock(t *testing.T) {
	d := Denial{Prefix: netip.MustParsePrefix("203.0.113.7/32"), Since: start, Until: start.Add(time.Hour)}
	for _, tt := range []struct{ now, want time.Duration }{
		{20 * time.Minute, 40 * time.Minute},
		{-30 * 365 * 24 * time.Hour, time.Hour},
		{2 * time.Hour, -time.Hour},
	} {
		now := start.Add(tt.now)
		if got := d.kept(now, Boot{ID: "another"}).Until.Sub(now); got != tt.want {
			t.Errorf("%v after the denial it lasts for %v, want %v", tt.now, got, tt.want)
		}
	}
}

// However often relaygate is restarted, it is told by which login a grant began.
func TestRestartsHideNoBeginning(t *testing.T) {
	evidence, table := authz.NewEvidence(authz.EvidenceConfig{}), newTable(t, Config{})
	opened := must(t, table, start, "203.0.113.7", "alice", Granted)
	opened.Cause.Time = start
	evidence.Record(opened.Cause)
	evidence.Add(opened.Event())
	const restarts = 100
	for i := range restarts {
		state, rows := saved(t, table, at(time.Duration(i)*time.Second), Boot{"x", 0})
		table = newTable(t, Config{})
		for _, c := range table.Restore(at(time.Duration(i)*time.Second), Boot{"x", 0}, state, rows) {
			evidence.Add(c.Event())
		}
	}
	var told []string
	for _, e := range evidence.Story(netip.MustParseAddr("203.0.113.7"), at(m)) {
		told = append(told, fmt.Sprintf("%d %s", e.Count, e.Kind))
	}
	if want := []string{"1 login", "1 granted", fmt.Sprintf("%d renewed", restarts)}; !slices.Equal(told, want) {
		t.Errorf("the story is %q, want %q", told, want)
	}
}

// An address that was shared stays so.
func TestRestoredSharedAddress(t *testing.T) {
	table := newTable(t, Config{MaxUsers: 1})
	must(t, table, start, "203.0.113.7", "alice", Granted)
	must(t, table, at(m), "203.0.113.7", "bob", Refused)
	state, rows := saved(t, table, at(m), Boot{"x", 0})
	again := newTable(t, Config{MaxUsers: 1, Follow: true})
	if got := again.Restore(at(m), Boot{"x", 0}, state, rows); kinds(got) != "[renewed 203.0.113.7/32]" {
		t.Fatalf("Restore: %s", kinds(got))
	}
	if again.Hold(at(m), held(1, "203.0.113.7", "alice", 0)) {
		t.Error("a session holds a shared address")
	}
	must(t, again, at(2*m), "203.0.113.7", "alice", Refused)
}

// The hash table holds what was put in, however it grew.
func TestRows(t *testing.T) {
	var r rows[link, *link]
	model := map[uint32]uint64{}
	hash := func(i uint64) uint64 { return i * 0x9e3779b97f4a7c15 }
	for i := range uint64(20000) {
		h := hash(i % 7000)
		n := r.add(h, hashOfLink)
		if _, ok := model[n]; ok {
			t.Fatalf("row %d is used twice", n)
		}
		r.at(n).high, r.at(n).low = uint32(h>>32), uint32(h)
		model[n] = h
		if i%3 == 0 {
			for n, h := range model {
				r.unlink(n, h)
				r.release(n)
				delete(model, n)
				break
			}
		}
	}
	found := 0
	for i := range uint64(7000) {
		for n := r.first(hash(i)); n != 0; n = r.at(n).peers {
			if r.at(n).user() == hash(i) {
				found++
				if model[n] != hash(i) {
					t.Fatalf("row %d is not that of %d", n, i)
				}
			}
		}
	}
	if found != len(model) || r.n != len(model) || len(r.heads) < r.n/perBucket {
		t.Errorf("%d found, %d counted of %d, %d buckets", found, r.n, len(model), len(r.heads))
	}
}
