package nft

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails if a socket, a namespace or a goroutine outlives the tests.
func TestMain(m *testing.M) {
	sockets, goroutines := openSockets(), runtime.NumGoroutine()
	code := m.Run()
	if fuzzing := flag.Lookup("test.fuzz"); fuzzing != nil && fuzzing.Value.String() != "" {
		os.Exit(code) // the fuzzer leaves a goroutine of its own
	}
	if n := openSockets(); n > sockets && code == 0 {
		fmt.Fprintf(os.Stderr, "%d sockets or namespaces leaked\n", n-sockets)
		code = 1
	}
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > goroutines && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > goroutines && code == 0 {
		stacks := make([]byte, 1<<16)
		stacks = stacks[:runtime.Stack(stacks, true)]
		fmt.Fprintf(os.Stderr, "%d goroutines leaked:\n%s\n", n-goroutines, stacks)
		code = 1
	}
	os.Exit(code)
}

func openSockets() (n int) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err == nil && (strings.HasPrefix(target, "socket:") || strings.HasPrefix(target, "net:")) {
			n++
		}
	}
	return n
}
