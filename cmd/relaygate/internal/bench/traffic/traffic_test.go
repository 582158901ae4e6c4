package traffic

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"relaygate/bpf/bpftest"
)

var must = bpftest.Must

// TestGenerate: the same profile gives the same bytes; every packet is sound to
// gopacket, and none goes back in time.
func TestGenerate(t *testing.T) {
	for _, p := range []Profile{Logins(50), Downloads(3), Mixed(20)} {
		t.Run(p.Name, func(t *testing.T) {
			var file, again bytes.Buffer
			truth, err := Generate(&file, p)
			must(t, err)
			if _, err := Generate(&again, p); err != nil {
				t.Fatal(err)
			}
			if sha256.Sum256(file.Bytes()) != sha256.Sum256(again.Bytes()) {
				t.Error("two runs differ")
			}
			if truth.Bytes != int64(file.Len()) || truth.Succeeded == 0 || truth.MailPackets > truth.Packets {
				t.Errorf("%d bytes, truth %+v", file.Len(), truth)
			}
			if others := truth.Packets - truth.MailPackets; (others > 0) != (p.Background > 0) {
				t.Errorf("%d packets of other ports", others)
			}
			if n := readAll(t, &file); n != truth.Packets {
				t.Errorf("read %d packets, want %d", n, truth.Packets)
			}
		})
	}
}

func readAll(t *testing.T, r io.Reader) (n int64) {
	t.Helper()
	in, err := pcapgo.NewReader(r)
	must(t, err)
	before := int64(0)
	for ; ; n++ {
		data, ci, err := in.ReadPacketData()
		if errors.Is(err, io.EOF) {
			return n
		}
		must(t, err)
		if ci.Timestamp.UnixMicro() < before {
			t.Fatalf("packet %d goes back in time", n)
		}
		before = ci.Timestamp.UnixMicro()
		p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
		if p.ErrorLayer() != nil || p.Layer(layers.LayerTypeTCP) == nil {
			t.Fatalf("packet %d: %v", n, p)
		}
	}
}
