package proxy

import "net/netip"

// Reasons to believe nothing further of what a proxy says about its client.
const (
	ReasonNoAddress  = "a proxy announces a client that is no address"
	ReasonTwoClients = "a proxy announces two different clients"
)

// Announce reads a client that a proxy names in a command, and may name again: before is
// whom it named so far, not valid for nobody. It reports false if that is no address, or
// another one.
func Announce(before netip.Addr, text []byte) (client netip.Addr, ok bool) {
	addr, err := netip.ParseAddr(string(text))
	if err != nil || addr.Zone() != "" || before.IsValid() && before != addr.Unmap() {
		return netip.Addr{}, false
	}
	return addr.Unmap(), true
}
