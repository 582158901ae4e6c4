package flow

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"relaygate/capture"
)

// from puts another client in a step.
func from(client netip.AddrPort, s step) step {
	return func(m mode, ev *capture.Event) {
		s(m, ev)
		for _, end := range []*netip.AddrPort{&ev.Segment.Src, &ev.Segment.Dst, &ev.Conn.Client} {
			if *end == clientAddr {
				*end = client
			}
		}
		if m.live() {
			cookie := uint64(client.Port())<<32 | uint64(binary.BigEndian.Uint32(client.Addr().AsSlice()[:4]))
			ev.Segment.Cookie, ev.Conn.Cookie = cookie, cookie
		}
	}
}

// nthAddr and nthPort are clients: another address each, or another port each.
func nthAddr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)}), 40000)
}

func nthPort(i int) netip.AddrPort { return netip.AddrPortFrom(clientAddr.Addr(), uint16(1024+i)) }

func each(client netip.AddrPort, steps []step) []step {
	out := make([]step, len(steps))
	for i, s := range steps {
		out[i] = from(client, s)
	}
	return out
}

var login = []step{cl(0, "AB"), sv(0, 2, "1")}

const loggedIn = "C<AB>S<1>"

// A full table refuses the new and keeps the old.
func TestFlowsBound(t *testing.T) {
	for name, m := range map[string]mode{"live": liveTap, "cooked": cooked} {
		t.Run(name, func(t *testing.T) {
			table := newTable(Limits{Flows: 10})
			tell(t, table, m, begin(m, nil))
			for i := range 50 {
				tell(t, table, m, each(nthAddr(i), begin(m, login)))
			}
			if got := tell(t, table, m, login); got != loggedIn {
				t.Errorf("the first flow gave %q", got)
			}
			st := table.Stats()
			if st.Open != 10 || !st.Full || st.Bounds.Flows != 41 {
				t.Errorf("open %d, refused %d", st.Open, st.Bounds.Flows)
			}
		})
	}
}

// A session whose beginning was not seen is told of where a full table is one
// client's, too.
func TestMidstreamInFullTable(t *testing.T) {
	table := newTable(Limits{Flows: 2, FlowsPerClient: 2})
	for i := range 2 {
		tell(t, table, cooked, each(nthPort(i), begin(cooked, nil)))
	}
	got, want := tell(t, table, cooked, each(nthPort(2), login[:1])), "(!"+reasonMidstream+")"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFlowsPerClientBound(t *testing.T) {
	inSubnet := func(i int) netip.AddrPort {
		a := netip.MustParseAddr("2001:db8:1:2::").As16()
		a[15] = byte(i)
		return netip.AddrPortFrom(netip.AddrFrom16(a), 40000)
	}
	for name, nth := range map[string]func(int) netip.AddrPort{"ports": nthPort, "a /64": inSubnet} {
		t.Run(name, func(t *testing.T) {
			table := newTable(Limits{FlowsPerClient: 8})
			for i := range 20 {
				tell(t, table, cooked, each(nth(i), shake()))
			}
			if st := table.Stats(); st.Open != 8 || st.Full || st.Bounds.FlowsPerClient != 12 {
				t.Errorf("open %d, refused %d", st.Open, st.Bounds.FlowsPerClient)
			}
			if got := tell(t, table, cooked, each(nthAddr(1), shake(login...))); got != "("+loggedIn {
				t.Errorf("another client gave %q", got)
			}
			// One ends, another may begin.
			tell(t, table, cooked, each(nth(3), []step{sv(0, 0, "", plus(capture.RST))}))
			if got := tell(t, table, cooked, each(nth(30), shake(login...))); got != "("+loggedIn {
				t.Errorf("after a close: %q", got)
			}
		})
	}
}

// A flood of SYNs, answered or not, takes no slot and pushes out no flow.
func TestHandshakeFlood(t *testing.T) {
	table := newTable(Limits{Handshakes: 32})
	tell(t, table, cooked, shake(cl(0, "AB")))
	for i := range 1000 {
		tell(t, table, cooked, each(nthAddr(i), []step{syn(), synack()}))
	}
	if got := tell(t, table, cooked, []step{sv(0, 2, "1")}); got != loggedIn {
		t.Errorf("the flow gave %q", got)
	}
	st := table.Stats()
	if st.Open != 1 || st.Opened != 1 || st.Bounds.Handshakes != 1000-32 {
		t.Errorf("open %d, opened %d, pushed out %d", st.Open, st.Opened, st.Bounds.Handshakes)
	}
}

// Payload of sessions that nobody began takes no slot either.
func TestMidstreamFlood(t *testing.T) {
	table := newTable(Limits{Flows: 4, Handshakes: 32})
	for i := range 1000 {
		tell(t, table, cooked, each(nthAddr(i), []step{cl(0, "AB"), cl(2, "CD")}))
	}
	if st := table.Stats(); st.Open != 0 || st.Opened != 1000 || st.Bounds.Handshakes != 0 {
		t.Errorf("%+v", st)
	}
	if got := tell(t, table, cooked, shake(login...)); got != "("+loggedIn {
		t.Errorf("a login gave %q", got)
	}
}

// Waiting bytes share a budget; a login line does not need it.
func TestBufferFlood(t *testing.T) {
	table := newTable(Limits{Buffered: 64 << 10})
	waiting := strings.Repeat("x", 10000)
	tainted := uint64(0)
	for i := range 40 {
		if tell(t, table, cooked, each(nthAddr(i), shake(cl(1, waiting)))) == "(!"+reasonBuffered {
			tainted++
		}
	}
	if hit := table.Stats().Bounds.Buffered; hit != 38 || tainted != 38 {
		t.Errorf("%d hit the bound, %d tainted", hit, tainted)
	}
	if got := tell(t, table, cooked, shake(login...)); got != "("+loggedIn {
		t.Errorf("a login gave %q", got)
	}
	// What the flood held is free again after it.
	table.Flush(start)
	long := []step{cl(1, waiting), cl(0, "A"), sv(0, 10001, "")}
	if got := tell(t, table, cooked, shake(long...)); got != "(C<A"+waiting+">" {
		t.Errorf("after the flood: %.80q", got)
	}
}

// What files keep for late copies gives way where no buffer is left: it costs nobody a
// login.
func TestKeptBytesGiveWay(t *testing.T) {
	line := strings.Repeat("x", 300)
	steps, want := begin(ethernet, nil), "("
	for i := range 5 {
		steps = append(steps, cl(300*i, line), sv(i, 300*(i+1), "1"))
		want += "C<" + line + ">S<1>"
	}
	table := newTable(Limits{Buffered: 1})
	if got := tell(t, table, ethernet, steps); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := tell(t, table, ethernet, []step{cl(0, line)}); got != "!"+reasonLate {
		t.Errorf("a late copy of what is kept no more gave %q", got)
	}
}

// Doubt concerns exactly the two addresses.
func TestDoubtPair(t *testing.T) {
	table := newTable(Limits{})
	elsewhere := netip.MustParseAddrPort("198.51.100.3:110")
	moved := func(s step) step {
		return func(m mode, ev *capture.Event) {
			s(m, ev)
			for _, end := range []*netip.AddrPort{&ev.Segment.Src, &ev.Segment.Dst} {
				if *end == serverAddr {
					*end = elsewhere
				}
			}
		}
	}
	tell(t, table, cooked, shake())
	tell(t, table, cooked, each(nthPort(1), shake()))
	tell(t, table, cooked, each(nthAddr(1), shake()))
	for _, s := range shake() {
		tell(t, table, cooked, []step{moved(s)})
	}
	var s story
	swapped := func(m mode, ev *capture.Event) {
		doubt(m, ev)
		ev.Segment.Src, ev.Segment.Dst = ev.Segment.Dst, ev.Segment.Src
	}
	s.WriteString(tell(t, table, cooked, []step{swapped, doubt}))
	if got, want := s.String(), strings.Repeat("!overlapping fragments", 2); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := tell(t, table, cooked, []step{moved(cl(0, "AB")), moved(sv(0, 2, "1"))}); got != loggedIn {
		t.Errorf("another server gave %q", got)
	}
}

// Where both ports are watched, the SYN decides.
func TestBothPortsWatched(t *testing.T) {
	both := netip.AddrPortFrom(clientAddr.Addr(), 143)
	table := newTable(Limits{})
	if got := tell(t, table, cooked, each(both, shake(login...))); got != "("+loggedIn {
		t.Errorf("with a handshake: %q", got)
	}
	// What the client sends stays a candidate, even dressed as an answer.
	table = newTable(Limits{})
	decoy := shake(cl(-1, "XX", plus(capture.SYN)), cl(0, "AB"))
	if got := tell(t, table, cooked, each(both, decoy)); got != "(!"+reasonConflict {
		t.Errorf("with a decoy: %q", got)
	}
	table = newTable(Limits{})
	if got := tell(t, table, cooked, each(both, login)); got != "(!"+reasonMidstream+")" {
		t.Errorf("without: %q", got)
	}
	// What the server asks for is another connection, and its segments are that
	// one's from then on: its bytes answer nothing any more.
	table = newTable(Limits{})
	back := func(m mode, ev *capture.Event) { sv(-1, 0, "", flags(capture.SYN))(m, ev) }
	if got := tell(t, table, cooked, each(both, append(shake(back), login...))); got != "((!"+reasonUnanswered+")" {
		t.Errorf("with a SYN of the server: %q", got)
	}
}

// A step back of the clock is counted and changes nothing else.
func TestBackward(t *testing.T) {
	table := newTable(Limits{})
	got := tell(t, table, cooked, shake()) + tell(t, table, cooked, login)
	if got != "("+loggedIn || table.Stats().Backward != 1 {
		t.Errorf("%q, %+v", got, table.Stats())
	}
}

func TestUnwatched(t *testing.T) {
	table := newTable(Limits{})
	other := func(m mode, ev *capture.Event) { cl(0, "AB")(m, ev); ev.Segment.Dst = nthAddr(1) }
	if got := tell(t, table, cooked, []step{other}); got != "" {
		t.Errorf("got %q", got)
	}
}
