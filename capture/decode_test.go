package capture

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var segmentOptions = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func TestFrameSegments(t *testing.T) {
	const line = "a1 LOGIN alice x\r\n"
	ip4 := ipv4Packet(protoTCP, tcpSegment(line))
	ip6 := ipv6Packet(protoTCP, tcpSegment(line))
	session := func(packet []byte, ppp ...byte) []byte {
		return cat([]byte{0x11, 0, 0, 1}, u16(uint16(len(ppp)+len(packet))), ppp, packet)
	}
	cooked := func(packetType byte) []byte {
		return cat([]byte{0, packetType, 0, 1, 0, 6}, clientMAC[:], make([]byte, 2), u16(etherIPv4), ip4)
	}
	cooked2 := func(packetType byte) []byte {
		return cat(u16(etherIPv6), make([]byte, 2), u32(3), u16(1), []byte{packetType, 6}, clientMAC[:], make([]byte, 2), ip6)
	}
	sent := func(by Sender) func(*Segment) { return func(s *Segment) { s.Sent = by } }
	extension := func(next byte, words int) []byte { return cat([]byte{next, byte(words)}, make([]byte, 6+8*words)) }

	for _, tt := range []struct {
		name  string
		link  linkType
		frame []byte
		want  Segment
	}{
		{"ethernet", linkEthernet, ethernet(etherIPv4, ip4), with(want(line), macs())},
		{"ethernet IPv6", linkEthernet, ethernet(etherIPv6, ip6), with(want6(line), macs())},
		{"ethernet with padding", linkEthernet, ethernet(etherIPv4, cat(ipv4Packet(protoTCP, tcpSegment("")), make([]byte, 6))), with(want(""), macs())},
		{"802.1Q", linkEthernet, ethernet(etherVLAN, cat(u16(0xe02a), u16(etherIPv4), ip4)), with(want(line), macs(42))},
		{"QinQ", linkEthernet, ethernet(etherQinQ, cat(u16(7), u16(etherVLAN), u16(42), u16(etherIPv6), ip6)), with(want6(line), macs(7, 42))},
		{"four tags", linkEthernet, ethernet(etherOldTag, cat(u16(7), u16(etherVLAN), u16(8), u16(etherVLAN), u16(9), u16(etherVLAN), u16(10), u16(etherIPv4), ip4)), with(want(line), macs(7, 8))},
		{"PPPoE", linkEthernet, ethernet(etherPPPoE, session(ip4, 0, pppIPv4)), with(want(line), macs())},
		{"PPPoE in VLAN, IPv6", linkEthernet, ethernet(etherVLAN, cat(u16(9), u16(etherPPPoE), session(ip6, 0, pppIPv6))), with(want6(line), macs(9))},
		{"PPPoE, compressed protocol", linkPPPoE, session(ip4, pppIPv4), want(line)},
		{"PPP", linkPPP, cat([]byte{0, pppIPv4}, ip4), want(line)},
		{"PPP in HDLC framing", linkPPPHDLC, cat([]byte{0xff, 3, 0, pppIPv6}, ip6), want6(line)},
		{"HDLC of Cisco", linkCiscoHDLC, cat([]byte{0x0f, 0}, u16(etherIPv6), ip6), want6(line)},
		{"cooked, to us", linkCooked, cooked(0), with(want(line), sent(SenderOutside))},
		{"cooked, to someone else", linkCooked, cooked(3), with(want(line), sent(SenderOutside))},
		{"cooked, outgoing", linkCooked, cooked(4), with(want(line), sent(SenderHost))},
		{"cooked v2, broadcast", linkCooked2, cooked2(1), with(want6(line), sent(SenderOutside))},
		{"cooked v2, outgoing", linkCooked2, cooked2(4), with(want6(line), sent(SenderHost))},
		{"cooked, loopback", linkCooked, set(cooked(0), 2, 3, 4), want(line)},
		{"cooked v2, loopback", linkCooked2, set(cooked2(0), 8, 3, 4), want6(line)},
		{"raw", linkRaw, ip4, want(line)},
		{"raw BSD", linkRawBSD, ip6, want6(line)},
		{"raw OpenBSD", linkRawOpenBSD, ip6, want6(line)},
		{"raw IPv4", linkIPv4, ip4, want(line)},
		{"raw IPv6", linkIPv6, ip6, want6(line)},
		{"loopback, little endian", linkNull, cat([]byte{2, 0, 0, 0}, ip4), want(line)},
		{"loopback, big endian", linkNull, cat([]byte{0, 0, 0, 30}, ip6), want6(line)},
		{"loopback of Windows", linkNull, cat([]byte{23, 0, 0, 0}, ip6), want6(line)},
		{"loopback of OpenBSD", linkLoop, cat([]byte{0, 0, 0, 24}, ip6), want6(line)},

		{"IPv4 options", linkRaw, cat(set(ip4, 0, 0x46, 0, 0, byte(len(ip4)+4))[:20], make([]byte, 4), tcpSegment(line)), want(line)},
		{"IPv4 without a length (TSO)", linkRaw, set(ip4, 2, 0, 0), want(line)},
		{"IPv6 without a length (super-frame)", linkRaw, set(ip6, 4, 0, 0), want6(line)},
		{"IPv4-mapped IPv6 addresses", linkRaw, func() []byte {
			src, dst := netip.AddrFrom16(client4.As16()).As16(), netip.AddrFrom16(server4.As16()).As16()
			return set(set(ip6, 8, src[:]...), 24, dst[:]...)
		}(), want(line)},
		{"hop-by-hop, destination", linkRaw, ipv6Packet(protoHopByHop, cat(extension(protoDestination, 0), extension(protoTCP, 2), tcpSegment(line))), want6(line)},
		{"routing, none left", linkRaw, ipv6Packet(protoRouting, cat(extension(protoTCP, 2), tcpSegment(line))), want6(line)},
		{"authentication header", linkRaw, ipv6Packet(protoAH, cat(set(extension(protoTCP, 2), 1, 4), tcpSegment(line))), want6(line)},
		{"atomic fragment", linkRaw, ipv6Fragment(protoTCP, 1, 0, false, tcpSegment(line)), want6(line)},
		{"bytes that were not captured", linkRaw, set(ip4, 2, 0x10, 0), with(want(line), func(s *Segment) { s.Missing = 0x1000 - len(ip4) })},

		// What a kernel drops is a candidate all the same.
		{"hop limit 0", linkRaw, set(ip4, 8, 0), want(line)},
		{"data offset below 5", linkRaw, set(ip4, 32, 0x10), want(line)},
		{"data offset beyond the packet", linkRaw, set(ipv4Packet(protoTCP, tcpSegment("abc")), 32, 0xf0), want("")},
		{"no flags", linkRaw, set(ip4, 33, 0), with(want(line), func(s *Segment) { s.Flags = 0 })},
		{"all flags", linkRaw, set(ip4, 33, 0xff), with(want(line), func(s *Segment) { s.Flags = 0x3f })},

		{"MPTCP", linkRaw, ipv4Packet(protoTCP, tcpSegment("", 1, 2, 4, 5, 6, optionMPTCP, 4, 0, 0)), with(want(""), func(s *Segment) { s.MPTCP = true })},
		{"Fast Open", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", optionFastOpen, 2)), with(want("x"), func(s *Segment) { s.TFO = true })},
		{"Fast Open, experimental", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", optionExperimental, 4, 0xf9, 0x89)), with(want("x"), func(s *Segment) { s.TFO = true })},
		{"another experiment", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", optionExperimental, 4, 0xe2, 0xd4)), want("x")},
		{"option of length 0", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", 99, 0, optionMPTCP, 4)), want("x")},
		{"option of length 1", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", 99, 1, optionMPTCP, 4)), want("x")},
		{"option beyond the list", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", optionMPTCP, 40, 0, 0)), want("x")},
		{"option behind the end", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", optionEnd, optionMPTCP, 3, 0)), want("x")},
		{"option without a length", linkRaw, ipv4Packet(protoTCP, tcpSegment("x", 1, 1, 1, optionMPTCP)), want("x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := decodeAll(newTestDecoder(), tt.link, tt.frame, len(tt.frame), start)
			want := []Event{{Kind: Packet, Time: start, Segment: tt.want}}
			if diff := cmp.Diff(want, events, segmentOptions); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFrameDoubts(t *testing.T) {
	ip4 := ipv4Packet(protoTCP, tcpSegment("a1 NOOP\r\n"))
	ip6 := ipv6Packet(protoTCP, tcpSegment("a1 NOOP\r\n"))
	options := ipv4Packet(protoTCP, tcpSegment("", 1, 1, 1, 1))
	long := ipv6Packet(protoDestination, cat(bytes.Repeat([]byte{protoDestination, 0, 0, 0, 0, 0, 0, 0}, maxExtensions), tcpSegment("")))
	for _, tt := range []struct {
		name   string
		packet []byte
		dst    netip.Addr
		reason string // "" for none at all
	}{
		{"ports cut", ip4[:22], server4, "cuts the TCP ports"},
		{"IPv4 options cut", set(ip4, 0, 0x4f, 0, 0, 200)[:30], server4, "cuts the IP header"},
		{"TCP header cut", ip4[:39], server4, "cuts the TCP header"},
		{"TCP header cut, IPv6", ip6[:50], server6, "cuts the TCP header"},
		{"TCP options cut", options[:42], server4, "cuts the TCP options"},
		{"extension header cut", ipv6Packet(protoHopByHop, make([]byte, 16))[:44], server6, "cuts the IPv6 headers"},
		{"long extension header cut", set(ipv6Packet(protoHopByHop, make([]byte, 256)), 41, 30)[:100], server6, "cuts the IPv6 headers"},
		{"TCP header shorter than it can be", set(ip4, 2, 0, 39), server4, "too short"},
		{"chain of headers without end", long, server6, "too many"},
		{"fragment in a snapped capture", ipv4Fragment(protoTCP, 1, 0x2000, make([]byte, 64))[:60], server4, "cuts an IP fragment"},
		{"empty fragment", ipv4Fragment(protoTCP, 1, 0x2001, nil), server4, "malformed"},
		{"fragment of odd length", ipv4Fragment(protoTCP, 1, 0x2001, make([]byte, 9)), server4, "malformed"},
		{"fragment beyond 64 KiB", ipv4Fragment(protoTCP, 1, 0x1fff, make([]byte, 9)), server4, "malformed"},

		{"no packet", nil, netip.Addr{}, ""},
		{"version 5", set(ip4, 0, 0x55), netip.Addr{}, ""},
		{"IPv4 header cut", ip4[:19], netip.Addr{}, ""},
		{"IPv6 header cut", ip6[:39], netip.Addr{}, ""},
		{"header length below 5", set(ip4, 0, 0x44), netip.Addr{}, ""},
		{"total length below the header", set(ip4, 2, 0, 19), netip.Addr{}, ""},
		{"total length without ports", set(ip4, 2, 0, 23), netip.Addr{}, ""},
		{"UDP", ipv4Packet(17, tcpSegment("")), netip.Addr{}, ""},
		{"UDP, IPv6", ipv6Packet(17, tcpSegment("")), netip.Addr{}, ""},
		{"other ports", ipv4Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80)), netip.Addr{}, ""},
		{"other ports, cut", ipv4Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80))[:30], netip.Addr{}, ""},
		{"other ports, IPv6", ipv6Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80)), netip.Addr{}, ""},
		{"unknown extension header", ipv6Packet(253, cat([]byte{protoTCP, 0}, make([]byte, 6), tcpSegment("x"))), netip.Addr{}, ""},
		{"no next header", ipv6Packet(59, tcpSegment("x")), netip.Addr{}, ""},
		{"extension header longer than its packet", ipv6Packet(protoDestination, []byte{protoTCP, 9, 0, 0, 0, 0, 0, 0}), netip.Addr{}, ""},
		{"packet ends in an extension header", ipv6Packet(protoDestination, []byte{protoTCP, 0, 0}), netip.Addr{}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wire := len(tt.packet)
			if tt.reason != "" {
				wire = 1500
			}
			events := decodeAll(newTestDecoder(), linkRaw, tt.packet, wire, start)
			if tt.reason == "" {
				if len(events) != 0 {
					t.Errorf("got %+v, want nothing", events)
				}
				return
			}
			if len(events) != 1 || events[0].Kind != Doubt || !strings.Contains(events[0].Reason, tt.reason) {
				t.Fatalf("got %+v, want a doubt: %q", events, tt.reason)
			}
			if got := events[0].Segment.Dst; got != netip.AddrPortFrom(tt.dst, 0) {
				t.Errorf("got destination %v, want %v", got, tt.dst)
			}
		})
	}
}

// TestSourceRoute: TCP knows a connection by the last hop, not by the next.
func TestSourceRoute(t *testing.T) {
	final6 := netip.MustParseAddr("2001:db8::99")
	final := final6.As16()
	routing := func(kind, left byte, hops ...byte) []byte {
		return ipv6Packet(protoRouting, cat([]byte{protoTCP, byte(len(hops) / 8), kind, left, 0, 0, 0, 0}, hops, tcpSegment("x")))
	}
	ipv4 := func(options ...byte) []byte {
		packet := cat(ipv4Packet(protoTCP, nil), options, tcpSegment("x"))
		return set(packet, 0, 0x45+byte(len(options)/4), 0, 0, byte(len(packet)))
	}
	for _, tt := range []struct {
		name   string
		packet []byte
		want   netip.Addr
	}{
		{"segment routing", routing(4, 1, cat(final[:], make([]byte, 16))...), final6},
		{"segment routing, used up", routing(4, 0, final[:]...), server6},
		{"another routing header", routing(0, 2, cat(make([]byte, 16), final[:])...), final6},
		{"routing header without addresses", routing(3, 1, make([]byte, 8)...), server6},
		{"loose source route", ipv4(1, 131, 7, 4, 10, 0, 0, 1), netip.MustParseAddr("10.0.0.1")},
		{"strict source route", ipv4(137, 11, 8, 10, 0, 0, 1, 10, 0, 0, 2, 0), netip.MustParseAddr("10.0.0.2")},
		{"behind another option", ipv4(148, 4, 0, 0, 131, 7, 4, 10, 0, 0, 1, 0), netip.MustParseAddr("10.0.0.1")},
		{"source route, used up", ipv4(131, 7, 8, 10, 0, 0, 1, 0), server4},
		{"source route without addresses", ipv4(131, 3, 4, 0), server4},
		{"source route longer than the options", ipv4(131, 11, 4, 0), server4},
		{"option of length 0", ipv4(99, 0, 131, 7, 4, 10, 0, 1), server4},
		{"behind the end", ipv4(0, 131, 7, 4, 10, 0, 0, 1), server4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			events := decodeAll(newTestDecoder(), linkRaw, tt.packet, len(tt.packet), start)
			if len(events) != 1 || string(events[0].Segment.Payload) != "x" || events[0].Segment.Dst != netip.AddrPortFrom(tt.want, serverPort) {
				t.Errorf("got %+v, want a segment to %v", events, tt.want)
			}
		})
	}
}

func TestLinkRejects(t *testing.T) {
	ip4 := ipv4Packet(protoTCP, tcpSegment("x"))
	tag := cat(u16(1), u16(etherVLAN))
	for _, tt := range []struct {
		name  string
		link  linkType
		frame []byte
	}{
		{"unknown link type", 147, ip4},
		{"empty", linkEthernet, nil},
		{"short ethernet", linkEthernet, ethernet(etherIPv4, nil)[:13]},
		{"ARP", linkEthernet, ethernet(0x0806, ip4)},
		{"802.3 length", linkEthernet, ethernet(60, ip4)},
		{"cut VLAN tag", linkEthernet, ethernet(etherVLAN, tag[:3])},
		{"five VLAN tags", linkEthernet, ethernet(etherVLAN, cat(tag, tag, tag, tag, u16(1), u16(etherIPv4), ip4))},
		{"PPPoE discovery", linkEthernet, ethernet(etherPPPoE, cat([]byte{0x11, 9, 0, 1, 0, 9, 0, pppIPv4}, ip4))},
		{"PPPoE cut", linkEthernet, ethernet(etherPPPoE, []byte{0x11, 0, 0})},
		{"PPP without a protocol", linkPPP, []byte{0}},
		{"PPP control", linkPPP, cat([]byte{0xc0, 0x21}, ip4)},
		{"short cooked", linkCooked, make([]byte, 15)},
		{"short cooked v2", linkCooked2, make([]byte, 19)},
		{"HDLC of Cisco, cut", linkCiscoHDLC, []byte{0x0f, 0, 8}},
		{"HDLC of Cisco, keep-alive", linkCiscoHDLC, cat([]byte{0x8f, 0, 0x80, 0x35}, ip4)},
		{"loopback of no known family", linkLoop, cat(u32(99), ip4)},
		{"short loopback", linkNull, []byte{2, 0, 0, 0}},
		{"empty raw", linkRaw, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if events := decodeAll(newTestDecoder(), tt.link, tt.frame, len(tt.frame), start); len(events) != 0 {
				t.Errorf("got %+v, want nothing", events)
			}
		})
	}
}

func TestFrameAllocatesNothing(t *testing.T) {
	d := newTestDecoder()
	frames := map[string][]byte{
		"watched":     ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment("a1 NOOP\r\n"))),
		"watched 6":   ethernet(etherIPv6, ipv6Packet(protoTCP, tcpSegment("a1 NOOP\r\n"))),
		"other ports": ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80))),
		"UDP":         ethernet(etherIPv4, ipv4Packet(17, tcpSegment("x"))),
	}
	for name, frame := range frames {
		var ev Event
		if n := testing.AllocsPerRun(100, func() { d.frame(&packet{time: start}, linkEthernet, frame, len(frame), &ev) }); n != 0 {
			t.Errorf("%s: got %v allocations, want 0", name, n)
		}
	}
}
