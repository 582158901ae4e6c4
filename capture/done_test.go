package capture

import (
	"math/rand/v2"
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
		{func() { done.Lift(hash) }, frame, 900, false},
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
	if n < maxDoneSlots/doneSpace/2 || len(s.recent.hashes) != maxDoneSlots || !has(&s, 0) || !has(&s, n-1) || has(&s, n) {
		t.Fatalf("%d connections in %d slots", n, len(s.recent.hashes))
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

// TestDoneEnds: whoever has ended leaves the recent ones soon, is remembered for a
// while, and costs no room.
func TestDoneEnds(t *testing.T) {
	var s DoneSet
	const many = 4 * doneEndings
	for i := range uint64(many) {
		second := int64(i / 100)
		hash := mix(i+1, 0x9e3779b97f4a7c15)
		s.Add(hash, second)
		s.PassesOver(hash, FIN, second)
		s.End(hash, second)
	}
	if len(s.recent.hashes) > 8*doneSlots {
		t.Errorf("%d slots for the recent", len(s.recent.hashes))
	}
	if !has(&s, many-1) || !has(&s, many-doneEndings) || has(&s, 0) || s.ended.used != doneEndings {
		t.Errorf("%d are remembered", s.ended.used)
	}
}

// TestHashSet compares the set with a map, with hashes that collide.
func TestHashSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var s hashSet
	s.reset(1024, false)
	model := map[uint64]bool{}
	for range 200000 {
		hash := rng.Uint64N(3000)<<35 | rng.Uint64N(2)
		switch {
		case rng.IntN(3) == 0 && len(model) < 500:
			s.put(hash)
			model[hash|1] = true
		case rng.IntN(3) == 0:
			s.remove(hash)
			delete(model, hash|1)
		default:
			if _, found := s.find(hash); found != model[hash|1] {
				t.Fatalf("hash %x: want %v", hash, model[hash|1])
			}
		}
	}
	if s.used != len(model) {
		t.Errorf("used %d, want %d", s.used, len(model))
	}
}
