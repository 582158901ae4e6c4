package bpf

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// encode lays a record out as the programs do.
func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := binary.Append(nil, binary.NativeEndian, v)
	must(t, err)
	return b
}

func TestDecodeEvent(t *testing.T) {
	opened := encode(t, tapEvent{
		Kind: tapEventKindOPENED, Cookie: 7, Time: 8, Position: 9, Netns: 10, Uid: 11, Listener: 14, ClientIsn: 12, ServerIsn: 13,
		Family: 10, ClientPort: 50000, ServerPort: 143,
		Client: netip.MustParseAddr("::ffff:192.0.2.7").As16(), Server: netip.MustParseAddr("2001:db8::1").As16(),
	})
	for _, test := range []struct {
		name string
		raw  []byte
	}{
		{"empty", nil},
		{"cut", opened[:eventSize-1]},
		{"unknown kind", encode(t, tapEvent{Kind: 9})},
		{"no kind", encode(t, tapEvent{})},
	} {
		var rec Record
		if _, err := decodeEvent(test.raw, &rec); err == nil {
			t.Errorf("%s: no error, record is %+v", test.name, rec)
		}
	}
	var rec Record
	position, err := decodeEvent(opened, &rec)
	if err != nil || position != 9 || rec.Kind != Opened || rec.Cookie != 7 || rec.Time != 8 || rec.Netns != 10 || rec.UID != 11 || rec.Listener != 14 || rec.ClientISN != 12 || rec.ServerISN != 13 {
		t.Errorf("got %+v, position %d, %v", rec, position, err)
	}
	if want := netip.MustParseAddrPort("192.0.2.7:50000"); rec.Client != want {
		t.Errorf("client is %v, want the unmapped %v", rec.Client, want)
	}
	if want := netip.MustParseAddrPort("[2001:db8::1]:143"); rec.Server != want {
		t.Errorf("server is %v, want %v", rec.Server, want)
	}
}

func TestDecodePacket(t *testing.T) {
	head := func(captured uint32, data string) []byte {
		return append(encode(t, tapPacket{Cookie: 7, WireLen: 99, Captured: captured, Egress: 1}), data...)
	}
	for _, test := range []struct {
		name string
		raw  []byte
	}{
		{"empty", nil},
		{"cut", head(0, "")[:packetSize-1]},
		{"claims more than it holds", head(6, "hello")},
		{"claims far more than it holds", head(1<<32-1, "hello")},
	} {
		var rec Record
		if err := decodePacket(test.raw, &rec); err == nil {
			t.Errorf("%s: no error, record is %+v", test.name, rec)
		}
	}
	for _, test := range []struct {
		captured uint32
		want     string
	}{{5, "hello"}, {4, "hell"}, {0, ""}} {
		var rec Record
		err := decodePacket(head(test.captured, "hello"), &rec)
		if err != nil || string(rec.Data) != test.want || rec.WireLen != 99 || !rec.Egress || rec.Cookie != 7 {
			t.Errorf("%d captured: %+v, %v", test.captured, rec, err)
		}
	}
}

func TestDecodePlain(t *testing.T) {
	head := func(kind tapPacketKind, captured uint32, data string) []byte {
		plain := tapPlain{Head: tapPacket{Cookie: 7, WireLen: 99, Captured: captured, Egress: 1, Kind: kind}, Tgid: 3, Server: 2}
		return append(encode(t, plain), data...)
	}
	for _, test := range []struct {
		name string
		raw  []byte
	}{
		{"cut", head(tapPacketKindPLAIN, 0, "")[:plainSize-1]},
		{"claims more than it holds", head(tapPacketKindPLAIN, 6, "hello")},
		{"unknown kind", head(9, 5, "hello")},
	} {
		var rec Record
		if err := decodePacket(test.raw, &rec); err == nil {
			t.Errorf("%s: no error, record is %+v", test.name, rec)
		}
	}
	for _, kind := range []tapPacketKind{tapPacketKindPLAIN, tapPacketKindEARLY} {
		var rec Record
		err := decodePacket(head(kind, 5, "hello"), &rec)
		if err != nil || rec.Kind != Plain || string(rec.Data) != "hello" || rec.WireLen != 99 || !rec.Egress ||
			rec.Cookie != 7 || rec.TGID != 3 || rec.Owner != 2 || rec.Early != (kind == tapPacketKindEARLY) {
			t.Errorf("kind %d: %+v, %v", kind, rec, err)
		}
	}
}

func TestReasonsHaveWords(t *testing.T) {
	seen := map[string]Reason{"": None}
	for r := ForeignNetns; r <= Handed; r++ {
		words := r.String()
		if old, ok := seen[words]; ok || bytes.HasPrefix([]byte(words), []byte("unknown")) {
			t.Errorf("reason %d says %q, as %d does", r, words, old)
		}
		seen[words] = r
	}
	if got := Reason(99).String(); got != "unknown reason 99" {
		t.Errorf("reason 99 says %q", got)
	}
}
