package flow

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/capture"
)

const lateness = 2 * time.Second

func newWaitingTable(l Limits) *Table {
	return New(Config{Services: services, Limits: l, Done: new(capture.DoneSet), Late: lateness})
}

// played feeds steps a millisecond apart, from a time on, that are not passed over.
func played(t *testing.T, table *Table, m mode, from time.Time, steps []step) string {
	t.Helper()
	var s story
	for i, st := range steps {
		var ev capture.Event
		st(m, &ev)
		ev.Time = from.Add(time.Duration(i) * time.Millisecond)
		if ev.Segment.Hash = table.hasher.Pair(ev.Segment.Src, ev.Segment.Dst); table.PassesOver(&ev) {
			continue
		}
		s.add(table.Feed(&ev))
		check(t, table)
	}
	return s.String()
}

// TestWait: in a file a segment waits for what it follows from, and is taken as it is when
// that does not come.
func TestWait(t *testing.T) {
	const fine = "(S<G>C<AB>S<1>C<CD>S<2>"
	server := []step{synack(), sv(0, 0, "G"), sv(1, 2, "1"), sv(2, 4, "2")}
	client := []step{syn(), cl(0, ""), cl(0, "AB"), cl(2, "CD")}
	join := func(all ...[]step) (joined []step) {
		for _, steps := range all {
			joined = append(joined, steps...)
		}
		return joined
	}
	var many []step
	for i := range 10 {
		many = append(many, sv(i, i+1, "x"))
	}
	for _, tt := range []struct {
		name  string
		steps []step
		pause time.Duration // of the clock, before the rest
		rest  []step
		want  string
	}{
		{"the client late", join(server, client), 0, nil, fine},
		{"the server late", join(client, server), 0, nil, fine},
		{"backwards", []step{sv(2, 4, "2"), sv(1, 2, "1"), sv(0, 0, "G"), synack(), cl(2, "CD"), cl(0, "AB"), cl(0, ""), syn()}, 0, nil, fine},
		{"the client late, to its end", join(server, []step{sv(3, 5, "", plus(capture.FIN))}, client), 0, []step{cl(4, "", plus(capture.FIN))}, fine + ")"},
		{"the client late, and a reset", join(server, []step{sv(3, 4, "", flags(capture.RST))}, client), 0, nil, fine + ")"},
		{"an acknowledgement first", shake(sv(0, 2, "1"), cl(0, "AB")), 0, nil, "(C<AB>S<1>"},
		{"an acknowledgement of two", shake(sv(0, 4, "1"), cl(2, "CD"), cl(0, "AB")), 0, nil, "(C<ABCD>S<1>"},
		{"answers in the other order", shake(cl(0, "AB"), cl(2, "CD"), sv(1, 4, "2"), sv(0, 2, "1")), 0, nil, "(C<AB>S<1>C<CD>S<2>"},
		{"a reset before an answer", shake(cl(0, "AB"), sv(1, 2, "", flags(capture.RST)), sv(0, 2, "1")), 0, nil, "(C<AB>S<1>)"},
		{"data before the handshake's end", []step{syn(), synack(), cl(0, "AB"), cl(0, ""), sv(0, 2, "1")}, 0, nil, "(C<AB>S<1>"},
		{"the last moment", shake(sv(0, 2, "1")), lateness, []step{cl(0, "AB")}, "(C<AB>S<1>"},
		{"a moment later", shake(sv(0, 2, "1")), lateness + 1, []step{cl(0, "AB")}, "(!" + reasonMissing},
		{"the clock set back", shake(sv(0, 2, "1")), -lateness - 10*time.Millisecond, []step{cl(0, "AB")}, "(!" + reasonMissing},
		{"the end of the file", shake(sv(0, 2, "1")), 0, nil, "(!" + reasonMissing},
		{"only a part comes", shake(sv(0, 2, "1"), cl(0, "A")), 0, nil, "(!" + reasonMissing},
		{"no SYN", []step{cl(0, "AB"), sv(0, 2, "1")}, 0, nil, "(!" + reasonMidstream},
		{"no SYN for long", []step{sv(0, 2, "1")}, lateness + 1, join(client, server), "(!" + reasonMidstream + fine},
		{"no SYN-ACK", client, 0, nil, "(!" + reasonUnanswered},
		{"a SYN-ACK alone", server[:1], 0, nil, ""},
		{"data with the handshake", []step{syn(), synack(), cl(0, "AB")}, lateness + 1, []step{sv(0, 2, "1")}, "(!" + reasonHandshakeData},
		{"a hole", shake(cl(0, "AB"), sv(1, 2, "2")), lateness + 1, []step{sv(0, 2, "1")}, "(C<AB>S<1>S<2>"},
		{"two copies", shake(sv(0, 2, "1"), cl(0, "A"), cl(0, "XB"), cl(0, "AB")), 0, nil, "(!" + reasonConflict},
		{"another copy behind", shake(sv(0, 2, "1"), cl(0, "AB"), cl(0, "XB")), 0, nil, "(C<AB>S<1>!" + reasonLate},
		{"another copy of two before", join(server, client[:3], []step{cl(0, "XB")}, client[3:]), 0, nil, "(S<G>C<AB>S<1>!" + reasonLate},
		{"another copy of the last byte", shake(cl(0, "AX"), sv(0, 2, "1")), lateness - 2*time.Millisecond, []step{cl(1, "B")}, "(C<AX>S<1>!" + reasonLate},
		{"what keeps alive", shake(cl(0, "AX"), sv(0, 2, "1")), lateness + 1, []step{cl(1, "B"), sv(1, 2, "")}, "(C<AX>S<1>"},
		{"another connection's answer", []step{sv(-1, 1, "", plus(capture.SYN)), sv(0, 1, "G"), syn(), cl(0, "")}, 0, nil, "(!" + reasonUnanswered},
		{"a forged answer", join([]step{sv(-1, 0, "", plus(capture.SYN), sent(capture.SenderOutside)), sv(0, 0, "F", sent(capture.SenderOutside))}, client), 0, nil, "(!" + reasonForgedAnswer},
		{"data behind a SYN and what cannot be read", []step{sv(50, 50, "x"), syn()}, lateness, []step{
			cl(0, "AB"), syn(), synack(), sv(0, 0, "G"), cl(0, ""), cl(0, "XY"), sv(0, 2, "1"),
		}, "(!" + reasonUnanswered + "(S<G>!" + reasonConflict},
		{"data before another connection's answer", reused(), 0, nil, "(C<ab>S<0>)(!" + reasonHandshakeData},
		{"the same behind the end", reused(sv(1, 2, "", plus(capture.FIN))), 0, nil, "(C<ab>S<0>)(S<G>!" + reasonConflict},
		{"the same behind a SYN that was not answered for long", reused(sv(1, 2, "", plus(capture.FIN)))[:7], 3 * time.Second, reused()[5:], "(C<ab>S<0>)(S<G>!" + reasonConflict},
		{"what cannot be read", append(server[:len(server):len(server)], doubt), 0, client, "(!overlapping fragments"},
		{"what cannot be read between others", append(server[:len(server):len(server)], doubtOthers), 0, client, fine},
		{"too much", shake(many...), 0, []step{cl(0, "ABCDEFGHIJ")}, "(!" + reasonMissing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			table := newWaitingTable(Limits{Pieces: 9})
			got := played(t, table, cooked, start, tt.steps)
			next := start.Add(time.Duration(len(tt.steps)-1)*time.Millisecond + tt.pause)
			got += played(t, table, cooked, next, tt.rest)
			var end story
			end.add(table.Settle(next))
			check(t, table)
			if got += end.String(); got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			table.Flush(next)
			check(t, table)
			if w := &table.waiting; w.any() || w.used != 0 || w.bytes != 0 {
				t.Errorf("%d wait at the end, of %d bytes", w.used, w.bytes)
			}
		})
	}
}

// doubtOthers is a doubt about a stranger and the server.
func doubtOthers(m mode, ev *capture.Event) {
	doubt(m, ev)
	ev.Segment.Src = netip.AddrPortFrom(netip.MustParseAddr("203.0.113.66"), 0)
}

// reused is a connection with an end, and another between the same ends whose first bytes
// the file shows before its answer, and behind it a copy that the server's kernel dropped.
func reused(end ...step) []step {
	first := append(shake(cl(0, "ab"), sv(0, 2, "0")), end...)
	return append(first, nextTime(1, []step{syn(), cl(0, ""), cl(0, "AB"), synack(), sv(0, 0, "G"), cl(0, "XY"), sv(1, 2, "1")})...)
}

// TestWaitBounds: what waits is bounded, whoever sends it and whatever the clock does, and
// counted where it may not.
func TestWaitBounds(t *testing.T) {
	table := newWaitingTable(Limits{Waiting: 100 * placeSize})
	stuck := each(nthAddr(0), shake(sv(0, 2, "1")))
	played(t, table, cooked, start, stuck)
	for i := range 1000 { // one comes and goes behind the first
		played(t, table, cooked, start, each(nthAddr(i+1), shake(sv(0, 2, "1"), cl(0, "AB"), sv(1, 2, "", plus(capture.FIN)))))
	}
	if w := &table.waiting; w.used != 1 || len(w.places) > 2 || table.stats.Bounds.Waiting != 0 {
		t.Fatalf("%d wait in %d places, %d were too many", w.used, len(w.places), table.stats.Bounds.Waiting)
	}
	for i := range 1000 {
		played(t, table, cooked, start, each(nthAddr(i+2000), []step{sv(0, 2, strings.Repeat("1", 1500))}))
	}
	if w := &table.waiting; w.used != 50 || w.bytes > 100*placeSize || table.stats.Bounds.Waiting != 951 {
		t.Errorf("%d wait, of %d bytes, %d were too many", w.used, w.bytes, table.stats.Bounds.Waiting)
	}
	if got, want := played(t, table, cooked, start, each(nthAddr(0), []step{cl(0, "AB")})), "C<AB>S<1>"; got != want {
		t.Errorf("the first gave %q, want %q", got, want)
	}
	table.orderly = orderlyLogins
	played(t, table, cooked, start, each(nthAddr(0), []step{sv(1, 3, "2"), cl(2, "C")}))
	if table.orderly != 0 {
		t.Error("what was late does not count as such")
	}
}

// TestWaitRows: what one connection took up is not looked at again, while others wait.
func TestWaitRows(t *testing.T) {
	table := newWaitingTable(Limits{})
	for i := range 100 {
		played(t, table, cooked, start, each(nthAddr(i), []step{sv(0, 2, "1")}))
	}
	played(t, table, cooked, start, shake())
	for i := range 50 {
		played(t, table, cooked, start, []step{sv(i, i+1, "1"), cl(i, "A")}) // which checks the rows
	}
	if w := &table.waiting; w.used != 100 || len(w.places) != 150 {
		t.Errorf("%d wait in %d places", w.used, len(w.places))
	}
}

// TestWaitAllocatesNothing: connections of which each segment waits but the last.
func TestWaitAllocatesNothing(t *testing.T) {
	steps := []step{sv(2, 4, "2"), sv(1, 2, "1"), sv(0, 0, "G"), synack(), cl(2, "CD"), cl(0, "AB"), cl(0, ""), syn()}
	table, logins := newWaitingTable(Limits{}), 0
	events := make([]capture.Event, len(steps))
	n := 0
	session := func() {
		n++
		for i, s := range steps {
			if n == 1 {
				s(cooked, &events[i])
			}
			ev := &events[i]
			for _, end := range []*netip.AddrPort{&ev.Segment.Src, &ev.Segment.Dst} {
				if end.Port() != serverAddr.Port() {
					*end = nthPort(n)
				}
			}
			ev.Time = start.Add(time.Duration(n) * time.Millisecond)
		}
		for i := range events {
			for _, e := range table.Feed(&events[i]) {
				if e.Kind == Data && string(e.Chunk.Bytes) == "2" {
					logins++
					table.Forget(e.ID)
				}
			}
		}
	}
	for range 5000 { // the set of those that are done has its size
		session()
	}
	if allocs := testing.AllocsPerRun(1000, session); allocs != 0 {
		t.Errorf("%v allocations per connection", allocs)
	}
	if logins != n {
		t.Errorf("%d of %d were read", logins, n)
	}
}
