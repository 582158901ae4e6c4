//go:build linux

package process

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// The daemon runs ahead of others, and is content with what the unit gave it where
// it may not change that itself. Each case is a process of its own.
func TestRaisePriority(t *testing.T) {
	if how := os.Getenv("RELAYGATE_RAISE_PRIORITY"); how != "" {
		runtime.LockOSThread()
		if how == "unprivileged" {
			if err := errors.Join(unix.Setpriority(unix.PRIO_PROCESS, 0, niceness), loseNice()); err != nil {
				t.Fatal(err)
			}
		}
		if err := RaisePriority(); err != nil {
			t.Fatal(err)
		}
		if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || 20-p != niceness {
			t.Errorf("niceness %d, %v", 20-p, err)
		}
		return
	}
	bpftest.RequireRoot(t)
	for _, how := range []string{"alone", "unprivileged"} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestRaisePriority$")
		cmd.Env = append(os.Environ(), "RELAYGATE_RAISE_PRIORITY="+how)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
	}
}

// loseNice takes CAP_SYS_NICE from the calling thread.
func loseNice() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_NICE
	return unix.Capset(&header, &data[0])
}
