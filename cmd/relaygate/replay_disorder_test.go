package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDisorder replays captures of which the packets came late, each by another time, as
// where several threads capture, or a mirror port holds packets back. Decoys, which the
// server's kernel dropped, then stand before its answer, and what it took behind that.
func TestDisorder(t *testing.T) {
	for _, c := range readTruth(t) {
		if !strings.HasPrefix(c.File, "pkt-") {
			continue
		}
		data := unpacked(t, c.File)
		for _, late := range []time.Duration{100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 50 * time.Millisecond} {
			for seed := range uint64(6) {
				t.Run(fmt.Sprintf("%s/%v/%d", strings.TrimSuffix(c.File, ".gz"), late, seed), func(t *testing.T) {
					file := filepath.Join(t.TempDir(), "x.pcap")
					rng := rand.New(rand.NewPCG(seed, uint64(late)))
					worn := delayed(data, func([]byte) time.Duration { return upTo(rng, late) })
					must(t, os.WriteFile(file, worn, 0o600))
					want := c.Successes
					for _, r := range replay(t, file) {
						if r.Result == "success" {
							want = take(t, want, r, c)
						}
					}
				})
			}
		}
	}
}

// TestOneDirectionLate replays all captures as a mirror port shows them that holds one
// direction back, and as two threads do: what a login needs is there, in another order.
func TestOneDirectionLate(t *testing.T) {
	const ms = time.Millisecond
	rng := rand.New(rand.NewPCG(5, 6))
	constant := func(d time.Duration) func() time.Duration { return func() time.Duration { return d } }
	jitter := func(d time.Duration) func() time.Duration { return func() time.Duration { return upTo(rng, d) } }
	for _, tt := range []struct {
		name           string
		client, server func() time.Duration
		share          float64 // of the logins, at least; where the server is late, some clients reset before
	}{
		{"the client by 50 ms", constant(50 * ms), constant(0), 0.99},
		{"the server by 50 ms", constant(0), constant(50 * ms), 0.9},
		{"both by up to 50 ms", jitter(50 * ms), jitter(50 * ms), 0.94},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, right := 0, 0
			for _, c := range readTruth(t) {
				data := unpacked(t, c.File)
				if len(c.Successes) == 0 || binary.LittleEndian.Uint32(data) != 0xa1b2c3d4 {
					continue // or pcapng, or of another byte order
				}
				worn := delayed(data, func(record []byte) time.Duration {
					if sentByServer(record) {
						return tt.server()
					}
					return tt.client()
				})
				file := filepath.Join(t.TempDir(), "x.pcap")
				must(t, os.WriteFile(file, worn, 0o600))
				want := c.Successes
				for _, r := range replay(t, file) {
					if r.Result == "success" {
						want = take(t, want, r, c)
					}
				}
				all, right = all+len(c.Successes), right+len(c.Successes)-len(want)
			}
			t.Logf("%d of %d", right, all)
			if all < 1000 || float64(right) < tt.share*float64(all) {
				t.Errorf("%d of %d logins were read", right, all)
			}
		})
	}
}

// TestAnswerLate: the file shows a server's answer to a SYN behind what its client then
// sends, and behind that a copy of it which the server's kernel dropped. What was between
// the same ends before is done, or is still read.
func TestAnswerLate(t *testing.T) {
	const server, client, syn, rst, ack, urg = 110, 40000, 2, 4, 16, 32
	for name, before := range map[string][]packetOf{
		"nothing": nil,
		"an open connection": {
			{client, 100, 0, syn, ""},
			{server, 500, 101, syn | ack, ""},
			{client, 101, 501, ack, ""},
			{server, 501, 101, ack, "+OK ready\r\n"},
			{client, 101, 512, rst, ""},
		},
		"one that is done": {
			{client, 100, 0, syn, ""},
			{server, 500, 101, syn | ack, ""},
			{client, 101, 501, ack, ""},
			{server, 501, 101, ack, "+OK ready\r\n"},
			{client, 101, 512, urg | ack, "x"},
			{client, 102, 512, rst, ""},
		},
		"one that is held": {
			{client, 100, 0, syn, ""},
			{server, 500, 101, syn | ack, ""},
			{client, 101, 501, ack, ""},
			{server, 501, 101, ack, "+OK ready\r\n"},
			{client, 101, 512, ack, "USER mallory\r\nPASS x\r\n"},
			{server, 512, 123, ack, "+OK\r\n+OK\r\n"},
			{client, 123, 522, rst, ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			packets := append(before,
				packetOf{client, 9000, 0, syn, ""},
				packetOf{client, 9001, 7001, ack, ""},
				packetOf{client, 9001, 7001, ack, "XXXX alice\r\nCAPA  \r\n "},
				packetOf{server, 7000, 9001, syn | ack, ""},
				packetOf{server, 7001, 9001, ack, "+OK ready\r\n"},
				packetOf{client, 9001, 7012, ack, "USER alice\r\nPASS x\r\n"},
				packetOf{server, 7012, 9021, ack, "+OK\r\n+OK\r\n"})
			file := filepath.Join(t.TempDir(), "x.pcap")
			must(t, os.WriteFile(file, pcapOf(packets), 0o600))
			for _, r := range replay(t, file) {
				if r.User == "alice" {
					t.Errorf("%s: %+v", r.Result, r)
				}
			}
		})
	}
}

// packetOf is a segment from a port, 110 that of the server.
type packetOf struct {
	from     uint16
	seq, ack uint32
	flags    byte
	payload  string
}

// pcapOf is a capture of them, a millisecond apart.
func pcapOf(packets []packetOf) []byte {
	be, le := binary.BigEndian, binary.LittleEndian
	file := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0}
	for i, p := range packets {
		from, to := []byte{192, 0, 2, 7}, []byte{192, 0, 2, 1}
		source, target := p.from, uint16(110)
		if p.from == 110 {
			from, to, target = to, from, 40000
		}
		frame := append([]byte{2, 0, 0, 0, 0, to[3], 2, 0, 0, 0, 0, from[3], 8, 0}, 0x45, 0)
		frame = be.AppendUint16(frame, uint16(40+len(p.payload)))
		frame = append(append(append(frame, 0, 0, 0, 0, 64, 6, 0, 0), from...), to...)
		frame = be.AppendUint16(be.AppendUint16(frame, source), target)
		frame = be.AppendUint32(be.AppendUint32(frame, p.seq), p.ack)
		frame = append(append(frame, 0x50, p.flags, 0xff, 0xff, 0, 0, 0, 0), p.payload...)
		file = le.AppendUint32(le.AppendUint32(file, 1_700_000_000), uint32(i*1000))
		file = append(le.AppendUint32(le.AppendUint32(file, uint32(len(frame))), uint32(len(frame))), frame...)
	}
	return file
}

// sentByServer reports whether a record of a plain frame is of a segment from a mail port.
func sentByServer(record []byte) bool {
	const ip, ip4, ip6 = 16 + 14, 16 + 14 + 20, 16 + 14 + 40
	tcp := ip4
	if len(record) > ip && record[ip]>>4 == 6 {
		tcp = ip6
	}
	return len(record) >= tcp+2 && slices.Contains([]uint16{110, 143, 993, 995}, binary.BigEndian.Uint16(record[tcp:]))
}

// upTo is a time at random, in microseconds.
func upTo(rng *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rng.Int64N(d.Microseconds()+1)) * time.Microsecond
}

// delayed is a capture of which each packet came and was noted late, by a time.
func delayed(capture []byte, late func(record []byte) time.Duration) []byte {
	head, records := recordsOf(bytes.Clone(capture))
	type packet struct {
		micros uint64
		record []byte
	}
	var packets []packet
	for _, r := range records {
		le := binary.LittleEndian
		at := uint64(le.Uint32(r))*1e6 + uint64(le.Uint32(r[4:])) + uint64(late(r).Microseconds())
		le.PutUint32(r, uint32(at/1e6))
		le.PutUint32(r[4:], uint32(at%1e6))
		packets = append(packets, packet{at, r})
	}
	slices.SortStableFunc(packets, func(a, b packet) int { return cmp.Compare(a.micros, b.micros) })
	out := bytes.Clone(head)
	for _, p := range packets {
		out = append(out, p.record...)
	}
	return out
}
