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
					if err := os.WriteFile(file, delayed(data, late, seed), 0o600); err != nil {
						t.Fatal(err)
					}
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

// delayed is a capture each packet of which came and was noted late, by up to a time.
func delayed(capture []byte, late time.Duration, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, uint64(late)))
	head, records := recordsOf(bytes.Clone(capture))
	type packet struct {
		micros uint64
		record []byte
	}
	var packets []packet
	for _, r := range records {
		le := binary.LittleEndian
		at := uint64(le.Uint32(r))*1e6 + uint64(le.Uint32(r[4:])) + rng.Uint64N(uint64(late.Microseconds())+1)
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
