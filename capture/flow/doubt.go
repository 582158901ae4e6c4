package flow

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"relaygate/authz"
)

// doubtSlots is the size of the table that remembers when two addresses were
// last in doubt, for handshakes that are not complete. Two pairs that share a
// slot taint one another: that costs a login now and then, never a wrong one.
const doubtSlots = 1 << (64 - 52)

// doubt taints all flows between two addresses. It costs a walk over the flows
// of these two clients, at most Limits.FlowsPerClient each.
func (t *Table) doubt(a, b netip.Addr, reason string) {
	reason = cmp.Or(reason, reasonDoubt)
	t.doubtAt = t.tick
	for _, pair := range [2][2]netip.Addr{{a, b}, {b, a}} {
		client, server := pair[0], pair[1]
		t.doubts[doubtSlot(client.As16(), server.As16())] = lastDoubt{t.tick, reason}
		c := clientOf(client)
		head, ok := t.slots.list(c, c.hash(&t.slots.hasher))
		for next := head + 1; ok && next != 0; {
			id := next - 1
			f := t.slots.at(id)
			next = f.next
			if f.conn.Client.Addr() == client && f.conn.Server.Addr() == server {
				t.taint(id, reason)
			}
		}
	}
	t.expireBetween(a, b) // a connection that begins with what waits would be one of after it
}

// lastDoubt is that of two addresses: at which tick, and why.
type lastDoubt struct {
	at     int64
	reason string
}

// doubted says why the two ends of a connection were in doubt at or after a tick, which
// is not 0, "" if they were not.
func (t *Table) doubted(c *authz.Conn, since int64) string {
	if d := &t.doubts[doubtSlot(c.Client.Addr().As16(), c.Server.Addr().As16())]; d.at >= since {
		return d.reason
	}
	return ""
}

// unseen says why the beginning of a connection was not seen: what could not be read
// between its two ends may have been it.
func (t *Table) unseen(c *authz.Conn, otherwise string) string {
	return cmp.Or(t.doubted(c, 1), otherwise)
}

// doubtSlot is a plain hash, so that a file always gives the same verdicts. Who
// can choose a pair that collides can as well put the pair itself in doubt.
func doubtSlot(client, server [16]byte) int {
	h := uint64(0)
	for _, addr := range [2][16]byte{client, server} {
		h = (h ^ binary.BigEndian.Uint64(addr[:8])) * 0x9e3779b97f4a7c15 // 2^64 / golden ratio
		h = (h ^ h>>29 ^ binary.BigEndian.Uint64(addr[8:])) * 0x9e3779b97f4a7c15
	}
	return int(h >> 52) // the upper bits, doubtSlots of them
}
