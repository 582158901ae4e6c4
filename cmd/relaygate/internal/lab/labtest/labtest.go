// Package labtest has what tests share that play with the program as a process.
package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// Run builds the program once, as `make build` does, and runs the tests. It returns
// the exit code for TestMain.
func Run(m *testing.M, program *string) int {
	dir, err := os.MkdirTemp("", "relaygate-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary one
	*program = filepath.Join(dir, "relaygate")
	build := exec.Command("go", "build", "-o", *program, "relaygate/cmd/relaygate")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build relaygate: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// Network makes the lab's until the end of the test, which needs root.
func Network(t testing.TB) *lab.Network {
	t.Helper()
	bpftest.RequireRoot(t)
	n, err := lab.NewNetwork()
	bpftest.Must(t, err)
	t.Cleanup(func() { bpftest.Must(t, n.Close()) })
	return n
}

// Daemon runs one until the end of the test, and shows its log where that failed.
func Daemon(t testing.TB, ns *netns.Namespace, o lab.Options) *lab.Daemon {
	t.Helper()
	d, err := lab.StartDaemon(t.Context(), ns, o)
	bpftest.Must(t, err)
	t.Cleanup(func() {
		err := d.Stop()
		if err != nil || t.Failed() {
			t.Logf("relaygate's log:\n%s", d.Log())
		}
		bpftest.Must(t, err)
	})
	return d
}

// Folder makes one until the end of the test that, unlike t.TempDir, the unprivileged
// processes of servers can reach.
func Folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "relaygate-servers-")
	bpftest.Must(t, err)
	t.Cleanup(func() { bpftest.Must(t, os.RemoveAll(dir)) })
	bpftest.Must(t, os.Chmod(dir, 0o755))
	return dir
}
