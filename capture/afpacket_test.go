package capture

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// indexOf is the index of an interface of the calling thread's namespace.
func indexOf(t *testing.T, name string) int {
	t.Helper()
	i, err := net.InterfaceByName(name)
	must(t, err)
	return i.Index
}

// tapped is a server and a client namespace, and a tap on the server's side.
type tapped struct {
	server, client *netns.Namespace
	mac            net.HardwareAddr // the server's
	tap            *AFPacket
}

func newTapped(t *testing.T) *tapped { return newTappedBy(t, false, "mail0", "lo") }

func newTappedBy(t *testing.T, inside bool, interfaces ...string) *tapped {
	t.Helper()
	n := &tapped{server: bpftest.Namespace(t), client: bpftest.Namespace(t)}
	must(t, netns.Join(n.server, "mail0", bpftest.Prefixes("192.0.2.1/24", "2001:db8::1/64"),
		n.client, "wan0", bpftest.Prefixes("192.0.2.7/24", "2001:db8::7/64")))
	n.mac = bpftest.Interface(t, n.server, "mail0").HardwareAddr
	bpftest.Do(t, n.server, func() (err error) {
		var indexes []int
		for _, name := range interfaces {
			indexes = append(indexes, indexOf(t, name))
		}
		n.tap, err = OpenAFPacket(indexes, inside, newTestDecoder())
		return err
	})
	t.Cleanup(func() { must(t, n.tap.Close()) })
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
		conn, err := net.DialTimeout("tcp", to, 20*time.Second)
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
				if ev.Kind != Packet || fromServer == fromClient || fromServer != (s.Sent == SenderHost) || s.Cookie != 0 || s.Aside || s.Link != (Link{}) {
					t.Errorf("got %+v", ev)
				}
			}
		})
	}
}

// TestAFPacketPlaces: on a host a client's segments count wherever they come in, the
// server's where they leave by a named interface, and what bears its address and comes in
// is nobody's. Inside a gateway nothing counts but at the named.
func TestAFPacketPlaces(t *testing.T) {
	server := ipv4Reply(reply("from the server"))
	client := ipv4Packet(protoTCP, tcpSegment("from a client"))
	named, other := []string{"mail0"}, []string{"lo"}
	for _, tt := range []struct {
		name   string
		named  []string
		inside bool
		leaves bool // or comes in
		packet []byte
		want   string // the sender, and whether aside; "" if nothing
	}{
		{"a client's", named, false, false, client, "2 false"},
		{"a client's, by another", other, false, false, client, "2 true"},
		{"a client's that leaves", named, false, true, client, ""},
		{"the server's", named, false, true, server, "1 false"},
		{"the server's, by another", other, false, true, server, ""},
		{"the server's, forged", named, false, false, server, ""},
		{"the server's, forged, by another", other, false, false, server, ""},
		{"none is named", nil, false, true, server, ""},
		{"inside, a client's", named, true, true, client, "2 false"},
		{"inside, a client's, by another", other, true, true, client, ""},
		{"inside, the server's", named, true, false, server, "3 false"},
		{"inside, the server's, by another", other, true, false, server, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newTappedBy(t, tt.inside, tt.named...)
			if tt.leaves {
				n.send(t, n.server, "mail0", unix.ETH_P_IP, tt.packet)
			} else {
				n.inject(t, unix.ETH_P_IP, tt.packet)
			}
			if tt.inside { // or the mark would not be seen
				bpftest.Do(t, n.server, func() error { return n.tap.SetInterfaces([]int{indexOf(t, "mail0")}) })
			}
			n.inject(t, unix.ETH_P_IP, ipv4Packet(protoTCP, tcpSegment("mark")))
			got := ""
			for _, ev := range n.until(t, hasPayload("mark")) {
				if s := &ev.Segment; strings.HasPrefix(string(s.Payload), "from") {
					got = fmt.Sprint(s.Sent, s.Aside)
				}
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// inject sends packets from the client's interface as they are.
func (n *tapped) inject(t *testing.T, kind uint16, packets ...[]byte) {
	t.Helper()
	n.send(t, n.client, "wan0", kind, packets...)
}

// send sends packets by an interface.
func (n *tapped) send(t *testing.T, from *netns.Namespace, by string, kind uint16, packets ...[]byte) {
	t.Helper()
	bpftest.In(t, from, func() {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		to := &unix.SockaddrLinklayer{Protocol: networkOrder(kind), Ifindex: indexOf(t, by), Halen: 6}
		copy(to.Addr[:], n.mac)
		for _, p := range packets {
			must(t, unix.Sendto(fd, p, 0, to))
		}
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

// TestAFPacketLossWhileRead: Lost comes where packets are missing, also while the ring
// fills and is read at the same time.
func TestAFPacketLossWhileRead(t *testing.T) {
	n := newTapped(t)
	const ring = ringBlocks * ringBlock / 1400 // more packets than it holds
	packets := make([][]byte, 4*ring)
	for i := range packets {
		packets[i] = ipv4Packet(protoTCP, tcpSegment(fmt.Sprintf("%08d", i)+strings.Repeat("x", 1400)))
	}
	var sent atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for part := range slices.Chunk(packets, 2000) {
			n.inject(t, unix.ETH_P_IP, part...)
			sent.Add(int64(len(part)))
		}
	}()
	overflow := func(read int) {
		for sent.Load() < int64(min(read+ring, len(packets))) {
			runtime.Gosched()
		}
	}
	var ev Event
	lost, gaps := false, 0
	for next, last := 0, false; ; {
		n.tap.SetDeadline(time.Now().Add(300 * time.Millisecond))
		err := n.tap.Next(&ev)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && last:
			if gaps == 0 {
				t.Error("nothing was lost")
			}
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			<-done
			last = true
			continue
		case err != nil:
			t.Fatal(err)
		case ev.Kind == Lost:
			lost = true
			continue
		}
		i, err := strconv.Atoi(string(ev.Segment.Payload[:8]))
		must(t, err)
		if i != next {
			if gaps++; !lost {
				t.Errorf("packets %d to %d are missing, and no loss was told there", next, i)
			}
		}
		if next, lost = i+1, false; i%5000 == 0 {
			overflow(i)
		}
	}
}

// TestAFPacketTime: how long ago a packet came is known whatever becomes of the wall clock.
func TestAFPacketTime(t *testing.T) {
	n := newTapped(t)
	n.inject(t, unix.ETH_P_IP, ipv4Packet(protoTCP, tcpSegment("x")))
	events := n.until(t, hasPayload("x"))
	at := events[len(events)-1].Time
	if age := time.Since(at); !strings.Contains(at.String(), " m=") || age < 0 || age > time.Minute {
		t.Errorf("the packet came %v ago, at %v", age, at)
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
		ok := p.takeSide(&ringPacket{kind: tt.kind, vlan: 7, index: 9})
		if ok != tt.ok || ok && (p.sent != tt.want || p.link != Link{VLAN: [2]uint16{7}, Interface: 9}) {
			t.Errorf("packet type %d: %v, %+v", tt.kind, ok, p)
		}
	}
}

// TestAFPacketChange: where the named interfaces change, what began before is in doubt.
func TestAFPacketChange(t *testing.T) {
	n := newTappedBy(t, false, "mail0")
	n.settle(t)
	bpftest.Do(t, n.server, func() error { return n.tap.SetInterfaces([]int{indexOf(t, "lo")}) })
	n.inject(t, unix.ETH_P_IP, ipv4Packet(protoTCP, tcpSegment("behind")))
	first := n.until(t, hasPayload("behind"))[0]
	if first.Kind != Lost || first.Conn.Cookie != 0 || first.Reason == "" {
		t.Errorf("got %+v", first)
	}
	for range ringBlocks { // and not for ever
		n.settle(t)
	}
	n.inject(t, unix.ETH_P_IP, ipv4Packet(protoTCP, tcpSegment("later")))
	if first := n.until(t, hasPayload("later"))[0]; first.Kind == Lost {
		t.Errorf("got %+v", first)
	}
}

func TestAFPacketErrors(t *testing.T) {
	bpftest.RequireRoot(t)
	many := make([]uint16, maxFilterPorts+1)
	interfaces := make([]int, maxFilterInterfaces+1)
	for i := range many {
		many[i], interfaces[i] = uint16(i+1), i+1
	}
	for _, tt := range []struct {
		name       string
		ports      []uint16
		interfaces []int
	}{
		{"no ports", nil, interfaces[:1]},
		{"too many ports", many, interfaces[:1]},
		{"too many interfaces", many[:1], interfaces},
	} {
		if _, err := OpenAFPacket(tt.interfaces, false, NewDecoder(NewPortSet(tt.ports...))); err == nil {
			t.Errorf("%s: got no error", tt.name)
		}
	}
	bpftest.In(t, bpftest.Namespace(t), func() {
		for _, inside := range []bool{false, true} {
			decoder := NewDecoder(NewPortSet(many[:maxFilterPorts]...))
			tap, err := OpenAFPacket(interfaces[:maxFilterInterfaces], inside, decoder)
			must(t, err)
			if err := tap.SetInterfaces(interfaces); err == nil {
				t.Error("too many interfaces later: got no error")
			}
			must(t, tap.Close())
			if err := tap.Next(&Event{}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("closed: got %v", err)
			}
		}
	})
}
