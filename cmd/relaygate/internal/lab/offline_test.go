package lab_test

import (
	"bytes"
	"encoding/json"
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
	"go.etcd.io/bbolt"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/offline"
)

// ask runs a verb beside the gate, with the configuration and no more, as the user uid.
func (w *world) ask(t *testing.T, uid uint32, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(program, append(args, "--config", filepath.Join(w.dir, "relaygate.toml"))...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid}}
	err := w.home.Do(cmd.Run)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// tells asks why of an address without a daemon, and checks the words and that the first
// line says that there is none.
func (w *world) tells(t *testing.T, a netip.Addr, want ...string) {
	t.Helper()
	out, errs, code := w.ask(t, 0, "why", a.String())
	first, _, _ := strings.Cut(out, "\n")
	if code != 0 || errs != "" || !strings.Contains(first, "relaygate does not run") {
		t.Errorf("exit code %d; %s%s", code, out, errs)
	}
	for _, words := range want {
		if !strings.Contains(out, words) {
			t.Errorf("why does not say %q:\n%s", words, out)
		}
	}
}

// written waits until the state file and relayhosts hold the login of Client4.
func (w *world) written(t *testing.T) {
	t.Helper()
	w.saved(t)
	settles(t, written, func() error {
		text, err := os.ReadFile(w.daemon.Relayhosts)
		if err == nil && !strings.Contains(string(text), lab.Client4.String()) {
			err = fmt.Errorf("relayhosts holds %q", text)
		}
		return err
	})
}

// A daemon that crashed leaves addresses in the gate and in the files: why explains each
// all the same, and says what lets it in.
func TestWhyOfACrashedDaemon(t *testing.T) {
	w := newWorld(t, 30*time.Minute, "")
	admit(t, w.Client4.At(lab.Server4))
	w.order(t, control.Order{Verb: control.VerbDeny, Prefix: one(lab.Client6), Note: "sends spam"})
	w.written(t)
	files, err := os.ReadDir(w.dir)
	must(t, err)
	must(t, w.daemon.Kill())

	w.tells(t, lab.Client4, "This is from its state, last written ", "has a grant: ", " logged in from it by pop3; its time runs out in 30 min",
		"login ", "answered", "The gate filters port 25", "is in its sets for 30 min more", "relayhosts names it", "Next:    ")
	w.tells(t, lab.Client6, "has no grant: it is denied by root (uid 0), with lab.test", "sends spam", "is not in its sets", "relayhosts does not name it")
	var story control.Story
	out, _, code := w.ask(t, 0, "why", lab.Client4.String(), "--json")
	must(t, json.Unmarshal([]byte(out), &story))
	o := story.Offline
	if code != 0 || !story.Granted || story.Grant == nil || len(story.Events) == 0 || o == nil || o.InSet == nil || !*o.InSet || o.InFile == nil || !*o.InFile || o.Until == nil || o.AsOf.IsZero() {
		t.Errorf("exit code %d: %s", code, out)
	}
	out, _, code = w.ask(t, 0, "list")
	if code != 0 || !strings.Contains(out, lab.Client4.String()+"  ") || !strings.Contains(out, "relayhosts names 1 client.") {
		t.Errorf("list, exit code %d:\n%s", code, out)
	}
	out, _, code = w.ask(t, 0, "list", "--denied")
	if code != 0 || !strings.Contains(out, "sends spam") {
		t.Errorf("list --denied, exit code %d:\n%s", code, out)
	}
	out, errs, code := w.ask(t, 0, "list", "--json")
	if code != 0 || !strings.Contains(out, `"as_of":"20`) || !strings.Contains(errs, "does not run") {
		t.Errorf("list --json, exit code %d:\n%s%s", code, out, errs)
	}
	out, _, code = w.ask(t, 0, "status")
	if code != 1 || !strings.HasPrefix(out, "relaygate does not run") || !strings.Contains(out, "Grants:  1; 1 denial.") {
		t.Errorf("status, exit code %d:\n%s", code, out)
	}
	// Nobody asked leaves a trace, and nobody who asked keeps the daemon from starting.
	now, err := os.ReadDir(w.dir)
	must(t, err)
	if len(now) != len(files) {
		t.Errorf("there are %v, before %v", now, files)
	}
	w.start(t)
	must(t, w.says(t, "why "+lab.Client4.String(), "may relay")())
}

// A stop in order leaves the elements, and no line.
func TestWhyOfAStoppedDaemon(t *testing.T) {
	w := newWorld(t, 30*time.Minute, "")
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	must(t, w.daemon.Stop())
	w.tells(t, lab.Client4, "has a grant: ", " logged in from it by imap", "is in its sets for 30 min more", "relayhosts does not name it")
	c, err := nftables.New(nftables.WithNetNSFd(w.Server.FD()))
	must(t, err)
	c.FlushRuleset()
	must(t, c.Flush())
	w.tells(t, lab.Client4, "has a grant: ", "The gate's table is not there: relaygate closes nothing now")
}

// Where the state tells nothing, the files and the kernel do; nothing is put aside.
func TestWhyWithoutAState(t *testing.T) {
	w := newWorld(t, 30*time.Minute, "")
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	w.written(t)
	must(t, w.daemon.Kill())
	path := filepath.Join(w.dir, "state.db")
	good, err := os.ReadFile(path)
	must(t, err)
	config := filepath.Join(w.dir, "relaygate.toml")
	for _, tt := range []struct {
		name string
		harm func() error
		want string
	}{
		{"none", func() error { return os.Remove(path) }, "there is no " + path},
		{"cut", func() error { return os.WriteFile(path, good[:5000], 0o600) }, "Nothing can be told from its state: "},
		{"spoiled", func() error {
			return os.WriteFile(path, bytes.ReplaceAll(good, lab.Client4.AsSlice(), lab.Stranger4.AsSlice()), 0o600)
		}, "checksum"},
		{"a newer one", func() error { return newer(path) }, "this relaygate reads version"},
		{"another user's", func() error { return errors.Join(os.WriteFile(path, good, 0o600), os.Chmod(path, 0o666)) }, "chmod go-w it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			must(t, os.WriteFile(path, good, 0o600))
			must(t, os.Chmod(path, 0o600))
			must(t, tt.harm())
			before, err := os.ReadDir(w.dir)
			must(t, err)
			w.tells(t, lab.Client4, tt.want, lab.Client4.String()+" cannot be explained: nothing is known from the state.",
				"is in its sets for 30 min more", "relayhosts names it (“"+lab.Client4.String()+"”")
			after, err := os.ReadDir(w.dir)
			must(t, err)
			if len(after) != len(before) {
				t.Errorf("there are %v, before %v", after, before)
			}
		})
	}
	must(t, os.WriteFile(path, good, 0o600))
	must(t, os.Chmod(path, 0o600))
	// A mistake in the configuration, for which it does not start.
	text, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, append(bytes.Clone(text), "\n[bogus]\nx = 1\n"...), 0o600))
	w.tells(t, lab.Client4, "has a grant: ", "Next:    mend its configuration ("+config, "unknown key")
	must(t, os.WriteFile(config, text, 0o600))
}

func newer(path string) error {
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("relaygate state")).Put([]byte("version"), []byte{0, 0, 1, 0})
	})
	return errors.Join(err, db.Close())
}

// Who is not root is told in one line what to do.
func TestWhyOfACrashedDaemonIsForRoot(t *testing.T) {
	w := newWorld(t, 30*time.Minute, "")
	must(t, w.daemon.Kill())
	must(t, os.Remove(w.daemon.Socket)) // systemd does
	for _, folder := range []string{filepath.Dir(program), w.dir, filepath.Dir(w.dir)} {
		must(t, os.Chmod(folder, 0o711))
	}
	must(t, os.Chmod(filepath.Join(w.dir, "relaygate.toml"), 0o644))
	for _, verb := range [][]string{{"why", lab.Client4.String()}, {"list"}, {"list", "--denied"}, {"status"}, {"why", lab.Client4.String(), "--json"}} {
		out, errs, code := w.ask(t, 65534, verb...)
		if code != 1 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "relaygate does not run") || !strings.Contains(errs, "run this as root") {
			t.Errorf("%s: exit code %d\n%s%s", verb, code, out, errs)
		}
	}
}

// A daemon that runs and does not answer has its files open and locked: they are read
// all the same, and it is said that it runs.
func TestWhyOfAHangingDaemon(t *testing.T) {
	w := newWorld(t, 30*time.Minute, "")
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	w.saved(t)
	must(t, os.Remove(w.daemon.Socket))
	out, _, code := w.ask(t, 0, "why", lab.Client4.String())
	if want := fmt.Sprintf("relaygate runs, as process %d, and cannot be asked", w.daemon.PID()); code != 0 || !strings.HasPrefix(out, want) || !strings.Contains(out, "has a grant: ") {
		t.Errorf("exit code %d, want %q\n%s", code, want, out)
	}
	must(t, w.daemon.Freeze(t.Context()))
	cfg, err := config.Load(filepath.Join(w.dir, "relaygate.toml"))
	must(t, err)
	absent := offline.Daemon{Config: cfg, Silence: &control.SilentError{Socket: w.daemon.Socket, Within: control.AnswerLimit}}
	bpftest.Do(t, w.home, func() error {
		s, err := absent.Why(lab.Client4, time.Now())
		if err == nil && (!s.Granted || !strings.Contains(s.Offline.Why, "runs and did not answer") || !strings.Contains(s.Offline.Next, "what it granted stays")) {
			t.Errorf("%+v, %+v", s, s.Offline)
		}
		return err
	})
	must(t, w.daemon.Thaw())
}
