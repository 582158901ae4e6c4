package flow

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

var (
	clientAddr = netip.MustParseAddrPort("192.0.2.7:51234")
	serverAddr = netip.MustParseAddrPort("198.51.100.2:110")
	clientMAC  = [6]byte{2, 0, 0, 0, 0, 7}
	serverMAC  = [6]byte{2, 0, 0, 0, 0, 1}
	routerMAC  = [6]byte{2, 0, 0, 0, 0, 9}
	// What tcprewrite(1) makes of them in frames of IPv6.
	clientGroup = [6]byte{0x33, 0x33, 0, 0, 0, 7}
	serverGroup = [6]byte{0x33, 0x33, 0, 0, 0, 1}
	services    = map[uint16]authz.Service{
		110: {Protocol: authz.POP3},
		143: {Protocol: authz.IMAP},
	}
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// The sequence numbers of the first bytes wrap around within a short dialogue.
const (
	clientISN uint32 = 0xffff_fffb
	serverISN uint32 = 0xffff_fff7
)

// mode is how a tap sees a connection.
type mode int

const (
	liveTap      mode = iota
	cooked            // the direction is known
	cookedClient      // the same, captured at the client
	ethernet
	loopback // all hardware addresses are zero
	rawIP
	rewritten  // all frames bear the same addresses
	groups     // all hardware addresses are of groups
	inside     // a gateway's interface towards its servers
	liveInside // the same, announced
)

// live is true where connections are announced.
func (m mode) live() bool { return m == liveTap || m == liveInside }

var modes = map[string]mode{
	"live": liveTap, "cooked": cooked, "cooked client": cookedClient,
	"ethernet": ethernet, "loopback": loopback, "raw": rawIP,
	"rewritten": rewritten, "groups": groups, "inside": inside, "live inside": liveInside,
}

// seg is a segment of a test: offsets count from the first byte of a stream.
type seg func(*capture.Segment)

// step is one capture event of a test.
type step func(mode, *capture.Event)

// cl is a segment from the client, sv one from the server.
func cl(off int, payload string, opts ...seg) step {
	return func(m mode, ev *capture.Event) {
		ev.Segment = capture.Segment{
			Src: clientAddr, Dst: serverAddr, Payload: []byte(payload), Flags: capture.ACK,
			Seq: clientISN + uint32(off), Ack: serverISN,
		}
		dress(m, &ev.Segment, false)
		for _, o := range opts {
			o(&ev.Segment)
		}
	}
}

func sv(off, ack int, payload string, opts ...seg) step {
	return func(m mode, ev *capture.Event) {
		ev.Segment = capture.Segment{
			Src: serverAddr, Dst: clientAddr, Payload: []byte(payload), Flags: capture.ACK,
			Seq: serverISN + uint32(off), Ack: clientISN + uint32(ack),
		}
		dress(m, &ev.Segment, true)
		for _, o := range opts {
			o(&ev.Segment)
		}
	}
}

// dress adds what the link layer shows.
func dress(m mode, s *capture.Segment, server bool) {
	sent, back := capture.SenderOutside, capture.SenderHost
	switch m {
	case cookedClient:
		sent, back = back, sent
	case inside, liveInside:
		back = capture.SenderInside
	}
	if server {
		sent = back
	}
	switch m {
	case liveTap, liveInside:
		s.Cookie, s.Sent = 77, sent
	case cooked, cookedClient, inside:
		s.Sent = sent
	case ethernet:
		s.Link = capture.Link{HasMAC: true, Src: clientMAC, Dst: serverMAC}
		if server {
			s.Link.Src, s.Link.Dst = serverMAC, clientMAC
		}
	case groups:
		s.Link = capture.Link{HasMAC: true, Src: clientGroup, Dst: serverGroup}
		if server {
			s.Link.Src, s.Link.Dst = serverGroup, clientGroup
		}
	case loopback:
		s.Link.HasMAC = true
	case rewritten:
		s.Link = capture.Link{HasMAC: true, Src: clientMAC, Dst: serverMAC}
	}
}

func flags(f capture.Flags) seg { return func(s *capture.Segment) { s.Flags = f } }
func plus(f capture.Flags) seg  { return func(s *capture.Segment) { s.Flags |= f } }
func missing(n int) seg         { return func(s *capture.Segment) { s.Missing = n } }
func sent(d capture.Sender) seg { return func(s *capture.Segment) { s.Sent = d } }
func ackNo(n uint32) seg        { return func(s *capture.Segment) { s.Ack = n } }
func macs(src, dst [6]byte) seg {
	return func(s *capture.Segment) { s.Link.Src, s.Link.Dst = src, dst }
}
func vlan(id uint16) seg          { return func(s *capture.Segment) { s.Link.VLAN[0] = id } }
func onInterface(n uint32) seg    { return func(s *capture.Segment) { s.Link.Interface = n } }
func mptcp(s *capture.Segment)    { s.MPTCP = true }
func lent(s *capture.Segment)     { s.Lent = true }
func fastOpen(s *capture.Segment) { s.TFO = true }

// syn and synack are the handshake, shake completes it.
func syn(opts ...seg) step {
	return cl(-1, "", append([]seg{flags(capture.SYN), ackNo(0)}, opts...)...)
}

func synack(opts ...seg) step {
	return sv(-1, 0, "", append([]seg{plus(capture.SYN)}, opts...)...)
}

func shake(rest ...step) []step {
	return append([]step{syn(), synack(), cl(0, "")}, rest...)
}

// nextTime is the same of the n-th connection after, which has other sequence numbers.
func nextTime(n uint32, steps []step) (moved []step) {
	for _, s := range steps {
		moved = append(moved, func(m mode, ev *capture.Event) {
			s(m, ev)
			for _, seq := range []*uint32{&ev.Segment.Seq, &ev.Segment.Ack, &ev.ClientISN, &ev.ServerISN} {
				*seq += n * 1000
			}
		})
	}
	return moved
}

// opened is the kernel's word for it.
func opened(m mode, ev *capture.Event) {
	*ev = capture.Event{
		Kind: capture.Opened, Trusted: true, Inside: m == liveInside, ClientISN: clientISN, ServerISN: serverISN,
		Conn: authz.Conn{Client: clientAddr, Server: serverAddr, Cookie: 77, Netns: 7},
	}
}

// noticed is the same of a tap on interfaces, which knows no socket.
func noticed(m mode, ev *capture.Event) {
	opened(m, ev)
	ev.Conn.Netns = 0
}

// lost, ended and doubt are the events that are no segments.
func lost(_ mode, ev *capture.Event) {
	*ev = capture.Event{Kind: capture.Lost, Conn: authz.Conn{Cookie: 77}, Reason: "ring full"}
}

func ended(_ mode, ev *capture.Event) {
	*ev = capture.Event{Kind: capture.Closed, Conn: authz.Conn{Cookie: 77}}
}

func doubt(_ mode, ev *capture.Event) {
	*ev = capture.Event{Kind: capture.Doubt, Reason: "overlapping fragments"}
	ev.Segment.Src = netip.AddrPortFrom(clientAddr.Addr(), 0)
	ev.Segment.Dst = netip.AddrPortFrom(serverAddr.Addr(), 0)
}

// begin is what begins a flow in a mode.
func begin(m mode, rest []step) []step {
	if m.live() {
		return append([]step{opened}, rest...)
	}
	return shake(rest...)
}

// story is what a table said, as one line: "(" opened, "C<…>" and "S<…>" data,
// "!reason" tainted, ")" closed.
type story struct{ strings.Builder }

func (s *story) add(events []Event) {
	for _, ev := range events {
		switch ev.Kind {
		case Opened:
			s.WriteString("(")
		case Data:
			fmt.Fprintf(s, "%c<%s>", "CS"[ev.Chunk.Dir], ev.Chunk.Bytes)
			if ev.Chunk.Cut > 0 {
				fmt.Fprintf(s, "/%d", ev.Chunk.Cut)
			}
		case Tainted:
			s.WriteString("!" + ev.Reason)
		case Closed:
			s.WriteString(")")
		}
	}
}

// tell feeds steps to a table and returns the story. Half a second passes
// between two steps.
func tell(t *testing.T, table *Table, m mode, steps []step) string {
	t.Helper()
	var s story
	for i, st := range steps {
		var ev capture.Event
		st(m, &ev)
		ev.Time = start.Add(time.Duration(i) * time.Second / 2)
		s.add(table.Feed(&ev))
		check(t, table)
	}
	return s.String()
}

func newTable(l Limits) *Table { return New(Config{Services: services, Limits: l}) }

// newLeavingTable makes a table that finished flows leave.
func newLeavingTable(l Limits) *Table {
	return New(Config{Services: services, Limits: l, Done: new(capture.DoneSet)})
}

// closedAfterTaint is what a flow that left its table does not say.
var closedAfterTaint = regexp.MustCompile(`(![^()]*)\)`)
