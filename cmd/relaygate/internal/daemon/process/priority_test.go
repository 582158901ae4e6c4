package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// The daemon runs ahead of others, with what the unit gives it too, and with its session
// if that is its own. Each case is a process of its own.
func TestRaisePriority(t *testing.T) {
	if how := os.Getenv("RELAYGATE_RAISE_PRIORITY"); how != "" {
		runtime.LockOSThread()
		before, may := session(), true
		if how == "unprivileged" { // Nice= and LimitNICE= of the unit
			limit := unix.Rlimit{Cur: 20 - niceness, Max: 20 - niceness}
			may = unix.Setrlimit(unix.RLIMIT_NICE, &limit) == nil // in a container it cannot be had
			if err := errors.Join(unix.Setpriority(unix.PRIO_PROCESS, 0, niceness), loseNice()); err != nil {
				t.Fatal(err)
			}
		}
		if err := RaisePriority(); (err == nil) != (may || before == "") {
			t.Errorf("may: %v, error: %v", may, err)
		}
		if p, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err != nil || 20-p != niceness {
			t.Errorf("niceness %d, %v", 20-p, err)
		}
		want := fmt.Sprintf(" nice %d\n", niceness)
		if how == "guest" || !may {
			want = before
		}
		if after := session(); after != "" && !strings.HasSuffix(after, want) {
			t.Errorf("the session is %q, want %q", after, want)
		}
		return
	}
	bpftest.RequireRoot(t)
	for _, how := range []string{"alone", "unprivileged", "guest"} {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestRaisePriority$")
		cmd.Env = append(os.Environ(), "RELAYGATE_RAISE_PRIORITY="+how)
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: how != "guest"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", how, err, out)
		}
	}
}

// session says how nice the session is, "" where the kernel does not tell sessions apart.
func session() string {
	text, _ := os.ReadFile("/proc/self/autogroup")
	return string(text)
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
