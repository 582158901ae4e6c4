package bpf_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestLateProbes attaches after a handshake, and detaches during a dialogue.
func TestLateProbes(t *testing.T) {
	d, ns, tap := opensslTap(t)
	server := d.serve(t, ns, addr)
	must(t, tap.SetServers([]bpf.ServerProcess{server}))
	early := dialTLS(t, ns, addr)
	early.say(t, "USER a\r\n")
	if got := rest(t, tap); count(got, bpf.Handshake) != 1 || count(got, bpf.Plain) != 0 {
		t.Errorf("before the probes: %+v", got)
	}
	probes, err := tap.AttachLibrary(d.library)
	must(t, err)
	early.say(t, "PASS a\r\n")
	wantLost(t, tap, bpf.AttachedLate, func() { early.say(t, "STAT\r\n") })

	c := dialTLS(t, ns, addr)
	c.say(t, "USER a\r\n")
	got := answers(t, tap, 1)
	if text := plainOf(got, cookieOf(t, got, c)); text != "C:USER a\r\nS:+OK USER a\r\n" {
		t.Errorf("after the attach the client said %q", text)
	}
	bpftest.Close(t, probes)
	bpftest.Close(t, probes) // twice is no error
	c.say(t, "PASS a\r\n")
	if got := rest(t, tap); count(got, bpf.Plain) != 0 {
		t.Errorf("after the detach: %+v", got)
	}

	// A new attach must not go on in the middle.
	if _, err := tap.AttachLibrary(d.library); err != nil {
		t.Fatal(err)
	}
	c.say(t, "PASS a\r\n")
	wantLost(t, tap, bpf.AttachedLate, func() { c.say(t, "STAT\r\n") })
}

// TestLateServer makes a process a server in the middle of its dialogue.
func TestLateServer(t *testing.T) {
	d, ns, tap := opensslTap(t)
	server := d.serve(t, ns, addr)
	attach(t, tap, d)
	c := dialTLS(t, ns, addr)
	c.say(t, "USER a\r\n")
	rest(t, tap)
	must(t, tap.SetServers([]bpf.ServerProcess{server}))
	c.say(t, "PASS a\r\n")
	wantLost(t, tap, bpf.AttachedLate, func() { c.say(t, "STAT\r\n") })

	// To be named again changes nothing.
	c = dialTLS(t, ns, addr)
	for range 2 {
		must(t, tap.SetServers([]bpf.ServerProcess{process(t, os.Getpid()), server}))
		c.say(t, "USER a\r\n")
		answers(t, tap, 1)
	}
}

// TestLateCall attaches, or makes a process a server, while it waits in a read that
// will shake hands: nobody sees what this read brings, and the rest is no dialogue.
func TestLateCall(t *testing.T) {
	d := buildTLSD(t, bpf.OpenSSL)
	for _, late := range []string{"probes", "server"} {
		t.Run(late, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			server := d.serve(t, ns, addr, "lazy", "fork")
			name := func() error { return tap.SetServers([]bpf.ServerProcess{server}) }
			probe := func() error { _, err := tap.AttachLibrary(d.library); return err }
			first, then := name, probe
			if late == "server" {
				first, then = probe, name
			}
			must(t, first())
			conn := bpftest.Dial(t, ns, addr)
			untilChildReads(t, server.PID)
			rest(t, tap)
			must(t, then())
			c := shakeHands(t, conn)
			c.say(t, "a1 ID (\"name\" \"")
			c.say(t, "a1 LOGIN alice guess\")\r\n")
			got := wantLost(t, tap, bpf.AttachedLate, func() { c.say(t, "a2 NOOP\r\n") })
			if n := count(got, bpf.Plain); n != 0 {
				t.Errorf("%d calls of a dialogue are told whose beginning is missing", n)
			}
		})
	}
}

// TestCallWithoutRoom: the first call of a connection is not noted, which shakes
// hands and brings the beginning of its dialogue.
func TestCallWithoutRoom(t *testing.T) {
	d, ns, tap := opensslTap(t)
	server := d.serve(t, ns, addr, "lazy", "fork")
	attach(t, tap, d, server)
	empty := tap.FillCalls(t)
	conn := bpftest.Dial(t, ns, addr)
	untilChildReads(t, server.PID)
	empty()
	c := shakeHands(t, conn)
	c.say(t, "a1 ID (\"name\" \"")
	c.say(t, "a1 LOGIN alice guess\")\r\n")
	got := wantLost(t, tap, bpf.AttachedLate, func() { c.say(t, "a2 NOOP\r\n") })
	if n := count(got, bpf.Plain); n != 0 || tlsCounters(t, tap).CallsFull != 1 {
		t.Errorf("%d calls are told, counters are %+v", n, tlsCounters(t, tap))
	}
}

// untilChildReads waits until the only child of a process waits in read(2).
func untilChildReads(t *testing.T, pid uint32) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		child, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		call, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/syscall")
		if strings.HasPrefix(string(call), fmt.Sprintf("%d ", unix.SYS_READ)) {
			return
		}
	}
	t.Fatal("the server does not read")
}
