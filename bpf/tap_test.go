package bpf_test

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
	"relaygate/bpf/netns"
)

// port is unusual, because the tap sees every namespace of the machine.
const port = 61143

// held opens a test's namespace the way the tap wants it.
func held(t testing.TB, ns *netns.Namespace) *bpf.Netns {
	t.Helper()
	h, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, h) })
	return h
}

// load attaches a tap that trusts ns and root's listeners on port.
func load(t testing.TB, ns *netns.Namespace, change ...func(*bpf.Options)) *bpf.Tap {
	t.Helper()
	bpftest.RequireRoot(t)
	o := bpf.Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{held(t, ns)}}
	for _, fn := range change {
		fn(&o)
	}
	tap, err := bpf.Load(o)
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, tap) })
	tap.HurryUp()
	return tap
}

// seen is a Record without its buffer.
type seen struct {
	bpf.Record
	payload string
}

// readable is a Tap or a Wire.
type readable interface{ Reader() *bpf.Reader }

// collect reads until stop says so, or fails the test after twenty seconds.
func collect(t testing.TB, tap readable, stop func(seen) bool) []seen {
	t.Helper()
	var all []seen
	var rec bpf.Record
	tap.Reader().SetDeadline(time.Now().Add(20 * time.Second))
	for {
		if err := tap.Reader().Next(&rec); err != nil {
			t.Fatalf("after %d records %v: %v", len(all), all, err)
		}
		all = append(all, see(rec))
		if stop(all[len(all)-1]) {
			return all
		}
	}
}

// rest reads what is there now.
func rest(t testing.TB, tap readable) []seen {
	t.Helper()
	var all []seen
	var rec bpf.Record
	tap.Reader().SetDeadline(time.Now().Add(-time.Second))
	for {
		err := tap.Reader().Next(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		must(t, err)
		all = append(all, see(rec))
	}
}

func kind(k bpf.Kind) func(seen) bool { return func(s seen) bool { return s.Kind == k } }

// see keeps of a record the text behind the TCP header of a packet without IPv6
// extension headers, or what passed through TLS.
func see(rec bpf.Record) seen {
	s := seen{Record: rec}
	s.Data = nil
	switch rec.Kind {
	case bpf.Plain:
		s.payload = string(rec.Data)
	case bpf.Packet:
		offset := 40
		if rec.Data[0]>>4 == 4 {
			offset = int(rec.Data[0]&0xf) * 4
		}
		s.payload = string(rec.Data[offset+int(rec.Data[offset+12]>>4)*4:])
	}
	return s
}

// dialogueOf joins the payloads of the packets, each behind its direction.
func dialogueOf(all []seen) string {
	var s string
	for _, r := range all {
		if r.payload == "" {
			continue
		}
		if r.Egress {
			s += "S:" + r.payload
		} else {
			s += "C:" + r.payload
		}
	}
	return s
}

func TestLoginDialogue(t *testing.T) {
	for _, test := range []struct{ name, listen, dial, client string }{
		{"IPv4", "127.0.0.1:61143", "127.0.0.1:61143", "127.0.0.1"},
		{"IPv6", "[::1]:61143", "[::1]:61143", "::1"},
		{"IPv4-mapped", "[::]:61143", "127.0.0.1:61143", "127.0.0.1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			tap := load(t, ns)
			l := bpftest.Listen(t, ns, "tcp", test.listen)
			client := bpftest.Dial(t, ns, test.dial)
			server := bpftest.Accept(t, l)

			bpftest.Send(t, server, client, "+OK ready\r\n")
			bpftest.Send(t, client, server, "USER alice\r\n")
			bpftest.Send(t, server, client, "+OK\r\n")
			bpftest.Send(t, client, server, "PASS secret\r\n")
			bpftest.Send(t, server, client, "+OK logged in\r\n")
			got := collect(t, tap, func(s seen) bool { return s.payload == "+OK logged in\r\n" })

			opened := got[0]
			if opened.Kind != bpf.Opened || opened.Reason != bpf.None {
				t.Fatalf("first record is %+v, want a trusted Opened", opened)
			}
			if want := netip.MustParseAddrPort(test.dial); opened.Server != want {
				t.Errorf("server is %v, want %v", opened.Server, want)
			}
			if want := client.LocalAddr().(*net.TCPAddr).AddrPort(); opened.Client != want {
				t.Errorf("client is %v, want %v", opened.Client, want)
			}
			if want := held(t, ns).ID(); opened.Netns != want || opened.UID != 0 {
				t.Errorf("namespace %d and owner %d, want %d and 0", opened.Netns, opened.UID, want)
			}
			want := "S:+OK ready\r\nC:USER alice\r\nS:+OK\r\nC:PASS secret\r\nS:+OK logged in\r\n"
			if dialogue := dialogueOf(got); dialogue != want {
				t.Errorf("dialogue is %q, want %q", dialogue, want)
			}
			for _, r := range got[1:] {
				if r.Kind != bpf.Packet || r.Cookie != opened.Cookie {
					t.Errorf("record %+v between, want packets of cookie %d", r, opened.Cookie)
				}
			}

			must(t, tap.SetDone(opened.Cookie))
			rest(t, tap) // the last acknowledgement
			bpftest.Send(t, client, server, "STAT\r\n")
			bpftest.Send(t, server, client, "+OK 0 0\r\n")
			if more := rest(t, tap); len(more) != 0 {
				t.Errorf("after SetDone: %v, want nothing", more)
			}
			if ok, err := tap.Has(opened.Cookie); err != nil || !ok {
				t.Errorf("Has is %v, %v before the close", ok, err)
			}

			bpftest.Close(t, client)
			bpftest.Close(t, server)
			end := collect(t, tap, kind(bpf.Closed))
			if len(end) != 1 || end[0].Cookie != opened.Cookie {
				t.Errorf("at the end: %+v, want one Closed", end)
			}
			if ok, err := tap.Has(opened.Cookie); err != nil || ok {
				t.Errorf("Has is %v, %v after the close", ok, err)
			}
			counters, err := tap.Counters()
			must(t, err)
			if counters.Opened != 1 || counters.Closed != 1 || counters.Packets == 0 {
				t.Errorf("counters are %+v", counters)
			}
		})
	}
}
