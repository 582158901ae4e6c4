package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"relaygate/authz/relayhosts"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// Each test here shows a row of the table of faults in relaygate(8).

// small mounts a small file system of its own.
func small(t *testing.T, size string) (dir string) {
	t.Helper()
	bpftest.RequireRoot(t)
	dir = t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+size))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// fill writes until there is no room.
func fill(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	err := os.WriteFile(filler, make([]byte, 16<<20), 0o600)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill %s: %v", dir, err)
	}
	return filler
}

func TestSecondAgentIsRefused(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	o := w.opts
	o.Dir = t.TempDir() // a socket and a state of its own, and the same gate
	startsNot(t, w.Server, o, "another relaygate keeps this gate: process ")
	admit(t, w.Client4.At(lab.Server4))
}

// Without relaygate the port is what it was; when it says that it is ready, the
// gate stands.
func TestBeforeTheStart(t *testing.T) {
	n := newNetwork(t)
	for _, target := range n.Everybody() {
		settles(t, 5*time.Second, open(t.Context(), target))
	}
	labtest.Daemon(t, n.Server, lab.Options{Exe: program, Dir: t.TempDir(), Lifetime: time.Minute})
	for _, target := range n.Everybody() {
		must(t, target.Refused(t.Context()))
	}
}

// An agent that hangs renews nothing and lets nobody in.
func TestHungAgentClosesByItself(t *testing.T) {
	t.Parallel()
	const lifetime = 5 * time.Second
	w := newWorld(t, lifetime, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password)) // it would be held
	settles(t, time.Second, open(t.Context(), four))
	must(t, w.daemon.Freeze(t.Context()))
	closes(t, four, time.Now().Add(lifetime+tick))
	login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
	must(t, six.Refused(t.Context()))
	must(t, w.daemon.Thaw())
	settles(t, time.Second, open(t.Context(), four)) // the session is still there
	settles(t, time.Second, open(t.Context(), six))  // the login waited in the ring
}

// Where the kernel refuses nf_tables, a gate that should close something does not
// start, and one that only observes says so.
func TestWithoutNftables(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	must(t, w.daemon.Stop())
	o := w.opts
	o.Without = []uintptr{unix.CAP_NET_ADMIN}
	startsNot(t, w.Server, o, "gate mode filter needs nftables")
	for _, target := range w.Everybody() {
		must(t, target.Refused(t.Context())) // what stood before stands
	}
	w.opts = o
	w.opts.Mode = "mode = \"observe\""
	w.start(t)
	must(t, w.says(t, "status", "nftables cannot be used")())
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, w.says(t, "list", lab.Client4.String()))
	settles(t, written, w.lists(lab.Client4.String()+"\n"))
}

func TestDamagedStateIsPutAside(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four := w.Client4.At(lab.Server4)
	admit(t, four)
	must(t, w.daemon.Stop())
	must(t, os.WriteFile(filepath.Join(w.dir, "state.db"), []byte(strings.Repeat("no database ", 1000)), 0o600))
	w.start(t)
	must(t, w.says(t, "status", "could not be read", ".damaged-")())
	must(t, open(t.Context(), four)()) // as without a state file: the kernel's elements are taken over
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
}

// A denial and a pause hold also where the rest of the state is not believed, as it is
// of another version or a bit of it turned over.
func TestDamageOpensNothing(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
	w.verb(t, "deny", lab.Client4.String())
	damage := func() {
		t.Helper()
		must(t, w.daemon.Kill())
		file := filepath.Join(w.dir, "state.db")
		data, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, bytes.ReplaceAll(data, []byte("version\x00\x00\x00"), []byte("version\x00\x00\x01")), 0o600))
		w.start(t)
		must(t, w.says(t, "status", "could not be read", "of denials and pause")())
	}
	damage()
	must(t, open(t.Context(), six)()) // of the kernel's table
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, w.says(t, "why "+lab.Client4.String(), "is denied by"))
	must(t, four.Refused(t.Context()))
	w.verb(t, "pause")
	w.verb(t, "undeny", lab.Client4.String())
	damage()
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, w.says(t, "why "+lab.Client4.String(), "paused"))
	for _, target := range []lab.Target{four, six} {
		must(t, target.Refused(t.Context()))
	}
	w.verb(t, "resume")
	admit(t, four)
}

func TestForeignStateFileOfOthersStartsNothing(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	must(t, w.daemon.Stop())
	must(t, os.Chmod(filepath.Join(w.dir, "state.db"), 0o666))
	startsNot(t, w.Server, w.opts, "chmod go-w")
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context())) // the gate stands
}

// While the state cannot be written all goes on, also over a restart, and an order says
// that this would forget it.
func TestStateDiskFull(t *testing.T) {
	dir := small(t, "2m")
	w := newWorldWith(t, lab.Options{Lifetime: time.Minute, State: filepath.Join(dir, "state.db")})
	four := w.Client4.At(lab.Server4)
	w.verb(t, "deny", "203.0.113.7")
	filler := fill(t, dir)
	admit(t, four)
	// What is freed within the file is used again: some orders find room.
	settles(t, 10*time.Second, func() error {
		out, err := control.NewClient(w.daemon.Socket).Order(t.Context(), control.Order{
			Verb: control.VerbDeny, Prefix: prefix("203.0.113.8"), Note: strings.Repeat("x", 200),
		})
		if err == nil && !strings.Contains(strings.Join(out.Warnings, " "), "would be forgotten by a restart") {
			err = fmt.Errorf("deny warns %q", out.Warnings)
		}
		return err
	})
	must(t, w.says(t, "status", "the state cannot be written, so that a restart would forget", "no space left")())
	must(t, open(t.Context(), four)())

	must(t, w.daemon.Kill())
	w.start(t)
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "list --denied", "203.0.113.7")())
	must(t, w.says(t, "status", "the state cannot be written, so that a restart would forget", "no space left")())
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	must(t, w.says(t, "deny 203.0.113.9", "would be forgotten by a restart")())
	must(t, os.Remove(filler))
	settles(t, 10*time.Second, func() error { return exec.Command(program, "status", "--check", "--socket", w.daemon.Socket).Run() })
	must(t, w.daemon.Kill())
	w.start(t)
	must(t, open(t.Context(), four)())
	must(t, w.says(t, "list --denied", "203.0.113.9")())
	settles(t, time.Second, w.says(t, "list --denied", "203.0.113.7"))
}

// The gate does its work where nobody can ask it anything, and the socket is made again
// as soon as it can be.
func TestControlSocketGone(t *testing.T) {
	t.Parallel()
	folder := t.TempDir() + "/run"
	must(t, os.Mkdir(folder, 0o755))
	w := newWorldWith(t, lab.Options{Lifetime: 30 * time.Second, Socket: folder + "/control.sock"})
	four := w.Client4.At(lab.Server4)
	must(t, os.RemoveAll(folder))
	must(t, os.WriteFile(folder, nil, 0o600)) // it cannot be made
	admit(t, four)
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	out, err := exec.Command(program, "status", "--socket", w.daemon.Socket).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "relaygate") {
		t.Errorf("status says %s, %v", out, err)
	}
	<-time.After(3 * time.Second)
	must(t, os.Remove(folder))
	settles(t, 5*time.Second, func() error {
		return exec.Command(program, "status", "--socket", w.daemon.Socket).Run()
	})
	must(t, w.says(t, "list", lab.Client4.String())())
	must(t, os.Remove(w.daemon.Socket))
	settles(t, 5*time.Second, func() error {
		return exec.Command(program, "status", "--socket", w.daemon.Socket).Run()
	})
	must(t, w.says(t, "list", lab.Client4.String())())
}

// On a full disk no line of a grant that is over stays; of a file that cannot be
// changed at all it is said that it is old.
func TestRelayhostsUnwritable(t *testing.T) {
	t.Parallel()
	dir := small(t, "64k")
	w := newWorldWith(t, lab.Options{
		Lifetime: 5 * time.Second, Grant: "follow_sessions = false", Relayhosts: filepath.Join(dir, "relayhosts"),
	})
	settles(t, written, w.lists(""))
	filler := fill(t, dir)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, 3*time.Second, func() error { // in the place of the old list, or not at all
		if err := w.lists(lab.Client4.String() + "\n")(); err == nil {
			return nil
		}
		return errors.Join(w.lists("")(), w.says(t, "status", w.daemon.Relayhosts+" cannot be written", "no space left")())
	})
	settles(t, 8*time.Second, w.lists(""))
	must(t, os.Remove(filler))

	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, written, w.lists(lab.Client4.String()+"\n"))
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	settles(t, 8*time.Second, refused(t.Context(), w.Client4.At(lab.Server4)))
	settles(t, 3*time.Second, w.says(t, "status", w.daemon.Relayhosts+" cannot be written", "read-only file system"))
	must(t, w.says(t, "why "+lab.Client4.String(), "may not relay", w.daemon.Relayhosts+" names it, and cannot be written")())
	must(t, w.says(t, "pause", "what the files say may be older")())
	must(t, w.lists(lab.Client4.String()+"\n")())
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT, ""))
	w.verb(t, "resume") // writes at once
	must(t, w.lists("")())
}

// What another program makes of relayhosts is put right in seconds, and told.
func TestForeignChangeOfRelayhosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Minute, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	want := lab.Client4.String() + "\n"
	settles(t, written, w.lists(want))
	must(t, os.WriteFile(w.daemon.Relayhosts, []byte("203.0.113.66\n"), 0o644))
	settles(t, written, w.lists(want))
	settles(t, time.Second, w.says(t, "why 203.0.113.66", "may not relay", "was in "+w.daemon.Relayhosts+" while relaygate ran, written by somebody else"))
	settles(t, time.Second, w.says(t, "status", "changed by somebody else 1 time, last", "Problem: somebody else changed "+w.daemon.Relayhosts+" (1 time, "))
	must(t, os.Remove(w.daemon.Relayhosts))
	settles(t, written, w.lists(want))
	must(t, os.Truncate(w.daemon.Relayhosts, 100<<20)) // more than any list of ours
	settles(t, written, func() error {
		info, err := os.Stat(w.daemon.Relayhosts)
		if err == nil && info.Size() > 1000 {
			err = fmt.Errorf("relayhosts has %d bytes", info.Size())
		}
		return err
	})
	must(t, w.lists(want)())
	must(t, os.Chmod(w.daemon.Relayhosts, 0o666))
	settles(t, written, func() error { return relayhosts.Others(w.daemon.Relayhosts) })
	must(t, os.Chown(w.daemon.Relayhosts, 65534, 0))
	settles(t, 6*time.Second, w.says(t, "status", "others may let anybody relay", "belongs to user 65534"))
	must(t, w.daemon.Stop())
	if log := w.daemon.Log(); strings.Count(log, "somebody else changed the file") != 3 {
		t.Errorf("the log does not tell three times that somebody else changed the file:\n%s", log)
	}
}

// The end of a mail server is the end of its sessions; with the next one all goes
// on.
func TestMailServerRestarts(t *testing.T) {
	t.Parallel()
	const lifetime = 5 * time.Second
	w := newWorld(t, lifetime, "")
	four := w.Client4.At(lab.Server4)
	session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, w.says(t, "status", "1 session open"))
	must(t, w.mail.Close())
	settles(t, time.Second, w.says(t, "status", "1 now, 0 sessions open"))
	var err error
	w.mail, err = lab.StartMailServer(w.Server)
	must(t, err)
	settles(t, lifetime+time.Second, refused(t.Context(), four))
	admit(t, four)
}

// An address that becomes the host's own is granted no more, and guarded at once.
func TestAddressBecomesOwn(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	fresh4, fresh6 := netip.MustParsePrefix("203.0.113.99/24"), netip.MustParsePrefix("2001:db8:bad::99/64")
	w.verb(t, "grant", fresh4.Addr().String())
	w.verb(t, "grant", fresh6.Addr().String())
	bpftest.Do(t, w.Server, func() error { return netns.AddAddresses("to-stranger", fresh4, fresh6) })
	for _, addr := range []netip.Addr{fresh4.Addr(), fresh6.Addr()} {
		settles(t, 2*time.Second, w.says(t, "why "+addr.String(), "is one of this host's own addresses", "revoked"))
		must(t, w.Stranger.At(addr).Refused(t.Context()))
	}
}

// With a set of the administrator's gone, his rules decide; the members are back
// as soon as it is.
func TestSetsGone(t *testing.T) {
	bpftest.RequireRoot(t)
	n := newNetwork(t)
	o := lab.Options{Exe: program, Dir: t.TempDir(), Lifetime: time.Minute, Mode: "mode = \"sets\"\nsets = { table = \"inet mine\" }"}
	startsNot(t, n.Server, o, "no table inet mine")
	mine := &nftables.Table{Family: nftables.TableFamilyINet, Name: "mine"}
	declare := func() {
		t.Helper()
		c, err := nftables.New(nftables.WithNetNSFd(n.Server.FD()))
		must(t, err)
		c.AddTable(mine)
		for _, addr := range []netip.Addr{lab.Client4, lab.Client6} {
			s := allowSet(addr)
			s.Table = mine
			must(t, c.AddSet(s, nil))
		}
		must(t, c.Flush())
	}
	declare()
	w := &world{Network: n, daemon: labtest.Daemon(t, n.Server, o)}
	holds := func() error {
		c, err := nftables.New(nftables.WithNetNSFd(n.Server.FD()))
		must(t, err)
		s := allowSet(lab.Client4)
		s.Table = mine
		members, err := c.GetSetElements(s)
		if err == nil && len(members) != 1 {
			err = fmt.Errorf("%d members", len(members))
		}
		return err
	}
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, holds)
	c, err := nftables.New(nftables.WithNetNSFd(n.Server.FD()))
	must(t, err)
	c.DelTable(mine)
	must(t, c.Flush())
	settles(t, 3*time.Second, w.says(t, "status", "MISSING in the kernel", "no table inet mine"))
	declare()
	settles(t, 3*time.Second, holds)
	if out := w.verb(t, "status"); strings.Contains(out, "MISSING") {
		t.Errorf("status still misses the sets:\n%s", out)
	}
}
