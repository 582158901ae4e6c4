package flow

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"relaygate/authz"
	"relaygate/capture"
)

// A flow that is forgotten says nothing but its end, and its tuple serves again.
func TestForget(t *testing.T) {
	for name, m := range modes {
		t.Run(name, func(t *testing.T) {
			table := newTable(Limits{})
			tell(t, table, m, begin(m, login))
			tell(t, table, m, []step{cl(2, "CD"), sv(5, 2, "6")}) // both wait
			table.Forget(0)
			table.Forget(0)
			table.Forget(1 << 20)
			if got := tell(t, table, m, []step{cl(2, "XX"), sv(1, 4, "2"), cl(0, "", plus(capture.FIN)), cl(9, "", plus(capture.URG))}); got != "" {
				t.Errorf("forgotten flow gave %q", got)
			}
			end := sv(7, 4, "", plus(capture.FIN))
			if m.live() {
				end = ended
			}
			if got := tell(t, table, m, []step{end}); got != ")" {
				t.Errorf("its end gave %q", got)
			}
			if got := tell(t, table, m, nextTime(1, begin(m, login))); got != "("+loggedIn {
				t.Errorf("the next connection gave %q", got)
			}
		})
	}
}

// A flow of a file that is forgotten, or tainted, leaves for the set of those that
// are done; its tuple serves again.
func TestLeave(t *testing.T) {
	for name, m := range modes {
		if m.live() {
			continue
		}
		t.Run(name, func(t *testing.T) {
			table := newLeavingTable(Limits{Flows: 1})
			for i := range uint32(3) {
				if got := tell(t, table, m, nextTime(i, begin(m, login))); got != "("+loggedIn {
					t.Errorf("a connection gave %q", got)
				}
				table.Forget(0)
				after := []step{cl(2, "XX"), sv(1, 4, "2"), syn(), cl(2, "XX"), sv(1, 4, "2"), cl(0, "", plus(capture.FIN)), sv(7, 4, "", plus(capture.FIN)), cl(2, "XX")}
				if got := tell(t, table, m, nextTime(i, after)); got != "" || table.Stats().Open != 0 {
					t.Errorf("it then gave %q, open %d", got, table.Stats().Open)
				}
			}
			got := tell(t, table, m, nextTime(3, begin(m, []step{cl(0, "XX"), cl(0, "AB")})))
			table.begin() // a slot is free with the next Feed
			if open := table.Stats().Open; got != "(!"+reasonConflict || open != 0 {
				t.Errorf("a doubtful one gave %q, open %d", got, open)
			}
		})
	}
}

// Chunks stay readable while the events of one Feed are handled, also if the
// flow is forgotten in between, and no longer.
func TestChunksLive(t *testing.T) {
	table := newTable(Limits{})
	tell(t, table, cooked, shake(cl(0, "secret")))
	var ev capture.Event
	sv(0, 6, "1")(cooked, &ev)
	events := table.Feed(&ev)
	table.Forget(events[0].ID)
	kept := events[0].Chunk.Bytes
	if string(kept) != "secret" {
		t.Fatalf("chunk %q", kept)
	}
	tell(t, table, cooked, []step{cl(6, "")})
	if strings.Trim(string(kept), "\x00") != "" {
		t.Errorf("%q is still in a buffer", kept)
	}
}

func TestEventFields(t *testing.T) {
	origins := map[mode]authz.Origin{
		liveTap: authz.FromHost, cooked: authz.FromHost, ethernet: authz.FromHandshake,
		cookedClient: authz.Unauthenticated, loopback: authz.Unauthenticated, rawIP: authz.Unauthenticated,
		rewritten: authz.Unauthenticated, groups: authz.Unauthenticated, inside: authz.FromInside, liveInside: authz.FromInside,
	}
	for name, m := range modes {
		t.Run(name, func(t *testing.T) {
			table := newTable(Limits{})
			tell(t, table, m, begin(m, []step{cl(0, "AB")}))
			var ev capture.Event
			sv(0, 2, "1")(m, &ev)
			ev.Time = start
			conn := authz.Conn{Client: clientAddr, Server: serverAddr, Service: services[110], Cookie: ev.Segment.Cookie}
			if conn.Cookie != 0 {
				conn.Netns = 7
			}
			want := []Event{
				{Kind: Data, Chunk: authz.Chunk{Dir: authz.FromClient, Bytes: []byte("AB"), Whole: true}},
				{Kind: Data, Chunk: authz.Chunk{Dir: authz.FromServer, Bytes: []byte("1")}},
			}
			if diff := cmp.Diff(want, table.Feed(&ev)); diff != "" {
				t.Error(diff)
			}
			if got, origin := table.Conn(0); *got != conn || origin != origins[m] {
				t.Errorf("got %+v, %v", got, origin)
			}
		})
	}
}

func TestFlush(t *testing.T) {
	table := newTable(Limits{})
	tell(t, table, cooked, shake())
	tell(t, table, cooked, each(nthAddr(1), shake(sv(1, 0, "2"))))
	tell(t, table, liveTap, []step{opened})
	var s story
	s.add(table.Flush(start.Add(time.Hour)))
	if got, want := s.String(), "))!"+reasonServerGap+")"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	check(t, table)
	if got := tell(t, table, cooked, shake(login...)); got != "("+loggedIn {
		t.Errorf("after a flush: %q", got)
	}
}

// TestChunksTogether: what was released stays as it is while a window gets a larger
// buffer for what waited with it.
func TestChunksTogether(t *testing.T) {
	table := newWaitingTable(Limits{})
	got := played(t, table, cooked, start, []step{
		cl(0, strings.Repeat("a", 400)), sv(0, 200, "y"), cl(400, strings.Repeat("b", 4000)), sv(1, 4400, "x"), synack(), syn(), cl(0, ""),
	})
	want := "(C<" + strings.Repeat("a", 200) + ">S<y>C<" + strings.Repeat("a", 200) + strings.Repeat("b", 4000) + ">S<x>"
	if got != want {
		t.Errorf("got %q", got)
	}
	table.Flush(start)
	for _, free := range table.pool.free {
		for _, buf := range free {
			if strings.Trim(string(buf), "\x00") != "" {
				t.Fatalf("a free buffer holds %q", buf)
			}
		}
	}
}

// TestSYNBeforeTheEnd: a SYN that came before its predecessor's end is answered
// behind it.
func TestSYNBeforeTheEnd(t *testing.T) {
	again := func(s *capture.Segment) { s.Seq += 1000 }
	second := uint32(serverISN)
	second += 2000
	for name, end := range map[string]func(*Table) []step{
		"forgotten": func(table *Table) []step { table.Forget(0); return nil },
		"closed":    func(*Table) []step { return []step{sv(0, 0, "", plus(capture.FIN))} },
	} {
		table := newLeavingTable(Limits{})
		tell(t, table, cooked, append(shake(cl(0, "a"), sv(0, 1, "b")), syn(again)))
		got := tell(t, table, cooked, append(end(table),
			synack(func(s *capture.Segment) { s.Seq += 2000; s.Ack += 1000 }),
			cl(1000, "", ackNo(second)), cl(1000, "c", ackNo(second)), sv(2000, 1001, "d")))
		if !strings.HasSuffix(got, "(C<c>S<d>") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// dialogue is lock-step traffic on a flow that is open: one segment each way.
func dialogue(table *Table, m mode, payload int) func() {
	for _, s := range begin(m, nil) {
		var ev capture.Event
		s(m, &ev)
		ev.Time = start
		table.Feed(&ev)
	}
	var client, server capture.Event
	cl(0, strings.Repeat("c", payload))(m, &client)
	sv(0, 0, strings.Repeat("s", payload))(m, &server)
	client.Time, server.Time = start, start
	return func() {
		server.Segment.Ack = client.Segment.Seq + uint32(payload)
		table.Feed(&client)
		table.Feed(&server)
		client.Segment.Seq += uint32(payload)
		server.Segment.Seq += uint32(payload)
	}
}

func TestNoAllocations(t *testing.T) {
	for name, m := range modes {
		table := newTable(Limits{})
		turn := dialogue(table, m, 700)
		for range 10 {
			turn()
		}
		if n := testing.AllocsPerRun(1000, turn); n != 0 {
			t.Errorf("%s: %v allocations per turn", name, n)
		}
		if phase := table.slots.at(0).phase; phase != following {
			t.Errorf("%s: the flow is in phase %d", name, phase)
		}
		table.Forget(0)
		if n := testing.AllocsPerRun(1000, turn); n != 0 {
			t.Errorf("%s: %v allocations per turn of a forgotten flow", name, n)
		}
	}
	// Whole connections that come and go.
	table := newTable(Limits{Handshakes: 16})
	var events []capture.Event
	for i, s := range shake(cl(0, "AB"), sv(0, 2, "1"), sv(3, 2, "4"), sv(1, 2, "23"), sv(4, 2, "", plus(capture.FIN))) {
		var ev capture.Event
		s(cooked, &ev)
		ev.Time = start.Add(time.Duration(i))
		events = append(events, ev)
	}
	doubted := false
	session := func() {
		for i := range events {
			for _, e := range table.Feed(&events[i]) {
				doubted = doubted || e.Kind == Tainted
			}
			events[i].Segment.Seq += 1000
			events[i].Segment.Ack += 1000
		}
	}
	for range 50 {
		session()
	}
	if n := testing.AllocsPerRun(1000, session); n != 0 {
		t.Errorf("%v allocations per connection", n)
	}
	if opened := table.Stats().Opened; opened != 1051 || doubted {
		t.Errorf("opened %d, doubted %v", opened, doubted)
	}
}

func BenchmarkFeed(b *testing.B) {
	for name, m := range map[string]mode{"live": liveTap, "cooked": cooked, "ethernet": ethernet} {
		b.Run(name, func(b *testing.B) {
			turn := dialogue(newTable(Limits{}), m, 40)
			for b.Loop() {
				turn()
			}
		})
	}
	b.Run("forgotten", func(b *testing.B) {
		table := newTable(Limits{})
		turn := dialogue(table, ethernet, 1400)
		table.Forget(0)
		for b.Loop() {
			turn()
		}
	})
	b.Run("many flows", func(b *testing.B) {
		table := newTable(Limits{})
		const flows = 20000
		segs := make([]capture.Event, flows)
		for i := range flows {
			for _, s := range each(nthAddr(i), shake()) {
				segs[i] = capture.Event{}
				s(ethernet, &segs[i])
				segs[i].Time = start
				table.Feed(&segs[i])
			}
		}
		i := 0
		for b.Loop() {
			table.Feed(&segs[i])
			i = (i + 7919) % flows
		}
	})
}
