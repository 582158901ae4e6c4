package flow

import (
	"testing"

	"relaygate/capture"
)

// How a flow of a file begins and ends, and who is believed to be the server.
func TestFiles(t *testing.T) {
	client, server, router := clientMAC, serverMAC, routerMAC
	gateway, other := [6]byte{0, 0, 0x5e, 0, 1, 7}, [6]byte{2, 9} // a VRRP address, and what answers for it
	all := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	data := []step{cl(0, "AB"), sv(0, 2, "1")}
	const read = "(C<AB>S<1>"
	with := func(steps []step, more ...step) []step { return append(steps[:len(steps):len(steps)], more...) }
	fin, rst := plus(capture.FIN), plus(capture.RST)
	out, in := sent(capture.SenderHost), sent(capture.SenderOutside)
	ended := shake(with(data, sv(1, 2, "", fin))...)
	onAnother := func(steps []step) (moved []step) {
		for _, s := range steps {
			moved = append(moved, func(m mode, ev *capture.Event) { s(m, ev); ev.Segment.Link.Interface = 7 })
		}
		return moved
	}
	// The same tuple, the next connection: sequence numbers 1000 on.
	var second uint32 = 991 // 1000 bytes behind serverISN
	again := []step{
		cl(999, "", flags(capture.SYN)), sv(999, 1000, "", plus(capture.SYN)),
		cl(1000, "", ackNo(second)), cl(1000, "ab"), sv(1000, 1002, "2"),
	}
	tests := []struct {
		name  string
		mode  mode
		steps []step
		want  string
	}{
		{"handshake repeated", cooked, with([]step{syn(), syn(), synack(), syn(), synack()}, shake(data...)[2:]...), read},
		{"greeting before the last ACK was seen", cooked, []step{syn(), synack(), sv(0, 0, "1")}, "(S<1>"},
		{"SYN-ACK repeated later", cooked, shake(cl(0, "AB"), synack(), sv(0, 2, "1")), read},
		{"a decoy SYN first", cooked, with([]step{cl(77, "", flags(capture.SYN))}, shake(data...)...), read},
		{"loopback on all interfaces: each packet twice", cooked, []step{
			syn(out), syn(in), synack(out), synack(in), cl(0, "", out), cl(0, "", in),
			cl(0, "AB", out), cl(0, "AB", in), sv(0, 2, "1", out), sv(0, 2, "1", in),
		}, read},
		{"the client's route changes", ethernet, shake(cl(0, "AB", macs(router, server)), sv(0, 2, "1", macs(server, router))), read},

		// Sessions that cannot be read are said once.
		{"nothing at all in a lone SYN", cooked, []step{syn()}, ""},
		{"only a handshake", cooked, []step{syn(), synack()}, ""},
		{"a pure ACK of the server completes nothing", cooked, []step{syn(), synack(), sv(0, 0, "")}, ""},
		{"a refused connection", cooked, []step{syn(), sv(0, 0, "", plus(capture.RST)), syn()}, ""},
		{"starts inside, client first", cooked, data, "(!" + reasonMidstream + ")"},
		{"starts inside, server first", cooked, []step{cl(0, ""), sv(0, 0, "1"), cl(0, "AB")}, "(!" + reasonMidstream + ")"},
		{"starts inside, cut payload", cooked, []step{cl(0, "", missing(4))}, "(!" + reasonMidstream + ")"},
		{"starts with the SYN-ACK", cooked, shake(data...)[1:], "(!" + reasonMidstream + ")"},
		{"SYN-ACK lost", cooked, with([]step{syn(), cl(0, "")}, data...), "(!" + reasonUnanswered + ")"},
		{"SYN in doubt", cooked, with([]step{doubt}, data...), "(!overlapping fragments)"},
		{"SYN-ACK in doubt", cooked, with([]step{syn(), doubt, cl(0, "")}, data...), "(!overlapping fragments)"},
		{"SYN-ACK from outside, others in doubt", cooked, with([]step{doubt, syn(), synack(in)}, data...), "(!" + reasonForgedAnswer + ")"},
		{"a new connection after that", cooked, with(data, shake(data...)...), "(!" + reasonMidstream + ")" + read},

		// Data in the handshake.
		{"SYN with data", cooked, with([]step{syn(), cl(-1, "XX", flags(capture.SYN))}, shake(data...)[1:]...), "(!" + reasonHandshakeData},
		{"another SYN with data", cooked, with([]step{cl(5, "XX", flags(capture.SYN))}, shake(data...)...), "(!" + reasonHandshakeData},
		{"SYN with data and Fast Open", cooked, with([]step{syn(), cl(-1, "AB", flags(capture.SYN), fastOpen)}, shake(data...)[1:]...), "(!" + reasonFastOpen},
		{"SYN-ACK that acknowledges data", cooked, []step{cl(-1, "AB", flags(capture.SYN), fastOpen), sv(-1, 2, "", plus(capture.SYN)), cl(2, ""), sv(0, 2, "1")}, "(!" + reasonFastOpen + ")"},
		{"SYN-ACK with data", cooked, []step{syn(), sv(-1, 0, "1", plus(capture.SYN)), cl(0, "")}, "(!" + reasonHandshakeData},
		{"both open it, the server first", cooked, with([]step{sv(-1, -1, "", flags(capture.SYN))}, shake(data...)...), "(!" + reasonOpens},
		{"both open it, the client first", cooked, with([]step{syn(), sv(-1, -1, "", flags(capture.SYN))}, shake(data...)[1:]...), "(!" + reasonOpens},
		{"the server seems to open it, from outside", cooked, with([]step{sv(-1, -1, "", flags(capture.SYN), in)}, shake(data...)...), read},
		{"SYN-ACK with Multipath TCP", cooked, []step{syn(), synack(mptcp), cl(0, "")}, "(!" + reasonMPTCP},
		{"data on the last ACK", cooked, []step{syn(), synack(), cl(0, "AB"), sv(0, 2, "1")}, "(!" + reasonHandshakeData},
		{"data before the last ACK", cooked, []step{syn(), synack(), cl(2, "X", ackNo(3)), cl(0, ""), cl(0, "AB"), sv(0, 2, "1")}, "(!" + reasonHandshakeData},
		{"fragments in doubt before the last ACK", cooked, []step{syn(), synack(), doubt, cl(0, ""), cl(0, "AB"), sv(0, 2, "1")}, "(!overlapping fragments"},
		{"fragments in doubt before the SYN", cooked, with([]step{doubt}, shake(data...)...), read},

		// Forged server segments: direction.
		{"answer from outside", cooked, with([]step{syn(), synack(in)}, data...), "(!" + reasonForgedAnswer + ")"},
		{"server segment from outside", cooked, shake(cl(0, "AB"), sv(0, 2, "X", in), sv(0, 2, "1")), read},
		{"server RST from outside", cooked, shake(cl(0, "AB"), sv(0, 2, "", rst, in), sv(0, 2, "1")), read},
		{"server ACK from outside", cooked, shake(cl(0, "AB"), sv(0, 2, "", in)), "("},
		{"server segment without direction", cooked, shake(cl(0, "AB"), sv(0, 2, "X", sent(capture.SenderUnknown))), "("},
		{"server FIN from outside", cooked, shake(sv(0, 0, "", fin, in), cl(0, "AB"), sv(0, 2, "1")), read},
		{"SYN-ACK from outside inside a flow", cooked, shake(cl(9, "", flags(capture.SYN)), sv(50, 10, "", plus(capture.SYN), in), cl(0, "AB"), sv(0, 2, "1")), read},
		{"at the client, a copy that this host sends", cookedClient, shake(cl(0, "AB"), sv(0, 2, "X", out), sv(0, 2, "1")), read},

		// Both sides of a router, whose address towards the client answers nobody.
		{"both sides of a router that answers from another address", ethernet, []step{
			syn(macs(client, gateway)), syn(macs(router, server)), synack(macs(server, router)), synack(macs(other, client)),
			cl(0, "", macs(client, gateway)), cl(0, "", macs(router, server)), cl(0, "AB", macs(client, gateway)), cl(0, "AB", macs(router, server)),
			sv(0, 2, "1", macs(server, router)), sv(0, 2, "1", macs(other, client)),
		}, read},
		{"forged on the client's side of a router", ethernet, []step{
			syn(macs(client, router)), syn(macs(router, server)), synack(macs(server, router)), synack(macs(router, client)),
			cl(0, "", macs(router, server)), cl(0, "AB", macs(router, server)), sv(0, 2, "X", macs(router, client)), sv(0, 2, "1", macs(server, router)),
		}, read},
		{"the client's side of such a router alone", ethernet, with([]step{syn(macs(client, gateway)), synack(macs(other, client))}, data...), "(!" + reasonForgedAnswer + ")"},

		// The same on an inside interface of a gateway.
		{"a SYN of the inside after that", inside, with([]step{syn(), syn(sent(capture.SenderInside), onInterface(1)), synack(onInterface(1))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer on another VLAN of the inside", inside, with([]step{syn(vlan(4)), synack()}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer on another inside interface", inside, with([]step{syn(), synack(onInterface(1))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer that leaves on the inside", inside, with([]step{syn(), synack(in)}, data...), "(!" + reasonForgedAnswer + ")"},
		{"a client of the inside", inside, with([]step{syn(sent(capture.SenderInside)), synack(in)}, data...), "(!" + reasonForgedAnswer + ")"},
		{"both from inside", inside, with([]step{syn(sent(capture.SenderInside)), synack()}, data...), "(!" + reasonForgedAnswer + ")"},
		{"server segment that leaves on the inside", inside, shake(cl(0, "AB"), sv(0, 2, "X", in), sv(0, 2, "1")), read},
		{"server segment on another VLAN of the inside", inside, shake(cl(0, "AB"), sv(0, 2, "X", vlan(7)), sv(0, 2, "1")), read},
		{"server segment on another inside interface", inside, shake(cl(0, "AB"), sv(0, 2, "X", onInterface(2)), sv(0, 2, "1")), read},
		{"decoy on another VLAN of the inside", inside, shake(cl(0, "XX", vlan(9)), cl(0, "AB"), sv(0, 2, "1")), "(!" + reasonConflict},

		// Forged server segments: hardware addresses.
		{"answer from another station", ethernet, with([]step{syn(), synack(macs(router, client))}, data...), "(!" + reasonForgedAnswer + ")"},
		{
			"whole handshake from one station after the server spoke", ethernet,
			with([]step{sv(0, 0, "", rst), syn(), synack(macs(client, server))}, data...), "(!" + reasonForgedAnswer + ")",
		},
		{
			"whole session from one station, the server refuses it", ethernet,
			[]step{syn(), synack(macs(client, server)), cl(0, ""), sv(0, 0, "", flags(capture.RST)), cl(0, "AB"), sv(0, 2, "1", macs(client, server))},
			"(!" + reasonStations,
		},
		{
			"whole session from one station, refused at once", ethernet,
			[]step{syn(), synack(macs(client, server)), sv(0, 0, "", flags(capture.RST)), cl(0, ""), cl(0, "AB")},
			"(!" + reasonStations,
		},
		{"decoy from another station in a rewritten file", rewritten, shake(cl(0, "AB", macs(router, server)), sv(0, 2, "1")), "(!" + reasonStations},
		{"answer from the server's address to itself", ethernet, with([]step{syn(), synack(macs(server, server))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"SYN to a group address", ethernet, with([]step{syn(macs(client, [6]byte{1, 0, 0x5e})), synack(macs([6]byte{1, 0, 0x5e}, client))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"SYN from a group address", ethernet, with([]step{syn(macs([6]byte{1, 0, 0x5e}, server)), synack(macs(server, [6]byte{1, 0, 0x5e})), cl(0, "")}, data...), "(!" + reasonForgedAnswer + ")"},
		{"the server answers, too, before groups do", groups, []step{syn(), synack(macs(server, client)), synack(), cl(0, "")}, "(!" + reasonStations},
		{"the server answers, too, after groups did", groups, []step{syn(), synack(), synack(macs(server, client)), cl(0, "")}, "(!" + reasonStations},
		{"decoy from a station in a file of groups", groups, shake(cl(0, "AB", macs(client, server)), sv(0, 2, "1")), "(!" + reasonStations},
		{"server segment of a station in a file of groups", groups, shake(cl(0, "AB"), sv(0, 2, "", flags(capture.RST), macs(server, client))), "(!" + reasonStations},
		{"server segment from the client's group", groups, shake(cl(0, "AB"), sv(0, 2, "X", macs(clientGroup, serverGroup)), sv(0, 2, "1")), read},
		{"server segment from a group to itself", groups, shake(cl(0, "AB"), sv(0, 2, "X", macs(serverGroup, serverGroup)), sv(0, 2, "1")), read},
		{"answer from another group", groups, with([]step{syn(), synack(macs([6]byte{3}, clientGroup))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer from a station to a group", groups, with([]step{syn(), synack(macs(server, clientGroup))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer on another VLAN", ethernet, with([]step{syn(vlan(4)), synack()}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer on another interface", ethernet, with([]step{syn(onInterface(1)), synack()}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer in another link layer", ethernet, with([]step{syn(), synack(func(s *capture.Segment) { s.Link = capture.Link{} })}, data...), "(!" + reasonForgedAnswer + ")"},
		{"answer to all stations", ethernet, with([]step{syn(), synack(macs(server, all))}, data...), "(!" + reasonForgedAnswer + ")"},
		{"server segment to all stations", ethernet, shake(cl(0, "AB"), sv(0, 2, "X", macs(server, all)), sv(0, 2, "1")), read},
		{"server segment from another station", ethernet, shake(cl(0, "AB"), sv(0, 2, "X", macs(router, client)), sv(0, 2, "1")), read},
		{"server segment from the server's address to itself", ethernet, shake(cl(0, "AB"), sv(0, 2, "X", macs(server, server)), sv(0, 2, "1")), read},
		{"server segment on another VLAN", ethernet, shake(cl(0, "AB"), sv(0, 2, "X", vlan(7)), sv(0, 2, "1")), read},
		{"server segment with a direction", ethernet, shake(cl(0, "AB"), sv(0, 2, "X", out), sv(0, 2, "1")), read},
		{"decoy to another station", ethernet, shake(cl(0, "XX", macs(client, router)), cl(0, "AB"), sv(0, 2, "1")), "(!" + reasonConflict},
		{"decoy on another VLAN", ethernet, shake(cl(0, "XX", vlan(9)), cl(0, "AB"), sv(0, 2, "1")), "(!" + reasonConflict},
		{"server segment of a station on loopback", loopback, shake(cl(0, "AB"), sv(0, 2, "X", macs(server, client)), sv(0, 2, "1")), read},

		{"acknowledged at the start, never seen", cooked, shake(sv(0, 2, "1")), "(!" + reasonMissing},

		// Ends.
		{"server FIN", cooked, shake(cl(0, "AB"), sv(0, 2, "1", fin), cl(2, "C"), sv(2, 3, "2"), sv(2, 3, "", rst)), read + ")"},
		{"server FIN, seen when it was sent again", cooked, shake(cl(0, "AB"), sv(0, 2, "1"), sv(2, 2, ""), sv(1, 2, "", fin)), read + ")"},
		{"server FIN ahead of a hole", cooked, shake(cl(0, "AB"), sv(1, 2, "", fin), sv(0, 2, "1")), read + ")"},
		{"server RST", cooked, shake(cl(0, "AB"), sv(0, 2, "", rst), sv(0, 2, "1"), cl(2, "C")), "()"},
		{"server RST acknowledges nothing", cooked, shake(cl(0, "AB"), sv(0, 2, "", rst)), "()"},
		{"server RST behind a hole", cooked, shake(sv(1, 0, "2"), sv(2, 0, "", rst)), "(!" + reasonServerGap + ")"},
		{"server sequence shows a hole", cooked, shake(sv(5, 0, ""), sv(5, 0, "", rst)), "(!" + reasonServerGap + ")"},
		{"retransmissions after the end", cooked, shake(sv(0, 0, "1", fin), cl(0, "AB"), sv(0, 2, "1", fin)), "(S<1>)"},
		{"FIN and RST of the client end nothing", cooked, shake(cl(0, "", fin), cl(0, "", flags(capture.RST))), "("},
		{"RST of the client, and nothing more", cooked, shake(cl(0, "AB"), sv(0, 2, "1"), cl(2, "", rst), cl(2, "C"), sv(1, 2, "")), read},
		{"RST of the client, and the server goes on", cooked, shake(cl(0, "AB"), sv(0, 2, "1"), cl(2, "", rst), cl(2, "C"), sv(1, 3, "")), read + "!" + reasonReset},
		{"RST of the client, and the server says more", cooked, shake(cl(0, "AB"), sv(0, 2, "1"), cl(2, "", rst), sv(1, 2, "2")), read + "!" + reasonReset},
		{"RST of the client, and the server speaks again", cooked, shake(cl(0, "AB"), sv(0, 2, "1"), cl(2, "", rst), sv(0, 2, "1")), read + "!" + reasonReset},
		{"RST before the last byte", cooked, shake(cl(0, "AB"), sv(0, 2, "1"), cl(1, "", rst), sv(1, 2, "2")), read + "!" + reasonReset},
		{"RST behind what is not acknowledged", cooked, shake(cl(0, "AB"), cl(2, "", rst), sv(0, 2, "1")), "(!" + reasonReset},
		{"RST behind a piece ahead of a hole", cooked, shake(cl(0, "AB"), cl(4, "E"), cl(5, "", rst), sv(0, 2, "1")), "(!" + reasonReset},
		{"RST too far ahead to know", cooked, shake(cl(20000, "E"), cl(20001, "", rst), cl(0, "AB"), sv(0, 2, "1")), "(!" + reasonReset},
		{"RSTs that the kernel ignores", cooked, shake(cl(0, "AB"), cl(-2, "", rst), cl(3, "", rst), sv(0, 2, "1")), read},

		// The tuple again.
		{"the same connection once more, as of two captures that were joined", ethernet, with(ended, ended...), read + ")"},
		{"the same connection on another interface", ethernet, with(with(ended, onAnother(ended)...), ended...), read + ")"},
		{"the same on another interface, by direction", cooked, with(ended, with(onAnother(ended), onAnother(ended)...)...), read + ")"},
		{"another connection on another interface", ethernet, with(ended, onAnother(again)...), read + ")(C<ab>S<2>"},
		{"port reuse after the end", cooked, with(shake(with(data, sv(1, 2, "", fin))...), again...), read + ")(C<ab>S<2>"},
		{"port reuse after an RST of the client", cooked, with(shake(with(data, cl(2, "", rst))...), again...), read + ")(C<ab>S<2>"},
		{"port reuse after a taint", cooked, with(shake(cl(0, "XX"), cl(0, "AB")), again...), "(!" + reasonConflict + ")(C<ab>S<2>"},
		{"port reuse, the same client sequence", cooked, with(shake(data...),
			syn(), sv(999, 0, "", plus(capture.SYN)), cl(0, "", ackNo(second)), cl(0, "ab"), sv(1000, 2, "2")), read + ")(C<ab>S<2>"},
		{"port reuse, SYN with data", cooked, with(shake(data...), with([]step{cl(999, "ab", flags(capture.SYN))}, again[1:]...)...), read + ")(!" + reasonHandshakeData},
		{"port reuse whose SYN was lost", cooked, with(shake(data...), again[1:]...), read + "!" + reasonReplaced},
		{"port reuse answered to another SYN", cooked, with(shake(data...), with([]step{cl(555, "", flags(capture.SYN))}, again[1:]...)...), read + "!" + reasonReplaced},
		{"many SYNs inside a flow", cooked, with(shake(cl(0, "AB")), cl(5, "", flags(capture.SYN)), cl(6, "", flags(capture.SYN)), cl(7, "", flags(capture.SYN)), sv(0, 2, "1")), read},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tell(t, newTable(Limits{}), tt.mode, tt.steps); got != tt.want {
				t.Errorf("got  %.300q\nwant %.300q", got, tt.want)
			}
			leaving := closedAfterTaint.ReplaceAllString(tt.want, "$1")
			if got := tell(t, newLeavingTable(Limits{}), tt.mode, tt.steps); got != leaving {
				t.Errorf("with Config.Done: got  %.300q\nwant %.300q", got, leaving)
			}
		})
	}
}

func TestLive(t *testing.T) {
	untrusted := func(m mode, ev *capture.Event) { opened(m, ev); ev.Trusted = false }
	unwatched := func(m mode, ev *capture.Event) {
		opened(m, ev)
		ev.Conn.Server = clientAddr
	}
	fin, rst := plus(capture.FIN), plus(capture.RST)
	data := []step{cl(0, "AB"), sv(0, 2, "1")}
	redirected := func(s *capture.Segment) { s.Src = clientAddr; s.Dst = serverAddr }
	tests := []struct {
		name   string
		steps  []step
		want   string
		forged uint64
	}{
		{"open before the start", data, "", 0},
		{"a handshake opens nothing", shake(data...), "", 0},
		{"untrusted listener", append([]step{untrusted}, data...), "", 0},
		{"unwatched port", append([]step{unwatched}, data...), "", 0},
		{"record lost", append([]step{opened, lost}, data...), "(!ring full", 0},
		{"lost of nobody", []step{lost, ended}, "", 0},
		{"closed by the kernel", append([]step{opened, cl(0, "AB"), sv(0, 2, "1"), ended}, data...), "(C<AB>S<1>)", 0},
		{"closed with a hole", []step{opened, sv(1, 0, "2"), ended}, "(!" + reasonServerGap + ")", 0},
		{"packets end nothing", []step{opened, cl(0, "", fin), cl(0, "", rst), sv(0, 0, "", rst), sv(0, 0, "1", fin), sv(2, 1, "", rst)}, "(S<1>", 0},
		{"without a socket an RST may", []step{noticed, cl(0, "", rst), sv(0, 0, "1")}, "(!" + reasonReset, 0},
		{"opened twice", append([]step{opened, opened}, data...), "()(C<AB>S<1>", 0},
		{"from outside with the server's address", []step{opened, cl(0, "AB"), sv(0, 2, "X", sent(capture.SenderOutside)), sv(0, 2, "1")}, "(C<AB>S<1>", 1},
		{"no direction", []step{opened, cl(0, "AB", sent(capture.SenderUnknown)), sv(0, 2, "1")}, "(!" + reasonNoDirection, 0},
		{"direction decides, not ports", []step{opened, cl(0, "AB"), sv(0, 2, "1", redirected)}, "(C<AB>S<1>", 0},
		{"doubt between the two", append([]step{opened, doubt}, data...), "(!overlapping fragments", 0},
		{"another connection's handshake", []step{opened, cl(0, "AB"), sv(50, 7, "", plus(capture.SYN), sent(capture.SenderInside)), sv(0, 2, "1")}, "(!" + reasonReplaced, 0},
		{"its own handshake, late", []step{opened, cl(0, "AB"), synack(sent(capture.SenderInside)), sv(0, 2, "1")}, "(C<AB>S<1>", 0},
		{"data that only the listener's cookie saw", []step{opened, sv(0, 2, "1")}, "(!" + reasonHandshakeData, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			table := newTable(Limits{})
			if got := tell(t, table, liveTap, tt.steps); got != tt.want {
				t.Errorf("got %q want %q", got, tt.want)
			}
			if forged := table.Stats().Forged; forged != tt.forged {
				t.Errorf("%d segments are counted as forged, want %d", forged, tt.forged)
			}
		})
	}
}

// TestLostOfAny: AF_PACKET cannot say whose packets it lost.
func TestLostOfAny(t *testing.T) {
	lostAny := func(_ mode, ev *capture.Event) { *ev = capture.Event{Kind: capture.Lost, Reason: "ring full"} }
	for _, tt := range []struct {
		name  string
		steps []step
		want  string
	}{
		{"before the handshake", append([]step{lostAny}, shake(cl(0, "AB"), sv(0, 2, "1"))...), "(C<AB>S<1>"},
		{"inside the handshake", []step{syn(), lostAny, synack(), cl(0, ""), cl(0, "AB"), sv(0, 2, "1")}, "(!" + reasonLost},
		{"behind the handshake", shake(lostAny, cl(0, "AB"), sv(0, 2, "1")), "(!ring full"},
		{"behind the first bytes", shake(cl(0, "AB"), sv(0, 2, "1"), lostAny, cl(2, "C"), sv(1, 3, "2")), "(C<AB>S<1>!ring full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := tell(t, newTable(Limits{}), cooked, tt.steps); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// moved moves the sequence numbers of both ends.
func moved(steps []step, client, server uint32) (all []step) {
	for _, s := range steps {
		all = append(all, func(m mode, ev *capture.Event) {
			s(m, ev)
			own, other := client, server
			if ev.Segment.Src == serverAddr {
				own, other = server, client
			}
			ev.Segment.Seq += own
			if ev.Segment.Flags&capture.ACK != 0 {
				ev.Segment.Ack += other
			}
		})
	}
	return all
}

// No sequence number means anything by itself: 0 is one as any other, for the SYN,
// the first byte and each behind it, also where a connection follows on another.
func TestSequenceNumbersWrapAnywhere(t *testing.T) {
	session := shake(cl(0, "AB"), sv(0, 2, "1"), cl(2, "CD"), sv(1, 4, "2"))
	const read = "(C<AB>S<1>C<CD>S<2>"
	for name, m := range modes {
		if m.live() {
			continue
		}
		for first := range uint32(8) {
			client, server := first-4-clientISN, first-4-serverISN
			if got := tell(t, newTable(Limits{}), m, moved(session, client, server)); got != read {
				t.Errorf("%s, the first bytes are number %d: got %q", name, int32(first-4), got)
			}
			again := append(moved(session, 1<<20, 1<<20), moved(session, client, server)...)
			if got := tell(t, newTable(Limits{}), m, again); got != read+")"+read {
				t.Errorf("%s, the first bytes of the next connection are number %d: got %q", name, int32(first-4), got)
			}
		}
	}
}
