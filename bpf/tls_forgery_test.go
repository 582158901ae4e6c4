package bpf_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// run runs the test program to its end, in ns and as a user.
func (d *tlsd) run(t testing.TB, ns *netns.Namespace, uid uint32, args ...string) {
	t.Helper()
	cmd := exec.Command(d.program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	bpftest.Do(t, ns, func() error {
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	})
}

// TestPlantedRandom has processes show a live connection's random in objects of
// their own.
func TestPlantedRandom(t *testing.T) {
	d, ns, tap := opensslTap(t)
	server := d.serve(t, ns, addr)
	// The planter's parent is this process. While it counts as a server the
	// probes fire, or the test would prove nothing.
	attach(t, tap, d, server, process(t, os.Getpid()))
	victim := dialTLS(t, ns, addr)
	victim.say(t, "USER a\r\n")
	cookie := cookieOf(t, answers(t, tap, 1), victim)
	plant := func(uid uint32) []seen {
		t.Helper()
		const forged = "+OK forged\r\n"
		d.run(t, ns, uid, "plant", hex.EncodeToString(victim.random()), forged, d.cert, d.key)
		return rest(t, tap)
	}

	if got := plainOf(plant(nobody), cookie); got != "S:+OK forged\r\n" {
		t.Fatalf("a process of the family said %q", got)
	}
	reborn := process(t, os.Getpid())
	reborn.Start++
	for _, servers := range [][]bpf.ServerProcess{{server}, {server, reborn}} {
		must(t, tap.SetServers(servers))
		for _, uid := range []uint32{nobody, 0} {
			before := tlsCounters(t, tap)
			if got := plant(uid); len(got) != 0 {
				t.Errorf("uid %d planted %+v", uid, got)
			}
			if after := tlsCounters(t, tap); after.Refused == before.Refused || after.Unbound != before.Unbound {
				t.Errorf("uid %d: counters were %+v, are %+v", uid, before, after)
			}
		}
	}

	// The victim's connection has taken no harm.
	victim.say(t, "PASS a\r\n")
	if got := plainOf(answers(t, tap, 1), cookie); got != "C:PASS a\r\nS:+OK PASS a\r\n" {
		t.Errorf("then the victim said %q", got)
	}
}

// TestStrangers has only strangers use the library.
func TestStrangers(t *testing.T) {
	d, ns, tap := opensslTap(t)
	d.serve(t, ns, addr)
	probes := attach(t, tap, d)
	dialTLS(t, ns, addr).say(t, "USER a\r\n")
	if got := count(rest(t, tap), bpf.Plain); got != 0 {
		t.Errorf("%d plaintexts of a process that is no server", got)
	}
	if probes.Recognised() {
		t.Error("a handshake was recognised in a stranger's object")
	}
}

// TestClientRole has a client in the same library, whose object shows the same
// random as the server's.
func TestClientRole(t *testing.T) {
	d, ns, tap := opensslTap(t)
	server := d.serve(t, ns, addr)
	attach(t, tap, d, server)
	d.run(t, ns, nobody, "client", fmt.Sprint(port), "USER a\r\n")
	got := collect(t, tap, kind(bpf.Closed))
	if text := plainOf(got, got[0].Cookie); text != "C:USER a\r\nS:+OK USER a\r\n" {
		t.Errorf("the connection said %q", text)
	}
	for _, r := range got {
		if r.Kind == bpf.Plain && r.TGID != server.PID {
			t.Errorf("process %d said %+v", r.TGID, r)
		}
	}
}

// TestForeignHello has a client send another connection's ServerHello, and its
// server send it back.
func TestForeignHello(t *testing.T) {
	d, ns, tap := opensslTap(t)
	attach(t, tap, d, d.serve(t, ns, addr))
	victim := dialTLS(t, ns, addr)
	victim.say(t, "USER a\r\n")
	cookie := cookieOf(t, answers(t, tap, 1), victim)
	hello := string(victim.wire.in[:200])

	mallory, server := bpftest.Connect(t, ns, "127.0.0.2:61143")
	bpftest.Send(t, mallory, server, hello)
	victim.say(t, "PASS a\r\n")
	if got := answers(t, tap, 1); count(got, bpf.Handshake) != 0 || plainOf(got, cookie) != "C:PASS a\r\nS:+OK PASS a\r\n" {
		t.Errorf("after a client's ServerHello: %+v", got)
	}

	// From a server the doubt is real: both are lost.
	bpftest.Send(t, server, mallory, hello)
	victim.say(t, "STAT\r\n")
	got := rest(t, tap)
	if plainOf(got, cookie) != "" || count(got, bpf.Lost) != 2 {
		t.Errorf("after a server's ServerHello: %+v", got)
	}
	for _, r := range got {
		if r.Kind == bpf.Lost && r.Reason != bpf.SameRandom {
			t.Errorf("lost because %v", r.Reason)
		}
	}
	bpftest.Close(t, victim)
	bpftest.Close(t, mallory)
	bpftest.Close(t, server)
	for range 2 {
		collect(t, tap, kind(bpf.Closed))
	}
	if n := tap.Randoms(t); n != 0 {
		t.Errorf("%d randoms after the end of all connections", n)
	}
}

// TestTwoHellos has a connection show a made-up ServerHello before its own: a
// server may echo what clients say.
func TestTwoHellos(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	must(t, tap.SetServers(nil))
	client, server := bpftest.Connect(t, ns, addr)
	hello := func(random byte) string {
		return "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03" + strings.Repeat(string(random), 32) + "\x00\x13\x01\x00"
	}
	bpftest.Send(t, server, client, hello('a'))
	bpftest.Send(t, server, client, hello('a'))
	if got := rest(t, tap); count(got, bpf.Handshake) != 1 || count(got, bpf.Lost) != 0 {
		t.Errorf("records are %+v, want one handshake", got)
	}
	bpftest.Send(t, server, client, hello('b'))
	if got := rest(t, tap); count(got, bpf.Lost) != 1 || got[len(got)-1].Reason != bpf.TwoHellos {
		t.Errorf("records are %+v, want the connection lost", got)
	}
	bpftest.Close(t, client)
	bpftest.Close(t, server)
	collect(t, tap, kind(bpf.Closed))
	if n := tap.Randoms(t); n != 0 {
		t.Errorf("%d randoms after the end of all connections", n)
	}
}

// TestOtherTLSServers has the same library serve where nobody listens to it: on
// another port, and in another namespace.
func TestOtherTLSServers(t *testing.T) {
	d := buildTLSD(t, bpf.OpenSSL)
	ours, theirs := bpftest.Namespace(t), bpftest.Namespace(t)
	tap := load(t, ours)
	const https = "127.0.0.1:61443"
	web, foreign := d.serve(t, ours, https), d.serve(t, theirs, addr)
	// Even as members of the family.
	attach(t, tap, d, web, foreign)
	for _, test := range []struct {
		ns   *netns.Namespace
		addr string
	}{{ours, https}, {theirs, addr}} {
		for range 3 {
			dialTLS(t, test.ns, test.addr).say(t, "GET\r\n")
		}
	}
	if n := tap.Randoms(t); n != 0 {
		t.Errorf("%d randoms of connections that are not followed", n)
	}
	for _, r := range rest(t, tap) {
		if r.Kind != bpf.Opened || r.Reason != bpf.ForeignNetns {
			t.Errorf("record %+v", r)
		}
	}
	if counters := tlsCounters(t, tap); counters.Handshakes != 0 || counters.Unbound < 10 {
		t.Errorf("counters are %+v", counters)
	}
}
