package proxy

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

// State is the outcome of Scanner.Next.
type State uint8

const (
	// Partial: all octets were taken, and the header is not complete.
	Partial State = iota
	// Complete: there is a header.
	Complete
	// Absent: the connection does not begin with a header.
	Absent
	// Malformed: it begins like one and is none.
	Malformed
)

// The bounds, in octets.
const (
	maxV1 = 107 // §2.1, line end included
	// maxV2 is room for the vectors that proxies add; a larger header is
	// malformed.
	maxV2 = 4096
)

const (
	prefixV1    = "PROXY "
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n" // §2.2
	fixedV2     = len(signatureV2) + 4
)

// Begins reports whether the first octets of a connection look like a header.
func Begins(b []byte) bool {
	return len(b) >= len(prefixV1) && begins(b, prefixV1) || len(b) >= len(signatureV2) && begins(b, signatureV2)
}

// Scanner reads the first octets of a connection. The zero value is ready.
type Scanner struct {
	buf    []byte
	source netip.AddrPort
}

// Begun is what the scanner took so far. After Absent it is what comes before
// the rest that Next returned.
func (s *Scanner) Begun() []byte { return s.buf }

// Source is the client that the header announces, after Complete. It is not valid where
// that is nobody: the proxy speaks for itself (§2.2, LOCAL), or does not know (§2.1,
// UNKNOWN).
func (s *Scanner) Source() netip.AddrPort { return s.source }

// Next takes octets up to the end of the header and returns what it left. It
// must not be called again after another state than Partial.
func (s *Scanner) Next(b []byte) (rest []byte, state State) {
	for len(b) > 0 {
		s.buf, b = append(s.buf, b[0]), b[1:]
		if state := s.judge(); state != Partial {
			return b, state
		}
	}
	return nil, Partial
}

// judge looks at what was taken so far.
func (s *Scanner) judge() State {
	switch {
	case begins(s.buf, prefixV1):
		return s.version1()
	case begins(s.buf, signatureV2):
		return s.version2()
	}
	return Absent
}

// begins reports whether b begins with prefix, as far as it has come.
func begins(b []byte, prefix string) bool {
	n := min(len(b), len(prefix))
	return string(b[:n]) == prefix[:n]
}

func (s *Scanner) version1() State {
	line, complete := bytes.CutSuffix(s.buf, []byte("\r\n"))
	switch {
	case !complete && len(s.buf) >= maxV1, !complete && s.buf[len(s.buf)-1] == '\n':
		return Malformed
	case !complete:
		return Partial
	}
	fields := strings.Split(string(line[len(prefixV1):]), " ")
	if fields[0] == "UNKNOWN" {
		return Complete
	}
	if len(fields) != 5 || fields[0] != "TCP4" && fields[0] != "TCP6" {
		return Malformed
	}
	source, ok := textAddrPort(fields[1], fields[3], fields[0] == "TCP4")
	_, ok2 := textAddrPort(fields[2], fields[4], fields[0] == "TCP4")
	if !ok || !ok2 {
		return Malformed
	}
	s.source = source
	return Complete
}

// textAddrPort reads an address and a port as §2.1 writes them.
func textAddrPort(addr, port string, four bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Is4() != four || a.Zone() != "" {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != port {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), true
}

// The octets behind the signature (§2.2).
const (
	commandLocal = 0x20
	commandProxy = 0x21

	familyTCP4 = 0x11
	familyTCP6 = 0x21
)

func (s *Scanner) version2() State {
	if len(s.buf) < fixedV2 {
		return Partial
	}
	command, family := s.buf[12], s.buf[13]
	length := int(binary.BigEndian.Uint16(s.buf[14:]))
	if command != commandLocal && command != commandProxy || fixedV2+length > maxV2 {
		return Malformed
	}
	if len(s.buf) < fixedV2+length {
		return Partial
	}
	if command == commandLocal {
		return Complete // whatever follows is to be ignored
	}
	body := s.buf[fixedV2:]
	var size int
	switch family {
	case familyTCP4:
		size = 4
	case familyTCP6:
		size = 16
	case 0x00, 0x12, 0x22, 0x31, 0x32: // unspecified, datagrams, local sockets
		return Complete
	default:
		return Malformed
	}
	if len(body) < 2*size+4 || !s.vectors(body[2*size+4:]) {
		return Malformed
	}
	a, _ := netip.AddrFromSlice(body[:size])
	s.source = netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(body[2*size:]))
	return Complete
}

// vectorCRC32C is the type of the vector that holds the header's checksum
// (§2.2.3), vectorHead the size of a vector's type and length.
const (
	vectorCRC32C = 0x03
	vectorHead   = 3
)

// vectors checks the type-length-value vectors at the header's end.
func (s *Scanner) vectors(b []byte) bool {
	for len(b) > 0 {
		if len(b) < vectorHead {
			return false
		}
		size := int(binary.BigEndian.Uint16(b[1:]))
		if len(b)-vectorHead < size {
			return false
		}
		value := b[vectorHead : vectorHead+size]
		if b[0] == vectorCRC32C && !s.checksum(value) {
			return false
		}
		b = b[vectorHead+size:]
	}
	return true
}

// checksum compares the header's CRC32C, for which its own octets are zero.
func (s *Scanner) checksum(value []byte) bool {
	if len(value) != 4 {
		return false
	}
	want := binary.BigEndian.Uint32(value)
	saved := [4]byte(value)
	clear(value)
	got := crc32.Checksum(s.buf, crc32.MakeTable(crc32.Castagnoli))
	copy(value, saved[:])
	return got == want
}
