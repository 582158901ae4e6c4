package lab_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

// Any user of the host may take the port of the metrics: that keeps nothing from its
// work, and ends with him.
func TestMetricsPortTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Minute, "")
	must(t, w.daemon.Stop())
	var squatter net.Listener
	bpftest.Do(t, w.Server, func() (err error) { squatter, err = net.Listen("tcp", "127.0.0.1:9125"); return err })
	t.Cleanup(func() { _ = squatter.Close() })
	w.opts.Config = "[metrics]\nlisten = \"127.0.0.1:9125\"\n"
	w.start(t)
	admit(t, w.Client4.At(lab.Server4))
	must(t, w.says(t, "status", "the metrics cannot be served", "address already in use")())
	must(t, squatter.Close())
	settles(t, 8*time.Second, func() error {
		if strings.Contains(w.verb(t, "status"), "metrics") {
			return errors.New("status still tells of the metrics")
		}
		return nil
	})
}

// Who reads the log may go away: the agent goes on.
func TestLogReaderGone(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	must(t, w.daemon.Stop())
	reader, writer, err := os.Pipe()
	must(t, err)
	cmd := exec.Command(program, "run", "--config", w.dir+"/relaygate.toml")
	cmd.Stderr = writer
	bpftest.Do(t, w.Server, cmd.Start)
	t.Cleanup(func() {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		must(t, cmd.Wait())
	})
	must(t, errors.Join(writer.Close(), reader.Close()))
	settles(t, 5*time.Second, func() error { return exec.Command(program, "status", "--socket", w.daemon.Socket).Run() })
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password)) // a line of the log
	<-time.After(300 * time.Millisecond)
	admit(t, w.Client6.At(lab.Server6))
	settles(t, time.Second, w.says(t, "status", "log: lines dropped"))
}

// Who cannot see whose the listeners are believes nobody, and says why.
func TestListenersThatCannotBeSeen(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	must(t, w.daemon.Stop())
	w.opts.Without = []uintptr{unix.CAP_SYS_PTRACE}
	w.opts.Config = "[watch]\ntls = \"off\"\n"
	w.start(t)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, w.says(t, "status", "Problem: no login at ", ":110 is believed", "CAP_SYS_PTRACE"))
	must(t, w.Client4.At(lab.Server4).Refused(t.Context()))
}

// Who is stopped before it has started ends as the configuration says.
func TestStopDuringTheStart(t *testing.T) {
	w := newWorldWith(t, lab.Options{Lifetime: time.Minute, Mode: "mode = \"filter\"\nmax_new_per_minute = 0\non_exit = \"close\""})
	four := w.Client4.At(lab.Server4)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, written, w.lists(lab.Client4.String()+"\n"))
	w.saved(t)
	must(t, w.daemon.Kill())
	must(t, open(t.Context(), four)())
	must(t, os.Remove(w.daemon.Socket)) // the next start makes it first
	cmd := exec.Command(program, "run", "--config", w.dir+"/relaygate.toml")
	bpftest.Do(t, w.Server, cmd.Start)
	must(t, lab.Poll(t.Context(), 5*time.Second, time.Millisecond, func() error { _, err := os.Lstat(w.daemon.Socket); return err }))
	must(t, errors.Join(cmd.Process.Signal(syscall.SIGTERM), cmd.Wait()))
	must(t, four.Refused(t.Context()))
	must(t, w.lists("")())
}

// A program that flushes the ruleset over and over does not fill the log: what it
// does is told with its number.
func TestFlushStormIsToldInAFewLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Minute, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	c, err := nftables.New(nftables.WithNetNSFd(w.Server.FD()))
	must(t, err)
	for range 300 {
		c.FlushRuleset()
		must(t, c.Flush())
		<-time.After(2 * time.Millisecond)
	}
	settles(t, time.Second, refused(t.Context(), w.Stranger.At(lab.Server4)))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	losses := w.status(t).Gate.Losses
	must(t, w.daemon.Stop())
	log := w.daemon.Log()
	if n := strings.Count(log, "\n"); losses < 20 || n > 80 || !strings.Contains(log, "lines like this one") {
		t.Errorf("%d losses make %d lines:\n%s", losses, n, log)
	}
}

// A configuration with mistakes starts nothing, leaves no line in a file that an earlier
// run wrote, and takes none from a relaygate that runs.
func TestWrongConfigurationEmptiesTheFiles(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	listed := w.lists(lab.Client4.String() + "\n")
	settles(t, written, listed)
	wrong := func(config, words string) {
		t.Helper()
		path := w.dir + "/wrong.toml"
		must(t, os.WriteFile(path, []byte(config), 0o600))
		out, err := exec.Command(program, "run", "--config", path).CombinedOutput()
		if err == nil || !strings.Contains(string(out), words) {
			t.Errorf("it says %s, %v", out, err)
		}
	}
	for _, tt := range []struct{ config, words string }{
		{w.daemon.Config + "[bogus]\nx = 1\n", "bogus: unknown key"},
		{strings.Replace(w.daemon.Config, "relayhosts = \"", "relayhosts = ", 1), "no TOML"}, // what the last run wrote is known
		{strings.Replace(w.daemon.Config, "control.sock", "other.sock", 1) + "[bogus]\n", "bogus: unknown key"},
	} {
		wrong(tt.config, tt.words) // beside one that runs
		must(t, listed())
		w.saved(t)
		must(t, w.daemon.Kill())
		must(t, listed()) // as long as nobody starts it
		wrong(tt.config, tt.words)
		must(t, w.lists("")())
		w.start(t)
		settles(t, written, listed)
	}
}

// A stop waits for no configuration that is being read, and does what it is for.
func TestStopDuringAReloadThatHangs(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, written, w.lists(lab.Client4.String()+"\n"))
	path := filepath.Join(w.dir, "relaygate.toml")
	must(t, errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)))
	must(t, syscall.Kill(w.daemon.PID(), syscall.SIGHUP))
	writer, err := os.OpenFile(path, os.O_WRONLY, 0) // which waits for its reader
	must(t, err)
	if err := w.daemon.Stop(); err == nil || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("it ends with %v", err)
	}
	must(t, errors.Join(w.lists("")(), writer.Close()))
}

// An administrator's tool can detach the programs: they are attached again, what was
// followed then holds nothing, and it is told.
func TestDetachedTap(t *testing.T) {
	for _, kind := range []string{"cgroup", "tcx"} {
		t.Run(kind, func(t *testing.T) {
			config := "[watch]\ntls = \"off\"\ntap = \"" + kind + "\"\n"
			if kind == "tcx" {
				must(t, bpf.HaveTCX())
				config += "interfaces = [\"to-client4\", \"to-client6\"]\n"
			}
			const lifetime = 3 * time.Second
			w := newWorld(t, lifetime, config)
			session(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
			four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
			settles(t, time.Second, open(t.Context(), four))
			if n := detach(t, w.daemon.PID()); n < 2 {
				t.Fatalf("%d programs were detached", n)
			}
			settles(t, 6*time.Second, func() error {
				login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
				<-time.After(100 * time.Millisecond)
				return open(t.Context(), six)()
			})
			settles(t, lifetime+2*time.Second, refused(t.Context(), four))
			must(t, w.daemon.Stop())
			if log := w.daemon.Log(); !strings.Contains(log, "detached the tap") {
				t.Errorf("the log does not tell of it:\n%s", log)
			}
		})
	}
}

// detach detaches the programs of a process, as bpftool-link(8) does.
func detach(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	must(t, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		_, number, ok := strings.Cut(string(text), "link_id:")
		if err != nil || !ok {
			continue // closed meanwhile, or no link
		}
		id, err := strconv.ParseUint(strings.Fields(number)[0], 10, 32)
		must(t, err)
		l, err := link.NewFromID(link.ID(id))
		must(t, err)
		if err := l.Detach(); err == nil {
			n++
		} else if !errors.Is(err, link.ErrNotSupported) {
			t.Errorf("detach link %d: %v", id, err)
		}
		must(t, l.Close())
	}
	return n
}

// Whatever becomes of the state file while relaygate runs, an order that was carried
// out outlives a crash.
func TestStateFileTakenAway(t *testing.T) {
	t.Parallel()
	for what, harm := range map[string]func(path string) error{
		"removed":                 os.Remove,
		"removed with its folder": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
		"emptied":                 func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(what, func(t *testing.T) {
			path := t.TempDir() + "/lib/state.db"
			w := newWorldWith(t, lab.Options{Lifetime: time.Minute, State: path})
			w.verb(t, "deny", "203.0.113.7")
			login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
			w.saved(t)
			must(t, harm(path))
			w.verb(t, "deny", "203.0.113.8")
			w.saved(t)
			<-time.After(300 * time.Millisecond) // the log is written
			must(t, w.daemon.Kill())
			w.startsNothingShort(t)
			w.start(t)
			must(t, w.says(t, "list --denied", "203.0.113.7", "203.0.113.8")())
			must(t, w.says(t, "list", lab.Client4.String()+"  ", "alice")())
			if !strings.Contains(w.before, "the state file: it was made again") {
				t.Errorf("the log does not tell of it:\n%s", w.before)
			}

			must(t, harm(path)) // so it is with a stop at once
			must(t, w.daemon.Stop())
			w.startsNothingShort(t)
			w.start(t)
			must(t, w.says(t, "list --denied", "203.0.113.7", "203.0.113.8")())
			must(t, w.says(t, "list", lab.Client4.String()+"  ", "alice")())
		})
	}
}

// scarce lets the agent open nothing more, until enough is called.
func (w *world) scarce(t *testing.T) (enough func()) {
	t.Helper()
	var was unix.Rlimit
	must(t, unix.Prlimit(w.daemon.PID(), unix.RLIMIT_NOFILE, nil, &was))
	few := unix.Rlimit{Cur: 3, Max: was.Max}
	must(t, unix.Prlimit(w.daemon.PID(), unix.RLIMIT_NOFILE, &few, nil))
	return func() { must(t, unix.Prlimit(w.daemon.PID(), unix.RLIMIT_NOFILE, &was, nil)) }
}

// TestOutOfDescriptors: while the agent can open nothing it believes nobody and says so;
// then all is as before.
func TestOutOfDescriptors(t *testing.T) {
	w := newWorld(t, time.Minute, "[metrics]\nlisten = \"127.0.0.1:9125\"\n")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	admit(t, four)
	client := control.NewClient(w.daemon.Socket) // which keeps its connection
	if _, err := client.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	enough := w.scarce(t)
	must(t, w.mail.Close()) // the next one is not known
	var err error
	w.mail, err = lab.StartMailServer(w.Server)
	must(t, err)
	settles(t, 3*time.Second, func() error {
		s, err := client.Status(t.Context())
		if err == nil && !strings.Contains(strings.Join(s.Problems, "\n"), "it is not known who listens: ") {
			err = fmt.Errorf("problems are %q", s.Problems)
		}
		return err
	})
	login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, open(t.Context(), four)())

	enough()
	must(t, six.Refused(t.Context()))
	settles(t, 2*time.Second, func() error {
		login(t, w.Client6, lab.POP3Login(lab.Server6, lab.Password))
		return open(t.Context(), six)()
	})
	settles(t, 3*time.Second, func() error {
		if s := w.status(t); len(s.Problems) > 0 {
			return fmt.Errorf("problems are %q", s.Problems)
		}
		return nil
	})
}
