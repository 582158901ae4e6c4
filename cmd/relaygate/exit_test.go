package main

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testEnv() (e *env, out, errs *bytes.Buffer) {
	out, errs = new(bytes.Buffer), new(bytes.Buffer)
	return &env{
		Stdin: strings.NewReader(""), Stdout: out, Stderr: errs,
		Now:    func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
		Getenv: func(string) string { return "" },
	}, out, errs
}

func TestExitCodes(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want int
	}{
		{[]string{"--help"}, 0},
		{[]string{"--version"}, 0},
		{nil, 2},
		{[]string{"frobnicate"}, 2},
		{[]string{"why"}, 2},
		{[]string{"why", "here"}, 2},
		{[]string{"replay"}, 2},
		{[]string{"replay", "--pop3", "x", "f"}, 2},
		{[]string{"replay", "--frobnicate", "f"}, 2},
		{[]string{"replay", "no-such-file"}, 1},
		{[]string{"list", "--socket", "/nonexistent/s"}, 1},
		{[]string{"status", "--socket", "/nonexistent/s"}, 1},
		{[]string{"status", "--check", "--socket", "/nonexistent/s"}, 2},
		{[]string{"run", "--config", "/nonexistent/c"}, 1},
	} {
		e, _, errs := testEnv()
		if got := exitCode(run(t.Context(), e, tt.args)); got != tt.want {
			t.Errorf("relaygate %q: exit %d, want %d\n%s", tt.args, got, tt.want, errs)
		}
	}
}

// Each line of an error tells the journal that it is one; nobody else sees that.
func TestErrorsInTheJournal(t *testing.T) {
	broken := filepath.Join(t.TempDir(), "relaygate.toml")
	must(t, os.WriteFile(broken, []byte("[gate]\nmode = \"x\"\non_exit = \"y\"\n"), 0o600))
	for journal, prefix := range map[bool]string{true: "<3>", false: ""} {
		e, _, errs := testEnv()
		e.ErrJournal = journal
		if got := exitCode(run(t.Context(), e, []string{"check", broken, "more"})); got != exitWrongUse {
			t.Errorf("exit %d, want %d", got, exitWrongUse)
		}
		if got := exitCode(run(t.Context(), e, []string{"run", "--config", broken})); got != exitFailed {
			t.Errorf("exit %d, want %d", got, exitFailed)
		}
		lines := strings.Split(strings.TrimSuffix(errs.String(), "\n"), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines, want one of wrong use and two of mistakes:\n%s", len(lines), errs)
		}
		for i, start := range []string{"relaygate: check", "relaygate: " + broken, broken} {
			if !strings.HasPrefix(lines[i], prefix+start) {
				t.Errorf("%q does not begin with %q", lines[i], prefix+start)
			}
		}
	}
}

// What could not be written is a failure, whatever the verb looks at.
func TestFullDisk(t *testing.T) {
	for _, args := range [][]string{
		{"--help"}, {"check", "internal/config/default.toml"}, {"replay", "../../testdata/corpus/atk-courier-imap-auth-0.pcap.gz"},
	} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip(err)
		}
		e, _, errs := testEnv()
		e.Stdout = full
		if got := exitCode(run(t.Context(), e, args)); got != exitFailed || !strings.Contains(errs.String(), "no space left") {
			t.Errorf("relaygate %q: exit %d, %q, though nothing was written", args, got, errs)
		}
		_ = full.Close()
	}
}

func TestRelativeTimes(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "now"},
		{time.Second, "in 1 s"},
		{-90 * time.Second, "90 s ago"},
		{17 * time.Minute, "in 17 min"},
		{-12 * time.Minute, "12 min ago"},
		{-26 * time.Hour, "26 h ago"},
		{72 * time.Hour, "in 3 days"},
	} {
		if got := relative(now.Add(tt.d), now); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.d, got, tt.want)
		}
	}
	if got := relative(time.Time{}, now); got != "never" {
		t.Errorf("zero time: %q, want never", got)
	}
}

// A configuration that was there at the start must be there at a reload: without it
// the defaults would open what it closes.
func TestReloadNeedsTheChosenFile(t *testing.T) {
	usual := filepath.Join(t.TempDir(), "relaygate.toml")
	if got := chosenConfig("", usual); got != "" {
		t.Errorf("without a file %q is chosen", got)
	}
	must(t, os.WriteFile(usual, []byte("[gate]\nmode = \"filter\"\n"), 0o600))
	chosen := chosenConfig("", usual)
	if chosen != usual {
		t.Errorf("%q is chosen, want the usual one", chosen)
	}
	must(t, os.Remove(usual))
	if cfg, err := loadConfig(chosen); err == nil {
		t.Errorf("the reload is good, with mode %s", cfg.Gate.Mode)
	}
	if got := chosenConfig("other.toml", usual); got != "other.toml" {
		t.Errorf("%q is chosen, want the one that was named", got)
	}
}

// A daemon that hangs is critical before a monitoring system gives the check up.
func TestCheckOfADaemonThatHangs(t *testing.T) {
	t.Parallel() // it only waits, and TestBatch does not
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // nobody accepts
	must(t, err)
	defer func() { must(t, l.Close()) }()
	e, out, _ := testEnv()
	if got := exitCode(run(t.Context(), e, []string{"status", "--check", "--socket", socket})); got != checkCritical {
		t.Errorf("exit %d, want %d", got, checkCritical)
	}
	if want := "RELAYGATE CRITICAL: relaygate runs and did not answer within 8 s"; !strings.HasPrefix(out.String(), want) || strings.Count(out.String(), "\n") != 1 {
		t.Errorf("it says %q, want one line that begins with %q", out, want)
	}
}
