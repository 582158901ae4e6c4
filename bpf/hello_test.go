package bpf

import (
	"bytes"
	"slices"
	"testing"
)

// serverHello is a record that holds one; change may spoil it.
func serverHello(change func([]byte)) []byte {
	b := append([]byte{
		22, 3, 3, 0, 0x2a, // record: handshake, TLS 1.2, length
		2, 0, 0, 0x26, // message: ServerHello, length
		3, 3, // version
	}, bytes.Repeat([]byte{7}, 32)...)
	b = append(b, 0, 0x13, 1, 0) // session id, cipher suite, compression
	if change != nil {
		change(b)
	}
	return b
}

// segment is a TCP segment with a payload.
func segment(payload []byte) []byte {
	return append(tcp(psh|ack, 12, 0), payload...)
}

func TestServerHellos(t *testing.T) {
	b := newBench(t, 0)
	must(t, b.watchHandshakes())
	reading, encrypted := tapFlow{State: tapFlowStateREADING}, tapFlow{State: tapFlowStateENCRYPTED}
	set := func(at int, values ...byte) []byte {
		return serverHello(func(b []byte) { copy(b[at:], values) })
	}
	retry := []byte{
		0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91,
		0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
	}
	good, warning := serverHello(nil), []byte{21, 3, 3, 0, 2, 1, 112}
	for i, test := range []struct {
		name    string
		ingress bool
		flow    tapFlow
		packet  []byte
		want    int
	}{
		{"well", false, reading, ip4(6, 0, segment(good)), 1},
		{"behind options", false, reading, ip4(6, 8, segment(good)), 1},
		{"IPv6", false, reading, ip6(6, segment(good)), 1},
		{"encrypted", false, encrypted, ip4(6, 0, segment(good)), 1},
		{"TLS 1.0", false, reading, ip4(6, 0, segment(set(0, 22, 3, 1, 0, 0x2a, 2, 0, 0, 0x26, 3, 1))), 1},
		{"with more in the record", false, reading, ip4(6, 0, segment(append(set(3, 1, 0x2a), make([]byte, 256)...))), 1},
		{"behind a warning", false, reading, ip4(6, 0, segment(slices.Concat(warning, good))), 1},
		{"behind two", false, reading, ip4(6, 0, segment(slices.Concat(warning, warning, good))), 0},
		{"cut behind a warning", false, reading, ip4(6, 0, segment(slices.Concat(warning, good[:42]))), 0},
		{"behind a fatal alert", false, reading, ip4(6, 0, segment(slices.Concat([]byte{21, 3, 3, 0, 2, 2, 112}, good))), 0},
		{"from the client", true, reading, ip4(6, 0, segment(good)), 0},
		{"done", false, tapFlow{State: tapFlowStateDONE}, ip4(6, 0, segment(good)), 0},
		{"lost", false, tapFlow{State: tapFlowStateLOST}, ip4(6, 0, segment(good)), 0},
		{"opening", false, tapFlow{State: tapFlowStateOPENING}, ip4(6, 0, segment(good)), 0},
		{"cut before the random's end", false, reading, ip4(6, 0, segment(good[:42])), 0},
		{"UDP", false, reading, ip4(17, 0, segment(good)), 0},
		{"IPv6 extension header", false, reading, ip6(60, destinationOptions(segment(good))), 0},
		{"application data", false, reading, ip4(6, 0, segment(set(0, 23))), 0},
		{"ClientHello", false, reading, ip4(6, 0, segment(set(5, 1))), 0},
		{"HelloRetryRequest", false, reading, ip4(6, 0, segment(set(11, retry...))), 0},
		{"no TLS version of the record", false, reading, ip4(6, 0, segment(set(1, 2))), 0},
		{"unknown minor version of the record", false, reading, ip4(6, 0, segment(set(2, 5))), 0},
		{"DTLS", false, reading, ip4(6, 0, segment(set(9, 0xfe, 0xfd))), 0},
		{"SSL 3", false, reading, ip4(6, 0, segment(set(10, 0))), 0},
		{"message beyond its record", false, reading, ip4(6, 0, segment(set(8, 0x27))), 0},
		{"message of 64 KiB", false, reading, ip4(6, 0, segment(set(6, 1))), 0},
		{"message too short", false, reading, ip4(6, 0, segment(set(8, 0x25))), 0},
		{"record too long", false, reading, ip4(6, 0, segment(set(3, 0x40, 1))), 0},
		{"not at the start", false, reading, ip4(6, 0, segment(append([]byte{'x'}, good...))), 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			// A random of its own, or the connections would doubt each other.
			if at := bytes.Index(test.packet, bytes.Repeat([]byte{7}, 32)); at >= 0 {
				copy(test.packet[at:], bytes.Repeat([]byte{byte(100 + i)}, 32))
			}
			b.expect(t, test.flow)
			prog := b.objs.RelaygateOut
			if test.ingress {
				prog = b.objs.RelaygateIn
			}
			var hellos, lost int
			for _, r := range b.run(t, prog, test.packet) {
				switch r.Kind {
				case Handshake:
					hellos++
				case Lost:
					lost++
				}
			}
			if hellos != test.want || lost != 0 {
				t.Errorf("%d handshakes and %d lost, want %d and 0", hellos, lost, test.want)
			}
		})
	}
}

func TestNoHandshakesUnasked(t *testing.T) {
	b := newBench(t, 0)
	b.expect(t, tapFlow{State: tapFlowStateREADING})
	for _, r := range b.run(t, b.objs.RelaygateOut, ip4(6, 0, segment(serverHello(nil)))) {
		if r.Kind != Packet {
			t.Errorf("record is %+v before anybody asked for handshakes", r)
		}
	}
	if n := b.Randoms(t); n != 0 {
		t.Errorf("%d randoms", n)
	}
}
