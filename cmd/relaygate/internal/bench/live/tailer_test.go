package live

import (
	"bytes"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

var ok = bpftest.Must

// What the server logs is what Dovecot's users know, and only while it is told
// to.
func TestServerLogsLogins(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ok(t, err)
	defer l.Close()
	client, err := net.Dial("tcp4", l.Addr().String())
	ok(t, err)
	defer client.Close()
	server, err := l.Accept()
	ok(t, err)
	defer server.Close()
	f, err := server.(*net.TCPConn).File()
	ok(t, err)
	defer f.Close()
	log := filepath.Join(t.TempDir(), "mail.log")
	p := pop3{fd: int(f.Fd())}
	say := func(lines ...string) {
		t.Helper()
		for _, line := range lines {
			ok(t, p.answer([]byte(line)))
		}
	}
	say("USER before", "PASS "+password)
	ok(t, logTo(log))
	say("USER long-name", "USER eve", "PASS wrong", "PASS "+password)
	ok(t, logTo(""))
	say("USER behind", "PASS "+password)
	got, err := os.ReadFile(log)
	ok(t, err)
	want := regexp.MustCompile(`^\w{3} [ \d]\d \d\d:\d\d:\d\d mail dovecot: pop3-login: Login: ` +
		`user=<eve>, method=PLAIN, rip=127\.0\.0\.1, lip=198\.51\.100\.25, mpid=\d+\n$`)
	if !want.Match(got) {
		t.Errorf("the log is %q", got)
	}
}

func TestTailersAreConfigured(t *testing.T) {
	for _, tailer := range allTailers {
		t.Run(tailer.name, func(t *testing.T) {
			dir := t.TempDir()
			ok(t, tailer.configure(dir))
			var all []byte
			err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				b, err := os.ReadFile(filepath.Join(dir, name))
				all = append(all, b...)
				return err
			})
			ok(t, err)
			if bytes.Contains(all, []byte("@DIR@")) {
				t.Error("a path is open")
			}
			for _, want := range []string{tailerTable, tailerSet, filepath.Join(dir, "mail.log"), filepath.Join(dir, "own.log")} {
				if !bytes.Contains(all, []byte(want)) {
					t.Errorf("%s is nowhere", want)
				}
			}
		})
	}
}

// The time is that of the change, however late the monitor is, and of the first
// change if an element comes again.
func TestMonitorNotesTheChange(t *testing.T) {
	ns := bpftest.Namespace(t)
	bpftest.Do(t, ns, func() error { return makeSet(tailerTable, tailerSet) })
	watch := startMonitor(ns)
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	before := make(map[netip.Addr]time.Duration)
	after := make(map[netip.Addr]time.Duration)
	for _, a := range addresses {
		before[a] = monotonic(t)
		bpftest.Do(t, ns, func() error { return put(a, true) })
		after[a] = monotonic(t)
		bpftest.Do(t, ns, func() error { return put(a, false) })
		bpftest.Do(t, ns, func() error { return put(a, true) })
	}
	err := lab.Poll(t.Context(), 10*time.Second, time.Millisecond, func() error {
		if watch.count() < len(addresses) {
			return unix.EAGAIN
		}
		return nil
	})
	ok(t, err)
	came := watch.stop()
	for _, a := range addresses {
		if at := came[a]; at < before[a] || at > after[a] {
			t.Errorf("%s came at %v, and was added between %v and %v", a, at, before[a], after[a])
		}
	}
}

// put adds an element to the tailers' set or deletes it.
func put(a netip.Addr, add bool) error {
	return change("change the set", func(c *nftables.Conn) error {
		do := c.SetDeleteElements
		if add {
			do = c.SetAddElements
		}
		set := &nftables.Set{Table: table(tailerTable), Name: tailerSet, KeyType: nftables.TypeIPAddr}
		return do(set, []nftables.SetElement{{Key: a.AsSlice()}})
	})
}

// monotonic is CLOCK_MONOTONIC.
func monotonic(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	ok(t, unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts))
	return time.Duration(ts.Nano())
}
