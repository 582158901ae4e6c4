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
	settles(t, time.Until(until)+time.Second, func() error {
		must(t, check())
		if left := time.Until(until); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
}

func TestOpenSessionHoldsItsGrant(t *testing.T) {
	t.Parallel()
	newWorld(t, sessionLifetime, "").holdsGrant(t)
}

const sessionLifetime = 2 * time.Second

// holdsGrant: a session of three lifetimes keeps its grant, which ends one lifetime
// after its close.
func (w *world) holdsGrant(t *testing.T) {
	t.Helper()
	four := w.Client4.At(lab.Server4)
	conn := session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	stays(t, time.Now().Add(3*sessionLifetime), open(t.Context(), four))
	must(t, w.says(t, "list", " 1  ")())
	must(t, conn.Close())
	closed := time.Now()
	settles(t, sessionLifetime+time.Second, refused(t.Context(), four))
	if took := time.Since(closed); took < sessionLifetime-time.Second || took > sessionLifetime+time.Second {
		t.Errorf("the grant ended %v after the session, want %v ± 1 s", took, sessionLifetime)
	}
}

// Reloads, and looks at the members after other programs wrote to nf_tables, take
// nothing from what a session holds, and are no losses of the gate.
func TestOpenSessionAndReloads(t *testing.T) {
	t.Parallel()
	const lifetime = 2 * time.Second
	w := newWorld(t, lifetime, "")
	four := w.Client4.At(lab.Server4)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	for end := time.Now().Add(3 * lifetime); time.Now().Before(end); {
		must(t, w.daemon.Reload("[gate]\nmode = \"filter\"\nmax_new_per_minute = 0\n"))
		bpftest.Do(t, w.Server, func() error {
			c, err := nftables.New()
			if err != nil {
				return err
			}
			c.AddTable(other)
			s := &nftables.Set{Table: other, Name: "theirs", KeyType: nftables.TypeIPAddr}
			if err := c.AddSet(s, element(lab.Stranger4, 0)); err != nil {
				return err
			}
			return c.Flush()
		})
		stays(t, time.Now().Add(lifetime/5), open(t.Context(), four))
	}
	if g := w.status(t).Gate; g.Losses != 0 {
		t.Errorf("%d losses: %s", g.Losses, g.LastLoss)
	}
}

// With the agent killed an open session holds nothing for longer than one
// lifetime; a new agent finds it in the socket table.
func TestKilledAgentAndOpenSession(t *testing.T) {
	t.Parallel()
	const lifetime = 3 * time.Second
	w := newWorld(t, lifetime, "")
	four := w.Client4.At(lab.Server4)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	w.saved(t)
	must(t, w.daemon.Kill())
	w.start(t)
	must(t, w.says(t, "status", "1 session open")())
	stays(t, time.Now().Add(lifetime+time.Second), open(t.Context(), four))
	must(t, w.daemon.Kill())
	killed := time.Now()
	settles(t, lifetime+time.Second, refused(t.Context(), four))
	if took := time.Since(killed); took > lifetime {
		t.Errorf("open for %v after the agent was killed, want %v at most", took, lifetime)
	}
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

	const lost = "is not the one of the start any more"
	if out := w.verb(t, "status"); strings.Contains(out, lost) {
		t.Errorf("status says of one that is there:\n%s", out)
	}
	name(inner.Stranger.NS) // as where its container was made anew
	must(t, w.says(t, "status", path+" "+lost)())
	must(t, os.Remove(path))
	must(t, w.says(t, "status", path+" "+lost)())
}
