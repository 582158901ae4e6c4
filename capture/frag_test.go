package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const loginLine = "a1 LOGIN alice Sommer-17\r\n"

// fragments4 cuts a TCP segment into IPv4 fragments of size bytes.
func fragments4(id uint16, segment []byte, size int) [][]byte {
	var packets [][]byte
	for offset := 0; offset < len(segment); offset += size {
		field, end := uint16(offset/8), min(offset+size, len(segment))
		if end < len(segment) {
			field |= 0x2000
		}
		packets = append(packets, ipv4Fragment(protoTCP, id, field, segment[offset:end]))
	}
	return packets
}

// outcome describes the Events of a sequence of packets in words.
func outcome(d *Decoder, packets [][]byte, at func(i int) time.Time) []string {
	var got []string
	for i, packet := range packets {
		for _, ev := range decodeAll(d, linkRaw, packet, len(packet), at(i)) {
			if ev.Kind == Doubt {
				got = append(got, "doubt: "+ev.Reason)
			} else {
				got = append(got, string(ev.Segment.Payload))
			}
		}
	}
	return got
}

func atStart(int) time.Time { return start }

func TestFragments(t *testing.T) {
	segment := tcpSegment(loginLine)
	f := fragments4(7, segment, 24) // two pieces: 24 and 22 bytes
	eights := fragments4(7, segment, 8)
	other := fragments4(7, tcpSegment("a1 NOOP\r\n................."), 24)
	answer := ipv4Reply(reply("a1 OK\r\n"))
	ack := ipv4Reply(reply(""))
	next := ipv4Packet(protoTCP, tcpSegment("a2 NOOP\r\n"))
	six := [][]byte{
		ipv6Fragment(protoTCP, 9, 0, true, segment[:24]),
		ipv6Fragment(protoTCP, 9, 24, false, segment[24:]),
	}
	sixUDPTail := ipv6Fragment(17, 9, 24, false, segment[24:])
	nested := cat([]byte{protoTCP, 0, 0, 1}, u32(4), segment)
	conflict := "doubt: IP fragments contradict each other"
	overlap := "doubt: IP fragments overlap"
	unfinished := "doubt: answered while the fragments of an IP datagram were not complete"

	for _, tt := range []struct {
		name    string
		packets [][]byte
		want    []string
	}{
		{"in order", f, []string{loginLine}},
		{"out of order", [][]byte{f[1], f[0]}, []string{loginLine}},
		{"eight bytes each", eights, []string{loginLine}},
		{"an acknowledgement in between", [][]byte{f[0], ack, f[1], answer}, []string{"", loginLine, "a1 OK\r\n"}},
		{"another segment in between", [][]byte{f[0], next, f[1], answer}, []string{"a2 NOOP\r\n", loginLine, "a1 OK\r\n"}},
		{"equal copies", [][]byte{f[0], f[0], f[1]}, []string{loginLine}},
		{"equal copies afterwards are shown again", [][]byte{f[0], f[1], f[1]}, []string{loginLine, loginLine}},
		{"two datagrams at a time", [][]byte{f[0], fragments4(8, segment, 24)[0], f[1], fragments4(8, segment, 24)[1]}, []string{loginLine, loginLine}},
		{"IPv6", six, []string{loginLine}},
		{"IPv6, the first fragment names the header", [][]byte{sixUDPTail, six[0]}, []string{loginLine}},
		{"destination options in the fragmentable part", [][]byte{
			ipv6Fragment(protoDestination, 9, 0, true, cat([]byte{protoTCP, 0, 1, 4, 0, 0, 0, 0}, segment[:24])),
			ipv6Fragment(protoDestination, 9, 32, false, segment[24:]),
		}, []string{loginLine}},
		{"other ports", fragments4(7, set(segment, 2, 0, 80), 24), nil},
		{"UDP over IPv4 is not ours", [][]byte{ipv4Fragment(17, 7, 0x2000, segment[:24]), answer}, []string{"a1 OK\r\n"}},

		{"decoy whole, genuine bytes in fragments that the capture lacks", [][]byte{f[0], next, answer}, []string{"a2 NOOP\r\n", unfinished, "a1 OK\r\n"}},
		{"one doubt for several datagrams", [][]byte{f[0], fragments4(8, segment, 24)[0], answer, answer}, []string{unfinished, "a1 OK\r\n", "a1 OK\r\n"}},
		{"the last fragment alone", [][]byte{f[1], answer}, []string{unfinished, "a1 OK\r\n"}},
		{"decoy fragment completes, then the genuine one", [][]byte{f[0], other[1], f[1]}, []string{joined(f[0], other[1]), conflict}},
		{"decoy fragment first", [][]byte{other[0], f[0]}, []string{conflict}},
		{"what follows a contradiction is left waiting", [][]byte{other[0], f[0], f[1], answer}, []string{conflict, unfinished, "a1 OK\r\n"}},
		{"overlap from the left", [][]byte{f[0], eights[2]}, []string{overlap}},
		{"overlap from the right", [][]byte{eights[2], f[0]}, []string{overlap}},
		{"equal start, other length", [][]byte{f[0], eights[0]}, []string{overlap}},
		{"two ends", [][]byte{f[1], eights[len(eights)-1]}, []string{overlap}},
		{"two ends without overlap", [][]byte{eights[len(eights)-1], ipv4Fragment(protoTCP, 7, 20, make([]byte, 8))}, []string{conflict}},
		{"end before what came", [][]byte{eights[3], ipv4Fragment(protoTCP, 7, 1, make([]byte, 8))}, []string{conflict}},
		{"more behind the end", [][]byte{f[1], ipv4Fragment(protoTCP, 7, 0x2000|100, make([]byte, 8))}, []string{conflict}},
		{"more behind a complete datagram", [][]byte{f[0], f[1], ipv4Fragment(protoTCP, 7, 0x2000|100, make([]byte, 8))}, []string{loginLine, conflict}},
		{"first fragments with different next headers", [][]byte{six[0], ipv6Fragment(17, 9, 0, true, segment[:24])}, []string{overlap}},
		{"an equal piece that claims to be the last", [][]byte{eights[3], ipv4Fragment(protoTCP, 7, 3, segment[24:32])}, []string{overlap}},
		{"fragment inside a datagram", [][]byte{
			ipv6Fragment(protoFragment, 9, 0, true, nested[:16]),
			ipv6Fragment(protoFragment, 9, 16, false, nested[16:]),
		}, []string{"doubt: an IP fragment inside a fragmented datagram"}},
		{"datagram too short for TCP", fragments4(7, segment[:16], 8), []string{"doubt: a packet too short for its TCP header"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := outcome(newTestDecoder(), tt.packets, atStart)
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// joined is the TCP payload of two fragments.
func joined(a, b []byte) string { return string(cat(a[20:], b[20:])[tcpHeaderLen:]) }

// TestFragmentSource: what came in never becomes part of what the host sent.
func TestFragmentSource(t *testing.T) {
	cooked := func(packetType byte, packet []byte) []byte {
		return cat([]byte{0, packetType}, make([]byte, 12), u16(etherIPv4), packet)
	}
	f := fragments4(7, tcpSegment(loginLine), 24)
	d := newTestDecoder()
	first, second := cooked(4, f[0]), cooked(0, f[1])
	if ev := decodeAll(d, linkCooked, first, len(first), start); ev != nil {
		t.Errorf("first fragment: got %v, want nothing", ev)
	}
	if ev := decodeAll(d, linkCooked, second, len(second), start); len(ev) != 1 || ev[0].Kind != Doubt {
		t.Errorf("fragment from outside: got %v, want a doubt", ev)
	}
	// Nor after that: what is shown then may not be what the kernel has.
	decodeAll(d, linkCooked, first, len(first), start)
	second = cooked(4, f[1])
	if ev := decodeAll(d, linkCooked, second, len(second), start); len(ev) != 1 || ev[0].Kind != Doubt {
		t.Errorf("another one from this host: got %v, want a doubt", ev)
	}
}

func TestFragmentTimeout(t *testing.T) {
	f := fragments4(7, tcpSegment(loginLine), 24)
	other := fragments4(7, tcpSegment("a2 LOGIN alice Winter-18\r\n"), 24)
	ack := ipv4Reply(reply(""))
	for _, tt := range []struct {
		name    string
		packets [][]byte
		seconds []int
		want    []string
	}{
		{"incomplete", [][]byte{f[0], ack}, []int{0, 30}, []string{"doubt: an IP datagram whose fragments are not complete", ""}},
		{"just in time", [][]byte{f[0], f[1]}, []int{0, 29}, []string{loginLine}},
		{"too late", [][]byte{f[0], f[1]}, []int{0, 30}, []string{"doubt: an IP datagram whose fragments are not complete"}},
		{"identifier used again", [][]byte{f[0], f[1], other[0], other[1]}, []int{0, 0, 120, 120}, []string{loginLine, "a2 LOGIN alice Winter-18\r\n"}},
		{"identifier used again too soon", [][]byte{f[0], f[1], other[0], other[1]}, []int{0, 0, 119, 119}, []string{loginLine, "doubt: IP fragments contradict each other"}},
		{"clock set back", [][]byte{f[0], f[1]}, []int{0, -9000}, []string{loginLine}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := outcome(newTestDecoder(), tt.packets, func(i int) time.Time { return start.Add(time.Duration(tt.seconds[i]) * time.Second) })
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

// checkBounds verifies the table's own accounts.
func checkBounds(t testing.TB, f *fragments) {
	t.Helper()
	size, waiting := 0, 0
	for _, g := range f.table {
		size += len(g.data)
		if len(g.pieces) > maxPieces {
			t.Errorf("got %d pieces of a datagram, want at most %d", len(g.pieces), maxPieces)
		}
	}
	for _, n := range f.waiting {
		waiting += n
	}
	if size != f.bytes || size > maxFragmentBytes || len(f.table) > maxDatagrams {
		t.Errorf("got %d bytes (counted %d) in %d datagrams, want within bounds", size, f.bytes, len(f.table))
	}
	if f.pending.Len()+f.done.Len() != len(f.table) || waiting != f.pending.Len() {
		t.Errorf("got %d pending, %d done, %d in the table, %d waiting", f.pending.Len(), f.done.Len(), len(f.table), waiting)
	}
}

func TestFragmentFlood(t *testing.T) {
	segment := tcpSegment(loginLine)
	t.Run("datagrams", func(t *testing.T) {
		d := newTestDecoder()
		for id := range uint16(maxDatagrams + 100) {
			outcome(d, [][]byte{set(ipv4Fragment(protoTCP, id, 0x2000, segment[:24]), 12, 203, 0, 113, 1)}, atStart)
		}
		if got := d.Stats().Doubts; got != 100 {
			t.Errorf("got %d refused, want 100", got)
		}
		checkBounds(t, &d.frags)
		// An honest datagram is refused with a doubt, and a plain one is not.
		got := outcome(d, append(fragments4(7, segment, 24), ipv4Packet(protoTCP, segment)), atStart)
		if len(got) != 3 || !strings.HasPrefix(got[0], "doubt: no room") || got[2] != loginLine {
			t.Errorf("got %q", got)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		d := newTestDecoder()
		for i := range 400 {
			outcome(d, [][]byte{ipv4Fragment(protoTCP, uint16(i), 0x2000, make([]byte, 16000))}, atStart)
		}
		checkBounds(t, &d.frags)
		if d.Stats().Doubts == 0 {
			t.Error("got none refused")
		}
	})
	t.Run("pieces", func(t *testing.T) {
		d := newTestDecoder()
		var got []string
		for i := range uint16(maxPieces + 1) {
			got = append(got, outcome(d, [][]byte{ipv4Fragment(protoTCP, 1, 0x2000|2*i, make([]byte, 8))}, atStart)...)
		}
		if len(got) != 1 || got[0] != "doubt: too many fragments of one IP datagram" {
			t.Errorf("got %q", got)
		}
		checkBounds(t, &d.frags)
	})
	t.Run("completed datagrams make room", func(t *testing.T) {
		d, shown := newTestDecoder(), 0
		for id := range uint16(3 * maxDatagrams) {
			if got := outcome(d, fragments4(id, segment, 24), atStart); len(got) == 1 && got[0] == loginLine {
				shown++
			}
		}
		// The identifiers that were forgotten for it cost a doubt here and there.
		if shown < maxDatagrams*27/10 {
			t.Errorf("got %d of %d datagrams", shown, 3*maxDatagrams)
		}
		checkBounds(t, &d.frags)
	})
}

// TestFragmentsNeverInvent cuts a segment at random, repeats and shuffles the
// pieces: what comes out is the segment.
func TestFragmentsNeverInvent(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 500 {
		payload := make([]byte, 8+rng.IntN(400))
		for i := range payload {
			payload[i] = byte(rng.Uint32())
		}
		packets := fragments4(7, tcpSegment(string(payload)), 8*(1+rng.IntN(6)))
		whole := len(packets)
		for range rng.IntN(4) {
			packets = append(packets, packets[rng.IntN(whole)])
		}
		rng.Shuffle(len(packets), func(i, j int) { packets[i], packets[j] = packets[j], packets[i] })
		got := outcome(newTestDecoder(), packets, atStart)
		if len(got) == 0 {
			t.Fatalf("round %d: got nothing", round)
		}
		for _, g := range got {
			if !bytes.Equal([]byte(g), payload) {
				t.Fatalf("round %d: got %q, want %q", round, g, payload)
			}
		}
	}
}

// FuzzDefrag feeds sequences of fragments, four bytes of head for each: its
// identifier, offset and flags, and length.
func FuzzDefrag(f *testing.F) {
	f.Add([]byte("\x00\x00\x20\x08abcdefgh\x00\x00\x01\x08abcdefgh"))
	f.Add([]byte("\x00\x00\x01\x08abcdefgh\x00\x00\x20\x08abcdefgh\x00\x00\x01\x08abcdefgX"))
	f.Add([]byte("\x00\x3f\xff\x08abcdefgh"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newTestDecoder()
		for len(data) >= 4 {
			id, field, length := uint16(data[0]), binary.BigEndian.Uint16(data[1:]), min(int(data[3]), len(data)-4)
			packet := ipv4Fragment(protoTCP, id, field, data[4:4+length])
			decodeAll(d, linkRaw, packet, len(packet), start.Add(time.Duration(id)*time.Second))
			data = data[4+length:]
		}
		checkBounds(t, &d.frags)
	})
}
