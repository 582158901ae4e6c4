package main

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strconv"
)

// What follows is strconv.AppendUint and netip.Addr.AppendTo for the numbers of a
// line, at a fraction of the instructions: text of a fixed size comes from a table,
// and what of it is too much is cut off.

// thousandths are the numbers below 1000 as three digits.
var thousandths = func() (all [1000][3]byte) {
	for n := range all {
		all[n] = [3]byte{byte('0' + n/100), byte('0' + n/10%10), byte('0' + n%10)}
	}
	return all
}()

// octetText is an octet as an IPv4 address has it, with its dot.
type octetText struct {
	text [4]byte
	size uint8
}

var octets = func() (all [256]octetText) {
	for n := range all {
		text := append(strconv.AppendInt(all[n].text[:0], int64(n), 10), '.')
		all[n].size = uint8(len(text))
	}
	return all
}()

// appendMicros appends microseconds below a second, as six digits.
func appendMicros(b []byte, n uint32) []byte {
	b = append(b, thousandths[n/1000][:]...)
	return append(b, thousandths[n%1000][:]...)
}

// appendOctet appends an octet with its dot.
func appendOctet(b []byte, n uint8) []byte {
	o := &octets[n]
	return append(b, o.text[:]...)[:len(b)+int(o.size)]
}

// appendPort appends a port: nearly all of clients have four digits or five.
func appendPort(b []byte, port uint16) []byte {
	if port < 1000 {
		return strconv.AppendUint(b, uint64(port), 10)
	}
	b = appendOctet(b, uint8(port/1000))
	return append(b[:len(b)-1], thousandths[port%1000][:]...)
}

// appendAddr appends what MarshalText makes of an address.
func appendAddr(b []byte, a netip.Addr) []byte {
	switch {
	case a.Is4():
		for _, n := range a.As4() {
			b = appendOctet(b, n)
		}
		return b[:len(b)-1]
	case !a.IsValid():
		return b
	case a.Is4In6() || a.Zone() != "":
		return a.AppendTo(b)
	}
	return appendAddr6(b, a.As16())
}

// hexPairs are the octets as two digits, the first one lowest.
var hexPairs = func() (texts [256]uint16) {
	const hex = "0123456789abcdef"
	for n := range texts {
		texts[n] = uint16(hex[n>>4]) | uint16(hex[n&15])<<8
	}
	return texts
}()

// appendAddr6 appends an IPv6 address as RFC 5952 §4 wants it.
func appendAddr6(b []byte, a [16]byte) []byte {
	from, to := zeros(a)
	for i := 0; i < len(a); i += 2 {
		if i == from {
			b = append(b, ':', ':')
			if i = to; i == len(a) {
				break
			}
		} else if i > 0 {
			b = append(b, ':')
		}
		high, low := a[i], a[i+1]
		digits := uint32(hexPairs[high]) | uint32(hexPairs[low])<<16
		leading := bits.LeadingZeros16(uint16(high)<<8|uint16(low)|1) / 4
		b = binary.LittleEndian.AppendUint32(b, digits>>(8*leading))[:len(b)+4-leading]
	}
	return b
}

// zeros is the first of the longest runs of more than one zero field.
func zeros(a [16]byte) (from, to int) {
	from = len(a)
	for i, run := 0, 0; i < len(a); i += 2 {
		if run += 2; a[i]|a[i+1] != 0 {
			run = 0
		} else if run > max(to-from, 2) {
			from, to = i+2-run, i+2
		}
	}
	return from, to
}
