package main

import (
	"net/netip"
	"strconv"
)

// What follows is strconv.AppendUint and netip.Addr.AppendTo for the numbers and
// the IPv4 addresses of a line, at a fraction of the instructions: text of a fixed
// size comes from a table, and what of it is too much is cut off.

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
	case !a.IsValid():
		return b
	case !a.Is4():
		return a.AppendTo(b)
	}
	for _, n := range a.As4() {
		b = appendOctet(b, n)
	}
	return b[:len(b)-1]
}
