package bpf

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"relaygate/bpf/bpftest"
)

// wireBench is a Wire that is attached to nothing.
type wireBench struct{ *Wire }

func newWireBench(t testing.TB, change ...func(*WireOptions)) wireBench {
	t.Helper()
	bpftest.RequireRoot(t)
	bpftest.RequireLinux(t, 6, 6, "tcx")
	o := WireOptions{
		Ports: []uint16{143}, Inside: true,
		Servers: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8:25::25/128")},
	}
	for _, fn := range change {
		fn(&o)
	}
	w, err := LoadWire(o)
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, w) })
	return wireBench{w}
}

// play runs the programs on frames as they would pass an inside interface, and
// returns what came out.
func (b wireBench) play(t testing.TB, frames ...frame) []Record {
	t.Helper()
	for _, f := range frames {
		prog := b.objs.RelaygateLeave
		if f.server {
			prog = b.objs.RelaygateArrive
		}
		b.run(t, prog, f)
	}
	return drain(t, b.reader)
}

// skb is the head of struct __sk_buff (linux/bpf.h).
type skb struct {
	_       [10]uint32
	Ifindex uint32
}

func (b wireBench) run(t testing.TB, prog *ebpf.Program, f frame) {
	t.Helper()
	o := &ebpf.RunOptions{Data: f.bytes()}
	if f.ifindex != 0 {
		o.Context = &skb{Ifindex: f.ifindex}
	}
	verdict, err := prog.Run(o)
	must(t, err)
	if int32(verdict) != -1 {
		t.Errorf("verdict is %d, want that the next program decides", int32(verdict))
	}
}

// followed counts the connections in the table.
func (b wireBench) followed(t testing.TB) int {
	t.Helper()
	var key wireTuple
	var value wireWire
	n := 0
	all := b.objs.Wires.Iterate()
	for all.Next(&key, &value) {
		n++
	}
	must(t, all.Err())
	return n
}

// story names records: O, C and L for Opened, Closed and Lost, o for one that is
// not followed, c and s for packets of the client's and the server's side.
func story(records []Record) string {
	var s []byte
	for _, r := range records {
		switch {
		case r.Kind == Opened && r.Reason != None:
			s = append(s, 'o')
		case r.Kind == Opened:
			s = append(s, 'O')
		case r.Kind == Closed:
			s = append(s, 'C')
		case r.Kind == Lost:
			s = append(s, 'L')
		case r.Kind == Packet && r.Egress:
			s = append(s, 's')
		case r.Kind == Packet:
			s = append(s, 'c')
		default:
			s = append(s, '?')
		}
	}
	return string(s)
}

func TestWireShapes(t *testing.T) {
	login, ok := cl(psh|ack, 1001, 5001, "a1 LOGIN"), sv(psh|ack, 5001, 1009, "a1 OK")
	mptcp := func(f frame) frame { f.options = []byte{1, 3, 3, 7, 30, 4, 0, 0}; return f }
	b := newWireBench(t)
	for i, test := range []struct {
		name   string
		frames []frame
		want   string
	}{
		{"a login", then(login, ok), "Ocs"},
		{"a login over IPv6", sixes(then(login, ok)), "Ocs"},
		{"acknowledgements: the server's only", then(cl(ack, 1001, 5001, ""), sv(ack, 5001, 1001, "")), "Os"},
		{"a client's FIN, and urgent pointer", then(cl(urg|ack, 1001, 5001, ""), cl(fin|ack, 1001, 5001, "")), "Occ"},
		{"no handshake", []frame{login, ok, login}, ""},
		{"a SYN alone", []frame{cl(syn, 1000, 0, ""), login, ok}, ""},
		{"a SYN and a SYN-ACK", handshake()[:2], ""},
		{"an answer without a SYN", append(handshake()[1:], login), ""},
		{"an answer to another SYN", []frame{cl(syn, 1000, 0, ""), sv(syn|ack, 5000, 1002, ""), cl(ack, 1001, 5001, "")}, ""},
		{"an answer from the client's side", []frame{cl(syn, 1000, 0, ""), cl(syn|ack, 5000, 1001, ""), cl(ack, 1001, 5001, "")}, ""},
		{"a SYN from the server's side", []frame{sv(syn, 1000, 0, ""), sv(syn|ack, 5000, 1001, ""), cl(ack, 1001, 5001, "")}, ""},
		{"the third segment acknowledges something else", append(handshake()[:2], cl(ack, 1001, 5002, ""), ok), ""},
		{"the third segment is the server's", append(handshake()[:2], sv(ack, 5001, 1001, "")), ""},
		{"the third segment is an RST", append(handshake()[:2], cl(rst|ack, 1001, 5001, "")), ""},
		{"the third segment has data", append(handshake()[:2], login, ok), "Ocs"},
		{"the third segment has data ahead of a hole", append(handshake()[:2], cl(ack, 1005, 5001, "xx")), "Oc"},
		{"the third segment ends the stream", append(handshake()[:2], cl(fin|ack, 1001, 5001, "")), "Oc"},
		{"SYN, SYN-ACK and ACK twice", append(handshake()[:1], append(append(handshake()[:2], handshake()[1:]...), login, cl(ack, 1001, 5001, ""))...), "Oc"},
		{"a late SYN-ACK", then(sv(syn|ack, 5000, 1001, ""), login), "Osc"},
		{"a second SYN takes the first one's place", append([]frame{cl(syn, 7000, 0, "")}, then(login)...), "Oc"},
		{"a second SYN while the first is answered", append(handshake()[:2], cl(syn, 7000, 0, ""), cl(ack, 1001, 5001, "")), ""},
		{"data with the SYN", []frame{cl(syn, 1000, 0, "a1"), sv(syn|ack, 5000, 1001, ""), cl(ack, 1001, 5001, ""), login}, "o"},
		{"data with the SYN, taken", []frame{cl(syn, 1000, 0, "a1"), sv(syn|ack, 5000, 1003, ""), cl(ack, 1003, 5001, ""), login}, "o"},
		{"data with the SYN-ACK", []frame{cl(syn, 1000, 0, ""), sv(syn|ack, 5000, 1001, "+OK"), cl(ack, 1001, 5001, ""), login}, "o"},
		{"Multipath TCP", []frame{cl(syn, 1000, 0, ""), mptcp(sv(syn|ack, 5000, 1001, "")), cl(ack, 1001, 5001, ""), login}, "o"},
		{"Multipath TCP that the server does not want", []frame{mptcp(cl(syn, 1000, 0, "")), sv(syn|ack, 5000, 1001, ""), cl(ack, 1001, 5001, ""), login}, "Oc"},
		{"data before the handshake is whole", append(handshake()[:2], cl(ack, 1003, 4999, "xx"), cl(ack, 1001, 5001, ""), login), "o"},
		{"data without an acknowledgement", append(handshake()[:2], cl(psh, 1001, 0, "xx"), cl(ack, 1001, 5001, ""), login), "o"},
		{"two SYNs, both answered", append(handshake()[:2], cl(syn, 1012, 0, ""), sv(syn|ack, 5012, 1013, ""), cl(ack, 1013, 5013, ""), login), "o"},
		{"two SYNs, then both answered", []frame{cl(syn, 1000, 0, ""), cl(syn, 1012, 0, ""), sv(syn|ack, 5000, 1001, ""), sv(syn|ack, 5012, 1013, ""), cl(ack, 1013, 5013, ""), login}, "o"},
		{"three SYNs, the first and the last answered", append(handshake()[:2], cl(syn, 1012, 0, ""), cl(syn, 1024, 0, ""), sv(syn|ack, 5024, 1025, ""), cl(ack, 1025, 5025, ""), login), "o"},
		{"one SYN, answered twice and differently", append(handshake()[:2], sv(syn|ack, 5012, 1001, ""), cl(ack, 1001, 5013, ""), login), "o"},
		{"one SYN, answered twice", append(handshake()[:2], then(login)[1:]...), "Oc"},
		{"the server speaks before the handshake is whole", append(handshake()[:2], sv(psh|ack, 4990, 1001, "+OK"), cl(ack, 1001, 5001, ""), login), "o"},
		{"the server acknowledges before the handshake is whole", append(handshake()[:2], sv(ack, 5001, 1001, ""), cl(ack, 1001, 5001, ""), login), "Oc"},
		{"a SYN inside the connection", then(cl(syn, 7000, 0, ""), sv(ack, 5001, 1001, ""), login), "Osc"},
		{"another connection of the same ends", then(cl(syn, 7000, 0, ""), sv(syn|ack, 9000, 7001, ""), cl(ack, 7001, 9001, ""), cl(ack, 7001, 9001, "a1")), "OCOc"},
		{"the server's RST", then(sv(rst|ack, 5001, 1001, ""), login), "OsC"},
		{"the client's RST, exact", then(login, ok, cl(rst, 1009, 0, ""), login), "OcscC"},
		{"the client's RST, not exact", then(login, ok, cl(rst, 1010, 0, ""), ok), "Ocscs"},
		{"client closes first", then(cl(fin|ack, 1001, 5001, ""), sv(fin|ack, 5001, 1002, ""), cl(ack, 1002, 5002, ""), login), "OcsC"},
		{"server closes first", then(sv(fin|ack, 5001, 1001, ""), cl(ack, 1001, 5002, ""), cl(fin|ack, 1001, 5002, ""), sv(ack, 5002, 1002, ""), login), "OscsC"},
		{"both close", then(sv(fin|ack, 5001, 1001, ""), cl(fin|ack, 1001, 5001, ""), cl(ack, 1002, 5002, ""), sv(ack, 5002, 1002, "")), "OscsC"},
		{"one side closes", then(sv(fin|ack, 5001, 1001, ""), cl(ack, 1001, 5002, ""), login), "Osc"},
		{"a FIN that nobody acknowledged", then(cl(fin|ack, 3000, 5001, ""), sv(fin|ack, 5001, 1001, ""), cl(ack, 1001, 5002, "")), "Ocs"},
		{"a fragment of the client's", then(edited(login, fragmentOf(0x2000)), ok, login), "OL"},
		{"a last fragment of the client's", then(edited(login, fragmentOf(3)), ok), "OL"},
		{"a fragment of the server's", then(edited(ok, fragmentOf(0x2000)), login), "OL"},
		{"a fragment before the SYN", append([]frame{edited(login, fragmentOf(0x2000))}, then(login)...), "OL"},
		{"a fragment of another client's", then(frame{client: netip.MustParseAddrPort("192.0.2.99:1"), edit: fragmentOf(0x2000)}, login), "Oc"},
		{"a fragment of UDP", then(edited(login, func(b []byte) []byte { b[14+9] = 17; return fragmentOf(0x2000)(b) }), login), "Oc"},
		{"may not be fragmented", then(edited(login, fragmentOf(0x4000))), "Oc"},
		{"IPv4 options", then(edited(login, optioned), ok), "OL"},
		{"IPv4 options, to another address", then(frame{mail: netip.MustParseAddrPort("198.51.100.77:25"), edit: optioned}, ok), "OL"},
		{"an IPv6 fragment", sixes(then(edited(login, extended(44, 6)), ok)), "OL"},
		{"an IPv6 fragment of UDP", sixes(then(edited(login, extended(44, 17)), ok)), "Os"},
		{"IPv6 destination options", sixes(then(edited(login, extended(60, 6)), ok)), "OL"},
		{"an IPv6 routing header behind options", sixes(then(edited(login, extended(0, 43)), ok)), "OL"},
		{"no next header", sixes(then(edited(login, extended(59, 6)), ok)), "Os"},
		{"IPv6 multicast", sixes(then(edited(login, func(b []byte) []byte { b[14+24] = 0xff; return extended(0, 6)(b) }), ok)), "Os"},
		{"BIG TCP of the client's, IPv6", sixes(then(edited(login, jumbo), ok)), "OL"},
		{"BIG TCP of the server's to another, IPv6", sixes(then(edited(ok, jumbo), login)), "Oc"},
		{"BIG TCP of the client's", then(edited(login, lengthless), ok), "OL"},
		{"BIG TCP of the server's, IPv6", sixes(then(edited(ok, lengthless), login)), "OL"},
		{"too short for TCP", then(edited(login, func(b []byte) []byte { return b[:14+20+12] }), ok), "Os"},
		{"ARP", then(edited(login, func(b []byte) []byte { b[13] = 0x06; return b }), ok), "Os"},
		{"a tag behind a tag", then(edited(login, func(b []byte) []byte { b[12], b[13] = 0x81, 0; return b }), ok), "Os"},
		{"not for this station", then(frame{server: true, flags: psh | ack, seq: 5001, ack: 1001, payload: "+OK", toOtherStation: true}, ok), "Os"},
	} {
		t.Run(test.name, func(t *testing.T) {
			// The first of each reason is reported at once, others after a while.
			must(t, b.objs.UntrustedAt.Set([tapReasonREASONS]uint64{}))
			got := b.play(t, ofClient(byte(i), test.frames)...)
			if story(got) != test.want {
				t.Fatalf("records are %s, want %s: %+v", story(got), test.want, got)
			}
			for _, r := range got {
				if r.Cookie != got[0].Cookie && test.want[0] == 'O' && test.want != "OCOc" {
					t.Errorf("%+v has another cookie than %+v", r, got[0])
				}
			}
		})
	}
}

func TestWireOpened(t *testing.T) {
	b := newWireBench(t)
	for _, test := range []struct {
		frames       []frame
		client, mail netip.AddrPort
	}{{handshake(), client4, mail4}, {sixes(handshake()), client6, mail6}} {
		got := b.play(t, test.frames...)
		if len(got) != 1 {
			t.Fatalf("records are %+v, want one", got)
		}
		r := got[0]
		if r.Kind != Opened || r.Client != test.client || r.Server != test.mail || r.ClientISN != 1001 || r.ServerISN != 5001 ||
			r.Netns != 0 || r.Reason != None || r.Cookie>>63 != 1 {
			t.Errorf("got %+v", r)
		}
	}
}

func TestWireRecordsStartAtTheIPHeader(t *testing.T) {
	b := newWireBench(t)
	f := cl(psh|ack, 1001, 5001, "a1 LOGIN")
	padded := edited(f, func(b []byte) []byte { return append(b, 0, 0, 0, 0, 0, 0) }) // to the least size of Ethernet
	want := f.bytes()[14:]
	got := b.play(t, then(padded)...)
	if len(got) != 2 || string(got[1].Data) != string(want) || got[1].WireLen != len(want) {
		t.Errorf("got %+v, want %x", got, want)
	}
}

func TestWireFollowsServersAndPortsAlone(t *testing.T) {
	b := newWireBench(t)
	for name, change := range map[string]func(*frame){
		"another server": func(f *frame) { f.mail = netip.MustParseAddrPort("198.51.101.1:143") },
		"another port":   func(f *frame) { f.mail = netip.MustParseAddrPort("198.51.100.25:144") },
		"the client's": func(f *frame) {
			f.client, f.mail = netip.MustParseAddrPort("192.0.2.10:143"), mail4
			f.server = !f.server
		},
	} {
		frames := handshake()
		for i := range frames {
			change(&frames[i])
		}
		if got := b.play(t, frames...); len(got) != 0 {
			t.Errorf("%s: records are %+v", name, got)
		}
	}
	must(t, b.SetServers([]netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}))
	if got := b.play(t, handshake()...); len(got) != 0 {
		t.Errorf("the server is none any more: records are %+v", got)
	}
}

// On a host the servers' segments leave, and nothing is known of interfaces.
func TestWireOnAHost(t *testing.T) {
	b := newWireBench(t, func(o *WireOptions) {
		o.Inside = false
		o.Servers = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	})
	for _, f := range then(cl(psh|ack, 1001, 5001, "a1 LOGIN"), sv(psh|ack, 5001, 1009, "a1 OK")) {
		prog := b.objs.RelaygateArrive
		if f.server {
			prog = b.objs.RelaygateLeave
		}
		b.run(t, prog, f)
	}
	if got := drain(t, b.reader); story(got) != "Ocs" {
		t.Errorf("records are %+v", got)
	}
}
