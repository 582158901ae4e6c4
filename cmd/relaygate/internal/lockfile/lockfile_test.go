package lockfile

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

// The holder is told in a PID namespace too that has not got it.
func TestHolderInAnotherNamespace(t *testing.T) {
	const asked = "RELAYGATE_TEST_HOLDER"
	if path := os.Getenv(asked); path != "" {
		must(t, errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("proc", "/proc", "proc", 0, "")))
		fmt.Printf("process %s of %d\n", Holder(path), os.Getpid())
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path := filepath.Join(t.TempDir(), "lock")
	lock, err := Take(path)
	must(t, err)
	c := exec.Command(os.Args[0], "-test.run=^TestHolderInAnotherNamespace$")
	c.Env = append(os.Environ(), asked+"="+path)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	out, err := c.Output()
	want := fmt.Sprintf("process %d of 1\n", os.Getpid())
	if err := errors.Join(err, lock.Close()); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("it says %q, %v, want %q", out, err, want)
	}
}

// Who only looks keeps nobody from the lock.
func TestTakeWhileOthersLook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	ended := make(chan struct{})
	var looking sync.WaitGroup
	for range 2 {
		looking.Go(func() {
			for {
				select {
				case <-ended:
					return
				default:
					Holder(path)
				}
			}
		})
	}
	for range 50 {
		lock, err := Take(path)
		if err == nil {
			err = lock.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	close(ended)
	looking.Wait()
}

// The holder of a lock is told, and asking keeps nobody from taking it.
func TestHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if got := Holder(path); got != "" {
		t.Errorf("process %s holds a file that is not there", got)
	}
	lock, err := Take(path)
	must(t, err)
	if got := Holder(path); got != strconv.Itoa(os.Getpid()) {
		t.Errorf("process %q holds the lock, want this one", got)
	}
	if got := Holder(path + "2"); got != "" {
		t.Errorf("process %s holds another file", got)
	}
	if _, err := Take(path); !errors.As(err, new(*HeldError)) {
		t.Errorf("error %v", err)
	}
	must(t, lock.Close())
	if got := Holder(path); got != "" { // its number is there still
		t.Errorf("process %s holds a lock that was given up", got)
	}
	lock, err = Take(path)
	must(t, err)
	_ = lock.Close()
}
