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

// Peer is the other end of a connection. One that is a trusted proxy may announce, in a
// command of its own, the client that it speaks for.
type Peer struct {
	trusted   bool
	announced netip.Addr
}

// TrustPeer tells that it is such a proxy, before anything is read of it; Trusted says so.
func (p *Peer) TrustPeer()    { p.trusted = true }
func (p *Peer) Trusted() bool { return p.trusted }

// Announced is the client that it announced and the server took note of; it is not valid
// where there is none.
func (p *Peer) Announced() netip.Addr { return p.announced }

// SpeaksFor notes that the server took note of a client. It reports false if that is
// another one than before.
func (p *Peer) SpeaksFor(client netip.Addr) bool {
	if p.announced.IsValid() && p.announced != client {
		return false
	}
	p.announced = client
	return true
}
