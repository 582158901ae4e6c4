package bpf_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
)

// TestForget: of a connection that user space does not follow nothing stays, not even
// what it had shown before, and nothing is told.
func TestForget(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	if err := tap.SetServers(nil); err != nil { // from now on handshakes are noted
		t.Fatal(err)
	}
	l := bpftest.Listen(t, ns, "tcp", addr)
	client := bpftest.Dial(t, ns, addr)
	server := bpftest.Accept(t, l)
	bpftest.Send(t, server, client, "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03"+strings.Repeat("r", 32)+"\x00\x13\x01\x00")
	got := rest(t, tap)
	if n := tap.Randoms(t); n == 0 || count(got, bpf.Handshake) != 1 {
		t.Fatalf("%d randoms, records are %+v, want one handshake", n, got)
	}
	cookie := got[0].Cookie
	for range 2 { // again it is no error
		must(t, tap.Forget(cookie))
	}
	if ok, err := tap.Has(cookie); ok || err != nil {
		t.Errorf("Has is %v, %v behind Forget", ok, err)
	}
	bpftest.Send(t, client, server, "USER alice\r\n")
	bpftest.Send(t, server, client, "+OK\r\n")
	bpftest.Close(t, client)
	bpftest.Close(t, server)

	other := bpftest.Dial(t, ns, addr)
	server = bpftest.Accept(t, l)
	bpftest.Close(t, other)
	bpftest.Close(t, server)
	for _, r := range collect(t, tap, kind(bpf.Closed)) {
		if r.Cookie == cookie {
			t.Errorf("behind Forget: %+v", r)
		}
	}
	if n := tap.Randoms(t); n != 0 {
		t.Errorf("%d randoms after the end of all connections", n)
	}
}

// TestEnd: of a connection whose end was not told nothing stays, and of another one all.
func TestEnd(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns)
	must(t, tap.SetServers(nil)) // from now on handshakes are noted
	l := bpftest.Listen(t, ns, "tcp", addr)
	for _, random := range []string{"r", "s"} {
		client := bpftest.Dial(t, ns, addr)
		bpftest.Send(t, bpftest.Accept(t, l), client, "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03"+strings.Repeat(random, 32)+"\x00\x13\x01\x00")
	}
	first := rest(t, tap)[0].Cookie
	must(t, tap.Forget(first)) // what it showed is known all the same
	all, err := tap.Known()
	must(t, err)
	if len(all) != 2 || !slices.Contains(all, first) {
		t.Fatalf("known are %v, want two, %d among them", all, first)
	}
	for range 2 { // again it is no error
		must(t, tap.End(first))
	}
	left, err := tap.Known()
	must(t, err)
	if len(left) != 1 || left[0] == first || tap.Randoms(t) != 2 {
		t.Errorf("known are %v, with %d randoms and by cookie, want the other one", left, tap.Randoms(t))
	}
}

// TestClosedWithoutRoom: the end of a connection does not get lost where the ring of
// events is full, nor when it was. It comes behind all that was told of the connection.
func TestClosedWithoutRoom(t *testing.T) {
	ns := bpftest.Namespace(t)
	tap := load(t, ns, func(o *bpf.Options) { o.RingBytes = 32 << 20 }) // only the other ring fills
	l := bpftest.Listen(t, ns, "tcp", addr)
	client := bpftest.Dial(t, ns, addr)
	server := bpftest.Accept(t, l)
	fillEvents(t, tap, ns, "127.0.0.3:61143")
	late := counters(t, tap).ClosesLate
	began, err := bpf.Monotonic()
	must(t, err)
	bpftest.Close(t, client)
	bpftest.Close(t, server)
	ended, err := bpf.Monotonic()
	must(t, err)
	if counters(t, tap).ClosesLate == late {
		t.Fatal("there was room to tell of the end: the test proves nothing")
	}
	time.Sleep(10 * time.Millisecond) // what is read from here on is not from then
	var cookie uint64
	var told []seen
	for _, r := range rest(t, tap) {
		if cookie == 0 && r.Kind == bpf.Opened {
			cookie = r.Cookie // the first
		}
		if r.Cookie == cookie && r.Kind != bpf.Packet {
			told = append(told, r)
		}
	}
	if len(told) != 2 || told[1].Kind != bpf.Closed || told[1].Time < began || told[1].Time > ended {
		t.Errorf("told %+v, want that it opened, and that it closed between %d and %d", told, began, ended)
	}
	if again := rest(t, tap); len(again) > 0 {
		t.Errorf("again: %+v", again)
	}
}
