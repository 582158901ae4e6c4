package proxy

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"relaygate/authz"
)

// v2 makes a header of version 2 with the right length.
func v2(command, family byte, body string) string {
	head := append([]byte(signatureV2), command, family)
	return string(binary.BigEndian.AppendUint16(head, uint16(len(body)))) + body
}

const (
	body4 = "\xc0\x00\x02\x07\xc6\x33\x64\x02\xc8\x22\x00\x8f" // 192.0.2.7:51234 to 198.51.100.2:143
	src6  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07"
)

// withCRC appends the vector with the checksum, off by wrong.
func withCRC(wrong uint32) string {
	h := []byte(v2(commandProxy, familyTCP4, body4+"\x03\x00\x04\x00\x00\x00\x00"))
	sum := crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli)) + wrong
	binary.BigEndian.PutUint32(h[len(h)-4:], sum)
	return string(h)
}

var headers = []struct {
	name, in string
	state    State
	source   string // "" for none
}{
	{"v1 IPv4", "PROXY TCP4 192.0.2.7 198.51.100.2 51234 143\r\n", Complete, "192.0.2.7:51234"},
	{"v1 IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 51234 993\r\n", Complete, "[2001:db8::7]:51234"},
	{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 1 2\r\n", Complete, "192.0.2.7:1"},
	{"v1 unknown", "PROXY UNKNOWN\r\n", Complete, ""},
	{"v1 unknown with more", "PROXY UNKNOWN ffff::1 x y z\r\n", Complete, ""},
	{"v1 no line end", "PROXY TCP4 192.0.2.7 198.51.100.2 51234 143", Partial, ""},
	{"v1 half", "PRO", Partial, ""},
	{"v1 bare LF", "PROXY TCP4 192.0.2.7 198.51.100.2 51234 143\n", Malformed, ""},
	{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 107), Malformed, ""},
	{"v1 wrong family", "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n", Malformed, ""},
	{"v1 other family", "PROXY TCP6 192.0.2.7 198.51.100.2 1 2\r\n", Malformed, ""},
	{"v1 UDP", "PROXY UDP4 192.0.2.7 198.51.100.2 1 2\r\n", Malformed, ""},
	{"v1 leading zero", "PROXY TCP4 192.0.2.07 198.51.100.2 1 2\r\n", Malformed, ""},
	{"v1 zone", "PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n", Malformed, ""},
	{"v1 port too large", "PROXY TCP4 192.0.2.7 198.51.100.2 65536 2\r\n", Malformed, ""},
	{"v1 port with zero", "PROXY TCP4 192.0.2.7 198.51.100.2 01 2\r\n", Malformed, ""},
	{"v1 signed port", "PROXY TCP4 192.0.2.7 198.51.100.2 +1 2\r\n", Malformed, ""},
	{"v1 two blanks", "PROXY  TCP4 192.0.2.7 198.51.100.2 1 2\r\n", Malformed, ""},
	{"v1 a field too many", "PROXY TCP4 192.0.2.7 198.51.100.2 1 2 3\r\n", Malformed, ""},
	{"v1 empty", "PROXY \r\n", Malformed, ""},
	{"v1 lower case", "proxy TCP4 192.0.2.7 198.51.100.2 1 2\r\n", Absent, ""},
	{"v2 IPv4", v2(commandProxy, familyTCP4, body4), Complete, "192.0.2.7:51234"},
	{"v2 IPv6", v2(commandProxy, familyTCP6, src6+src6+"\x00\x01\x00\x02"), Complete, "[2001:db8::7]:1"},
	{"v2 local", v2(commandLocal, 0, ""), Complete, ""},
	{"v2 local with an address", v2(commandLocal, familyTCP4, body4), Complete, ""},
	{"v2 unspecified", v2(commandProxy, 0, ""), Complete, ""},
	{"v2 local socket", v2(commandProxy, 0x31, strings.Repeat("x", 216)), Complete, ""},
	{"v2 vectors", v2(commandProxy, familyTCP4, body4+"\x01\x00\x02h2\x04\x00\x00"), Complete, "192.0.2.7:51234"},
	{"v2 checksum", withCRC(0), Complete, "192.0.2.7:51234"},
	{"v2 wrong checksum", withCRC(1), Malformed, ""},
	{"v2 checksum of a wrong size", v2(commandProxy, familyTCP4, body4+"\x03\x00\x03abc"), Malformed, ""},
	{"v2 vector too long", v2(commandProxy, familyTCP4, body4+"\x01\x00\x03h2"), Malformed, ""},
	{"v2 half a vector", v2(commandProxy, familyTCP4, body4+"\x01\x00"), Malformed, ""},
	{"v2 short address", v2(commandProxy, familyTCP4, body4[:11]), Malformed, ""},
	{"v2 short IPv6 address", v2(commandProxy, familyTCP6, body4), Malformed, ""},
	{"v2 unknown family", v2(commandProxy, 0x51, body4), Malformed, ""},
	{"v2 unknown command", v2(0x22, familyTCP4, body4), Malformed, ""},
	{"v2 version 1", v2(0x11, familyTCP4, body4), Malformed, ""},
	{"v2 too long", v2(commandProxy, familyTCP4, strings.Repeat("x", 5000)), Malformed, ""},
	{"v2 half", v2(commandProxy, familyTCP4, body4)[:20], Partial, ""},
	{"blank line", "\r\na NOOP\r\n", Absent, ""},
	{"a command", "a LOGIN alice x\r\n", Absent, ""},
	{"begins alike", "PROXZ", Absent, ""},
	{"TLS", "\x16\x03\x01", Absent, ""},
}

func TestScanner(t *testing.T) {
	for _, tt := range headers {
		for _, chunk := range []int{1, 7, 1 << 16} {
			var s Scanner
			const behind = "a1 NOOP\r\n"
			b := []byte(tt.in)
			if tt.state == Complete {
				b = append(b, behind...)
			}
			state, left := Partial, []byte(nil)
			for piece := range slices.Chunk(b, chunk) {
				if state != Partial {
					left = append(left, piece...)
					continue
				}
				left, state = s.Next(bytes.Clone(piece))
			}
			if state != tt.state {
				t.Errorf("%s in pieces of %d: state %d, want %d", tt.name, chunk, state, tt.state)
				continue
			}
			source := ""
			if a := s.Source(); a.IsValid() {
				source = a.String()
			}
			if source != tt.source {
				t.Errorf("%s: source %q, want %q", tt.name, source, tt.source)
			}
			if state == Complete && string(left) != behind {
				t.Errorf("%s in pieces of %d: %q is left, want %q", tt.name, chunk, left, behind)
			}
			if got := string(s.Begun()) + string(left); state == Absent && got != tt.in {
				t.Errorf("%s: %q came back, want %q", tt.name, got, tt.in)
			}
		}
	}
}

func FuzzScanner(f *testing.F) {
	for _, h := range headers {
		f.Add([]byte(h.in), 3)
	}
	f.Fuzz(func(t *testing.T, in []byte, cut int) {
		var whole, split Scanner
		rest, state := whole.Next(bytes.Clone(in))
		cut = min(max(cut, 0), len(in))
		rest2, state2 := split.Next(bytes.Clone(in[:cut]))
		if state2 == Partial {
			rest2, state2 = split.Next(bytes.Clone(in[cut:]))
		} else {
			rest2 = append(bytes.Clone(rest2), in[cut:]...)
		}
		if state != state2 || !bytes.Equal(rest, rest2) || whole.Source() != split.Source() {
			t.Errorf("in one piece %d %q %v, in two %d %q %v", state, rest, whole.Source(), state2, rest2, split.Source())
		}
		if len(whole.Begun())+len(rest) != len(in) || len(whole.Begun()) > maxV2 {
			t.Errorf("%d octets taken and %d left of %d", len(whole.Begun()), len(rest), len(in))
		}
		if a := whole.Source(); a.IsValid() && (state != Complete || a.Addr().Is4In6() || a.Addr() != netip.MustParseAddr(a.Addr().String())) {
			t.Errorf("source %v in state %d", a, state)
		}
	})
}

func TestReceipt(t *testing.T) {
	for _, tt := range []struct {
		name     string
		protocol authz.Protocol
		server   string
		ok, done bool
	}{
		{"only the greeting", authz.POP3, "+OK ready\r\n", true, false},
		{"half an answer", authz.POP3, "+OK ready\r\n+OK", true, false},
		{"accepted", authz.POP3, "+OK ready\r\n+OK\r\n", true, true},
		{"refused", authz.POP3, "+OK ready\r\n-ERR unknown command\r\n+OK\r\n", false, false},
		{"refused later", authz.POP3, "+OK ready\r\n+OK\r\n-ERR\r\n", true, true},
		{"nothing", authz.POP3, "+OK ready\r\n\r\n", false, false},
		{"IMAP accepted", authz.IMAP, "* OK ready\r\n* CAPABILITY IMAP4rev1\r\na OK done\r\n", true, true},
		{"IMAP refused", authz.IMAP, "* OK ready\r\nPROXY BAD unknown\r\na OK done\r\n", false, false},
		{"IMAP refused another command", authz.IMAP, "* OK ready\r\na NO wrong password\r\n", true, true},
		{"IMAP version 2 refused", authz.IMAP, "* OK ready\r\nQUIT BAD unknown\r\na OK done\r\n", false, false},
		{"IMAP accepted the header's tag", authz.IMAP, "* OK ready\r\nPROXY OK done\r\n", false, false},
		{"IMAP refused without a tag", authz.IMAP, "* OK ready\r\n* BAD what\r\n", false, false},
		{"IMAP refused by nginx", authz.IMAP, "* OK ready\r\nBAD invalid command\r\n", false, false},
		{"IMAP bye", authz.IMAP, "* OK ready\r\n* BYE\r\n", false, false},
		{"IMAP continuation", authz.IMAP, "* OK ready\r\n+ go\r\n", true, true},
		{"IMAP long tag", authz.IMAP, "* OK ready\r\n" + strings.Repeat("t", 60) + " OK\r\n", false, false},
		{"IMAP data", authz.IMAP, "* OK ready\r\n* OK still\r\n", true, false},
		{"IMAP in lower case", authz.IMAP, "* ok ready\r\na ok done\r\n", true, true},
	} {
		for _, chunk := range []int{1, 5, 1 << 10} {
			var r Receipt
			ok := true
			for piece := range slices.Chunk([]byte(tt.server), chunk) {
				ok = ok && r.Server(tt.protocol, piece)
			}
			if ok != tt.ok || r.Done() != tt.done {
				t.Errorf("%s in pieces of %d: ok %v, done %v, want %v, %v", tt.name, chunk, ok, r.Done(), tt.ok, tt.done)
			}
		}
	}
}
