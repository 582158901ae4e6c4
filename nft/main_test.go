package nft

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
)

// TestMain fails if a socket, a namespace or a goroutine outlives the tests.
func TestMain(m *testing.M) {
	goroutines := runtime.NumGoroutine()
	code := bpftest.RunNoLeaks(m)
	if fuzzing := flag.Lookup("test.fuzz"); fuzzing != nil && fuzzing.Value.String() != "" {
		os.Exit(code) // the fuzzer leaves a goroutine of its own
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
