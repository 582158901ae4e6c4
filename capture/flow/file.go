package flow

import (
	"net/netip"

	"relaygate/authz"
	"relaygate/capture"
)

// file takes a segment that is known by its addresses only.
func (t *Table) file(seg *capture.Segment) {
	if seg.Flags&(capture.SYN|capture.RST) != 0 {
		t.stations.add(seg.Link.Src)
	}
	hash := seg.Hash
	if hash == 0 {
		hash = t.hasher.Pair(seg.Src, seg.Dst)
	}
	dir, watched := t.orient(hash, seg)
	if !watched {
		t.stats.Ignored++
		return
	}
	client, server := &seg.Src, &seg.Dst
	if dir == authz.FromServer {
		client, server = server, client
	}
	r, known := t.find(hash, client, server)
	switch {
	case known && r&ringBit == 0:
		t.followed(ID(r), dir, seg)
	case known:
		t.shake(r, dir, seg)
	case dir == authz.FromClient && isSYN(seg):
		t.asks(hash, seg)
	case t.done.PassesOver(hash, seg.Flags, t.second()):
		// Its connection is done since it was decoded.
	case carries(seg) && !t.done.Has(hash):
		k := tuple{hash: hash}
		t.name(&k.conn, client, server)
		t.midstream(&k, reasonMidstream)
	}
}

// orient says which side of a segment is the server. Where both ports are
// watched, a known connection decides, and candidates of client bytes go before;
// else the SYN.
func (t *Table) orient(hash uint64, seg *capture.Segment) (dir authz.Dir, watched bool) {
	to, from := t.ports.Has(seg.Dst.Port()), t.ports.Has(seg.Src.Port())
	switch {
	case !from:
		return authz.FromClient, to
	case to && isSYN(seg):
		return authz.FromClient, true
	case to:
		if _, known := t.find(hash, &seg.Src, &seg.Dst); known {
			return authz.FromClient, true
		}
	}
	return authz.FromServer, true
}

// name says between whom a connection of a file is, and what it speaks.
func (t *Table) name(c *authz.Conn, client, server *netip.AddrPort) {
	c.Client, c.Server = *client, *server
	c.Service, _ = t.serviceOf(server.Port())
}

// followed takes a segment of a flow.
func (t *Table) followed(id ID, dir authz.Dir, seg *capture.Segment) {
	f := t.slots.at(id)
	f.last = t.now
	if f.guard.contradicts(seg) {
		t.taint(id, reasonStations)
	}
	if f.phase == free {
		return
	}
	if dir == authz.FromClient {
		if isSYN(seg) {
			t.synInside(f, seg)
		}
		f.aborted = f.aborted || seg.Flags&capture.RST != 0
		if f.phase == following {
			t.fromClient(id, f, seg)
		}
		return
	}
	if isSYNACK(seg) && t.replaced(id, f, seg) {
		return
	}
	if !f.guard.authentic(seg) {
		t.stats.Forged++
		return
	}
	f.aborted = false
	switch {
	case f.phase == following:
		t.fromServer(id, f, seg)
	case f.phase == finished && seg.Flags&(capture.FIN|capture.RST) != 0:
		t.close(id)
	}
}

// synInside notes a SYN between the ends of a flow. It is a new connection if
// the server answers it with a SYN-ACK; a challenge ACK (RFC 5961 §4) changes
// nothing.
func (t *Table) synInside(f *flow, seg *capture.Segment) {
	h := t.reuseOf(f)
	if h == nil {
		var r ref
		r, h = t.ringEntry(f.hash)
		h.conn, f.reuse = f.conn, r
	}
	t.syn(h, seg)
}

// reuseOf returns the SYN inside a flow, nil if there is none (any more).
func (t *Table) reuseOf(f *flow) *handshake {
	if f.reuse == 0 {
		return nil
	}
	h := t.entry(f.reuse)
	if !h.used || h.conn != f.conn || h.stage != asked {
		return nil
	}
	return h
}

// replaced reports whether a SYN-ACK between the ends of a flow belongs to
// another connection, which then takes its place.
func (t *Table) replaced(id ID, f *flow, seg *capture.Segment) bool {
	if seg.Seq+1 == f.serverISN && seg.Ack == f.clientISN {
		return false // the flow's own, once more
	}
	h := t.reuseOf(f)
	switch {
	case h != nil && t.synAck(h, seg):
		r := f.reuse
		t.close(id)
		t.done.Lift(h.hash)
		t.tuples.add(h.hash, uint32(r))
	case f.guard.authentic(seg):
		t.taint(id, reasonReplaced)
	case h == nil:
		t.stats.Forged++
	}
	return true
}
