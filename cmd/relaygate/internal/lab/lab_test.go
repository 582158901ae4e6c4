package lab_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

func TestLoginOpensAndRunsOut(t *testing.T) {
	t.Parallel()
	const lifetime = 5 * time.Second
	w := newWorld(t, lifetime, "")
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
	settles(t, lifetime+time.Second, refused(t.Context(), four))
	settles(t, lifetime+time.Second, refused(t.Context(), six))
}

func TestSecondLoginRenews(t *testing.T) {
	t.Parallel()
	const lifetime = 6 * time.Second
	w := newWorld(t, lifetime, "")
	four := w.Client4.At(lab.Server4)
	admit(t, four)
	first := w.expires(t)[lab.Client4.String()]
	<-time.After(time.Until(first) - 1500*time.Millisecond)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	<-time.After(time.Until(first) + 300*time.Millisecond)
	must(t, open(t.Context(), four)())
	settles(t, lifetime+time.Second, refused(t.Context(), four))
}

func TestKilledDaemonNeitherOpensNorForgets(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 12*time.Second, "") // a slow disk may take some of it
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	admit(t, four)
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
	closes(t, four, before.Add(time.Second)) // as list rounds
	w.start(t)
}

func TestFlushedRulesetIsBackWithinASecond(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four, stranger := w.Client4.At(lab.Server4), w.Stranger.At(lab.Server4)
	admit(t, four)

	c, err := nftables.New(nftables.WithNetNSFd(w.Server.FD()))
	must(t, err)
	c.FlushRuleset()
	must(t, c.Flush())

	settles(t, time.Second, refused(t.Context(), stranger))
	must(t, open(t.Context(), four)())
	must(t, w.says(t, "status", "rebuilt")())
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

// TestRelayhostsFollows: the file holds the grants, and is empty, not absent, without.
func TestRelayhostsFollows(t *testing.T) {
	t.Parallel()
	const lifetime = 5 * time.Second
	w := newWorldWith(t, lab.Options{Lifetime: lifetime, Relayhosts: filepath.Join(small(t, "64k"), "relayhosts")})
	settles(t, time.Second, w.lists(""))
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, lifetime, w.lists(fmt.Sprintf("%s\n%q\n", lab.Client4, lab.Client6.String())))
	settles(t, lifetime+3*time.Second, w.lists(""))
}

// TestStoppedDaemonLeavesNoLines: lines of a file do not run out.
func TestStoppedDaemonLeavesNoLines(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	line := lab.Client4.String() + "\n"
	settles(t, written, w.lists(line))
	must(t, w.daemon.Stop())
	must(t, w.lists("")())
	must(t, open(t.Context(), w.Client4.At(lab.Server4))()) // the element runs out by itself
	w.start(t)
	settles(t, written, w.lists(line))
}
