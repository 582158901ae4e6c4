package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// program is the real binary, built once.
var program string

// Tests of which most is to wait, for grants to run out say, wait beside each other.
func TestMain(m *testing.M) {
	if err := os.Setenv("TMPDIR", lab.TempDir(512<<20)); err != nil {
		panic(err)
	}
	os.Exit(labtest.Run(m, &program))
}

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
	n := labtest.Network(t)
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
	n := labtest.Network(t)
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

// startsNot fails if a daemon starts, or says another reason why it does not.
func startsNot(t *testing.T, ns *netns.Namespace, o lab.Options, reason string) {
	t.Helper()
	d, err := lab.StartDaemon(t.Context(), ns, o)
	if err == nil {
		must(t, d.Stop())
		t.Fatal("it starts")
	}
	if !strings.Contains(err.Error(), reason) {
		t.Errorf("it says %v, and not %q", err, reason)
	}
}

var must = bpftest.Must

// verb runs a verb and returns what it prints.
func (w *world) verb(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, append(args, "--socket", w.daemon.Socket)...).CombinedOutput()
	if err != nil {
		t.Fatalf("relaygate %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// says is nil if a verb prints all words.
func (w *world) says(t *testing.T, verb string, words ...string) func() error {
	return func() error {
		out := w.verb(t, strings.Fields(verb)...)
		for _, want := range words {
			if !strings.Contains(out, want) {
				return fmt.Errorf("%s does not tell %q:\n%s", verb, want, out)
			}
		}
		return nil
	}
}

// long ends a wait for what must come, and is in no hurry to.
const long = 30 * time.Second

// written bounds the wait for a file, which on a slow disk is longer: a write of half a
// second puts off the next one by ten.
const written = 20 * time.Second

// lists is nil if relayhosts holds these lines.
func (w *world) lists(want string) func() error {
	return func() error {
		got, err := os.ReadFile(w.daemon.Relayhosts)
		if err == nil && string(got) != want {
			err = fmt.Errorf("relayhosts holds %q, want %q", got, want)
		}
		return err
	}
}

func login(t *testing.T, h *lab.Host, s lab.Script) {
	t.Helper()
	answer, ok, err := h.Login(t.Context(), s)
	if err != nil || !ok {
		t.Fatalf("%s login: %q, %v", s.Protocol, answer, err)
	}
}

// settles fails unless check holds within limit. A look that takes longer than a look
// should, with the pause behind it, shows a busy machine, which has no time for the
// daemon either: it does not count for more.
func settles(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	const pause, most = 5 * time.Millisecond, 40 * time.Millisecond
	for left := limit; ; {
		begin := time.Now()
		err := check()
		if err == nil {
			return
		}
		if left <= 0 {
			t.Fatalf("after %v: %v", limit, err)
		}
		<-time.After(pause)
		left -= min(time.Since(begin), most)
	}
}

func open(ctx context.Context, target lab.Target) func() error {
	return func() error { _, err := target.Open(ctx); return err }
}

func refused(ctx context.Context, target lab.Target) func() error {
	return func() error { return target.Refused(ctx) }
}

// admit logs in at the server and waits until its port 25 is open.
func admit(t *testing.T, target lab.Target) {
	t.Helper()
	login(t, target.Host, lab.POP3Login(target.Server, lab.Password))
	settles(t, time.Second, open(t.Context(), target))
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
	settles(t, written, func() error {
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

// nobody checks that an address holds no grant. A real login behind it shows
// that the daemon has seen everything before.
func (w *world) nobody(t *testing.T, addr netip.Addr, target lab.Target) {
	t.Helper()
	admit(t, w.Stranger.At(lab.Server4))
	if _, ok := w.expires(t)[addr.String()]; ok {
		t.Errorf("%s is granted:\n%s", addr, w.verb(t, "why", addr.String()))
	}
	must(t, target.Refused(t.Context()))
}

// watch returns the events from now on.
func (w *world) watch(t *testing.T) <-chan control.Event {
	t.Helper()
	events := make(chan control.Event, 1000)
	_, err := w.daemon.Watch(t.Context(), func(line []byte) error {
		var ev control.Event
		err := json.Unmarshal(line, &ev)
		events <- ev
		return err
	})
	must(t, err)
	return events
}
