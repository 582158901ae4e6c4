//go:build linux

package daemon

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

const testLifetime = 30 * time.Minute

var (
	testConn = authz.Conn{
		Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("198.51.100.25:143"),
		Service: authz.Service{Protocol: authz.IMAP}, Cookie: 4711, Netns: 1,
	}
	testClient = netip.MustParsePrefix("203.0.113.7/32")
)

// newTestOwner holds one grant, of testClient, that began at start.
func newTestOwner(t *testing.T, start time.Time) *owner {
	t.Helper()
	k := newKept(t, filepath.Join(t.TempDir(), "state.db"))
	t.Cleanup(func() {
		if err := k.close(nil, nil); err != nil {
			t.Error(err)
		}
	})
	e := engine.New(engine.Config{Grants: grant.Config{Lifetime: testLifetime, Follow: true}})
	if _, err := e.SetHost(start, authz.Host{}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	o := &owner{
		engine: e, gate: newFakeGate(&fakeTable{}), files: newFiles(&config.Config{}, log), log: log, hub: control.NewHub(),
		keeper: k.keeper, cutter: &cutter{}, lifetime: testLifetime, sessions: sessions{open: make(map[authz.Conn]*held)},
	}
	o.cutter.set.Store(&cutSettings{})
	login := authz.Verdict{Login: authz.Login{Result: authz.Success, User: "alice", Mechanism: "LOGIN"}, Time: start, Conn: testConn, Origin: authz.FromHost}
	o.engine.Change(func(table *grant.Table) []grant.Change {
		c, ok := table.Login(start, login)
		if !ok || c.Kind != grant.Granted {
			t.Fatalf("the login is %+v", c)
		}
		return []grant.Change{c}
	})
	return o
}

// expires is when the grant ends, if nothing more happens.
func (o *owner) expires(t *testing.T, now time.Time) time.Duration {
	t.Helper()
	g, ok := o.grants().Of(testClient)
	if !ok {
		t.Fatal("there is no grant")
	}
	return g.Expires.Sub(now).Round(time.Second)
}

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

// A restarted agent lets only those sessions hold their grants that surely are the
// same ones, and whose client was heard of late.
func TestRejoin(t *testing.T) {
	start := time.Now()
	saved := savedSession{grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}, testConn, bootID()}
	alive := sockdiag.Session{Cookie: testConn.Cookie, Netns: testConn.Netns, Local: testConn.Server, Remote: testConn.Client, Silent: 14 * time.Minute}
	for _, tt := range []struct {
		name   string
		change func(*savedSession, *sockdiag.Session)
		want   int
	}{
		{"alive", func(*savedSession, *sockdiag.Session) {}, 1},
		{"silent for too long", func(_ *savedSession, s *sockdiag.Session) { s.Silent = 15 * time.Minute }, 0},
		{"another cookie", func(_ *savedSession, s *sockdiag.Session) { s.Cookie++ }, 0},
		{"another client at the same cookie", func(_ *savedSession, s *sockdiag.Session) {
			s.Remote = netip.MustParseAddrPort("203.0.113.8:40000")
		}, 0},
		{"another port of the server", func(_ *savedSession, s *sockdiag.Session) {
			s.Local = netip.MustParseAddrPort("198.51.100.25:110")
		}, 0},
		{"another namespace", func(_ *savedSession, s *sockdiag.Session) { s.Netns++ }, 0},
		{"another boot", func(was *savedSession, _ *sockdiag.Session) { was.Boot = "another" }, 0},
		{"no cookie", func(was *savedSession, s *sockdiag.Session) { was.Conn.Cookie, s.Cookie = 0, 0 }, 0},
	} {
		o, was, now := newTestOwner(t, start), saved, alive
		tt.change(&was, &now)
		if got := o.rejoin(start, []savedSession{was, was}, []sockdiag.Session{now}); got != tt.want || o.grants().Followed() != tt.want {
			t.Errorf("%s: %d sessions hold their grants, want %d", tt.name, got, tt.want)
		}
	}
}

// Sessions that last are written down after some seconds, short ones never.
func TestSessionsThatLastAreSaved(t *testing.T) {
	start := time.Now()
	o := newTestOwner(t, start)
	short, long := testConn, testConn
	short.Cookie, long.Cookie = 1, 2
	for _, c := range []authz.Conn{short, long} {
		if !o.hold(start, c, grant.Session{Client: testClient.Addr(), User: "alice", Begin: start}, false) {
			t.Fatal("a session holds nothing")
		}
	}
	saved := func(want int) {
		t.Helper()
		if got := len(o.keeper.rows); got != want {
			t.Errorf("%d rows are to be written, want %d", got, want)
		}
	}
	o.save(start.Add(saveAfter - 1))
	saved(0)
	o.closed(start, short, time.Time{}, "closed")
	o.save(start.Add(saveAfter))
	saved(1)
	o.save(start.Add(2 * saveAfter))
	saved(1)
	o.closed(start, long, time.Time{}, "closed") // its row goes
	saved(2)
}
