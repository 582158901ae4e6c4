package lab_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// A conversation that nobody has but who forges it: a client that does not
// exist logs in to a server that does not exist. Where the server's frames come
// in decides whether it counts.
var (
	ghostClient = netip.MustParseAddr("203.0.113.67")
	ghostServer = netip.MustParseAddrPort("198.51.100.77:143")
)

// wire is one end of an interface of the router: what is sent there comes in.
type wire struct {
	ns    *netns.Namespace
	iface string
	to    net.HardwareAddr // the router's
	vlan  uint16           // tag of the frames, 0 for none
	raw   bool             // past the programs of the own end
	port  uint16           // of the server, 0 for the ghost's
}

// wireTo is the other end of the router's interface, in a namespace.
func (w *gatewayWorld) wireTo(t *testing.T, name string, ns *netns.Namespace) wire {
	t.Helper()
	return wire{ns: ns, iface: "eth0", to: bpftest.Interface(t, w.gateway.Router, name).HardwareAddr}
}

// segment is one of a forged conversation.
type segment struct {
	server   bool
	seq, ack uint32
	flags    string // of S, A, F, R, P, U
	payload  string
	options  []layers.TCPOption
}

// forgedLogin is a conversation in which the server accepts a login.
func forgedLogin() []segment {
	return []segment{
		{seq: 1000, flags: "S"},
		{server: true, seq: 5000, ack: 1001, flags: "SA"},
		{seq: 1001, ack: 5001, flags: "A"},
		{server: true, seq: 5001, ack: 1001, flags: "PA", payload: "* OK ready\r\n"},
		{seq: 1001, ack: 5013, flags: "PA", payload: "a1 LOGIN ghost boo\r\n"},
		{server: true, seq: 5013, ack: 1021, flags: "PA", payload: "a1 OK done\r\n"},
	}
}

// frame lays a segment out, of the client on a port.
func (s segment) frame(t *testing.T, w wire, port uint16) []byte {
	t.Helper()
	from, to := netip.AddrPortFrom(ghostClient, port), ghostServer
	if w.port != 0 {
		to = netip.AddrPortFrom(to.Addr(), w.port)
	}
	if s.server {
		from, to = to, from
	}
	has := func(flag string) bool { return strings.Contains(s.flags, flag) }
	frame := bpftest.Segment(t, w.to, from, to, layers.TCP{
		Seq: s.seq, Ack: s.ack, Window: 65000, Urgent: 3,
		SYN: has("S"), ACK: has("A"), FIN: has("F"), RST: has("R"), PSH: has("P"), URG: has("U"), Options: s.options,
	}, s.payload)
	if w.vlan != 0 { // IEEE 802.1Q
		return slices.Insert(frame, 12, 0x81, 0, byte(w.vlan>>8), byte(w.vlan))
	}
	return frame
}

// send lets frames come in at the router.
func (w wire) send(t *testing.T, frames ...[]byte) {
	t.Helper()
	bpftest.In(t, w.ns, func() {
		i, err := net.InterfaceByName(w.iface)
		must(t, err)
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(fd)
		if w.raw {
			must(t, unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1))
		}
		for _, f := range frames {
			must(t, unix.Sendto(fd, f, 0, &unix.SockaddrLinklayer{Ifindex: i.Index}))
		}
	})
}

// haunt makes the router know stations for the ghosts, so that what is for them
// leaves. lan leads to the server's.
func (w *gatewayWorld) haunt(t *testing.T, lan string) {
	t.Helper()
	w.station(t, lan, ghostServer.Addr())
	w.station(t, "to-stranger", ghostClient)
}

// station makes the router know one for an address.
func (w *gatewayWorld) station(t *testing.T, name string, addr netip.Addr) {
	t.Helper()
	station(t, w.gateway.Router, name, addr)
}

// station makes a host know one behind an interface.
func station(t *testing.T, ns *netns.Namespace, name string, addr netip.Addr) {
	t.Helper()
	bpftest.Station(t, ns, name, addr, net.HardwareAddr{2, 0, 0, 0, 0, 8})
}

// granted plays a conversation and says whether it opened the gate for the
// ghost. A real login behind it shows that the daemon has seen everything.
func (w *gatewayWorld) granted(t *testing.T, client, server wire, conversation []segment) bool {
	t.Helper()
	w.ghosts++
	for _, s := range conversation {
		side := client
		if s.server {
			side = server
		}
		side.send(t, s.frame(t, side, 40000+w.ghosts))
	}
	admit(t, w.Client4.At(lab.Server4))
	_, ok := w.expires(t)[ghostClient.String()]
	if ok {
		w.verb(t, "revoke", ghostClient.String())
	}
	return ok
}

// insert puts segments into a conversation, before the one with a number.
func insert(at int, more ...segment) []segment {
	all := forgedLogin()
	return append(append(append([]segment(nil), all[:at]...), more...), all[at:]...)
}

// change edits a segment of a conversation.
func change(at int, edit func(*segment)) []segment {
	all := forgedLogin()
	edit(&all[at])
	return all
}

// cookied is a login that is none: the server answers two SYNs, as it does with
// SYN cookies, and takes the first; the router sees the second's acknowledgement,
// which gets lost behind it. So the first n bytes of both streams, in which there is
// what the server really answers, are before all that the router knows of. The
// greeting is among them; late says whether it comes after that
// acknowledgement.
func cookied(n uint32, late bool) []segment {
	greeting := []segment{
		{seq: 1001, ack: 5001, flags: "A"},
		{server: true, seq: 5001, ack: 1001, flags: "PA", payload: "* OK ready\r\n"},
	}
	all := []segment{{seq: 1000, flags: "S"}, {server: true, seq: 5000, ack: 1001, flags: "SA"}}
	for i, s := range forgedLogin() {
		s.seq += n
		if s.ack != 0 {
			s.ack += n
		}
		if i == 2 && !late {
			all = append(all, greeting...)
		}
		all = append(all, s)
		if i != 2 {
			continue
		}
		if late {
			all = append(all, greeting...)
		}
		all = append(all, segment{seq: 1001, ack: 5001 + n, flags: "PA", payload: "a1 NOOP{3}\r\n"})
	}
	return all
}

// What bears a mail server's address counts where this host sends to that server,
// and nowhere else.
func TestForgedServers(t *testing.T) {
	for _, tt := range []struct {
		name, watch string
		from        string // where the server's frames come in
		vlan        uint16
		want        bool
	}{
		{"inside, tcx", tcxLan, "lan", 0, true},
		{"outside, tcx", tcxLan, "to-stranger", 0, false},
		{"inside, an interface that is not named, tcx", tcxLan, "dmz", 0, false},
		{"inside, another interface, tcx", "tap = \"tcx\"\ninterfaces = [\"lan\", \"dmz\"]", "dmz", 0, false},
		{"inside, on a VLAN that does not lead there, tcx", tcxLan, "lan", 30, false},
		{"inside, on a VLAN that does not lead there, packet socket", "tap = \"afpacket\"\ninterfaces = [\"lan\"]", "lan", 30, false},
		{"all interfaces are named, tcx", "tap = \"tcx\"\ninterfaces = [\"lan\", \"dmz\", \"to-stranger\"]", "to-stranger", 0, false},
		{"inside, packet socket", "tap = \"afpacket\"\ninterfaces = [\"lan\"]", "lan", 0, true},
		{"outside, packet socket", "tap = \"afpacket\"\ninterfaces = [\"lan\"]", "to-stranger", 0, false},
		{"inside, an interface that is not named, packet socket", "tap = \"afpacket\"\ninterfaces = [\"lan\"]", "dmz", 0, false},
		{"inside, another interface, packet socket", "tap = \"afpacket\"\ninterfaces = [\"lan\", \"dmz\"]", "dmz", 0, false},
		{"all interfaces are named, packet socket", "tap = \"afpacket\"\ninterfaces = [\"lan\", \"dmz\", \"to-stranger\"]", "to-stranger", 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, tt.watch)
			w.haunt(t, "lan")
			ends := map[string]*netns.Namespace{"lan": w.Server, "dmz": w.gateway.Neighbour.NS, "to-stranger": w.Stranger.NS}
			client := w.wireTo(t, "to-stranger", w.Stranger.NS)
			server := w.wireTo(t, tt.from, ends[tt.from])
			server.vlan = tt.vlan
			if got := w.granted(t, client, server, forgedLogin()); got != tt.want {
				t.Errorf("granted: %v, want %v\n%s", got, tt.want, w.verb(t, "why", ghostClient.String()))
			}
		})
	}
}

// What a client can do that its server understands differently.
func TestForgedClients(t *testing.T) {
	mptcp := []layers.TCPOption{{OptionType: 30, OptionLength: 4, OptionData: []byte{0, 0}}}
	server := func(s segment) segment { s.server = true; return s }
	w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, tcxLan)
	w.haunt(t, "lan")
	client, inside := w.wireTo(t, "to-stranger", w.Stranger.NS), w.wireTo(t, "lan", w.Server)
	for _, tt := range []struct {
		name         string
		conversation []segment
		want         bool
	}{
		{"honest", forgedLogin(), true},
		{"the same bytes twice", insert(5, forgedLogin()[4]), true},
		{"two copies that differ", insert(4, segment{seq: 1001, ack: 5013, flags: "PA", payload: "a1 LOGIN other xxx\r\n"}), false},
		{"an urgent pointer without payload", insert(4, segment{seq: 1001, ack: 5013, flags: "AU"}), false},
		{"an urgent pointer", change(4, func(s *segment) { s.flags = "PAU" }), false},
		{"Multipath TCP, in the handshake", change(1, func(s *segment) { s.options = mptcp }), false},
		{"Multipath TCP, later", change(3, func(s *segment) { s.options = mptcp }), false},
		{"Multipath TCP that the server refuses", change(0, func(s *segment) { s.options = mptcp }), true},
		{"data with the SYN", change(0, func(s *segment) { s.payload = "a0 NOOP\r\n" }), false},
		{"data with the SYN-ACK", change(1, func(s *segment) { s.payload = "* OK" }), false},
		{"the last segment of the handshake is lost", append(append([]segment(nil), forgedLogin()[:2]...), forgedLogin()[3:]...), false},
		{"no answer to the SYN", append(append([]segment(nil), forgedLogin()[:1]...), forgedLogin()[2:]...), false},
		{"no SYN", forgedLogin()[1:], false},
		{"client bytes that nobody saw", change(5, func(s *segment) { s.ack += 7 }), false},
		{"the server acknowledges nothing", change(5, func(s *segment) { s.ack = 1001 }), false},
		{"a hole in what the server says", change(5, func(s *segment) { s.seq++ }), false},
		{"an RST that the server does not take", insert(5, segment{seq: 1030, flags: "R"}), true},
		{"an RST behind bytes ahead of a hole, which the server may take", insert(4,
			segment{seq: 1011, ack: 5013, flags: "PA", payload: "host boo\r\n"}, segment{seq: 1021, flags: "R"}), false},
		{"an RST of the server's", insert(4, server(segment{seq: 5013, ack: 1001, flags: "RA"})), false},
		{"another connection's handshake within", insert(4, server(segment{seq: 9000, ack: 1001, flags: "SA"})), false},
		{"a server with SYN cookies took another handshake", cookied(12, true), false},
		{"the same, greeted before what was seen began", cookied(12, false), false},
		{"the server says no", change(5, func(s *segment) { s.payload = "a1 NO bye!\r\n" }), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := w.granted(t, client, inside, tt.conversation); got != tt.want {
				t.Errorf("granted: %v, want %v\n%s", got, tt.want, w.verb(t, "why", ghostClient.String()))
			}
		})
	}
}
