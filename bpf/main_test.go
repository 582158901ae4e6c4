package bpf_test

import (
	"fmt"
	"os"
	"testing"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

// TestMain also is the process that TestLinksDieWithTheProcess ends.
func TestMain(m *testing.M) {
	if os.Getenv(victimEnv) != "" {
		if err := victim(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(bpftest.RunNoLeaks(m))
}
