package lab_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

// order gives an order without the cost of a process, and fails on a refusal.
func (w *world) order(t *testing.T, o control.Order) control.Outcome {
	t.Helper()
	out, err := control.NewClient(w.daemon.Socket).Order(t.Context(), o)
	if err != nil {
		t.Fatalf("%s %v: %v", o.Verb, o.Prefix, err)
	}
	if len(out.Warnings) > 0 {
		t.Errorf("%s %v warns: %q", o.Verb, o.Prefix, out.Warnings)
	}
	return out
}

func one(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// dialSMTP opens a connection that stays, behind its greeting.
func dialSMTP(t *testing.T, target lab.Target) net.Conn {
	t.Helper()
	conn, err := target.Dial(t.Context(), netip.AddrPortFrom(target.Server, lab.SMTPPort))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = conn.Read(make([]byte, 100))
	must(t, err)
	return conn
}

// An SMTP connection in progress ends within 100 ms of an order, unless the machine is
// busy, and the address is closed before the command returns.
func TestOrdersEndWhatIsInProgress(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	for _, who := range []struct {
		target lab.Target
		addr   netip.Addr
		script lab.Script
	}{
		{w.Client4.At(lab.Server4), lab.Client4, lab.POP3Login(lab.Server4, lab.Password)},
		{w.Client6.At(lab.Server6), lab.Client6, lab.IMAPLogin(lab.Server6, lab.Password)},
	} {
		net, err := who.addr.Prefix(who.addr.BitLen() - 8)
		must(t, err)
		quickest := long
		for _, o := range []control.Order{
			{Verb: control.VerbRevoke, Prefix: one(who.addr)},
			{Verb: control.VerbRevoke, Prefix: net},
			{Verb: control.VerbDeny, Prefix: one(who.addr)},
			{Verb: control.VerbDeny, Prefix: net},
		} {
			login(t, who.target.Host, who.script)
			settles(t, time.Second, open(t.Context(), who.target))
			quickest = min(quickest, w.ends(t, who.target, o))
			must(t, w.says(t, "why "+who.addr.String(), "stolen", "root (uid 0)")())
			if o.Verb == control.VerbDeny {
				w.order(t, control.Order{Verb: control.VerbUndeny, Prefix: o.Prefix})
			}
		}
		if quickest > 100*time.Millisecond {
			t.Errorf("%s: a connection in progress ended after %v at the least", who.addr, quickest)
		}
	}
}

// ends gives an order while a connection is open, and returns after how long that ended.
func (w *world) ends(t *testing.T, target lab.Target, o control.Order) time.Duration {
	t.Helper()
	conn := dialSMTP(t, target)
	begin := time.Now()
	ended := make(chan time.Duration, 1)
	go func() {
		_, err := conn.Read(make([]byte, 100))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			ended <- time.Since(begin)
		}
		close(ended)
	}()
	o.Note = "stolen"
	out := w.order(t, o)
	must(t, target.Refused(t.Context())) // closed before the command returned
	took, ok := <-ended
	if !ok || out.Sockets == 0 {
		t.Errorf("%s %v: the connection in progress ended: %v, after %v; %+v", o.Verb, o.Prefix, ok, took, out)
	}
	t.Logf("%s %v: ended after %v", o.Verb, o.Prefix, took)
	return took
}

// A pause ends connections in progress where the end of a grant does.
func TestPauseEndsWhatIsInProgress(t *testing.T) {
	for _, cut := range []bool{false, true} {
		gate := fmt.Sprintf("mode = \"filter\"\nmax_new_per_minute = 0\ncut_on_expiry = %v\n", cut)
		w := newWorldWith(t, lab.Options{Lifetime: 30 * time.Second, Mode: gate})
		four := w.Client4.At(lab.Server4)
		admit(t, four)
		if cut {
			w.ends(t, four, control.Order{Verb: control.VerbPause})
			continue
		}
		conn := dialSMTP(t, four)
		w.order(t, control.Order{Verb: control.VerbPause})
		must(t, four.Refused(t.Context()))
		talks(t, conn)
	}
}

// talks expects that a connection goes on.
func talks(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := conn.Write([]byte("NOOP\r\n"))
	must(t, err)
	if n, err := conn.Read(make([]byte, 100)); err != nil || n == 0 {
		t.Errorf("the connection was to be kept: %v", err)
	}
}

func TestKeptConnectionsStay(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four := w.Client4.At(lab.Server4)
	admit(t, four)
	conn := dialSMTP(t, four)
	w.order(t, control.Order{Verb: control.VerbRevoke, Prefix: one(lab.Client4), KeepConnections: true})
	must(t, four.Refused(t.Context()))
	talks(t, conn)
}

func TestDenialLasts(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four := w.Client4.At(lab.Server4)
	admit(t, four)
	out := w.verb(t, "deny", "192.0.2.0/24", "--note", "sends spam")
	if !strings.Contains(out, "192.0.2.0/24 is closed and denied for good") {
		t.Errorf("deny says %q", out)
	}
	must(t, four.Refused(t.Context()))

	denied := func() {
		t.Helper()
		login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
		w.nobody(t, lab.Client4, four)
		why := w.verb(t, "why", lab.Client4.String())
		if !strings.Contains(why, "is denied") || !strings.Contains(why, "sends spam") {
			t.Errorf("why does not tell of the denial:\n%s", why)
		}
	}
	denied()
	must(t, w.daemon.Stop())
	w.start(t)
	denied()
	must(t, w.says(t, "list --denied", "192.0.2.0/24", "sends spam")())
	w.verb(t, "undeny", "192.0.2.0/24")
	must(t, four.Refused(t.Context())) // it opens nothing
	admit(t, four)
}

func TestPauseLastsAndEmptiesTheFile(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four := w.Client4.At(lab.Server4)
	admit(t, four)
	w.verb(t, "pause", "--note", "moving house")
	must(t, four.Refused(t.Context()))
	must(t, w.lists("")())
	paused := func() {
		t.Helper()
		login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
		settles(t, 3*time.Second, w.says(t, "why "+lab.Client4.String(), "paused by root"))
		must(t, four.Refused(t.Context()))
		must(t, w.says(t, "status", "Paused:", "moving house")())
	}
	paused()
	must(t, w.daemon.Kill()) // the order was on the disk before it was answered
	w.start(t)
	paused()
	w.verb(t, "resume")
	admit(t, four)
}

func TestGrantByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 30*time.Second, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	out := w.verb(t, "grant", "192.0.2.8/30", "--for", "10s", "--note", "ticket 4711")
	if !strings.Contains(out, "192.0.2.8/30 may relay until") {
		t.Errorf("grant says %q", out)
	}
	must(t, open(t.Context(), four)()) // before the command returned
	must(t, six.Refused(t.Context()))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "why "+lab.Client4.String(), "granted by hand", "ticket 4711")())
	must(t, w.daemon.Kill())
	w.start(t)
	must(t, open(t.Context(), four)()) // saved before it was answered
	settles(t, 11*time.Second, refused(t.Context(), four))

	w.order(t, control.Order{Verb: control.VerbGrant, Prefix: one(lab.Client6)})
	must(t, open(t.Context(), six)())
	for _, own := range []string{lab.Server4.String(), "127.0.0.1", "10.0.0.0/8", "2001:db8:6::/64"} {
		_, err := control.NewClient(w.daemon.Socket).Order(t.Context(),
			control.Order{Verb: control.VerbGrant, Prefix: prefix(own)})
		var refusal *control.Refusal
		if !errors.As(err, &refusal) {
			t.Errorf("grant %s: %v, want a refusal", own, err)
		} else {
			t.Logf("grant %s: %v", own, err)
		}
	}
}

func prefix(s string) netip.Prefix {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p
	}
	return one(netip.MustParseAddr(s))
}

// A denial closes a part of an always rule, which the gate keeps among its
// static members, and lasts over a restart.
func TestDenialWinsOverAlways(t *testing.T) {
	w := newWorldWith(t, lab.Options{Lifetime: 30 * time.Second, Grant: `always = ["192.0.2.0/24", "2001:db8:6::/64"]`})
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	must(t, open(t.Context(), four)())
	must(t, open(t.Context(), six)())
	w.order(t, control.Order{Verb: control.VerbDeny, Prefix: one(lab.Client4)})
	must(t, four.Refused(t.Context()))
	must(t, open(t.Context(), six)())
	must(t, w.daemon.Kill())
	w.start(t)
	must(t, four.Refused(t.Context()))
	must(t, open(t.Context(), six)())
	w.order(t, control.Order{Verb: control.VerbPause})
	must(t, open(t.Context(), six)()) // paused closes all but always rules
	w.order(t, control.Order{Verb: control.VerbUndeny, Prefix: one(lab.Client4)})
	must(t, open(t.Context(), four)())
}

// What watch tells of orders and sessions, in their order.
func TestWatchTellsOfOrdersAndSessions(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	lines := w.watch(t)
	conn := session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	w.verb(t, "revoke", lab.Client4.String())
	must(t, conn.Close())
	w.verb(t, "grant", lab.Client6.String(), "--for", "1m")
	w.verb(t, "deny", lab.Client6.String())
	w.verb(t, "undeny", lab.Client6.String())
	w.verb(t, "pause")
	w.verb(t, "resume")
	must(t, w.daemon.Reload("[gate]\nmode = \"observe\"\n"))
	// A session's close comes when the kernel says so: not in line with the others.
	want := []string{"login", "grant", "session", "revoke", "grant", "deny", "revoke", "undeny", "pause", "resume", "reload"}
	closed := false
	deadline := time.After(long)
	for len(want) > 0 || !closed {
		select {
		case ev := <-lines:
			switch {
			case ev.Event == "session" && ev.Reason == "closed":
				closed = true
			case len(want) > 0 && ev.Event == want[0]:
				want = want[1:]
			case ev.Event != "gate":
				t.Errorf("%+v came, want %q", ev, want)
			}
		case <-deadline:
			t.Fatalf("missing %q, session closed: %v", want, closed)
		}
	}
}

// Where connections end with their grant, they do so too if nobody was there when it
// ended: a start ends them.
func TestStartEndsWhatIsInProgress(t *testing.T) {
	t.Parallel()
	const lifetime = 6 * time.Second
	w := newWorldWith(t, lab.Options{Lifetime: lifetime, Mode: "mode = \"filter\"\nmax_new_per_minute = 0\ncut_on_expiry = true\n"})
	target := w.Client4.At(lab.Server4)
	admit(t, target)
	w.saved(t)
	conn := dialSMTP(t, target)
	must(t, w.daemon.Kill())
	settles(t, lifetime+time.Second, refused(t.Context(), target))
	w.start(t)
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection of a grant that ran out goes on: %v", err)
	}
}
