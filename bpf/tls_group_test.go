package bpf_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// enter makes this process a member of a control group.
func enter(t *testing.T, group string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
}

// makeGroup makes a control group until the test ends.
func makeGroup(t *testing.T, root, name string) string {
	t.Helper()
	path := filepath.Join(root, fmt.Sprintf("relaygate-test-%d-%s", os.Getpid(), name))
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		err := os.Remove(path)
		for range 500 { // the last member may still be leaving
			if err == nil {
				return
			}
			<-tick.C
			err = os.Remove(path)
		}
		t.Error(err)
	})
	return path
}

// orphan runs the rest of its arguments once its parent is gone.
const orphan = `(while kill -0 $$ 2>/dev/null; do :; done; exec "$@") &`

// TestPlantedElsewhere has descendants of a server plant a live connection's random, at
// once and as orphans, of which those of another control group are strangers: a
// super-server's sessions are its descendants too.
func TestPlantedElsewhere(t *testing.T) {
	d := buildTLSD(t, bpf.OpenSSL)
	root, err := bpf.RootCgroup()
	must(t, err)
	unit, session := makeGroup(t, root, "unit"), makeGroup(t, root, "session")
	text, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			t.Cleanup(func() { enter(t, filepath.Join(root, path)) })
		}
	}

	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	attach(t, tap, d, d.serve(t, ns, addr), process(t, os.Getpid()))
	victim := dialTLS(t, ns, addr)
	victim.say(t, "USER a\r\n")
	cookie := cookieOf(t, answers(t, tap, 1), victim)
	for _, test := range []struct {
		name          string
		head, planter string
		told          bool
	}{
		{"in the server's group", unit, unit, true},
		{"in the root", unit, root, true},
		{"the server in the root", root, session, true},
		{"in another group", unit, session, false},
	} {
		for _, script := range []string{`exec "$@"`, orphan} {
			enter(t, test.head)
			at, err := os.Open(test.planter)
			must(t, err)
			cmd := exec.Command("sh", "-c", script, "sh", d.program, "plant", hex.EncodeToString(victim.random()), "+OK forged\r\n", d.cert, d.key)
			cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(at.Fd())}
			out, err := cmd.CombinedOutput()
			bpftest.Close(t, at)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if told := plainOf(rest(t, tap), cookie) != ""; told != test.told {
				t.Errorf("%s, by %s: told is %v, want %v", test.name, script, told, test.told)
			}
		}
	}
}
