package capture

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func BenchmarkFrame(b *testing.B) {
	for _, bench := range []struct {
		name  string
		frame []byte
	}{
		{"watched4", frameA},
		{"watched6", frameB},
		{"other", ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment("x"), 2, 0, 80)))},
		{"udp", frameU},
	} {
		b.Run(bench.name, func(b *testing.B) {
			d := newTestDecoder()
			var ev Event
			b.ReportAllocs()
			for b.Loop() {
				d.frame(&packet{time: start}, linkEthernet, bench.frame, len(bench.frame), &ev)
			}
		})
	}
}

// BenchmarkFile reads packets of full size, one in five of a watched port.
func BenchmarkFile(b *testing.B) {
	watched := ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment(string(make([]byte, 1460)))))
	other := ethernet(etherIPv4, ipv4Packet(protoTCP, set(tcpSegment(string(make([]byte, 1460))), 2, 0, 80)))
	var frames [][]byte
	for range 4000 {
		frames = append(frames, watched, other, other, other, other)
	}
	file := pcapFile(little, magicMicro, 1, frames...)
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		f, err := NewFile("x.pcap", bytes.NewReader(file), newTestDecoder())
		must(b, err)
		var ev Event
		for err == nil {
			err = f.Next(&ev)
		}
		if !errors.Is(err, io.EOF) {
			b.Fatal(err)
		}
	}
}
