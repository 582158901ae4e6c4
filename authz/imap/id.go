package imap

import (
	"bytes"
	"net/netip"

	"relaygate/authz/proxy"
)

// originating reads the client's address out of the parameters of ID (RFC 2971
// §3.3): the field x-originating-ip, with which mail proxies name the client
// that they speak for. The address is not valid if there is none; ok is false
// if what stands there is no address, or a second one. A list that goes on in a
// literal announces nobody.
func originating(list []byte) (client netip.Addr, ok bool) {
	list, found := bytes.CutPrefix(bytes.TrimSpace(list), []byte{'('})
	list, closed := bytes.CutSuffix(list, []byte{')'})
	if !found || !closed {
		return client, true
	}
	for len(list) > 0 {
		var field, value []byte
		field, list = parameter(list)
		value, list = parameter(list)
		if !bytes.EqualFold(field, []byte("x-originating-ip")) || bytes.EqualFold(value, []byte("NIL")) {
			continue
		}
		if client, ok = proxy.Announce(client, value); !ok {
			return client, false
		}
	}
	return client, true
}

// parameter cuts a string or NIL from a list. Escapes are left as they are: no
// address needs one.
func parameter(list []byte) (value, rest []byte) {
	list = bytes.TrimLeft(list, " ")
	quoted, isQuoted := bytes.CutPrefix(list, []byte{'"'})
	if !isQuoted {
		value, rest, _ = bytes.Cut(list, []byte{' '})
		return value, rest
	}
	for i := 0; i < len(quoted); i++ {
		switch quoted[i] {
		case '\\':
			i++
		case '"':
			return quoted[:i], quoted[i+1:]
		}
	}
	return quoted, nil
}

// speaksFor takes the positive answer to an ID in which the peer announces its client.
func (d *Dialogue) speaksFor(c *command) {
	switch {
	case !d.Trusted():
		// Its address is a proxy's, behind which are others than who logs in.
		d.taint("a proxy speaks for the client (ID with x-originating-ip was accepted)")
	case c.twin:
		// Which of the two commands was answered only the number tells.
		d.taint("a proxy announces a client with a tag that is used twice")
	case !d.SpeaksFor(c.client):
		d.taint(proxy.ReasonTwoClients)
	default:
		d.endCommand(c)
	}
}
