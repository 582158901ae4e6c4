package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/bench/traffic"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/engine"
)

// TestBatch: events that go through the stages together bring the verdicts that
// they bring one by one. The captures are real ones, worn: packets are missing,
// come twice, or change places, and all of it happens again between the same
// ports.
func TestBatch(t *testing.T) {
	cfg, err := config.Default()
	must(t, err)
	rng := rand.New(rand.NewPCG(10, 8))
	verdicts := 0
	captures := capturesOf(t)
	for _, name := range slices.Sorted(maps.Keys(captures)) {
		head, records := recordsOf(captures[name])
		for round := range 6 {
			worn := records
			if round > 0 {
				worn = wear(rng, records, float64(round-1)*0.02)
			}
			data := bytes.Join(append([][]byte{head}, worn...), nil)
			if round%2 == 1 {
				data = pcapng(head, worn)
			}
			single, batched := verdictsOf(t, cfg.Services, data, 0), verdictsOf(t, cfg.Services, data, 1+rng.IntN(batch))
			if diff := cmp.Diff(single, batched, cmpopts.EquateComparable(authz.Conn{})); diff != "" {
				t.Fatalf("%s, round %d: one by one (-) and together (+)\n%s", name, round, diff)
			}
			verdicts += len(single)
		}
	}
	if verdicts < 10_000 {
		t.Errorf("only %d verdicts were compared", verdicts)
	}
}

// capturesOf are the pcap files of the corpus, and a generated one.
func capturesOf(t *testing.T) map[string][]byte {
	t.Helper()
	all := make(map[string][]byte)
	for _, c := range readTruth(t) {
		f, err := os.Open(filepath.Join(corpusDir, c.File))
		must(t, err)
		z, err := gzip.NewReader(f)
		must(t, err)
		data, err := io.ReadAll(z)
		must(t, errors.Join(err, f.Close()))
		if len(data) > 24 && binary.LittleEndian.Uint32(data) == 0xa1b2c3d4 {
			all[c.File] = data
		}
	}
	if len(all) < 100 {
		t.Fatalf("only %d pcap files", len(all))
	}
	var file bytes.Buffer
	if _, err := traffic.Generate(&file, traffic.Logins(1000)); err != nil {
		t.Fatal(err)
	}
	all["generated"] = file.Bytes()
	return all
}

// recordsOf cuts a pcap file of little-endian order.
func recordsOf(file []byte) (head []byte, records [][]byte) {
	head, rest := file[:24], file[24:]
	for len(rest) >= 16 {
		size := min(16+int(binary.LittleEndian.Uint32(rest[8:])), len(rest))
		records = append(records, rest[:size])
		rest = rest[size:]
	}
	return head, records
}

// pcapng makes a file of the other format of a pcap file's parts
// (draft-ietf-opsawg-pcapng), with a block without packets now and then.
func pcapng(head []byte, records [][]byte) (file []byte) {
	order := binary.LittleEndian
	block := func(kind uint32, body []byte) {
		size := uint32(12 + (len(body)+3)&^3)
		file = order.AppendUint32(order.AppendUint32(file, kind), size)
		file = append(append(file, body...), make([]byte, int(size)-12-len(body))...)
		file = order.AppendUint32(file, size)
	}
	block(0x0a0d0d0a, append(order.AppendUint32(nil, 0x1a2b3c4d), 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255))
	block(1, []byte{head[20], head[21], 0, 0, 0, 0, 0, 0})
	for i, r := range records {
		if i%100 == 99 {
			block(5, make([]byte, 12)) // interface statistics
		}
		micros := uint64(order.Uint32(r))*1e6 + uint64(order.Uint32(r[4:]))
		body := order.AppendUint32(order.AppendUint32(make([]byte, 4), uint32(micros>>32)), uint32(micros))
		block(6, append(append(body, r[8:16]...), r[16:]...))
	}
	return file
}

// wear lets a share of the records be lost, repeated or moved, and everything
// happen twice, the second time with other sequence numbers.
func wear(rng *rand.Rand, records [][]byte, share float64) (worn [][]byte) {
	for again := range uint32(2) {
		for _, r := range records {
			at := len(worn)
			r = shift(r, again*1_000_000)
			switch worn = append(worn, r); {
			case rng.Float64() >= share:
			case rng.IntN(3) == 0:
				worn = worn[:at]
			case rng.IntN(2) == 0:
				worn = append(worn, r)
			case at > 0:
				worn[at-1], worn[at] = worn[at], worn[at-1]
			}
		}
	}
	return worn
}

// shift adds to the sequence and acknowledgement numbers of a plain packet.
func shift(record []byte, by uint32) []byte {
	const ip, ip4, ip6 = 16 + 14, 16 + 14 + 20, 16 + 14 + 40
	tcp := ip4
	switch {
	case len(record) >= ip6+20 && record[ip]>>4 == 6 && record[ip+6] == 6:
		tcp = ip6
	case len(record) < ip4+20 || record[ip] != 0x45 || record[ip+9] != 6:
		return record
	}
	record = bytes.Clone(record)
	for _, at := range []int{tcp + 4, tcp + 8} {
		binary.BigEndian.PutUint32(record[at:], binary.BigEndian.Uint32(record[at:])+by)
	}
	return record
}

// verdictsOf are those of a capture, of which size events at most are taken at
// one time, or with 0 one by one.
func verdictsOf(t *testing.T, services map[uint16]authz.Service, data []byte, size int) (all []string) {
	t.Helper()
	decoder := capture.NewDecoder(capture.NewPortSet(slices.Collect(maps.Keys(services))...))
	file, err := capture.NewFile("x", bytes.NewReader(data), decoder)
	must(t, err)
	done := new(capture.DoneSet)
	decoder.PassOver(done)
	reader := engine.NewFileReader(services, nil, authz.NewEvidence(authz.EvidenceConfig{NamesOnly: true}), done)
	note := func(verdicts []authz.Verdict) {
		for _, v := range verdicts {
			all = append(all, fmt.Sprintf("%v", v))
		}
	}
	events := make([]capture.Event, max(size, 1))
	for n := 0; err == nil; {
		if size == 0 {
			if err = file.Next(&events[0]); err == nil {
				note(reader.Feed(&events[0]))
			}
		} else if n, err = file.Batch(events); err == nil {
			note(reader.FeedAll(events[:n]))
		}
	}
	if !errors.Is(err, io.EOF) && !errors.As(err, new(*capture.FileError)) {
		t.Fatal(err)
	}
	note(reader.Flush(file.Time()))
	return all
}
