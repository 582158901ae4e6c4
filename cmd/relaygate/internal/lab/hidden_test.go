package lab_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/gopacket/layers"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// hidden is a way by which a segment of a client gets to its server, which a tap on
// interfaces could miss. send gets the segment's frame.
type hidden struct {
	name    string
	prepare func(*testing.T, *world)
	send    func(*testing.T, *world, *rawClient, segment)
}

var ways = []hidden{
	{"by another interface", nil, func(t *testing.T, w *world, c *rawClient, s segment) {
		other := wire{ns: w.Client6.NS, iface: "eth0", to: bpftest.Interface(t, w.Server, "to-client6").HardwareAddr, port: c.port}
		other.send(t, s.frame(t, other, c.localPort))
	}},
	{"by an interface that has just come", nil, func(t *testing.T, w *world, c *rawClient, s segment) {
		must(t, netns.Join(w.Server, "new", nil, w.Client6.NS, "new", nil))
		other := wire{ns: w.Client6.NS, iface: "new", to: bpftest.Interface(t, w.Server, "new").HardwareAddr, port: c.port}
		other.send(t, s.frame(t, other, c.localPort))
	}},
	{"by the loopback device, from who makes packets on this host", nil, func(t *testing.T, w *world, c *rawClient, s segment) {
		packet := s.frame(t, c.wire, c.localPort)[14:]
		bpftest.Do(t, w.Server, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: ghostServer.Addr().As4()})
		})
	}},
	{"past a program that lets it pass", func(t *testing.T, w *world) {
		w.letsPass(t, w.Server, "to-stranger", ebpf.AttachTCXIngress)
	}, func(t *testing.T, w *world, c *rawClient, s segment) {
		c.send(t, passing(s.frame(t, c.wire, c.localPort)))
	}},
	{"past one that comes ahead", func(t *testing.T, w *world) {
		w.goAhead(t)
	}, func(t *testing.T, w *world, c *rawClient, s segment) {
		c.send(t, passing(s.frame(t, c.wire, c.localPort)))
	}},
	{"to another station, which the firewall makes this one", takesAll, func(t *testing.T, w *world, c *rawClient, s segment) {
		frame := s.frame(t, c.wire, c.localPort)
		copy(frame, net.HardwareAddr{3, 0, 0, 0, 0, 1}) // a group's
		c.send(t, frame)
	}},
}

// letsPass attaches a program ahead that lets pass what has a certain type of service,
// and leaves everything else to those behind.
func (w *world) letsPass(t *testing.T, ns *netns.Namespace, iface string, at ebpf.AttachType) {
	t.Helper()
	must(t, w.daemon.Stop())
	passes(t, ns, iface, at)
	w.start(t)
}

// goAhead does so while the daemon runs, and waits until that is ahead again if it sees
// clients there.
func (w *world) goAhead(t *testing.T) {
	t.Helper()
	own := passes(t, w.Server, "to-stranger", ebpf.AttachTCXIngress)
	if !strings.Contains(w.verb(t, "status"), "tcx (") {
		return
	}
	index := bpftest.Interface(t, w.Server, "to-stranger").Index
	settles(t, 3*time.Second, func() error {
		i, first := 0, ebpf.ProgramID(0)
		bpftest.Do(t, w.Server, func() error {
			list, err := bpf.Programs(index, ebpf.AttachTCXIngress)
			if i = len(list); i > 0 {
				first = list[0].ID
			}
			return err
		})
		if i != 2 || first == own {
			return fmt.Errorf("%d programs, first is %d", i, first)
		}
		return nil
	})
}

// passes attaches that program, ahead of all.
func passes(t *testing.T, ns *netns.Namespace, iface string, at ebpf.AttachType) ebpf.ProgramID {
	t.Helper()
	return attachTCX(t, ns, iface, at, link.Head(),
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadAbs(14+1, asm.Byte),
		asm.Mov.Reg(asm.R1, asm.R0),
		asm.Mov.Imm(asm.R0, 0), // TCX_PASS
		asm.JEq.Imm(asm.R1, 0x20, "out"),
		asm.Mov.Imm(asm.R0, -1), // TCX_NEXT
		asm.Return().WithSymbol("out"),
	)
}

// attachTCX attaches a program to an interface, until the test ends.
func attachTCX(t *testing.T, ns *netns.Namespace, iface string, at ebpf.AttachType, anchor link.Anchor, code ...asm.Instruction) ebpf.ProgramID {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, prog) })
	info, err := prog.Info()
	must(t, err)
	index := bpftest.Interface(t, ns, iface).Index
	bpftest.Do(t, ns, func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: at, Anchor: anchor})
		if err == nil {
			t.Cleanup(func() { bpftest.Close(t, l) })
		}
		return err
	})
	id, _ := info.ID()
	return id
}

// passing is a frame that has it.
func passing(frame []byte) []byte {
	frame[14+1] = 0x20
	return checksummed(frame)
}

// takesAll is a firewall that takes what is for a group of hosts, as one of several does
// that share an address.
func takesAll(t *testing.T, w *world) {
	bpftest.Do(t, w.Server, func() error {
		return firewall(nftables.TableFamilyNetdev, &nftables.Chain{
			Type: nftables.ChainTypeFilter, Device: "to-stranger",
			Hooknum: nftables.ChainHookIngress, Priority: nftables.ChainPriorityFilter,
		},
			&expr.Immediate{Register: 1, Data: []byte{unix.PACKET_HOST}},
			&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: 1})
	})
}

// TestHiddenBytes: the kernel reads a client's bytes, and the tap sees others in their
// place that come behind them.
func TestHiddenBytes(t *testing.T) {
	for _, tap := range []string{
		"tap = \"cgroup\"\n",
		"tap = \"tcx\"\ninterfaces = [\"to-stranger\", \"to-client4\"]\n",
		"tap = \"afpacket\"\ninterfaces = [\"to-stranger\", \"to-client4\"]\n",
	} {
		for _, way := range ways {
			t.Run(way.name+", "+tap, func(t *testing.T) {
				w, c := ghostly(t, tap)
				if way.prepare != nil {
					way.prepare(t, w)
				}
				c.hides(func(s segment) { way.send(t, w, c, s) })
				w.onlyClient4(t)
			})
		}
	}
}

// TestHiddenByTranslation: the firewall gives what a client sends another port or address,
// behind the taps on interfaces.
func TestHiddenByTranslation(t *testing.T) {
	for _, way := range []hidden{
		{"a port, without connection tracking", func(t *testing.T, w *world) {
			leads(t, w.Server, another, ghostPort)
		}, func(t *testing.T, _ *world, c *rawClient, s segment) {
			other := c.wire
			other.port = another
			other.send(t, s.frame(t, other, c.localPort))
		}},
		{"an address, where it masquerades what leaves", masquerades, asIfForgotten},
	} {
		for tap, interfaces := range map[string]string{"cgroup": "", "tcx": `"to-stranger", "to-client4"`, "afpacket": `"to-stranger", "to-client4"`} {
			t.Run(way.name+", "+tap, func(t *testing.T) {
				w, c := ghostly(t, fmt.Sprintf("tap = %q\ninterfaces = [%s]\n", tap, interfaces))
				way.prepare(t, w)
				c.hides(func(s segment) { way.send(t, w, c, s) })
				if tap == "cgroup" {
					w.onlyClient4(t)
					return
				}
				settles(t, 2*time.Second, w.says(t, "why "+ghostClient.String(), "the firewall translates IPv4"))
				w.grantedTo(t, 0)
			})
		}
	}
}

const another = 2143

// masquerades has a firewall send all that leaves from the address of its interface.
func masquerades(t *testing.T, w *world) {
	bpftest.Do(t, w.Server, func() error { return translate(&expr.Masq{}) })
}

// asIfForgotten sends a segment to the address from which the server says its greeting again
// once the kernel has forgotten the connection. A client makes it forget by a reset that is
// none to the server, and some seconds of silence.
func asIfForgotten(t *testing.T, w *world, c *rawClient, s segment) {
	forget := func() {
		bpftest.Do(t, w.Server, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	}
	other := netip.MustParseAddr("203.0.113.1") // of to-stranger
	forget()
	c.hearsFrom(other, begins("* OK"))
	frame := s.frame(t, c.wire, c.localPort)
	copy(frame[14+16:], other.AsSlice())
	c.send(t, checksummed(frame))
	c.hearsFrom(other, func(tcp *layers.TCP) bool { return tcp.Ack == 1001 && tcp.Seq == s.ack })
	forget()
	c.say(1000, s.ack, "A", "") // what is answered, once more
}

// leads has a firewall give packets to a port another one.
func leads(t *testing.T, ns *netns.Namespace, from, to uint16) {
	t.Helper()
	const tcpPort, tcpChecksum = 2, 16 // in its header
	bpftest.Do(t, ns, func() error {
		return firewall(nftables.TableFamilyIPv4, &nftables.Chain{
			Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
		},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: tcpPort, Len: 2},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, from)},
			&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, to)},
			&expr.Payload{
				OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader,
				Offset: tcpPort, Len: 2, CsumType: expr.CsumTypeInet, CsumOffset: tcpChecksum,
			})
	})
}

// hides has a client send its command unseen, and others in its place.
func (c *rawClient) hides(send func(segment)) {
	c.t.Helper()
	c.say(1000, 0, "S", "")
	first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
	c.say(1001, first, "A", "")
	greeting := c.hears(begins("* OK"))
	next := greeting.Seq + uint32(len(greeting.Payload))
	send(segment{seq: 1004, ack: next, flags: "PA", payload: "NOOP xxxxx yyyy\r\n"})
	c.hears(func(tcp *layers.TCP) bool { return tcp.Ack == 1001 && tcp.Seq == next }) // the server has it
	c.say(1004, next, "PA", "LOGIN ghost boo\r\n")
	c.say(1001, next, "PA", "a1 ")
	c.hears(begins("a1 OK"))
}

// TestHiddenBytesBehindAGateway: what leaves for the server is seen whatever other
// programs say to it.
func TestHiddenBytesBehindAGateway(t *testing.T) {
	server := netip.AddrPortFrom(ghostServer.Addr(), 1143)
	for _, tap := range []string{"tcx", "afpacket"} {
		t.Run(tap, func(t *testing.T) {
			bpftest.RequireLinux(t, 6, 6, "tcx")
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, "imap = [143, 1143]\n"+strings.Replace(tcxLan, "tcx", tap, 1))
			w.letsPass(t, w.gateway.Router, "lan", ebpf.AttachTCXEgress)
			bpftest.Do(t, w.Server, func() error {
				return netns.AddAddresses("eth0", netip.PrefixFrom(server.Addr(), 24))
			})
			imapAnswers(t, bpftest.Listen(t, w.Server, "tcp4", server.String()))
			w.station(t, "to-stranger", ghostClient)
			end := w.wireTo(t, "to-stranger", w.Stranger.NS)
			end.port = server.Port()
			c := newRawClient(t, end, 20001)
			c.hides(func(s segment) { c.send(t, passing(s.frame(t, c.wire, c.localPort))) })
			login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
			settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
			if _, ok := w.expires(t)[ghostClient.String()]; ok {
				t.Errorf("granted:\n%s", w.verb(t, "why", ghostClient.String()))
			}
		})
	}
}
