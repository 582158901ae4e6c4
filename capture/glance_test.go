package capture

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// glanceAt is a glance at a frame.
func glanceAt(d *Decoder, frame []byte, second int64, ev *Event) sight {
	r := record{second: second, link: linkEthernet, data: frame, wireLen: len(frame)}
	return d.glance(&r, ev)
}

// TestGlance: a glance comes to the result of the whole decoder; where that finds
// something and the glance nothing, it is a segment of a connection that is done,
// without SYN or RST.
func TestGlance(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	quick, slow := newTestDecoder(), newTestDecoder()
	var done DoneSet
	quick.PassOver(&done)
	a6, b6 := want6("").Src, want6("").Dst
	var ev Event
	counts := map[sight]int{}
	for range 200000 {
		frame := randomFrame(rng)
		for range rng.IntN(4) {
			frame[rng.IntN(min(len(frame), 80))] = byte(rng.Uint32())
		}
		frame = frame[:len(frame)-rng.IntN(30)*rng.IntN(2)]
		done.Add(quick.hasher.Pair(a6, b6), start.Unix())
		found := glanceAt(quick, frame, start.Unix(), &ev)
		counts[found]++
		whole := decodeAll(slow, linkEthernet, frame, len(frame), start.Truncate(time.Second))
		switch {
		case found == unclear:
		case found == segment || found == beginning:
			ev.Segment.Hash = 0
			if len(whole) != 1 {
				t.Fatalf("a glance shows %+v, the decoder %+v of %x", ev, whole, frame)
			}
			if reflect.DeepEqual(whole[0], ev) { // most, and a hundred times as fast
				continue
			}
			if diff := cmp.Diff(whole[0], ev, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Fatalf("of %x: %s", frame, diff)
			}
		case len(whole) != 0:
			s := whole[0].Segment
			ours := s.Src == a6 && s.Dst == b6 || s.Src == b6 && s.Dst == a6
			if whole[0].Kind != Packet || len(whole) > 1 || s.Flags&(SYN|RST) != 0 || !ours {
				t.Fatalf("passed over %+v of %x", whole, frame)
			}
		}
	}
	if counts[silent] < 10000 || counts[segment] < 10000 || counts[unclear] < 10000 {
		t.Errorf("too few of some: %v", counts)
	}
}

// TestGlanceForgets: what another frame left in the Event is gone.
func TestGlanceForgets(t *testing.T) {
	d := newTestDecoder()
	plain := ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment("x")))
	tagged := slices.Concat(plain[:12], []byte{0x81, 0, 0, 7}, plain[12:])
	var ev Event
	if !d.frame(&packet{time: start}, linkEthernet, tagged, len(tagged), &ev) || ev.Segment.Link.VLAN[0] != 7 {
		t.Fatalf("VLAN %v", ev.Segment.Link.VLAN)
	}
	if glanceAt(d, plain, start.Unix(), &ev) != segment || ev.Segment.Link.VLAN[0] != 0 {
		t.Errorf("VLAN %v of an untagged frame", ev.Segment.Link.VLAN)
	}
}

// TestGlanceAllocatesNothing holds for packets of other ports, of connections
// that are done, and for segments.
func TestGlanceAllocatesNothing(t *testing.T) {
	d := newTestDecoder()
	s := want("x")
	var done DoneSet
	done.Add(d.hasher.Pair(netip.AddrPortFrom(s.Src.Addr(), s.Src.Port()+1), s.Dst), 0)
	d.PassOver(&done)
	var ev Event
	for _, frame := range [][]byte{
		frameA, frameB, ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80))),
		ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment("x"), 1, byte(s.Src.Port()+1)))),
	} {
		if n := testing.AllocsPerRun(100, func() { glanceAt(d, frame, 1, &ev) }); n != 0 {
			t.Errorf("%v allocations for %x", n, frame)
		}
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
