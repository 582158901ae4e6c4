package bpf_test

import (
	"os"
	"testing"

	"relaygate/bpf/bpftest"
)

func TestMain(m *testing.M) { os.Exit(bpftest.RunNoLeaks(m)) }
