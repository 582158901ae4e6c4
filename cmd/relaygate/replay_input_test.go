package main

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/capture/flow"
	"relaygate/cmd/relaygate/internal/engine"
)

// TestReplayOfAPipe: a login is told when it is there, not when the pipe is closed,
// and an interrupt ends the waiting.
func TestReplayOfAPipe(t *testing.T) {
	r, w, err := os.Pipe()
	must(t, err)
	defer func() { _ = r.Close(); _ = w.Close() }()
	if _, err := w.Write(unpacked(t, "curl-dovecot-pop3-login-0.pcap.gz")); err != nil {
		t.Fatal(err)
	}
	lines, out := io.Pipe()
	e, _, errs := testEnv()
	e.Stdin, e.Stdout = r, out
	e.Now = func() time.Time { return time.Time{} } // the packets are from meanwhile
	ctx, interrupt := context.WithCancel(t.Context())
	code := make(chan int, 1)
	go func() {
		code <- exitCode(run(ctx, e, []string{"replay", "--json", "-"}))
		_ = out.Close()
	}()
	told := make([]byte, linesSize)
	n, err := lines.Read(told)
	if got := string(told[:n]); err != nil || !strings.Contains(got, `"result":"success"`) {
		t.Errorf("while the pipe is open: %q, %v", got, err)
	}
	interrupt()
	if got := <-code; got != exitFailed || !strings.HasSuffix(errs.String(), ": interrupted\n") {
		t.Errorf("exit %d, %q", got, errs)
	}
}

// TestReplayOfAStoredFile: how fast a stored file comes through a pipe changes no verdict.
func TestReplayOfAStoredFile(t *testing.T) {
	const server, client, syn, ack = 110, 40000, 2, 16
	file := pcapOf([]packetOf{
		{client, 100, 0, syn, ""},
		{server, 500, 101, syn | ack, ""},
		{client, 101, 501, ack, ""},
		{server, 501, 101, ack, "+OK ready\r\n"},
		{client, 101, 512, ack, "USER mallory\r\nPASS x\r\n"},
		{server, 512, 123, ack, "+OK\r\n+OK\r\n"},
		{client, 101, 512, ack, "CAPA\r\n"}, // which the server's kernel took
	})
	const behind = 16 + 54 + 6 // the last packet, with its header
	r, w, err := os.Pipe()
	must(t, err)
	e, out, _ := testEnv()
	e.Stdin = r
	go func() {
		_, err := w.Write(file[:len(file)-behind])
		time.Sleep(2 * engine.Lateness)
		_, err2 := w.Write(file[len(file)-behind:])
		if err := errors.Join(err, err2, w.Close()); err != nil {
			t.Error(err)
		}
	}()
	must(t, run(t.Context(), e, []string{"replay", "--json", "-"}))
	if got := out.String(); !strings.Contains(got, `"result":"tainted"`) || strings.Contains(got, "success") {
		t.Errorf("got %q", got)
	}
}

// TestReplayInterrupted: no further file is read.
func TestReplayInterrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	interrupt()
	file := filepath.Join(corpusDir, "curl-dovecot-pop3-login-0.pcap.gz")
	e, out, errs := testEnv()
	code := exitCode(run(ctx, e, []string{"replay", "--json", file, file}))
	if code != exitFailed || out.Len() > 0 || strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
}

func unpacked(t *testing.T, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join(corpusDir, name))
	must(t, err)
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	must(t, err)
	data, err := io.ReadAll(z)
	must(t, err)
	return data
}

// TestCutFrames: what was cut too short to bring a verdict is told, to machines beside
// the verdicts.
func TestCutFrames(t *testing.T) {
	head, records := recordsOf(unpacked(t, "curl-dovecot-pop3-login-0.pcap.gz"))
	for kept, want := range map[uint32]string{
		30: "42 not read: frames cut too short",
		57: "42 in doubt: packets with cut headers", // in the TCP ports
		70: "42 in doubt: packets with cut headers", // in the TCP header
	} {
		file := string(head)
		for _, r := range records {
			file += string(binary.LittleEndian.AppendUint32(r[:8:8], kept)) + string(r[12:16+kept])
		}
		for _, args := range [][]string{{"replay", "-"}, {"replay", "--json", "-"}} {
			e, out, errs := testEnv()
			e.Stdin = strings.NewReader(file)
			code := exitCode(run(t.Context(), e, args))
			said, silent := out, errs
			if len(args) > 2 {
				said, silent = errs, out
			}
			if code != 0 || !strings.Contains(said.String(), want) || silent.Len() > 0 {
				t.Errorf("%d octets, %q: exit %d, %q, %q", kept, args, code, out, errs)
			}
		}
	}
}

// TestNothing: a file without a mail session says so, to machines too.
func TestNothing(t *testing.T) {
	file := string(unpacked(t, "curl-dovecot-pop3-login-0.pcap.gz"))
	for _, args := range [][]string{{"replay", "--pop3", "1", "-"}, {"replay", "--json", "--pop3", "1", "-"}} {
		e, out, errs := testEnv()
		e.Stdin = strings.NewReader(file)
		must(t, run(t.Context(), e, args))
		said := out
		if args[1] == "--json" {
			said = errs
		}
		if !strings.Contains(said.String(), "no TCP segment of a watched port (1, 143, 993): --pop3") || strings.Count(out.String(), "no TCP")+strings.Count(errs.String(), "no TCP") != 1 {
			t.Errorf("%q: %q, %q", args, out, errs)
		}
	}
}

// TestSummary: every bound that costs a verdict is named, over all files.
func TestSummary(t *testing.T) {
	s := newSummary(map[uint16]authz.Service{110: {}})
	for range 2 {
		s.file(10, capture.DecodeStats{Short: 1, Doubts: 2}, flow.Stats{
			Packets: 7, Opened: 3, Forged: 4, Backward: 7, Bounds: flow.Bounds{Flows: 5, FlowsPerClient: 6, Handshakes: 8},
		})
	}
	var text strings.Builder
	s.print(&text)
	if strings.Contains(text.String(), "out of order") {
		t.Errorf("an order that harmed nobody is told:\n%s", text.String())
	}
	s.verdict(&authz.Verdict{Login: authz.Login{Result: authz.Tainted}})
	text.Reset()
	s.print(&text)
	for _, want := range []string{
		"20 packets, 6 flows", " 8 ignored: segments", " 4 in doubt: packets", " 2 not read: frames",
		" 10 not read: connections beyond those that", " 12 not read: connections beyond those of one",
		" 14 out of order: segments older", " 16 forgotten: handshakes beyond those",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
}
