package capture

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// checkEvent verifies what holds for every Event of a decoder.
func checkEvent(t *testing.T, d *Decoder, ev *Event, size int) {
	t.Helper()
	s := &ev.Segment
	switch ev.Kind {
	case Packet:
		if !d.ports.Has(s.Src.Port()) && !d.ports.Has(s.Dst.Port()) {
			t.Errorf("got ports %v > %v", s.Src, s.Dst)
		}
		if s.Src.Addr().Is4In6() || s.Dst.Addr().Is4In6() || s.Missing < 0 || len(s.Payload) > size {
			t.Errorf("got %+v from %d bytes", s, size)
		}
	case Doubt:
		if ev.Reason == "" || s.Src.Port() != 0 || s.Dst.Port() != 0 || !s.Src.Addr().IsValid() || !s.Dst.Addr().IsValid() {
			t.Errorf("got doubt %+v", ev)
		}
	default:
		t.Errorf("got kind %d", ev.Kind)
	}
}

func FuzzFrame(f *testing.F) {
	segment := tcpSegment("a1 NOOP", optionMPTCP, 4, 0, 0)
	for _, seed := range []struct {
		link linkType
		data []byte
	}{
		{linkEthernet, frameA},
		{linkEthernet, frameB},
		{linkEthernet, ethernet(etherQinQ, cat(u16(7), u16(etherPPPoE), []byte{0x11, 0, 0, 1, 0, 9, pppIPv6}, ipv6Packet(protoTCP, segment)))},
		{linkRaw, ipv6Packet(protoRouting, cat([]byte{protoAH, 2, 4, 1}, make([]byte, 20), []byte{protoTCP, 4}, make([]byte, 22), segment))},
		{linkRaw, ipv6Fragment(protoTCP, 1, 0, true, segment[:24])},
		{linkCooked, cat([]byte{0, 4}, make([]byte, 12), u16(etherIPv4), ipv4Packet(protoTCP, segment))},
		{linkCooked2, cat(u16(etherIPv4), make([]byte, 18), ipv4Packet(protoTCP, segment))},
		{linkPPP, cat([]byte{0xff, 3, pppIPv4}, ipv4Packet(protoTCP, segment))},
		{linkNull, cat([]byte{2, 0, 0, 0}, ipv4Packet(protoTCP, segment))},
	} {
		f.Add(uint16(seed.link), seed.data, 1500)
	}
	f.Fuzz(func(t *testing.T, link uint16, data []byte, wireLen int) {
		d := newTestDecoder()
		wireLen %= 1 << 20
		for range 2 {
			var ev Event
			for ok := d.frame(&packet{time: start}, linkType(link), data, wireLen, &ev); ok; ok = d.more(&ev) {
				checkEvent(t, d, &ev, len(data))
			}
		}
		checkBounds(t, &d.frags)
	})
}

func FuzzFile(f *testing.F) {
	plain := pcapFile(little, magicMicro, 1, frameA, frameB)
	ng := cat(sectionBlock(big), interfaceBlock(big, linkEthernet, option(big, interfaceTimeUnit, 9)...), packetBlock(big, 0, 1, frameA, option(big, packetFlags, 0, 0, 0, 1)...))
	f.Add(plain)
	f.Add(pcapFile(big, magicNano, 113, frameA))
	f.Add(ng)
	f.Add(cat(ng, sectionBlock(little), interfaceBlock(little, linkRaw), block(little, blockSimple, little.AppendUint32(nil, 60), frameA[14:])))
	f.Add(zipped(plain))
	f.Add(zipped(ng[:50], ng[50:]))
	f.Add(cat(sectionBlock(little), interfaceBlock(little, linkEthernet), packetBlock(little, 0, 1, frameA), block(little, blockSimple, little.AppendUint32(nil, 60), frameA), packetBlock(little, 0, 3, frameB)))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newTestDecoder()
		file, err := NewFile("x.pcap", bytes.NewReader(data), d)
		together, err2 := NewFile("x.pcap", bytes.NewReader(data), newTestDecoder())
		var ev Event
		var rest []Event
		batch := make([]Event, 8)
		// A small compressed file can be long: the fuzzer need not read it all.
		for n := 0; err == nil && n < 1000; n++ {
			if err = file.Next(&ev); err == nil {
				checkEvent(t, d, &ev, maxDatagram+maxRecord)
			}
			if len(rest) == 0 && err2 == nil {
				var m int
				m, err2 = together.Batch(batch)
				rest = batch[:m]
			}
			if err != nil {
				break
			}
			if len(rest) == 0 {
				t.Fatalf("%+v does not come in a batch: %v", ev, err2)
			}
			ev.Segment.Hash, rest[0].Segment.Hash = 0, 0 // of other keys
			if one, other := fmt.Sprintf("%+v", ev), fmt.Sprintf("%+v", rest[0]); one != other {
				t.Fatalf("one by one %s, and in a batch %s", one, other)
			}
			rest = rest[1:]
		}
		if fmt.Sprint(err) != fmt.Sprint(err2) && err != nil {
			t.Errorf("one by one %v, and in batches %v and %d more", err, err2, len(rest))
		}
		var fileErr *FileError
		if err != nil && !errors.As(err, &fileErr) && err.Error() != "EOF" {
			t.Errorf("got %v, want a FileError", err)
		}
		if file != nil && len(file.window.buf) > 2*(maxRecord+maxBlockExtra) {
			t.Errorf("got a window of %d bytes", len(file.window.buf))
		}
	})
}
