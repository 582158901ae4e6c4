// Package labtest has what tests share that play with the program as a process.
package labtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
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
