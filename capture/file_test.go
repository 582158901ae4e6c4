package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

func TestFileFormats(t *testing.T) {
	micros := uint64(start.UnixMicro())
	plain := pcapFile(little, magicMicro, 1, frameA, frameU, frameB)
	want := []string{"05.678901 a1 NOOP", "07.678901 a2 NOOP"}
	nano := []string{"05.000678901 a1 NOOP", "07.000678901 a2 NOOP"}
	ng := func(o binary.AppendByteOrder) []byte {
		return cat(sectionBlock(o), interfaceBlock(o, linkEthernet), block(o, 0x0bad, make([]byte, 5)),
			packetBlock(o, 0, micros, frameA), packetBlock(o, 0, micros, frameU), packetBlock(o, 0, micros+2e6, frameB))
	}
	simple := block(little, blockSimple, little.AppendUint32(nil, uint32(len(frameB))), frameB)
	obsolete := obsoleteBlock(micros, frameA)
	modified := cat(pcapFile(little, magicModified, 1), little.AppendUint32(nil, uint32(start.Unix())), little.AppendUint32(nil, 678901),
		little.AppendUint32(nil, uint32(len(frameA))), little.AppendUint32(nil, uint32(len(frameA))), make([]byte, 8), frameA)
	for _, tt := range []struct {
		name string
		file []byte
		want []string
	}{
		{"pcap", plain, want},
		{"big endian", pcapFile(big, magicMicro, 1, frameA, frameU, frameB), want},
		{"nanoseconds", pcapFile(little, magicNano, 1, frameA, frameU, frameB), nano},
		{"big endian nanoseconds", pcapFile(big, magicNano, 1, frameA, frameU, frameB), nano},
		{"frame check sequence", pcapFile(little, magicMicro, 1|0x24000000, cat(frameA, make([]byte, 4))), want[:1]},
		{"modified pcap", modified, want[:1]},
		{"no packets", pcapFile(little, magicMicro, 1), nil},
		{"gzip", zipped(plain), want},
		{"gzip members", zipped(plain[:70], plain[70:100], plain[100:]), want},
		{"empty gzip members", cat(zipped(plain[:70]), bytes.Repeat(zipped(nil), 1000), zipped(plain[70:]), zipped(nil)), want},
		{"gzip filled up with zeros", cat(zipped(plain), make([]byte, 5000)), want},
		{"pcapng", ng(little), want},
		{"big endian pcapng", ng(big), want},
		{"pcapng in gzip", zipped(ng(little)), want},
		{"sections of two byte orders", cat(ng(little), ng(big)), []string{want[0], want[1], "05.678901 a1 NOOP", "07.678901 a2 NOOP"}},
		{
			"an interface of another name in the next section", cat(ng(little), sectionBlock(big),
				interfaceBlock(big, linkEthernet, option(big, interfaceName, 'e', '1')...), packetBlock(big, 0, micros, frameA)),
			[]string{want[0], want[1], "05.678901 a1 NOOP on 1 from 0"},
		},
		{
			"another interface in the same place", cat(ng(little), sectionBlock(little), interfaceBlock(little, linkRaw), interfaceBlock(little, linkEthernet),
				packetBlock(little, 1, micros, frameA)),
			[]string{want[0], want[1], "05.678901 a1 NOOP on 2 from 0"},
		},
		{
			"interfaces of two kinds", cat(sectionBlock(little), interfaceBlock(little, linkEthernet), interfaceBlock(little, linkRaw),
				packetBlock(little, 1, micros, frameA[14:]), packetBlock(little, 0, micros, frameB)),
			[]string{"05.678901 a1 NOOP on 1 from 0", "05.678901 a2 NOOP"},
		},
		{
			"an unsupported interface that is not used", cat(sectionBlock(little), interfaceBlock(little, 147), interfaceBlock(little, linkRaw), packetBlock(little, 1, micros, frameA[14:])),
			[]string{"05.678901 a1 NOOP on 1 from 0"},
		},
		{"nanoseconds and offset", cat(sectionBlock(little), interfaceBlock(little, linkEthernet, cat(option(little, interfaceTimeUnit, 9), option(little, interfaceTimeShift, 5, 0, 0, 0, 0, 0, 0, 0), option(little, 0))...),
			packetBlock(little, 0, uint64(start.UnixNano()), frameA)), []string{"10.678901 a1 NOOP"}},
		{"binary time", cat(sectionBlock(little), interfaceBlock(little, linkEthernet, option(little, interfaceTimeUnit, 0x80|10)...), packetBlock(little, 0, uint64(start.Unix())<<10|512, frameA)), []string{"05.5 a1 NOOP"}},
		{
			"direction", cat(sectionBlock(little), interfaceBlock(little, linkEthernet),
				packetBlock(little, 0, micros, frameA, option(little, packetFlags, 1, 0, 0, 0)...),
				packetBlock(little, 0, micros, frameB, option(little, packetFlags, 2, 0, 0, 0)...)),
			[]string{"05.678901 a1 NOOP on 0 from 2", "05.678901 a2 NOOP on 0 from 1"},
		},
		{
			"direction of an obsolete packet", cat(sectionBlock(little), interfaceBlock(little, linkEthernet),
				obsoleteBlock(micros, frameA, option(little, packetFlags, 2, 0, 0, 0)...)),
			[]string{"05.678901 a1 NOOP on 0 from 1"},
		},
		{"obsolete and simple packets", cat(sectionBlock(little), interfaceBlock(little, linkEthernet), obsolete, simple), []string{"05.678901 a1 NOOP", "05.678901 a2 NOOP"}},
		{"a long block that is stepped over", cat(sectionBlock(little), interfaceBlock(little, linkEthernet), block(little, 99, make([]byte, 3<<20)), packetBlock(little, 0, micros, frameA)), want[:1]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range ways {
				for _, r := range []io.Reader{bytes.NewReader(tt.file), iotest.OneByteReader(bytes.NewReader(tt.file))} {
					got, err := readAll(r, size)
					if err != nil || fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tt.want) {
						t.Errorf("%d at a time: got %q, %v\nwant %q", size, got, err, tt.want)
					}
				}
			}
		})
	}
}

func TestFileErrors(t *testing.T) {
	plain := pcapFile(little, magicMicro, 1, frameA)
	section := sectionBlock(little)
	eth := cat(section, interfaceBlock(little, linkEthernet))
	longRecord := cat(plain, little.AppendUint32(nil, 0), make([]byte, 4), little.AppendUint32(nil, maxRecord+1), make([]byte, 4))
	packet := packetBlock(little, 0, 0, frameA)
	flip := func(b []byte, offset int, v byte) []byte { return set(b, offset, v) }
	many := section
	for range maxInterfaces + 1 {
		many = append(many, interfaceBlock(little, linkEthernet)...)
	}
	for _, tt := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "x.pcap: offset 0: the file is empty"},
		{"three bytes", []byte("abc"), "x.pcap: offset 0: not a pcap or pcapng file"},
		{"text", []byte("From alice Thu Jan  1 00:00:00 1970"), "x.pcap: offset 0: not a pcap or pcapng file"},
		{"zstd", []byte("\x28\xb5\x2f\xfdxxxx"), "x.pcap: offset 0: compressed by zstd: unpack it first, or pipe it in (zstd -dc FILE | relaygate replay -)"},
		{"bzip2 of small blocks", []byte("BZh1xxxx"), "x.pcap: offset 0: compressed by bzip2: unpack it first, or pipe it in (bzip2 -dc FILE | relaygate replay -)"},
		{"snoop", []byte("snoop\x00\x00\x00"), "x.pcap: offset 0: a capture of snoop: convert it first (editcap FILE FILE.pcapng)"},
		{"text in gzip", zipped([]byte("hello world")), "x.pcap: offset 0: not a pcap or pcapng file"},
		{"bad gzip", []byte("\x1f\x8b\x99hello world"), "x.pcap: offset 0: gzip: invalid header"},
		{"empty gzip", zipped(nil), "x.pcap: offset 0: the file is empty"},
		{"only a magic number", plain[:4], "x.pcap: offset 0: file header cut short"},
		{"version 3", flip(plain, 4, 3), "x.pcap: offset 0: pcap version 3 is not supported"},
		{"link type 147", pcapFile(little, magicMicro, 147), "x.pcap: offset 0: link type 147 is not supported"},
		{"link type 105", pcapFile(little, magicMicro, 105), "x.pcap: offset 0: link type 105 (IEEE 802.11) is not supported"},
		{"record header cut", cat(plain, make([]byte, 15)), fmt.Sprintf("x.pcap: offset %d: record header cut short", len(plain))},
		{"record cut", plain[:len(plain)-1], "x.pcap: offset 24: record cut short"},
		{"insane record length", longRecord, fmt.Sprintf("x.pcap: offset %d: record of 1048577 bytes is longer than any packet", len(plain))},
		{"gzip header cut", zipped(plain)[:5], "x.pcap: offset 0: gzip header cut short"},
		{"gzip cut before the magic number", zipped(plain)[:12], "x.pcap: offset 0: file header cut short"},
		{"gzip cut", zipped(plain)[:40], "x.pcap: offset 24: record header cut short"},
		{"gzip cut in its trailer", zipped(plain)[:len(zipped(plain))-3], fmt.Sprintf("x.pcap: offset %d: record header cut short", len(plain))},
		{"gzip with other bytes behind it", cat(zipped(plain), make([]byte, 9), []byte("x")), fmt.Sprintf("x.pcap: offset %d: what follows the compressed file is not of gzip", len(plain))},
		{"gzip whose second member is cut", cat(zipped(plain), []byte(gzipMagic)), fmt.Sprintf("x.pcap: offset %d: record header cut short", len(plain))},
		{"gzip with a wrong checksum", set(zipped(plain), len(zipped(plain))-8, 1, 2, 3, 4), fmt.Sprintf("x.pcap: offset %d: gzip: invalid checksum", len(plain))},

		{"pcapng magic only", section[:4], "x.pcap: offset 0: block header cut short"},
		{"section header cut", section[:11], "x.pcap: offset 0: section header cut short"},
		{"no byte order", flip(section, 8, 0), "x.pcap: offset 0: not a pcap or pcapng file"},
		{"pcapng version 2", flip(section, 12, 2), "x.pcap: offset 0: pcapng version 2 is not supported"},
		{"short section", block(little, blockSection, little.AppendUint32(nil, byteOrderMagic)), "x.pcap: offset 0: section header cut short"},
		{"block length 8", cat(section, little.AppendUint32(nil, 1), little.AppendUint32(nil, 8)), "x.pcap: offset 28: block of impossible length 8"},
		{"odd block length", cat(section, little.AppendUint32(nil, 1), little.AppendUint32(nil, 21)), "x.pcap: offset 28: block of impossible length 21"},
		{"insane block length", cat(section, little.AppendUint32(nil, 6), little.AppendUint32(nil, 0xfffffffc)), "x.pcap: offset 28: block of 4294967292 bytes is longer than any packet"},
		{"insane unknown block", cat(section, little.AppendUint32(nil, 99), little.AppendUint32(nil, 0xfffffffc)), "x.pcap: offset 28: block cut short"},
		{"lengths that differ", flip(section, 24, 32), "x.pcap: offset 0: block of length 28 ends with length 32"},
		{"short interface", cat(section, block(little, blockInterface, make([]byte, 4))), "x.pcap: offset 28: interface block cut short"},
		{"time resolution", cat(section, interfaceBlock(little, 1, option(little, interfaceTimeUnit, 20)...)), "x.pcap: offset 28: time resolution 0x14 is not supported"},
		{"option beyond its block", cat(section, interfaceBlock(little, 1, 9, 0, 200, 0)), "x.pcap: offset 28: option longer than its block"},
		{"too many interfaces", many, fmt.Sprintf("x.pcap: offset %d: too many interfaces", len(many)-20)},
		{"packet without interface", cat(section, packet), "x.pcap: offset 28: packet of interface 0, which is not described"},
		{"packet of a section before", cat(eth, section, packet), "x.pcap: offset 76: packet of interface 0, which is not described"},
		{"packet of link type 147", cat(section, interfaceBlock(little, 147), packet), fmt.Sprintf("x.pcap: offset %d: link type 147 is not supported (packets passed over: 1)", 48+len(packet))},
		{"short packet block", cat(eth, block(little, blockEnhanced, make([]byte, 8))), "x.pcap: offset 48: packet block cut short"},
		{"packet longer than its block", cat(eth, flip(packet, 20, 255)), "x.pcap: offset 48: packet longer than its block"},
		{"short simple packet", cat(eth, block(little, blockSimple)), "x.pcap: offset 48: packet block cut short"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range ways {
				_, err := readAll(bytes.NewReader(tt.file), size)
				var fileErr *FileError
				if !errors.As(err, &fileErr) || err.Error() != tt.want {
					t.Errorf("%d at a time: got  %v\nwant %s", size, err, tt.want)
				}
			}
		})
	}
}

// TestFileSections: as many sections as somebody joined, each with its interfaces.
func TestFileSections(t *testing.T) {
	const sections = maxInterfaces + 1
	one := cat(sectionBlock(little), interfaceBlock(little, linkEthernet), packetBlock(little, 0, 0, frameA))
	got, err := readAll(bytes.NewReader(bytes.Repeat(one, sections)), 8)
	if err != nil || len(got) != sections || !strings.HasSuffix(got[sections-1], "NOOP") {
		t.Errorf("%d events, %v", len(got), err)
	}
}

// TestFileKeepsWhatItCanRead: what lies on an interface of a strange kind takes nothing
// away from the others, and is told at the end.
func TestFileKeepsWhatItCanRead(t *testing.T) {
	file := cat(sectionBlock(little), interfaceBlock(little, 147), interfaceBlock(little, linkEthernet),
		packetBlock(little, 0, 0, frameA), packetBlock(little, 1, 0, frameA), packetBlock(little, 0, 0, frameA), packetBlock(little, 1, 0, frameB))
	for _, size := range ways {
		got, err := readAll(bytes.NewReader(file), size)
		if len(got) != 2 || err == nil || !strings.Contains(err.Error(), "link type 147 is not supported (packets passed over: 2)") {
			t.Errorf("%d at a time: %q, %v", size, got, err)
		}
	}
}

// TestFileCutEverywhere: whatever a file is cut at, what came before is kept
// and the error tells where.
func TestFileCutEverywhere(t *testing.T) {
	ng := cat(sectionBlock(little), interfaceBlock(little, linkEthernet), packetBlock(little, 0, 0, frameA), packetBlock(little, 0, 0, frameB))
	for name, file := range map[string][]byte{
		"pcap":   pcapFile(little, magicMicro, 1, frameA, frameB),
		"pcapng": ng,
	} {
		whole := 0
		for n := range len(file) + 1 {
			got, err := readAll(bytes.NewReader(file[:n]), 0)
			if together, err2 := readAll(bytes.NewReader(file[:n]), 8); !slices.Equal(got, together) || fmt.Sprint(err) != fmt.Sprint(err2) {
				t.Errorf("%s cut at %d: got %q, %v, and together %q, %v", name, n, got, err, together, err2)
			}
			if len(got) < whole {
				t.Fatalf("%s cut at %d: got %d events, want %d or more", name, n, len(got), whole)
			}
			whole = len(got)
			var fileErr *FileError
			if err != nil && (!errors.As(err, &fileErr) || fileErr.Offset > int64(n) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s cut at %d: got %v", name, n, err)
			}
		}
		if whole != 2 {
			t.Errorf("%s: got %d events, want 2", name, whole)
		}
	}
	zip := zipped(pcapFile(little, magicMicro, 1, frameA, frameB))
	for n := range zip {
		if _, err := readAll(bytes.NewReader(zip[:n]), 0); err == nil {
			t.Errorf("gzip cut at %d: got no error", n)
		}
	}
}

// TestFileErrorStays: a reader's own error has its place too, and is repeated.
func TestFileErrorStays(t *testing.T) {
	broken := errors.New("disk on fire")
	file := pcapFile(little, magicMicro, 1, frameA)
	f, err := NewFile("x.pcap", io.MultiReader(bytes.NewReader(file), iotest.ErrReader(broken)), newTestDecoder())
	must(t, err)
	var ev Event
	if err := f.Next(&ev); err != nil {
		t.Fatalf("first packet: %v", err)
	}
	for range 2 {
		if err := f.Next(&ev); !errors.Is(err, broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
	}
}

func TestOpenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "login.pcap")
	frames := [][]byte{frameA}
	// A packet of the largest size, and more than the window holds.
	for range 3 {
		frames = append(frames, ethernet(etherIPv4, set(ipv4Packet(protoTCP, tcpSegment(strings.Repeat("x", maxRecord-54))), 2, 0, 0)))
	}
	must(t, os.WriteFile(path, pcapFile(little, magicMicro, 1, frames...), 0o600))
	f, err := OpenFile(path, asIs, newTestDecoder())
	must(t, err)
	var (
		ev   Event
		size int
	)
	for err = f.Next(&ev); err == nil; err = f.Next(&ev) {
		size = len(ev.Segment.Payload)
	}
	if !errors.Is(err, io.EOF) || f.Packets() != 4 || size != maxRecord-54 {
		t.Errorf("got %d packets, last of %d bytes, %v", f.Packets(), size, err)
	}
	if read, total := f.Progress(); read != total || total == 0 {
		t.Errorf("got progress %d of %d", read, total)
	}
	must(t, f.Close())
	if _, err := OpenFile(path+".none", asIs, newTestDecoder()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}

// TestFileDoubtBeforePacket: two events of one frame have its number.
func TestFileDoubtBeforePacket(t *testing.T) {
	fragment := fragments4(7, tcpSegment(loginLine), 24)[0]
	file := pcapFile(little, magicMicro, 101, fragment, ipv4Reply(reply("+OK")), ipv4Reply(reply("+OK")))
	f, err := NewFile("x.pcap", bytes.NewReader(file), newTestDecoder())
	must(t, err)
	var got []string
	var ev Event
	for f.Next(&ev) == nil {
		got = append(got, fmt.Sprint(ev.Kind, f.Packets(), ev.Time.Sub(start).Round(time.Second)))
	}
	if want := "[1 2 1s 0 2 1s 0 3 2s]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestBatchRefuses: what Next refuses Batch does not hand on either, also where it
// lies in memory already: the first record makes the window large, and within those
// behind it it is filled again.
func TestBatchRefuses(t *testing.T) {
	plain := ethernet(etherIPv4, ipv4Packet(protoTCP, tcpSegment("x")))
	long := append(bytes.Clone(plain), make([]byte, maxRecord+1-len(plain))...)
	count := (maxRecord + maxRecord/4) / (pcapRecordLen + len(plain))
	frames := append([][]byte{make([]byte, maxRecord)}, slices.Repeat([][]byte{plain}, count)...)
	data := pcapFile(little, magicMicro, uint32(linkEthernet), append(frames, long)...)
	f, err := NewFile("x.pcap", bytes.NewReader(data), newTestDecoder())
	must(t, err)
	events, n := make([]Event, 8), 0
	for err == nil {
		var more int
		more, err = f.Batch(events)
		n += more
	}
	want := fmt.Sprintf("x.pcap: offset %d: record of %d bytes is longer than any packet", len(data)-len(long)-pcapRecordLen, len(long))
	if n != count || err.Error() != want {
		t.Errorf("%d events of %d, %v", n, count, err)
	}
}

// TestBatchAllocatesNothing, in either format.
func TestBatchAllocatesNothing(t *testing.T) {
	ng := cat(sectionBlock(little), interfaceBlock(little, linkEthernet))
	for range 3000 {
		ng = append(ng, packetBlock(little, 0, 1, frameA)...)
	}
	for name, data := range map[string][]byte{
		"pcap":   pcapFile(little, magicMicro, uint32(linkEthernet), slices.Repeat([][]byte{frameA}, 3000)...),
		"pcapng": ng,
	} {
		f, err := NewFile("x", bytes.NewReader(data), newTestDecoder())
		must(t, err)
		events, total := make([]Event, 8), 0
		allocs := testing.AllocsPerRun(300, func() {
			n, err := f.Batch(events)
			if total += n; n == 0 || err != nil {
				t.Errorf("%s: %d events, %v", name, n, err)
			}
		})
		if allocs != 0 || total < 2000 {
			t.Errorf("%s: %v allocations in a batch, %d records in all", name, allocs, total)
		}
	}
}
