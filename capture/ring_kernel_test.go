package capture_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/capture"
)

var must = bpftest.Must

// TestRingLive reads a login from the kernel's tap.
func TestRingLive(t *testing.T) {
	const addr = "127.0.0.1:61152"
	ns := bpftest.Namespace(t)
	held, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	defer bpftest.Close(t, held)
	tap, err := bpf.Load(bpf.Options{Ports: []uint16{61152}, Owners: []uint32{0}, Netns: []*bpf.Netns{held}})
	must(t, err)
	defer bpftest.Close(t, tap)
	ring := capture.NewRing(tap)

	start := time.Now()
	l := bpftest.Listen(t, ns, "tcp4", addr)
	client := bpftest.Dial(t, ns, addr)
	server := bpftest.Accept(t, l)
	bpftest.Send(t, server, client, "+OK ready\r\n")
	bpftest.Send(t, client, server, "USER alice\r\n")
	bpftest.Send(t, server, client, "+OK\r\n")
	bpftest.Close(t, client)
	bpftest.Close(t, server)

	var ev capture.Event
	var dialogue string
	var cookie uint64
	ring.SetDeadline(time.Now().Add(20 * time.Second))
	for ev.Kind != capture.Closed {
		must(t, ring.Next(&ev))
		if ev.Time.Before(start.Add(-time.Second)) || ev.Time.After(time.Now().Add(time.Second)) {
			t.Errorf("time is %v, now it is %v", ev.Time, time.Now())
		}
		switch ev.Kind {
		case capture.Opened:
			cookie = ev.Conn.Cookie
			want := client.LocalAddr().(*net.TCPAddr).AddrPort()
			if !ev.Trusted || ev.Conn.Client != want || ev.Conn.Server != netip.MustParseAddrPort(addr) || ev.Conn.Netns != held.ID() {
				t.Errorf("opened is %+v, want client %v", ev, want)
			}
		case capture.Packet:
			if ev.Segment.Cookie != cookie || cookie == 0 {
				t.Errorf("cookie is %d, want %d", ev.Segment.Cookie, cookie)
			}
			if len(ev.Segment.Payload) > 0 {
				dialogue += fmt.Sprint(ev.Segment.Sent == capture.SenderHost, " ", string(ev.Segment.Payload))
			}
		case capture.Closed:
			if ev.Conn.Cookie != cookie {
				t.Errorf("closed is %+v, want cookie %d", ev, cookie)
			}
		default:
			t.Errorf("unexpected event %+v", ev)
		}
	}
	if want := "true +OK ready\r\nfalse USER alice\r\ntrue +OK\r\n"; dialogue != want {
		t.Errorf("dialogue is %q, want %q", dialogue, want)
	}

	ring.Wake()
	if err := ring.Next(&ev); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after Wake: %v, want os.ErrDeadlineExceeded", err)
	}
}
