//go:build linux

package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// tapped is a server and a client namespace, and a tap on the server's side.
type tapped struct {
	server, client *netns.Namespace
	tap            *AFPacket
}

func newTapped(t *testing.T) *tapped {
	t.Helper()
	n := &tapped{server: bpftest.Namespace(t), client: bpftest.Namespace(t)}
	prefixes := func(addrs ...string) []netip.Prefix {
		var p []netip.Prefix
		for _, a := range addrs {
			p = append(p, netip.MustParsePrefix(a))
		}
		return p
	}
	err := netns.Join(n.server, "mail0", prefixes("192.0.2.1/24", "2001:db8::1/64"), n.client, "wan0", prefixes("192.0.2.7/24", "2001:db8::7/64"))
	if err != nil {
		t.Fatal(err)
	}
	bpftest.Do(t, n.server, func() (err error) {
		n.tap, err = OpenAFPacket([]string{"mail0", "lo"}, false, newTestDecoder())
		return err
	})
	t.Cleanup(func() {
		if err := n.tap.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// serve answers each line of one connection with +OK.
func (n *tapped) serve(t *testing.T, port int) {
	t.Helper()
	var listener net.Listener
	bpftest.Do(t, n.server, func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	go func() {
		defer listener.Close()
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			_, _ = io.WriteString(conn, "+OK "+lines.Text()+"\r\n")
		}
	}()
}

// talk sends one line and waits for the answer.
func talk(t *testing.T, from *netns.Namespace, to, line string) {
	t.Helper()
	bpftest.Do(t, from, func() error {
		conn, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, line+"\r\n"); err != nil {
			return err
		}
		_, err = bufio.NewReader(conn).ReadString('\n')
		return err
	})
}

// until reads Events until one satisfies found, and returns them all.
func (n *tapped) until(t *testing.T, found func(*Event) bool) []Event {
	t.Helper()
	n.tap.SetDeadline(time.Now().Add(20 * time.Second))
	var events []Event
	for {
		var ev Event
		if err := n.tap.Next(&ev); err != nil {
			t.Fatalf("after %d events: %v", len(events), err)
		}
		ev.Segment.Payload = append([]byte(nil), ev.Segment.Payload...)
		events = append(events, ev)
		if found(&ev) {
			return events
		}
	}
}

func hasPayload(prefix string) func(*Event) bool {
	return func(ev *Event) bool { return strings.HasPrefix(string(ev.Segment.Payload), prefix) }
}

func TestAFPacketConversation(t *testing.T) {
	for _, tt := range []struct{ name, server, client string }{
		{"IPv4", "192.0.2.1", "192.0.2.7"},
		{"IPv6", "2001:db8::1", "2001:db8::7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newTapped(t)
			n.serve(t, 8143) // not watched
			n.serve(t, serverPort)
			talk(t, n.client, net.JoinHostPort(tt.server, "8143"), "PASS unseen")
			talk(t, n.client, net.JoinHostPort(tt.server, "143"), "a1 NOOP")
			events := n.until(t, hasPayload("+OK a1 NOOP"))

			for i, want := range []struct {
				flags Flags
				sent  Sender
			}{{SYN, SenderOutside}, {SYN | ACK, SenderHost}, {ACK, SenderOutside}} {
				if s := events[i].Segment; s.Flags&(SYN|ACK) != want.flags || s.Sent != want.sent {
					t.Errorf("handshake %d: got flags %b from %d, want %b from %d", i, s.Flags, s.Sent, want.flags, want.sent)
				}
			}
			server := netip.AddrPortFrom(netip.MustParseAddr(tt.server), serverPort)
			client := netip.MustParseAddr(tt.client)
			for _, ev := range events {
				s := ev.Segment
				fromServer := s.Src == server && s.Dst.Addr() == client
				fromClient := s.Dst == server && s.Src.Addr() == client
				if ev.Kind != Packet || fromServer == fromClient || fromServer != (s.Sent == SenderHost) || s.Cookie != 0 || s.Link != (Link{}) {
					t.Errorf("got %+v", ev)
				}
			}
		})
	}
}

// TestAFPacketForgery: what bears the server's address but came in is known.
func TestAFPacketForgery(t *testing.T) {
	n := newTapped(t)
	src, dst := netip.MustParseAddr("192.0.2.1").As4(), netip.MustParseAddr("192.0.2.7").As4()
	forged := set(set(ipv4Reply(reply("+OK forged")), 12, src[:]...), 16, dst[:]...)
	n.inject(t, unix.ETH_P_IP, forged)
	events := n.until(t, hasPayload("+OK forged"))
	if got := events[len(events)-1].Segment.Sent; got != SenderOutside {
		t.Errorf("got sender %d, want %d", got, SenderOutside)
	}
}

// inject sends packets from the client's interface as they are.
func (n *tapped) inject(t *testing.T, kind uint16, packets ...[]byte) {
	t.Helper()
	bpftest.Do(t, n.client, func() error {
		iface, err := net.InterfaceByName("wan0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: networkOrder(kind), Ifindex: iface.Index, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
		for _, p := range packets {
			if err := unix.Sendto(fd, p, 0, to); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestAFPacketLoss: a full ring is a doubt about every connection, before the
// packets that are there and after them.
func TestAFPacketLoss(t *testing.T) {
	n := newTapped(t)
	large := ipv4Packet(protoTCP, tcpSegment(strings.Repeat("x", 1400)))
	packets := make([][]byte, ringBlocks*ringBlock/1400+1000)
	for i := range packets {
		packets[i] = large
	}
	n.inject(t, unix.ETH_P_IP, packets...)
	var kinds []Kind
	n.tap.SetDeadline(time.Now().Add(300 * time.Millisecond))
	var ev Event
	err := n.tap.Next(&ev)
	for ; err == nil; err = n.tap.Next(&ev) {
		kinds = append(kinds, ev.Kind)
		if ev.Kind == Lost && (ev.Conn.Cookie != 0 || ev.Reason == "") {
			t.Errorf("got %+v", ev)
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if n.tap.Stats().Drops == 0 {
		t.Fatal("got no drops")
	}
	lost := 0
	for _, k := range kinds {
		if k == Lost {
			lost++
		}
	}
	if kinds[0] != Lost || lost < ringBlocks {
		t.Errorf("got %d losses among %d events, the first %d; want one before each block", lost, len(kinds), kinds[0])
	}
}

func TestAFPacketWaits(t *testing.T) {
	n := newTapped(t)
	var ev Event
	n.tap.SetDeadline(time.Now().Add(-time.Second))
	if err := n.tap.Next(&ev); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline in the past: got %v", err)
	}
	n.tap.SetDeadline(time.Now().Add(20 * time.Millisecond))
	if err := n.tap.Next(&ev); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline: got %v", err)
	}
	n.tap.SetDeadline(time.Time{})
	go n.tap.Wake()
	if err := n.tap.Next(&ev); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("wake: got %v", err)
	}
}

// TestAFPacketInside: on a gateway's inside interface the sides change places.
func TestAFPacketInside(t *testing.T) {
	for _, tt := range []struct {
		kind uint16
		ok   bool
		want Sender
	}{
		{unix.PACKET_HOST, true, SenderInside},
		{unix.PACKET_OUTGOING, true, SenderOutside},
		{unix.PACKET_OTHERHOST, false, SenderUnknown},
		{unix.PACKET_BROADCAST, false, SenderUnknown},
		{unix.PACKET_MULTICAST, false, SenderUnknown},
	} {
		var p packet
		ok := p.takeSide(&ringPacket{kind: tt.kind, vlan: 7})
		if ok != tt.ok || ok && (p.sent != tt.want || p.link != Link{VLAN: [2]uint16{7}}) {
			t.Errorf("packet type %d: %v, %+v", tt.kind, ok, p)
		}
	}
	if _, err := OpenAFPacket([]string{"lo", "eth0"}, true, newTestDecoder()); !errors.Is(err, ErrOneInside) {
		t.Errorf("two interfaces: got %v", err)
	}
}

func TestAFPacketErrors(t *testing.T) {
	bpftest.RequireRoot(t)
	if _, err := OpenAFPacket(nil, false, newTestDecoder()); err == nil {
		t.Error("no interface: got no error")
	}
	if _, err := OpenAFPacket([]string{"none0"}, false, newTestDecoder()); err == nil || !strings.Contains(err.Error(), "none0") {
		t.Errorf("unknown interface: got %v", err)
	}
	many := make([]uint16, maxFilterPorts+1)
	for i := range many {
		many[i] = uint16(i + 1)
	}
	for name, ports := range map[string][]uint16{"no ports": nil, "too many ports": many} {
		if _, err := OpenAFPacket([]string{"lo"}, false, NewDecoder(NewPortSet(ports...))); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	ns := bpftest.Namespace(t)
	bpftest.Do(t, ns, func() error {
		tap, err := OpenAFPacket([]string{"lo"}, false, NewDecoder(NewPortSet(many[:maxFilterPorts]...)))
		if err != nil {
			return err
		}
		if err := tap.Close(); err != nil {
			return err
		}
		if err := tap.Next(&Event{}); !errors.Is(err, os.ErrClosed) {
			t.Errorf("closed: got %v", err)
		}
		return nil
	})
}
