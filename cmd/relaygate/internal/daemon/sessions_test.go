package daemon

import (
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/clock"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/engine"
)

// A session whose client says nothing any more, not even an acknowledgement, holds
// its grant for 15 minutes and until the next look, which comes every minute.
func TestSilentClientHoldsNothing(t *testing.T) {
	start := time.Now()
	o := newTestOwner(t, start)
	s := grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}
	if !o.hold(start, testConn, s, false) {
		t.Fatal("the session holds nothing")
	}
	at := func(after, silent time.Duration, there bool) {
		now := start.Add(after)
		var alive []sockdiag.Session
		if there {
			alive = []sockdiag.Session{{Cookie: testConn.Cookie, Netns: testConn.Netns, Local: testConn.Server, Remote: testConn.Client, Silent: silent}}
		}
		for _, c := range o.engine.Expire(now) {
			o.change(now, c)
		}
		o.survey(now, now, alive)
	}
	holds := func(after time.Duration, sessions int, want time.Duration) {
		t.Helper()
		if got := o.grants().Followed(); got != sessions {
			t.Errorf("after %v: %d sessions hold it, want %d", after, got, sessions)
		}
		if got := o.expires(t, start); got.Round(time.Minute) != want {
			t.Errorf("after %v: it ends after %v, want %v", after, got, want)
		}
	}
	const heard = 10 * time.Minute
	at(24*time.Minute, 14*time.Minute, true)
	holds(24*time.Minute, 1, 54*time.Minute) // if it ended now
	at(25*time.Minute, 15*time.Minute, true)
	holds(25*time.Minute, 0, heard+testLifetime)
	at(26*time.Minute, 30*time.Second, true) // it is there after all
	holds(26*time.Minute, 1, 56*time.Minute)
	at(27*time.Minute, 0, false) // its end was not told
	holds(27*time.Minute, 0, 57*time.Minute)
	if len(o.sessions.open) != 0 {
		t.Errorf("%d sessions are kept", len(o.sessions.open))
	}
}

// A client that was not heard since before the machine slept holds nothing, although
// the kernel's clock stood still meanwhile: the address may be another's by now.
func TestSilentThroughASleep(t *testing.T) {
	const before, after = 5 * time.Minute, time.Minute // the sleep, by the kernel's clock
	for _, tt := range []struct {
		name   string
		slept  time.Duration
		silent time.Duration // as the kernel counts, at the survey after the sleep
		held   int
		left   time.Duration // at that survey
	}{
		{"short", 9 * time.Minute, before, 1, testLifetime},
		{"short, and not heard before", 14 * time.Minute, before, 0, testLifetime - 14*time.Minute - before},
		{"long", 20 * time.Minute, before, 0, testLifetime - 20*time.Minute - after},
		{"longer than a lifetime", 8 * time.Hour, before, 0, 0},
		{"heard since", 20 * time.Minute, after / 2, 1, testLifetime},
	} {
		start := time.Now()
		o := newTestOwner(t, start)
		if !o.hold(start, testConn, grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}, false) {
			t.Fatal("the session holds nothing")
		}
		look := func(now time.Time) {
			for _, c := range o.engine.Expire(now) {
				o.change(now, c)
			}
		}
		now := start.Add(before)
		look(now)
		o.woke(now, tt.slept)
		look(now)
		now = now.Add(after)
		o.survey(now, now, []sockdiag.Session{{
			Cookie: testConn.Cookie, Netns: testConn.Netns, Local: testConn.Server, Remote: testConn.Client, Silent: tt.silent,
		}})
		look(now)
		left := time.Duration(0)
		if g, ok := o.grants().Of(testClient); ok {
			left = g.Expires.Sub(now).Round(time.Second)
		}
		if got := o.grants().Followed(); got != tt.held || left != tt.left {
			t.Errorf("%s: %d sessions hold it, %v left; want %d, %v", tt.name, got, left, tt.held, tt.left)
		}
	}
}

// A restarted agent lets only those sessions hold their grants that surely are the
// same ones, and whose client was heard of late.
func TestRejoin(t *testing.T) {
	start := time.Now()
	saved := keeper.Session{Session: grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}, Conn: testConn, Boot: clock.BootID()}
	alive := sockdiag.Session{Cookie: testConn.Cookie, Netns: testConn.Netns, Local: testConn.Server, Remote: testConn.Client, Silent: 14 * time.Minute}
	for _, tt := range []struct {
		name   string
		change func(*keeper.Session, *sockdiag.Session)
		want   bool
	}{
		{"alive", func(*keeper.Session, *sockdiag.Session) {}, true},
		{"silent for too long", func(_ *keeper.Session, s *sockdiag.Session) { s.Silent = 15 * time.Minute }, false},
		{"another cookie", func(_ *keeper.Session, s *sockdiag.Session) { s.Cookie++ }, false},
		{"another client at the same cookie", func(_ *keeper.Session, s *sockdiag.Session) {
			s.Remote = netip.MustParseAddrPort("203.0.113.8:40000")
		}, false},
		{"another port of the server", func(_ *keeper.Session, s *sockdiag.Session) {
			s.Local = netip.MustParseAddrPort("198.51.100.25:110")
		}, false},
		{"another namespace", func(_ *keeper.Session, s *sockdiag.Session) { s.Netns++ }, false},
		{"another boot", func(was *keeper.Session, _ *sockdiag.Session) { was.Boot = "another" }, false},
		{"no cookie", func(was *keeper.Session, s *sockdiag.Session) { was.Conn.Cookie, s.Cookie = 0, 0 }, false},
		{"older than any session may be", func(was *keeper.Session, _ *sockdiag.Session) { was.Begin = start.Add(-24 * time.Hour) }, false},
	} {
		was, now := saved, alive
		tt.change(&was, &now)
		is := survivors{finder([]sockdiag.Session{now}), func(netip.Addr) bool { return false }, start.Add(-24 * time.Hour)}
		if got := is.live(&was); got != tt.want {
			t.Errorf("%s: live %v, want %v", tt.name, got, tt.want)
		}
	}
	// Each is held once.
	o := newTestOwner(t, start)
	if got := o.rejoin(start, []keeper.Session{saved, saved}); got != 1 || o.grants().Followed() != 1 {
		t.Errorf("%d sessions hold their grants, want 1", got)
	}
}

// A session does not hold what was opened again after its grant was revoked: that rests
// on another login, which ends by itself.
func TestRevokedSessionHoldsNothingLater(t *testing.T) {
	start := time.Now()
	o := newTestOwner(t, start)
	s := grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}
	if !o.hold(start, testConn, s, false) {
		t.Fatal("the session holds nothing")
	}
	alive := func(now time.Time, silent time.Duration) {
		o.survey(now, now, []sockdiag.Session{{
			Cookie: testConn.Cookie, Netns: testConn.Netns, Local: testConn.Server, Remote: testConn.Client, Silent: silent,
		}})
	}
	alive(start.Add(time.Minute), maxSilence)
	o.engine.Record(o.engine.Grants().Revoke(start.Add(2*time.Minute), testClient, "root", "stolen"))
	now := start.Add(3 * time.Minute)
	o.login(t, now, "bob")
	alive(now.Add(time.Minute), 0) // it is heard again
	if n := o.grants().Followed(); n != 0 {
		t.Errorf("%d sessions hold the grant of bob's login", n)
	}
	saved := keeper.Session{Session: s, Conn: testConn, Boot: clock.BootID()}
	saved.Conn.Cookie++
	if n := o.rejoin(now.Add(time.Minute), []keeper.Session{saved}); n != 0 { // or after a restart
		t.Errorf("%d sessions hold the grant of bob's login", n)
	}
}

// Sessions that last are written down after some seconds, short ones never, and none
// stays in the file that has ended.
func TestSessionsThatLastAreSaved(t *testing.T) {
	start := time.Now()
	for _, ends := range []bool{false, true} {
		o := newTestOwner(t, start)
		path := filepath.Join(t.TempDir(), "state.db")
		o.keeper = openKeeper(t, path)
		short, long := testConn, testConn
		short.Cookie, long.Cookie = 1, 2
		for _, c := range []authz.Conn{short, long} {
			if !o.hold(start, c, grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}, false) {
				t.Fatal("a session holds nothing")
			}
		}
		o.save(start.Add(saveAfter - 1))
		if o.sessions.open[short].saved || o.sessions.open[long].saved {
			t.Error("a young session is saved")
		}
		o.closed(start, short, time.Time{}, "closed")
		o.save(start.Add(saveAfter))
		o.save(start.Add(2 * saveAfter))
		if ends {
			o.closed(start, long, time.Time{}, "closed")
		}
		must(t, o.keeper.Close(nil, nil))
		k := openKeeper(t, path)
		r, err := k.Load(start)
		must(t, err)
		if n := len(r.Sessions); n > 1 || n == 1 == ends || n == 1 && r.Sessions[0].Conn != long {
			t.Errorf("it ends %v: the file has %+v", ends, r.Sessions)
		}
		must(t, k.Close(nil, nil))
	}
}

// A grant that was over when the agent came back stands again if a session that held
// it lives, and no other does.
func TestRestoreHoldsWhatSessionsHold(t *testing.T) {
	now := time.Now()
	since := clock.Boot()
	conn := testConn
	user := func(name string) grant.User {
		return grant.User{Name: name, Seen: now.Add(-time.Hour), Protocol: authz.IMAP}
	}
	over := grant.Saved{
		Grant: grant.Grant{
			Prefix: testClient, Since: now.Add(-time.Hour), Expires: now.Add(-time.Minute), Source: grant.Login, Logins: 1,
			Users: []grant.User{user("alice")}, Conn: conn,
		},
		Deadline: grant.Boot{ID: since.ID, At: since.At - time.Minute},
	}
	alive := []sockdiag.Session{{Cookie: conn.Cookie, Netns: conn.Netns, Local: conn.Server, Remote: conn.Client}}
	for _, tt := range []struct {
		name   string
		change func(*grant.Saved)
		alive  []sockdiag.Session
		want   time.Duration // left of the grant, 0 for none
	}{
		{"the session of its last login lives", func(*grant.Saved) {}, alive, testLifetime},
		{"no session lives", func(*grant.Saved) {}, nil, 0},
		{"the session is older than the grant", func(g *grant.Saved) { g.Since = now.Add(-time.Hour + 2*time.Second) }, alive, 0},
		{"a shared address", func(g *grant.Saved) { g.Users = append(g.Users, user("bob"), user("carol")) }, alive, 0},
		{"it stands for longer", func(g *grant.Saved) {
			g.Source, g.Expires, g.Deadline.At = grant.Manual, now.Add(5*time.Hour), since.At+5*time.Hour
		}, alive, 5 * time.Hour},
	} {
		saved := over
		tt.change(&saved)
		path := filepath.Join(t.TempDir(), "state.db")
		saveGrants(t, path, slices.Values([]grant.Saved{saved}))
		k := openKeeper(t, path)
		e := engine.New(engine.Config{Grants: grant.Config{Lifetime: testLifetime, Follow: true, MaxUsers: 2}})
		if _, err := e.SetHost(now, authz.Host{}); err != nil {
			t.Fatal(err)
		}
		d := &daemon{
			opts: Options{Config: &config.Config{MaxUsers: 2, Lifetime: testLifetime}}, keeper: k,
			cutter: newCutter(&cutSettings{}, nil),
			owner:  &owner{engine: e, hub: control.NewHub(), sessions: sessions{open: make(map[authz.Conn]*held)}},
		}
		is := survivors{finder(tt.alive), func(netip.Addr) bool { return false }, now.Add(-24 * time.Hour)}
		live, _, err := d.restore(now, grant.State{}, &is, nil)
		must(t, err)
		n := d.owner.rejoin(now, live)
		left := time.Duration(0)
		if g, ok := d.owner.grants().Of(testClient); ok {
			left = g.Expires.Sub(now).Round(time.Second)
		}
		const busy = 10 * time.Second // since the test began, on a busy machine
		if (left-tt.want).Abs() > busy || n > 0 != (tt.want > 0) {
			t.Errorf("%s: %v left, %d sessions hold it, want %v", tt.name, left, n, tt.want)
		}
		must(t, k.Close(nil, nil))
	}
}
