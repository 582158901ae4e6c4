package pop3

import (
	"bytes"
	"net/netip"

	"relaygate/authz/proxy"
)

// announces reports whether c is an XCLIENT of a peer that may announce its client.
func (d *Dialogue) announces(c *command) bool { return c.verb == xclient && d.Trusted() }

// originating reads the client's address out of the attributes of XCLIENT, which
// mail proxies borrowed from SMTP: blank-separated NAME=value pairs. The address
// is not valid if there is none; ok is false if what stands there is no address,
// or a second one.
func originating(attributes []byte) (client netip.Addr, ok bool) {
	for pair := range bytes.FieldsSeq(attributes) {
		name, value, _ := bytes.Cut(pair, []byte{'='})
		if !bytes.EqualFold(name, []byte("ADDR")) {
			continue
		}
		const six = "IPV6:" // as SMTP writes it (RFC 5321 §4.1.3)
		if len(value) > len(six) && bytes.EqualFold(value[:len(six)], []byte(six)) {
			value = value[len(six):]
		}
		if client, ok = proxy.Announce(client, value); !ok {
			return client, false
		}
	}
	return client, true
}

// speaksFor takes the positive answer to an XCLIENT in which a trusted peer announces
// its client.
func (d *Dialogue) speaksFor(c *command) {
	if !d.SpeaksFor(c.client) {
		d.taint(proxy.ReasonTwoClients)
		return
	}
	d.answered()
}
