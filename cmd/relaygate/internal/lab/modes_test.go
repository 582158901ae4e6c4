package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

// reload changes the gate's configuration and waits until status says so.
func (w *world) reload(t *testing.T, gate, want string) {
	t.Helper()
	must(t, w.daemon.Reload("[gate]\n"+gate))
	settles(t, 3*time.Second, w.says(t, "status", want))
}

// greets is nil if the host reaches the listener with this greeting.
func greets(t *testing.T, target lab.Target, want string) func() error {
	return func() error {
		got, err := target.Open(t.Context())
		if err == nil && got != want {
			err = fmt.Errorf("%s reached %q, want %q", target, got, want)
		}
		return err
	}
}

func TestReloadChangesTheMode(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	bpftest.Do(t, w.Server, func() error { return w.mail.ListenRelay(925) })
	four, stranger := w.Client4.At(lab.Server4), w.Stranger.At(lab.Server6)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, greets(t, four, lab.MXGreeting))
	must(t, stranger.Refused(t.Context()))

	w.reload(t, "mode = \"redirect\"\nmax_new_per_minute = 0\n", "The gate redirects port 25")
	must(t, greets(t, four, lab.RelayGreeting)())
	must(t, greets(t, stranger, lab.MXGreeting)())

	w.reload(t, "mode = \"observe\"\n", "The gate observes port 25")
	must(t, greets(t, four, lab.MXGreeting)())
	must(t, greets(t, stranger, lab.MXGreeting)())

	w.reload(t, "mode = \"filter\"\nmax_new_per_minute = 0\n", "The gate filters port 25")
	must(t, greets(t, four, lab.MXGreeting)())
	must(t, stranger.Refused(t.Context()))

	// What cannot be put in force changes nothing, and is said.
	w.reload(t, "mode = \"sets\"\nsets = { table = \"inet nobodys\" }\n", "the former configuration stays")
	must(t, greets(t, four, lab.MXGreeting)())
	must(t, stranger.Refused(t.Context()))
	w.reload(t, "mode = \"on\"\n", "gate.mode: \"on\" is none of")
	w.reload(t, "mode = \"on\"\non_exit = \"off\"\n", `"gateway"]; `) // two mistakes, in one line
	w.reload(t, "mode = \"observe\"\n[watch]\npop3 = [1110]\n", "watch.pop3, watch.imap can be changed by a restart alone")
	must(t, stranger.Refused(t.Context()))

	// Nor does a file that is not written to its end open anything.
	must(t, w.daemon.Reload(""))
	settles(t, 3*time.Second, w.says(t, "status", "names no gate.mode any more"))
	must(t, stranger.Refused(t.Context()))
	w.reload(t, "mode = \"observe\"\n", "The gate observes port 25")
}

// A configuration that has lost its end, and with it the gate, opens nothing at a start
// either, and leaves no line of a run that crashed.
func TestShortConfigurationStartsNothing(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, written, w.lists(lab.Client4.String()+"\n"))
	w.saved(t)
	must(t, w.daemon.Kill())
	for range 2 {
		w.startsNothingShort(t)
	}
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context())) // what stood before stands
	must(t, w.lists("")())
	w.tells(t, lab.Stranger4, "with rules, which mode observe has none of")
	w.opts.Raw = "[gate]\nmode = \"observe\"\n" // said in words
	w.start(t)
	must(t, open(t.Context(), w.Stranger.At(lab.Server4))())
	must(t, w.daemon.Stop())
	w.opts.Raw = short // now nothing was closed
	w.start(t)
}

// short is a configuration that has lost its end.
const short = "# [gate] is gone\n"

// startsNothingShort starts nothing with it.
func (w *world) startsNothingShort(t *testing.T) {
	t.Helper()
	o := w.opts
	o.Raw = short
	startsNot(t, w.Server, o, "names no gate.mode any more, which was \"filter\"")
}

func TestBrakesBiteAndAreSeen(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	w.reload(t, "mode = \"filter\"\nmax_new_per_minute = 5\n", "The gate filters port 25")
	events := w.watch(t)
	four := w.Client4.At(lab.Server4)
	admit(t, four)
	settles(t, time.Second, refused(t.Context(), four)) // it knocks very often
	settles(t, 5*time.Second, w.says(t, "status", "too many in a minute"))
	settles(t, 5*time.Second, w.says(t, "why "+lab.Client4.String(), "braked", "may relay: alice logged in", "too many new ones in a minute"))
	for deadline := time.After(long); ; {
		select {
		case ev := <-events:
			if ev.Event != "brake" {
				continue
			}
			if ev.Client != lab.Client4.String() || !strings.Contains(ev.Reason, "too many new ones in a minute") {
				t.Errorf("a watcher was told %+v", ev)
			}
			return
		case <-deadline:
			t.Fatal("no watcher is told of the brake")
		}
	}
}

// An address from which too many different users log in is not opened for longer,
// and whoever asks is told why.
func TestSharedAddressIsExplained(t *testing.T) {
	t.Parallel()
	const lifetime = 6 * time.Second
	w := newWorldWith(t, lab.Options{Lifetime: lifetime, Grant: "max_users = 2\nmax_addresses = 1\nfollow_sessions = false"})
	four := w.Client4.At(lab.Server4)
	for _, user := range lab.Users[:3] {
		login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password).As(user))
	}
	const shared = "more than 2 users logged in from it within"
	why := func(words string, addr netip.Addr) func() error { return w.says(t, "why "+addr.String(), words) }
	settles(t, time.Second, why(shared, lab.Client4))
	settles(t, lifetime+time.Second, refused(t.Context(), four))
	settles(t, lifetime, why("its grant ran out", lab.Client4)) // the element ends before it
	must(t, why(shared, lab.Client4)())

	// The user who holds another address already is refused too.
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password).As("dave"))
	settles(t, time.Second, open(t.Context(), four))
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password).As("dave"))
	settles(t, time.Second, why("dave already holds 1 addresses", lab.Client6))
	must(t, w.Client6.At(lab.Server6).Refused(t.Context()))
	must(t, w.says(t, "status", "2 logins granted nothing: 1 from addresses of too many users, 1 of users with too many addresses")())
}

func TestExitClosesOrKeeps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		exit    string
		refused bool
		lines   bool
	}{{"expire", false, false}, {"close", true, false}, {"keep", false, true}} {
		t.Run(tt.exit, func(t *testing.T) {
			w := newWorld(t, time.Minute, "")
			w.reload(t, fmt.Sprintf("mode = \"filter\"\non_exit = %q\n", tt.exit), "The gate filters port 25")
			four := w.Client4.At(lab.Server4)
			admit(t, four)
			settles(t, written, w.lists(lab.Client4.String()+"\n"))
			must(t, w.daemon.Stop())
			if err := four.Refused(t.Context()); (err == nil) != tt.refused {
				t.Errorf("after the stop: %v", err)
			}
			must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
			if got, err := os.ReadFile(w.daemon.Relayhosts); err != nil || (len(got) > 0) != tt.lines {
				t.Errorf("after the stop relayhosts holds %q, %v", got, err)
			}
		})
	}
}
