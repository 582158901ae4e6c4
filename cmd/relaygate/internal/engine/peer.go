package engine

import (
	"net/netip"

	"relaygate/authz"
	"relaygate/authz/proxy"
)

const (
	reasonBadHeader  = "malformed PROXY header"
	reasonLateHeader = "the server spoke before the PROXY header was complete"
	reasonNoProxy    = "a PROXY header, from none of watch.trusted_proxies"

	reasonNamesNobody = "a proxy announces a client behind a PROXY header that names none"
)

// peer is what a trusted proxy says about the client that it speaks for. Such a
// proxy is never granted itself: if it announces nobody, nobody is granted.
type peer struct {
	scanner *proxy.Scanner // nil once the first bytes are known
	receipt *proxy.Receipt // nil where the server need not, or no longer, show that it took the header
	headed  bool           // there was a header
	// announced is whom the PROXY header names, client who it was in the end:
	// ID and XCLIENT announce too. Neither is valid where nobody is.
	announced, client netip.AddrPort
}

func newPeer() *peer { return &peer{scanner: &proxy.Scanner{}} }

// listen takes over what the dialogue heard. It returns a reason to taint if that is
// another client than the one who was announced before. A proxy that sends a header may
// pass on what its clients say: where it names nobody, they cannot either.
func (p *peer) listen(d dialogue) (reason string) {
	client := d.Announced()
	switch {
	case !client.IsValid(), client == p.client.Addr():
		return ""
	case p.client.IsValid():
		return proxy.ReasonTwoClients
	case p.headed:
		return reasonNamesNobody
	}
	p.client = netip.AddrPortFrom(client, 0)
	return ""
}

// header takes a PROXY header off the client's first bytes. It returns what
// remains to be read, begun before rest, and a reason to taint.
func (p *peer) header(protocol authz.Protocol, c authz.Chunk) (begun []byte, rest authz.Chunk, reason string) {
	if c.Dir == authz.FromServer {
		return nil, c, p.server(protocol, c)
	}
	if p.scanner == nil {
		return nil, c, ""
	}
	before := len(p.scanner.Begun())
	left, state := p.scanner.Next(c.Bytes)
	switch state {
	case proxy.Partial:
		c.Bytes = nil
		return nil, c, ""
	case proxy.Malformed:
		return nil, c, reasonBadHeader
	case proxy.Complete:
		p.announced, p.headed = p.scanner.Source(), true
		p.client, p.receipt, p.scanner = p.announced, &proxy.Receipt{}, nil
		c.Bytes = left
		return nil, c, ""
	}
	if before > 0 {
		begun, c.Bytes = p.scanner.Begun(), left
	}
	p.scanner = nil
	return begun, c, ""
}

// server takes clear text of the server. A header comes before it, or never.
func (p *peer) server(protocol authz.Protocol, c authz.Chunk) (reason string) {
	if p.scanner != nil && len(p.scanner.Begun()) > 0 {
		return reasonLateHeader
	}
	p.scanner = nil
	// What was cut off can be the refusal of the header.
	if p.receipt != nil && (!p.receipt.Server(protocol, c.Bytes) || c.Cut > 0 && !p.receipt.Done()) {
		return proxy.ReasonNotTaken
	}
	return ""
}

// taken reports whether the server is known to have taken the header, if there
// was one.
func (p *peer) taken() bool { return p.receipt == nil || p.receipt.Done() }

// encrypted takes note of TLS. What ID and XCLIENT announced before is forgotten
// with the rest. The header stays: who reads a header as a command cannot have
// begun TLS behind it, or has refused it before.
func (p *peer) encrypted(d dialogue) {
	p.scanner, p.receipt, p.client = nil, nil, p.announced
	d.TrustPeer()
}
