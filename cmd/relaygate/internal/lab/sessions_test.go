package lab_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// session logs in and stays.
func session(t *testing.T, h *lab.Host, s lab.Script) net.Conn {
	t.Helper()
	conn, answer, ok, err := h.Session(t.Context(), s)
	if err != nil || !ok {
		t.Fatalf("%s login: %q, %v", s.Protocol, answer, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// stays fails if check fails before the time is over.
func stays(t *testing.T, until time.Time, check func() error) {
	t.Helper()
	for must(t, check()); time.Now().Before(until); must(t, check()) {
		<-time.After(5 * time.Millisecond)
	}
}

// closes waits until a host is refused, and fails if a connection gets in that begins
// after a time.
func closes(t *testing.T, target lab.Target, by time.Time) {
	t.Helper()
	must(t, lab.Poll(t.Context(), time.Until(by), 5*time.Millisecond, refused(t.Context(), target)))
}

// tick is more than by which the kernel's clocks for elements differ from ours.
const tick = 50 * time.Millisecond

func TestOpenSessionHoldsItsGrant(t *testing.T) {
	t.Parallel()
	newWorld(t, sessionLifetime, "").holdsGrant(t)
}

// sessionLifetime is so long that a daemon may be a second late and renews an element
// all the same, which it does when an eighth of the time is left.
const sessionLifetime = 8 * time.Second

// holdsGrant: a session that outlasts the lifetime keeps its grant, which ends one
// lifetime after its close.
func (w *world) holdsGrant(t *testing.T) {
	t.Helper()
	four := w.Client4.At(lab.Server4)
	conn := session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	stays(t, time.Now().Add(3*sessionLifetime/2), open(t.Context(), four))
	must(t, w.says(t, "list", " 1  ")())
	begin := time.Now()
	must(t, conn.Close())
	closes(t, four, time.Now().Add(sessionLifetime+time.Second))
	if took := time.Since(begin); took < sessionLifetime-time.Second {
		t.Errorf("the grant ended %v after the session, want %v", took, sessionLifetime)
	}
}

// Reloads, and looks at the members after other programs wrote to nf_tables, take
// nothing from what a session holds, and are no losses of the gate.
func TestOpenSessionAndReloads(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sessionLifetime, "")
	four := w.Client4.At(lab.Server4)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	for end := time.Now().Add(3 * sessionLifetime / 2); time.Now().Before(end); {
		must(t, w.daemon.Reload("[gate]\nmode = \"filter\"\nmax_new_per_minute = 0\n"))
		bpftest.In(t, w.Server, func() {
			c, err := nftables.New()
			must(t, err)
			c.AddTable(other)
			s := &nftables.Set{Table: other, Name: "theirs", KeyType: nftables.TypeIPAddr}
			must(t, c.AddSet(s, element(lab.Stranger4, 0)))
			must(t, c.Flush())
		})
		stays(t, time.Now().Add(sessionLifetime/20), open(t.Context(), four))
	}
	if g := w.status(t).Gate; g.Losses != 0 {
		t.Errorf("%d losses: %s", g.Losses, g.LastLoss)
	}
}

// With the agent killed an open session holds nothing for longer than one
// lifetime; a new agent finds it in the socket table.
func TestKilledAgentAndOpenSession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sessionLifetime, "")
	four := w.Client4.At(lab.Server4)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	w.saved(t)
	must(t, w.daemon.Kill())
	w.start(t)
	must(t, w.says(t, "status", "1 session open")())
	stays(t, time.Now().Add(sessionLifetime+time.Second), open(t.Context(), four))
	must(t, w.daemon.Kill())
	closes(t, four, time.Now().Add(sessionLifetime+tick))
	w.start(t) // the session is still there, and holds its grant again
	settles(t, time.Second, open(t.Context(), four))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
}

// A trusted network namespace counts as the own one.
func TestTrustedNamespace(t *testing.T) {
	bpftest.RequireRoot(t)
	inner := newNetwork(t)
	path := t.TempDir() + "/mail"
	name := func(ns *netns.Namespace) {
		t.Helper()
		_ = os.Remove(path)
		must(t, os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.FD()), path))
	}
	name(inner.Server)
	w := newWorld(t, 30*time.Second, fmt.Sprintf("[watch]\ntrusted_netns = [%q]\n", path))
	login(t, inner.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))

	const lost = "is not one of the start"
	if out := w.verb(t, "status"); strings.Contains(out, lost) {
		t.Errorf("status says of one that is there:\n%s", out)
	}
	name(inner.Stranger.NS) // as where its container was made anew
	must(t, w.says(t, "status", path+" "+lost)())
	must(t, os.Remove(path))
	must(t, w.says(t, "status", path+" "+lost)())

	// At the next start, before its container: the gate stands all the same.
	must(t, w.daemon.Stop())
	w.start(t)
	must(t, w.says(t, "status", path+" "+lost)())
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	name(inner.Server)
	must(t, w.says(t, "status", path+" "+lost)())
}
