package capture

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// look is a glance at a frame.
func look(d *Decoder, frame []byte, second int64, ev *Event) sight {
	r := record{second: second, link: LinkEthernet, data: frame, wireLen: len(frame)}
	return d.glance(&r, ev)
}

// TestGlance: a glance comes to the result of the whole decoder; where that finds
// something and the glance nothing, it is a segment of a connection that is done,
// without SYN, FIN or RST.
func TestGlance(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	quick, slow := newTestDecoder(), newTestDecoder()
	a6, b6 := want6("").Src, want6("").Dst
	var ev Event
	counts := map[sight]int{}
	for range 200000 {
		frame := randomFrame(rng)
		for range rng.IntN(4) {
			frame[rng.IntN(min(len(frame), 80))] = byte(rng.Uint32())
		}
		frame = frame[:len(frame)-rng.IntN(30)*rng.IntN(2)]
		quick.Done(a6, b6, start.Unix())
		found := look(quick, frame, start.Unix(), &ev)
		counts[found]++
		whole := decodeAll(slow, LinkEthernet, frame, len(frame), start.Truncate(time.Second))
		switch {
		case found == unclear:
		case found == segment:
			ev.Segment.Hash = 0
			if len(whole) != 1 {
				t.Fatalf("a glance shows %+v, the decoder %+v of %x", ev, whole, frame)
			}
			if diff := cmp.Diff(whole[0], ev, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Fatalf("of %x: %s", frame, diff)
			}
		case len(whole) != 0:
			s := whole[0].Segment
			ours := s.Src == a6 && s.Dst == b6 || s.Src == b6 && s.Dst == a6
			if whole[0].Kind != Packet || len(whole) > 1 || s.Flags&(SYN|FIN|RST) != 0 || !ours {
				t.Fatalf("passed over %+v of %x", whole, frame)
			}
		}
	}
	if counts[silent] < 10000 || counts[segment] < 10000 || counts[unclear] < 10000 {
		t.Errorf("too few of some: %v", counts)
	}
}

// TestGlanceAllocatesNothing holds for packets of other ports, of connections
// that are done, and for segments.
func TestGlanceAllocatesNothing(t *testing.T) {
	d := newTestDecoder()
	s := want("x")
	d.Done(netip.AddrPortFrom(s.Src.Addr(), s.Src.Port()+1), s.Dst, 0)
	var ev Event
	for _, frame := range [][]byte{
		frameA, frameB, ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80))),
		ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment("x"), 1, byte(s.Src.Port()+1)))),
	} {
		if n := testing.AllocsPerRun(100, func() { look(d, frame, 1, &ev) }); n != 0 {
			t.Errorf("%v allocations for %x", n, frame)
		}
	}
}

// TestDone: a connection that is done is silent in both directions, but for one
// packet a minute, until a SYN, FIN or RST.
func TestDone(t *testing.T) {
	d := newTestDecoder()
	frame := ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment("x")))
	back := ethernet(etherIPv4, ipv4Reply(reply("x")))
	reset := ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment(""), 13, byte(RST))))
	s := want("x")
	other := netip.AddrPortFrom(s.Src.Addr(), s.Src.Port()+1)
	d.Done(other, s.Dst, 1000)
	for i, step := range []struct {
		frame  []byte
		second int64
		silent bool
	}{
		{frame, 1000, false}, // not yet
		{frame, 1000, true},
		{back, 1000, true},
		{frame, 1059, true},
		{back, 1060, false},
		{frame, 1060, true},
		{back, 1119, true},
		{frame, 1059, false}, // the clock went back
		{frame, 1059, true},
		{reset, 1059, false},
		{frame, 1059, false},
		{back, 1059, false},
	} {
		if i == 1 {
			d.Done(s.Src, s.Dst, 1000)
		}
		if got := look(d, step.frame, step.second, &Event{}) == silent; got != step.silent {
			t.Errorf("step %d: silent is %v", i, got)
		}
	}
}

// TestDoneSet compares the set with a map, with hashes that collide.
func TestDoneSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var s doneSet
	model := map[uint64]bool{}
	for range 200000 {
		hash := rng.Uint64N(3000)<<9 | 1<<63
		switch {
		case rng.IntN(3) == 0 && len(model) < 400:
			s.add(hash, 0)
			model[hash] = true
		case rng.IntN(3) == 0:
			s.holds(hash, FIN, 0)
			delete(model, hash)
		case s.holds(hash, ACK, 0) != model[hash]:
			t.Fatalf("hash %x: want %v", hash, model[hash])
		}
	}
	if s.used != len(model) {
		t.Errorf("used %d, want %d", s.used, len(model))
	}
}

// TestDoneBound: the set stops growing, and forgets what was silent for long.
func TestDoneBound(t *testing.T) {
	var s doneSet
	for i := range uint64(maxDoneSlots) {
		s.add(mix(i+1, 0x9e3779b97f4a7c15), 0)
	}
	if len(s.slots) != maxDoneSlots || s.used > maxDoneSlots/2 {
		t.Errorf("%d of %d slots used", s.used, len(s.slots))
	}
	s.add(1, 2*donePause)
	if s.used != 1 || !s.holds(1, ACK, 2*donePause) {
		t.Errorf("%d slots used, want 1", s.used)
	}
}

func TestPairIsSymmetric(t *testing.T) {
	h := NewHasher()
	a, b := netip.MustParseAddrPort("192.0.2.1:5"), netip.MustParseAddrPort("198.51.100.2:110")
	if h.Pair(a, b) != h.Pair(b, a) {
		t.Error("the order of the ends counts")
	}
	seen := map[uint64]bool{}
	for port := range uint16(65535) {
		seen[h.Pair(netip.AddrPortFrom(a.Addr(), port), b)] = true
	}
	if len(seen) != 65535 {
		t.Errorf("%d hashes of 65535 connections", len(seen))
	}
}
