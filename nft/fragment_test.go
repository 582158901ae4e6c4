package nft

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// A first fragment of 8 bytes carries the ports and not the flags: a rule for
// opening segments cannot see it for what it is. One that shows the flags is
// dropped without a reset where it comes alone. IPv6 hosts discard a first
// fragment without the whole TCP header (RFC 8200 §4.5).
func TestFragmentedOpeningIsRefused(t *testing.T) {
	const silence, reset, open = "silence", "RST", "SYN-ACK"
	type answers struct{ v4By8, v4By16, v6By8, v6By24 string }
	tests := []struct {
		name            string
		gate, conntrack bool // connection tracking reassembles before the gate
		want            answers
	}{
		{"no gate", false, false, answers{open, open, silence, open}},
		{"no gate, conntrack", false, true, answers{open, open, silence, open}},
		{"gate", true, false, answers{reset, silence, silence, silence}},
		{"gate, conntrack", true, true, answers{reset, reset, silence, reset}},
		{"relay port", false, false, answers{reset, reset, silence, reset}}, // its translation tracks
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			port := uint16(25)
			if tt.name == "relay port" {
				port = 925
				rebuild(t, openGate(t, inMode(Redirect, w.server)), minute(member4, member6)...)
			}
			serve(t, w.server, port)
			if tt.conntrack {
				addTable(t, another(t, w.server), "stateful", ruleset{chains: []chain{{
					name: "pre", hook: &hook{"filter", unix.NF_INET_PRE_ROUTING, 0},
					rules: []rule{{expressions: match{&expr.Ct{Key: expr.CtKeySTATE, Register: register}}}},
				}}})
			}
			if tt.gate {
				rebuild(t, openGate(t, filter(w.server)))
			}
			// The stranger's neighbours must know it: resets are not repeated.
			w.expect(t, "stranger", strange4, server4, 1, false)
			w.expect(t, "stranger", strange6, server6, 1, false)
			wire := w.wire(t, port)
			got := answers{
				wire.knock(t, strange4, server4, 8), wire.knock(t, strange4, server4, 16),
				wire.knock(t, strange6, server6, 8), wire.knock(t, strange6, server6, 24),
			}
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

// wire is the clients' end with nothing but frames.
type wire struct {
	*packet.Conn
	own, server net.HardwareAddr
	port        layers.TCPPort // that is knocked at
}

func (w world) wire(t *testing.T, port uint16) wire {
	t.Helper()
	eth0 := bpftest.Interface(t, w.clients, "eth0")
	x := wire{port: layers.TCPPort(port), own: eth0.HardwareAddr, server: bpftest.Interface(t, w.server, "wan").HardwareAddr}
	bpftest.Do(t, w.clients, func() (err error) {
		x.Conn, err = packet.Listen(eth0, packet.Raw, unix.ETH_P_ALL, nil)
		return err
	})
	t.Cleanup(func() { _ = x.Close() })
	return x
}

// send sends a SYN in fragments of size bytes.
func (x wire) send(t *testing.T, from, to netip.Addr, port layers.TCPPort, size int) {
	t.Helper()
	for _, frame := range x.fragments(t, from, to, port, x.syn(t, from, to, port), size) {
		if _, err := x.WriteTo(frame, &packet.Addr{HardwareAddr: x.server}); err != nil {
			t.Fatal(err)
		}
	}
}

// knock sends a SYN in fragments of size bytes, then one as a whole from another
// port, and returns what the server answered to the first until it answered the
// second.
func (x wire) knock(t *testing.T, from, to netip.Addr, size int) string {
	t.Helper()
	const whole = 64
	port := layers.TCPPort(40000 + size)
	x.send(t, from, to, port, size)
	x.send(t, from, to, port+whole, whole)
	must(t, x.SetReadDeadline(time.Now().Add(10*time.Second)))
	answer := "silence"
	buf := make([]byte, 1<<16)
	for {
		n, _, err := x.ReadFrom(buf)
		if err != nil {
			t.Fatalf("no answer to the whole segment: %v", err)
		}
		p := gopacket.NewPacket(buf[:n], layers.LayerTypeEthernet, gopacket.NoCopy)
		tcp, ok := p.TransportLayer().(*layers.TCP)
		if !ok || tcp.SrcPort != x.port || p.NetworkLayer().NetworkFlow().Src().String() != to.String() {
			continue
		}
		switch {
		case tcp.DstPort == port+whole:
			return answer
		case tcp.DstPort == port && tcp.RST:
			answer = "RST"
		case tcp.DstPort == port && tcp.SYN:
			answer = "SYN-ACK"
		}
	}
}

// syn encodes the TCP header of an opening segment, with an option so that it
// fills four fragments.
func (x wire) syn(t *testing.T, from, to netip.Addr, port layers.TCPPort) []byte {
	t.Helper()
	tcp := &layers.TCP{SrcPort: port, DstPort: x.port, Seq: 1, SYN: true, Window: 65535, Options: []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}},
		{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
	}}
	network := gopacket.NetworkLayer(&layers.IPv4{SrcIP: from.AsSlice(), DstIP: to.AsSlice(), Protocol: layers.IPProtocolTCP})
	if from.Is6() {
		network = &layers.IPv6{SrcIP: from.AsSlice(), DstIP: to.AsSlice(), NextHeader: layers.IPProtocolTCP}
	}
	must(t, tcp.SetNetworkLayerForChecksum(network))
	return bpftest.Frame(t, tcp)
}

func (x wire) fragments(t *testing.T, from, to netip.Addr, id layers.TCPPort, segment []byte, size int) (frames [][]byte) {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: x.own, DstMAC: x.server, EthernetType: layers.EthernetTypeIPv4}
	for at := 0; at < len(segment); at += size {
		end := min(at+size, len(segment))
		more := end < len(segment)
		piece := gopacket.Payload(segment[at:end])
		if from.Is4() {
			ip := &layers.IPv4{
				Version: 4, TTL: 64, Id: uint16(id), Protocol: layers.IPProtocolTCP, FragOffset: uint16(at / 8),
				SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
			}
			if more {
				ip.Flags = layers.IPv4MoreFragments
			}
			frames = append(frames, bpftest.Frame(t, eth, ip, piece))
			continue
		}
		// RFC 8200 §4.5
		header := []byte{byte(layers.IPProtocolTCP), 0, 0, 0, 0, 0, byte(id >> 8), byte(id)}
		offset := uint16(at)
		if more {
			offset |= 1
		}
		binary.BigEndian.PutUint16(header[2:], offset)
		eth.EthernetType = layers.EthernetTypeIPv6
		ip := &layers.IPv6{
			Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolIPv6Fragment,
			SrcIP: from.AsSlice(), DstIP: to.AsSlice(),
		}
		frames = append(frames, bpftest.Frame(t, eth, ip, gopacket.Payload(slices.Concat(header, piece))))
	}
	return frames
}
