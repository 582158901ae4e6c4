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
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket/layers"

	"relaygate/authz"
	"relaygate/capture"
	"relaygate/cmd/relaygate/internal/bench/traffic"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/engine"
)

// TestBatch: the verdicts on a capture are the same however its packets come in: decoded one
// by one or several at one time, in the one format or the other, packed or not, in pieces
// of any size. The captures are real ones, worn: packets are missing, come twice, or
// change places, and all of it happens again between the same ports.
func TestBatch(t *testing.T) {
	t.Parallel()
	cfg, err := config.Default()
	must(t, err)
	captures := capturesOf(t)
	names := slices.Sorted(maps.Keys(captures))
	verdicts := 0
	for seed := range uint64(len(names) + 400) {
		rng := rand.New(rand.NewPCG(seed, 8))
		name := names[int(seed)%len(names)]
		head, records := recordsOf(captures[name])
		if seed >= uint64(len(names)) {
			if len(records) > 2000 {
				continue // it takes too long to do so often
			}
			records = wear(rng, records, rng.Float64()*0.1)
		}
		read := func(file io.Reader, size int) []string { return verdictsOf(t, cfg.Services, file, size) }
		plain := slices.Concat(append([][]byte{head}, records...)...)
		single := read(bytes.NewReader(plain), 0)
		verdicts += len(single)
		for way, got := range map[string][]string{
			"together":  read(bytes.NewReader(plain), batch),
			"by some":   read(bytes.NewReader(plain), 2+rng.IntN(batch-2)),
			"in pieces": read(pieces{bytes.NewReader(plain), rng}, batch),
			"as pcapng": read(bytes.NewReader(pcapng(head, records)), batch),
			"sections":  read(bytes.NewReader(slices.Concat(pcapng(head, records[:len(records)/2]), pcapng(head, records[len(records)/2:]))), batch),
			"packed":    read(bytes.NewReader(packed(t, plain)), batch),
			"tagged":    read(bytes.NewReader(slices.Concat(append([][]byte{head}, tagged(head, records)...)...)), batch),
		} {
			if diff := cmp.Diff(single, got); diff != "" {
				t.Fatalf("%s, seed %d: one by one (-) and %s (+)\n%s", name, seed, way, diff)
			}
		}
	}
	if verdicts < 4000 {
		t.Errorf("only %d verdicts were compared", verdicts)
	}
}

// pieces hands on a few bytes with each call, as a pipe does.
type pieces struct {
	io.Reader
	rng *rand.Rand
}

func (p pieces) Read(b []byte) (int, error) {
	return p.Reader.Read(b[:min(len(b), 1+p.rng.IntN(4000))])
}

// packed is a file in gzip, in two members.
func packed(t *testing.T, file []byte) []byte {
	var z bytes.Buffer
	for _, part := range [][]byte{file[:len(file)/2], file[len(file)/2:]} {
		w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
		must(t, err)
		_, err = w.Write(part)
		must(t, errors.Join(err, w.Close()))
	}
	return z.Bytes()
}

// tagged puts packets of Ethernet into a VLAN, which the decoder has no quick way for.
func tagged(head []byte, records [][]byte) (all [][]byte) {
	le := binary.LittleEndian
	if le.Uint32(head[20:]) != uint32(layers.LinkTypeEthernet) {
		return records
	}
	for _, r := range records {
		if len(r) >= 16+14 {
			r = slices.Concat(r[:16+12], []byte{0x81, 0, 0, 7}, r[16+12:])
			le.PutUint32(r[8:], le.Uint32(r[8:])+4)
			le.PutUint32(r[12:], le.Uint32(r[12:])+4)
		}
		all = append(all, r)
	}
	return all
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

// wear lets a share of the records be lost, repeated or moved, and everything happen
// twice, the second time with other sequence numbers, at the same time or later.
func wear(rng *rand.Rand, records [][]byte, share float64) (worn [][]byte) {
	later := time.Duration(rng.IntN(2)*rng.IntN(5000)) * time.Millisecond
	for again := range uint32(2) {
		for _, r := range records {
			at := len(worn)
			if again > 0 {
				r = after(shift(r, 1_000_000), later)
			}
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

// after is a record of a later time.
func after(record []byte, later time.Duration) []byte {
	le := binary.LittleEndian
	at := time.Duration(le.Uint32(record[4:]))*time.Microsecond + later
	head := le.AppendUint32(nil, le.Uint32(record)+uint32(at/time.Second))
	head = le.AppendUint32(head, uint32(at%time.Second/time.Microsecond))
	return append(head, record[8:]...)
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
func verdictsOf(t *testing.T, services map[uint16]authz.Service, from io.Reader, size int) (all []string) {
	t.Helper()
	decoder := capture.NewDecoder(capture.NewPortSet(slices.Collect(maps.Keys(services))...))
	file, err := capture.NewFile("x", from, decoder)
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
