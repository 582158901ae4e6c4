package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"relaygate": main})
}

// TestScripts runs the real command line. CORPUS names the module's captures, PROXY one
// of a Dovecot that expects PROXY headers.
func TestScripts(t *testing.T) {
	corpus, err := filepath.Abs("../../testdata/corpus")
	must(t, err)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("CORPUS", corpus)
			e.Setenv("PROXY", filepath.Join(corpus, "../../cmd/relaygate/testdata/proxy.pcap.gz"))
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"cut": cut, "exits": exits},
	})
}

// exits CODE PROGRAM ARG… runs a program that must end with the exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARG…")
	}
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// cut FROM TO copies all but the last ten bytes.
func cut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FROM TO")
	}
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data[:len(data)-10], 0o600))
}
