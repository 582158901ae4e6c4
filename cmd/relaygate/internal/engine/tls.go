package engine

import (
	"relaygate/authz"
	"relaygate/authz/line"
	"relaygate/authz/proxy"
)

// tlsDialogue reads a port on which TLS starts with the first byte (RFC 8314
// §3). Packets show nothing there but that it is TLS.
type tlsDialogue struct {
	proxy.Peer // which can say nothing before TLS

	begun [2]byte // what the client said first
	n     int     // of begun
	done  bool
	out   [1]authz.Login
}

func (d *tlsDialogue) Done() bool { return d.done }

func (d *tlsDialogue) Feed(c authz.Chunk) []authz.Login {
	switch {
	case d.done || len(c.Bytes) == 0:
		return nil
	case c.Dir == authz.FromServer:
		// TLS begins with the client: a server that greets speaks something else.
		return d.end(authz.Tainted, "the server spoke first on a port that should begin with TLS")
	}
	d.n += copy(d.begun[d.n:], c.Bytes)
	switch {
	case d.n < len(d.begun):
		return nil
	case line.HelloTLS(d.begun[:]):
		return d.end(authz.Encrypted, line.ReasonHello)
	}
	return d.end(authz.Tainted, "clear text on a port that should begin with TLS")
}

func (d *tlsDialogue) end(r authz.Result, reason string) []authz.Login {
	d.done = true
	d.out[0] = authz.Login{Result: r, Reason: reason}
	return d.out[:]
}
