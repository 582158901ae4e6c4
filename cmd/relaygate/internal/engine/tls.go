package engine

import (
	"relaygate/authz"
	"relaygate/authz/proxy"
)

// tlsDialogue reads a port on which TLS starts with the first byte (RFC 8314
// §3). Packets show nothing there but that it is TLS.
type tlsDialogue struct {
	proxy.Peer // which can say nothing before TLS

	first byte
	seen  int
	done  bool
	out   [1]authz.Login
}

// The first two bytes of a connection in TLS: a handshake record of major
// version 3 (RFC 8446 §5.1).
const (
	recordHandshake = 0x16
	majorVersion    = 0x03
)

func (d *tlsDialogue) Done() bool { return d.done }

func (d *tlsDialogue) Feed(c authz.Chunk) []authz.Login {
	for _, b := range c.Bytes {
		if d.done {
			break
		}
		// TLS begins with the client: a server that greets speaks something else.
		if c.Dir == authz.FromServer {
			return d.end(authz.Tainted, "the server spoke first on a port that should begin with TLS")
		}
		d.seen++
		if d.seen == 1 {
			d.first = b
			continue
		}
		if d.first == recordHandshake && b == majorVersion {
			return d.end(authz.Encrypted, "TLS from the first byte")
		}
		return d.end(authz.Tainted, "clear text on a port that should begin with TLS")
	}
	return nil
}

func (d *tlsDialogue) end(r authz.Result, reason string) []authz.Login {
	d.done = true
	d.out[0] = authz.Login{Result: r, Reason: reason}
	return d.out[:]
}
