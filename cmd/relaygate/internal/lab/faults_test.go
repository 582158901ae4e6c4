//go:build linux

package lab_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

func TestSecondAgentIsRefused(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	o := w.opts
	o.Dir = t.TempDir() // a socket and a state of its own, and the same gate
	second, err := lab.StartDaemon(t.Context(), w.Server, o)
	if err == nil {
		must(t, second.Stop())
		t.Fatal("two agents keep one gate")
	}
	if !strings.Contains(err.Error(), "another agent keeps this gate: process ") {
		t.Errorf("the second agent says %v", err)
	}
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
}

func TestDamagedStateIsPutAside(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	four := w.Client4.At(lab.Server4)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	must(t, w.daemon.Stop())
	must(t, os.WriteFile(filepath.Join(w.dir, "state.db"), []byte(strings.Repeat("no database ", 1000)), 0o600))
	w.start(t)
	if out := w.verb(t, "status"); !strings.Contains(out, "could not be read") || !strings.Contains(out, ".damaged-") {
		t.Errorf("status does not tell of the damage:\n%s", out)
	}
	must(t, open(t.Context(), four)()) // as without a state file: the kernel's elements are taken over
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
}

func TestForeignStateFileOfOthersStartsNothing(t *testing.T) {
	w := newWorld(t, 30*time.Second, "")
	must(t, w.daemon.Stop())
	must(t, os.Chmod(filepath.Join(w.dir, "state.db"), 0o666))
	d, err := lab.StartDaemon(t.Context(), w.Server, w.opts)
	if err == nil {
		must(t, d.Stop())
		t.Fatal("it starts with a state file that anybody may write")
	}
	if !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("it says %v", err)
	}
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context())) // the gate stands
}
