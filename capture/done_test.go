package capture

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// TestPassOver: a connection that is done is passed over in both directions, but
// for SYN and RST, until it is lifted out.
func TestPassOver(t *testing.T) {
	d := newTestDecoder()
	var done DoneSet
	d.PassOver(&done)
	frame := ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment("x")))
	back := ethernet(etherIPv4, ipv4Reply(reply("x")))
	with := func(flags Flags) []byte {
		return ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment(""), 13, byte(flags))))
	}
	s := want("x")
	hash := d.hasher.Pair(s.Src, s.Dst)
	for i, step := range []struct {
		do     func()
		frame  []byte
		second int64
		silent bool
	}{
		{nil, frame, 1000, false},
		{func() { done.Add(hash, 1000) }, frame, 1000, true},
		{nil, back, 1000, true},
		{nil, back, 5000, true},
		{nil, frame, 900, true}, // the clock went back
		{nil, with(SYN), 900, false},
		{nil, with(RST | ACK), 900, false},
		{nil, with(FIN | ACK), 900, true},
		{nil, frame, 900, true},
		{func() { done.Ask(hash, 900) }, frame, 900, false},
		{nil, with(FIN | ACK), 900, false},
		{nil, back, 902, false},
		{nil, back, 903, true},
		{nil, back, 900, true},
		{func() { done.Ask(hash, 900); done.Add(hash, 900) }, frame, 900, true},
		{func() { done.Lift(hash) }, frame, 900, false},
		{func() { done.Ask(hash, 900) }, frame, 900, false}, // it is not there
		{func() { done.End(hash, 900) }, frame, 900, true},
		{done.Clear, back, 900, false},
	} {
		if step.do != nil {
			step.do()
		}
		if got := glanceAt(d, step.frame, step.second, &Event{}) == silent; got != step.silent {
			t.Errorf("step %d: silent is %v", i, got)
		}
	}
}

// fill adds connections until the set says that it is full, n at most.
func fill(s *DoneSet, from, n uint64, second int64) (added uint64) {
	for ; added < n && s.Add(mix(from+added+1, 0x9e3779b97f4a7c15), second); added++ {
	}
	return added
}

func has(s *DoneSet, n uint64) bool { return s.Has(mix(n+1, 0x9e3779b97f4a7c15)) }

// TestDoneBound: the set stops growing, and takes more when there is room again.
func TestDoneBound(t *testing.T) {
	var s DoneSet
	const second, many = 1_700_000_000, 1 << 20
	n := fill(&s, 0, many, second)
	if n < maxDoneSlots/doneSpace/2 || len(s.recent.slots) != maxDoneSlots || !has(&s, 0) || !has(&s, n-1) || has(&s, n) {
		t.Fatalf("%d connections in %d slots", n, len(s.recent.slots))
	}
	if more := fill(&s, n, many, second+doneRetry-1); more != 0 {
		t.Errorf("%d more", more)
	}
	s.End(mix(n+1, 0x9e3779b97f4a7c15), second)
	if !has(&s, n) {
		t.Error("the end of a connection is not remembered where there is no room")
	}
	if more := fill(&s, n+1, 1000, second+doneIdle+1); more != 1000 || has(&s, 0) || s.recent.used != 1000 {
		t.Errorf("%d more, %d in all, after long silence", more, s.recent.used)
	}
}

// TestDoneFullCosts: a clock that goes to and fro makes no connection cost a walk
// over all places of a full set.
func TestDoneFullCosts(t *testing.T) {
	var s DoneSet
	const second, tries = 1_700_000_000, 10_000
	fill(&s, 0, 1<<20, second)
	for i := range uint64(tries) {
		s.Add(mix(i+1<<32, 0x9e3779b97f4a7c15), second+int64(i%2)*(doneRetry+1))
	}
	if most := freePlaces + placesPerRefusal*tries + maxDoneSlots; s.walked > most {
		t.Errorf("%d places were looked at, want %d at most", s.walked, most)
	}
	for range freePlaces / placesPerRefusal {
		if s.Add(7<<40, second+doneIdle+1) {
			return
		}
	}
	t.Error("there is no room after long silence")
}

// TestDoneEnds: whoever has ended leaves the recent ones soon, is remembered for a
// while, and costs no room.
func TestDoneEnds(t *testing.T) {
	for _, step := range []struct {
		name      string
		perSecond int64
	}{{"a hundred a second", 100}, {"a clock that stands still", 1 << 62}} {
		t.Run(step.name, func(t *testing.T) {
			var s DoneSet
			const many, late = 1 << 18, 1 << 14
			for i := range uint64(many) {
				second := int64(i) / step.perSecond
				hash := mix(i+1, 0x9e3779b97f4a7c15)
				s.Add(hash, second)
				s.passage(hash, FIN, second)
				s.End(hash, second)
			}
			if step.perSecond == 100 && len(s.recent.slots) > 2*doneSlots {
				t.Errorf("%d slots for the recent", len(s.recent.slots))
			}
			if len(s.leaving)-s.first > maxLeaving+1 {
				t.Errorf("%d are leaving", len(s.leaving)-s.first)
			}
			remembered := 0
			for i := uint64(many - late); i < many; i++ {
				if has(&s, i) {
					remembered++
				}
			}
			if remembered < late*99/100 || has(&s, 0) {
				t.Errorf("%d of the last %d are remembered", remembered, late)
			}
		})
	}
}

// TestDoneLingers: one that ended stays among the recent while it is heard of, and
// is lifted out for good by another connection between the same ends.
func TestDoneLingers(t *testing.T) {
	var s DoneSet
	const hash, other = 7 << 40, 9 << 40
	s.Add(hash, 100)
	s.passage(hash, FIN, 100)
	for second := int64(100); second < 110; second += doneLinger {
		s.Add(other, second)
		if s.passage(hash, ACK, second) < passed {
			t.Fatalf("shown in second %d", second)
		}
	}
	s.Lift(hash)
	s.Add(hash, 110)
	s.Add(other, 120)
	if s.passage(hash, ACK, 120) < passed {
		t.Error("a new connection left for the end of the one before")
	}
	s.passage(hash, FIN, 120)
	s.Add(other, 120+doneLinger+1)
	if s.passage(hash, ACK, 130) >= passed || !s.Has(hash) {
		t.Error("the end is not remembered, or among the recent")
	}
}

// TestHashSet compares the set with a map, with hashes that collide.
func TestHashSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var s hashSet
	s.reset(1024)
	model := map[uint64]stamp{}
	for range 200000 {
		hash := rng.Uint64N(3000)<<35 | rng.Uint64N(1<<17)
		switch {
		case rng.IntN(3) == 0 && len(model) < 500:
			seen := stampOf(rng.Int64()) | stamp(rng.IntN(2))
			s.put(hash, seen, 0)
			model[key(hash)] = seen
		case rng.IntN(3) == 0:
			s.remove(hash)
			delete(model, key(hash))
		default:
			at, found := s.find(hash)
			if seen, want := model[key(hash)]; found != want || found && stampIn(s.slots[at]) != seen {
				t.Fatalf("hash %x: found %v, want %v since %v", hash, found, want, seen)
			}
		}
	}
	if s.used != len(model) {
		t.Errorf("used %d, want %d", s.used, len(model))
	}
}

// TestStamps: times are compared across the end of their 16 bits, and backwards.
func TestStamps(t *testing.T) {
	for _, c := range []struct {
		now, then int64
		want      int
	}{{1_700_000_000, 1_700_000_000, 0}, {65536, 65535, 1}, {65535, 65536, 1}, {1<<20 + 2100, 1 << 20, 2100}, {-1, 1, 2}} {
		if got := stampOf(c.now).since(stampOf(c.then) | stampEnded); got != c.want {
			t.Errorf("from %d to %d: %d s, want %d", c.then, c.now, got, c.want)
		}
	}
}

// TestHeld: of a connection that is held, bytes of the client before the next are shown,
// and of the server what is short or its end, until it is released.
func TestHeld(t *testing.T) {
	d := newTestDecoder()
	var done DoneSet
	d.PassOver(&done)
	s := want("x")
	hash := d.hasher.Pair(s.Src, s.Dst)
	client := func(seq uint32, payload string) []byte {
		return ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment(payload), 4, u32(seq)...)))
	}
	server := func(segment []byte) []byte { return ethernet(etherIPv4, ipv4Reply(segment)) }
	for i, step := range []struct {
		do    func()
		frame []byte
		want  sight
	}{
		{func() { done.AddHeld(hash, 1000, 500, false) }, client(499, "x"), segment},
		{nil, client(400, "x"), segment},
		{nil, client(0xffffff00, "x"), segment},
		{nil, client(500, "x"), silent},
		{nil, client(600, "x"), silent},
		{nil, client(400, ""), silent},
		{nil, server(reply("x")), segment},
		{nil, server(reply("")), silent},
		{nil, server(reply(strings.Repeat("x", maxAnswer))), segment},
		{nil, server(reply(strings.Repeat("x", maxAnswer+1))), silent},
		{func() { done.makeRoom(stampOf(1000)) }, client(400, "x"), segment},
		{func() { done.Release(hash) }, client(400, "x"), silent},
		{nil, server(reply("x")), silent},
		{func() { done.AddHeld(hash, 1000, 0, true) }, client(0xffffffff, "x"), segment},
		{nil, client(0, "x"), silent},
		{func() { done.Add(hash, 1000) }, client(0xffffffff, "x"), silent},
	} {
		if step.do != nil {
			step.do()
		}
		if got := glanceAt(d, step.frame, 1000, new(Event)); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
	if done.Release(hash ^ 1<<40) {
		t.Error("one that is not in the set was released")
	}
}
