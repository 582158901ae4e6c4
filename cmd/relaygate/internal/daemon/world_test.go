package daemon

import (
	"iter"
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/cmd/relaygate/internal/daemon/keeper"
	"relaygate/cmd/relaygate/internal/engine"
	"relaygate/cmd/relaygate/internal/state"
)

var must = bpftest.Must

const testLifetime = 30 * time.Minute

var (
	now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

	testConn = authz.Conn{
		Client: netip.MustParseAddrPort("203.0.113.7:40000"), Server: netip.MustParseAddrPort("198.51.100.25:143"),
		Service: authz.Service{Protocol: authz.IMAP}, Cookie: 4711, Netns: 1,
	}
	testClient = netip.MustParsePrefix("203.0.113.7/32")
)

// newTestOwner holds one grant, of testClient, that began at start.
func newTestOwner(t *testing.T, start time.Time) *owner {
	t.Helper()
	k := openKeeper(t, filepath.Join(t.TempDir(), "state.db"))
	t.Cleanup(func() { must(t, k.Close(nil, nil)) })
	e := engine.New(engine.Config{Grants: grant.Config{Lifetime: testLifetime, Follow: true}})
	if _, err := e.SetHost(start, authz.Host{}); err != nil {
		t.Fatal(err)
	}
	out := discard(t)
	o := &owner{
		engine: e, gate: gate.Discard(), files: newFiles(&config.Config{}, out.Logger), log: out.Logger, out: out, hub: control.NewHub(),
		keeper: k, cutter: &cutter{}, sessions: sessions{open: make(map[authz.Conn]*held)},
	}
	o.cutter.set.Store(&cutSettings{})
	o.login(t, start, "alice")
	return o
}

func openKeeper(t *testing.T, path string) *keeper.Keeper {
	t.Helper()
	k, err := keeper.Open(path, time.Hour, time.Now(), slog.New(slog.DiscardHandler))
	must(t, err)
	return k
}

// saveGrants makes a state file.
func saveGrants(t *testing.T, path string, grants iter.Seq[grant.Saved]) {
	t.Helper()
	s, err := state.Open(path, time.Now())
	must(t, err)
	n := 0
	for g := range grants {
		s.Put("grants", g.Prefix.String(), state.AppendGrant(nil, &g))
		if n++; n%4096 == 0 {
			must(t, s.Flush())
		}
	}
	must(t, s.Close())
}

// login grants testClient.
func (o *owner) login(t *testing.T, now time.Time, user string) {
	t.Helper()
	var a grant.Admission
	v := authz.Verdict{
		Login: authz.Login{Result: authz.Success, User: user, Mechanism: "LOGIN"}, Time: now, Conn: testConn, Origin: authz.FromHost,
	}
	if !o.engine.Admit(now, &v, &a) || a.Kind != grant.Granted {
		t.Fatalf("the login is %+v", a)
	}
	o.engine.Explain(&a)
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
