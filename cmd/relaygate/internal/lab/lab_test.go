//go:build linux

package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// program is the real binary, built once.
var program string

// Tests of which most is to wait, for grants to run out say, wait beside each other.
func TestMain(m *testing.M) { os.Exit(labtest.Run(m, &program)) }

// world is a network with a mail server and a daemon.
type world struct {
	*lab.Network
	home   *netns.Namespace // of the daemon
	mail   *lab.MailServer
	daemon *lab.Daemon
	dir    string
	opts   lab.Options
	before string // the logs of daemons that were replaced
}

// newNetwork is a network with a mail server, and no daemon.
func newNetwork(t *testing.T) *lab.Network {
	t.Helper()
	n, err := lab.NewNetwork()
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	mail, err := lab.StartMailServer(n.Server)
	must(t, err)
	t.Cleanup(func() { must(t, mail.Close()) })
	return n
}

func newWorld(t *testing.T, lifetime time.Duration, config string) *world {
	t.Helper()
	return newWorldWith(t, lab.Options{Lifetime: lifetime, Config: config})
}

func newWorldWith(t *testing.T, o lab.Options) *world {
	t.Helper()
	bpftest.RequireRoot(t)
	n, err := lab.NewNetwork()
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	return populate(t, n, n.Server, o)
}

// populate starts a mail server, and the daemon at home.
func populate(t *testing.T, n *lab.Network, home *netns.Namespace, o lab.Options) *world {
	t.Helper()
	w := &world{Network: n, home: home, dir: t.TempDir(), opts: o}
	w.opts.Exe, w.opts.Dir = program, w.dir
	var err error
	if w.mail, err = lab.StartMailServer(w.Server); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, w.mail.Close()) })
	w.start(t)
	t.Cleanup(func() {
		must(t, w.daemon.Stop())
		if t.Failed() {
			t.Logf("the daemon's log:\n%s%s", w.before, w.daemon.Log())
		}
	})
	return w
}

func (w *world) start(t *testing.T) {
	t.Helper()
	if w.daemon != nil {
		w.before += w.daemon.Log()
	}
	var err error
	if w.daemon, err = lab.StartDaemon(t.Context(), w.home, w.opts); err != nil {
		t.Fatal(err)
	}
}

var must = labtest.Must

// verb runs a verb and returns what it prints.
func (w *world) verb(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, append(args, "--socket", w.daemon.Socket)...).CombinedOutput()
	if err != nil {
		t.Fatalf("relaygate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func login(t *testing.T, h *lab.Host, s lab.Script) {
	t.Helper()
	answer, ok, err := h.Login(t.Context(), s)
	if err != nil || !ok {
		t.Fatalf("%s login: %q, %v", s.Protocol, answer, err)
	}
}

// settles fails unless check holds within limit.
func settles(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	must(t, lab.Poll(t.Context(), limit, 5*time.Millisecond, check))
}

func open(ctx context.Context, target lab.Target) func() error {
	return func() error { _, err := target.Open(ctx); return err }
}

func refused(ctx context.Context, target lab.Target) func() error {
	return func() error { return target.Refused(ctx) }
}

// expires returns the end of each grant by address, as list --json prints it.
func (w *world) expires(t *testing.T) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	for line := range strings.Lines(w.verb(t, "list", "--json")) {
		var g struct {
			Address string
			Expires time.Time
		}
		if err := json.Unmarshal([]byte(line), &g); err != nil {
			t.Fatalf("list --json printed %q: %v", line, err)
		}
		out[g.Address] = g.Expires
	}
	return out
}

// saved waits until the state file holds all that was decided.
func (w *world) saved(t *testing.T) {
	t.Helper()
	settles(t, 3*time.Second, func() error {
		var s struct {
			State struct{ Records, Pending int }
		}
		if err := json.Unmarshal([]byte(w.verb(t, "status", "--json")), &s); err != nil {
			return err
		}
		if s.State.Records == 0 || s.State.Pending > 0 {
			return fmt.Errorf("%d records written, %d pending", s.State.Records, s.State.Pending)
		}
		return nil
	})
}

func TestLoginOpensAndRunsOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Second, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	for _, target := range w.Everybody() {
		must(t, target.Refused(t.Context()))
	}
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	settles(t, time.Second, open(t.Context(), six))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.Stranger.At(lab.Server6).Refused(t.Context()))
	settles(t, 5*time.Second, refused(t.Context(), four))
	settles(t, 5*time.Second, refused(t.Context(), six))
}

func TestSecondLoginRenews(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Second, "")
	four := w.Client4.At(lab.Server4)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	first := w.expires(t)[lab.Client4.String()]
	settles(t, 4*time.Second, func() error { // half of the lifetime later
		if left := time.Until(first); left > 1500*time.Millisecond {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, 5*time.Second, func() error { // past the first grant's end
		if left := time.Until(first.Add(300 * time.Millisecond)); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	must(t, open(t.Context(), four)())
	settles(t, 5*time.Second, refused(t.Context(), four))
}

func TestKilledDaemonNeitherOpensNorForgets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 4*time.Second, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	before := w.expires(t)[lab.Client4.String()]
	w.saved(t)
	must(t, w.daemon.Kill())

	must(t, open(t.Context(), four)())
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	must(t, six.Refused(t.Context()))

	w.start(t)
	after, ok := w.expires(t)[lab.Client4.String()]
	if !ok {
		t.Fatalf("%s is not held after the restart:\n%s", lab.Client4, w.verb(t, "list"))
	}
	if d := after.Sub(before).Abs(); d > time.Second {
		t.Errorf("the grant ends %v off after the restart (%v, before %v)", d, after, before)
	}
	must(t, open(t.Context(), four)())

	must(t, w.daemon.Kill())
	settles(t, time.Until(before)+2*time.Second, refused(t.Context(), four))
	w.start(t)
}

func TestFlushedRulesetIsBackWithinASecond(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four, stranger := w.Client4.At(lab.Server4), w.Stranger.At(lab.Server4)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))

	c, err := nftables.New(nftables.WithNetNSFd(w.Server.FD()))
	must(t, err)
	c.FlushRuleset()
	must(t, c.Flush())

	settles(t, time.Second, refused(t.Context(), stranger))
	must(t, open(t.Context(), four)())
	if out := w.verb(t, "status"); !strings.Contains(out, "rebuilt") {
		t.Errorf("status does not tell that the gate was rebuilt:\n%s", out)
	}
	must(t, w.daemon.Stop())
	if log := w.daemon.Log(); !strings.Contains(log, "rebuilt") {
		t.Errorf("the log does not tell that the gate was rebuilt:\n%s", log)
	}
}

// TestOtherNamespaceWithSameAddressesGetsNobodyIn plays an honest-looking login
// between a server and a client in foreign namespaces that bear the very
// addresses and ports of the real ones.
func TestOtherNamespaceWithSameAddressesGetsNobodyIn(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	fake := newNetwork(t)
	login(t, fake.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	login(t, fake.Client6, lab.POP3Login(lab.Server6, lab.Password))

	w.nobody(t, lab.Client4, w.Client4.At(lab.Server4))
	w.nobody(t, lab.Client6, w.Client6.At(lab.Server6))
}

// TestUnprivilegedListenerGetsNobodyIn: a local user who may bind a watched
// port could answer OK to everybody.
func TestUnprivilegedListenerGetsNobodyIn(t *testing.T) {
	const port = 1143
	w := newWorld(t, 30*time.Second, fmt.Sprintf("[watch]\nimap = [143, %d]\n", port))
	bpftest.Do(t, w.Server, func() error {
		// A socket belongs to the file-system user of the thread that makes it.
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			return err
		}
		return w.mail.ListenIMAP(port)
	})
	s := lab.IMAPLogin(lab.Server4, lab.Password)
	s.Server = netip.AddrPortFrom(lab.Server4, port)
	login(t, w.Client4, s)
	w.nobody(t, lab.Client4, w.Client4.At(lab.Server4))
}

// nobody checks that an address holds no grant. A real login behind it shows
// that the daemon has seen everything before.
func (w *world) nobody(t *testing.T, addr netip.Addr, target lab.Target) {
	t.Helper()
	login(t, w.Stranger, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Stranger.At(lab.Server4)))
	if _, ok := w.expires(t)[addr.String()]; ok {
		t.Errorf("%s is granted:\n%s", addr, w.verb(t, "why", addr.String()))
	}
	must(t, target.Refused(t.Context()))
}

// TestRelayhostsFollows: the file holds the grants, and is empty, not absent, without.
func TestRelayhostsFollows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3*time.Second, "")
	holds := func(want string) func() error {
		return func() error {
			got, err := os.ReadFile(w.daemon.Relayhosts)
			if err != nil {
				return err
			}
			if string(got) != want {
				return fmt.Errorf("relayhosts holds %q, want %q", got, want)
			}
			return nil
		}
	}
	settles(t, time.Second, holds(""))
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, 3*time.Second, holds(fmt.Sprintf("%s\n%q\n", lab.Client4, lab.Client6.String())))
	settles(t, 6*time.Second, holds(""))
}

// TestStoppedDaemonLeavesNoLines: lines of a file do not run out.
func TestStoppedDaemonLeavesNoLines(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, 3*time.Second, func() error {
		got, err := os.ReadFile(w.daemon.Relayhosts)
		if err == nil && len(got) == 0 {
			err = errors.New("relayhosts is empty")
		}
		return err
	})
	must(t, w.daemon.Stop())
	got, err := os.ReadFile(w.daemon.Relayhosts)
	if err != nil || len(got) != 0 {
		t.Errorf("after the stop relayhosts holds %q (%v), want an empty file", got, err)
	}
	must(t, open(t.Context(), w.Client4.At(lab.Server4))()) // the element runs out by itself
	w.start(t)
	settles(t, 3*time.Second, func() error {
		got, err := os.ReadFile(w.daemon.Relayhosts)
		if err == nil && len(got) == 0 {
			err = errors.New("relayhosts is still empty after the restart")
		}
		return err
	})
}
