package main

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// What follows is strconv.AppendUint and netip.Addr.AppendTo for the numbers of a
// line, at a fraction of the instructions.

// decimals are the numbers below 1000 as three digits, the first one lowest, and
// above them how many digits there are without leading zeros.
var decimals = func() (texts [1000]uint32) {
	for n := range uint32(len(texts)) {
		size := uint32(1)
		if n >= 10 {
			size++
		}
		if n >= 100 {
			size++
		}
		texts[n] = '0' + n/100 | ('0'+n/10%10)<<8 | ('0'+n%10)<<16 | size<<24
	}
	return texts
}()

// appendThree appends all three digits of a number below 1000.
func appendThree(b []byte, n uint32) []byte {
	return binary.LittleEndian.AppendUint32(b, decimals[n])[:len(b)+3]
}

// appendShort appends a number below 1000.
func appendShort(b []byte, n uint32) []byte {
	text := decimals[n]
	size := text >> 24
	return binary.LittleEndian.AppendUint32(b, text>>((24-8*size)&31))[:len(b)+int(size)]
}

// appendPort appends a number.
func appendPort(b []byte, port uint16) []byte {
	n := uint32(port)
	if n < 1000 {
		return appendShort(b, n)
	}
	return appendThree(appendShort(b, n/1000), n%1000)
}

// appendAddr appends what MarshalText makes of an address.
func appendAddr(b []byte, a netip.Addr) []byte {
	switch {
	case a.Is4():
		for _, octet := range a.As4() {
			b = append(appendShort(b, uint32(octet)), '.')
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
		field := uint64(hexPairs[a[i]]) | uint64(hexPairs[a[i+1]])<<16
		leading := bits.LeadingZeros16(uint16(a[i])<<8|uint16(a[i+1])|1) / 4
		b = binary.LittleEndian.AppendUint32(b, uint32(field>>(8*leading)))[:len(b)+4-leading]
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
