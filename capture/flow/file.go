package flow

import (
	"math"
	"net/netip"

	"relaygate/authz"
	"relaygate/capture"
)

// otherWay reports whether a segment that the server of a known connection seems
// to have sent is rather its client's of another, as both ports are watched: a SYN
// is, and candidates of client bytes go before.
func (t *Table) otherWay(hash uint64, seg *capture.Segment) bool {
	if isSYN(seg) {
		return true
	}
	_, known := t.find(hash, &seg.Src, &seg.Dst)
	return known
}

// unknown takes a segment whose ends lead to nothing.
func (t *Table) unknown(hash uint64, seg *capture.Segment) {
	to, from := t.ports.Has(seg.Dst.Port()), t.ports.Has(seg.Src.Port())
	switch {
	case !to && !from: // of no watched port
	case to && isSYN(seg):
		t.asks(hash, seg)
	case isSYN(seg) && seg.Sent == capture.SenderHost:
		t.opens(hash, seg)
	case t.done.Has(hash): // it comes behind its connection's end
	case (tells(seg) || isSYNACK(seg) || from && ends(seg)) && t.wait(hash, seg):
	case tells(seg):
		k := tuple{hash: hash}
		if from {
			t.name(&k, &seg.Dst, &seg.Src)
		} else {
			t.name(&k, &seg.Src, &seg.Dst)
		}
		t.midstream(&k, t.unseen(&k.conn, reasonMidstream))
	}
}

// name says between whom a connection of a file is, and what it speaks.
func (t *Table) name(k *tuple, client, server *netip.AddrPort) {
	k.conn.Client, k.conn.Server = *client, *server
	k.conn.Service, _ = t.serviceOf(server.Port())
	k.eitherWay = t.ports.Has(client.Port())
}

// followed takes a segment of a flow.
func (t *Table) followed(id ID, f *flow, dir authz.Dir, seg *capture.Segment) {
	silent := t.now - f.last
	f.last = t.now
	contradicts := f.guard.contradicts(seg)
	if contradicts {
		if t.taint(id, reasonStations); f.phase == free {
			return
		}
	}
	if dir == authz.FromClient {
		if seg.Flags&(capture.SYN|capture.RST) != 0 && !t.beginsOrEnds(id, f, seg) { // one question, mostly
			return
		}
		if f.reuse != 0 {
			t.aheadOfAnswer(f, seg)
		}
		if f.reads() && before(seg.Seq, f.clientNext) && carries(seg) {
			t.late(id, f, seg, silent)
		}
		if f.phase == following {
			t.fromClient(id, f, seg)
		}
		return
	}
	if isSYNACK(seg) && t.replaced(id, f, seg, contradicts) {
		return
	}
	if !f.guard.authentic(seg, contradicts) {
		t.stats.Forged++
		return
	}
	f.aborted = false
	switch {
	case f.phase == following:
		t.fromServer(id, f, seg)
	case f.phase == held:
		t.saidAgain(id, f, seg)
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
		r, h = t.ringEntry(f.hash, seg)
		h.tuple, f.reuse = f.tuple, r
	}
	t.syn(h, seg)
}

// beginsOrEnds takes a client's SYN or RST inside a flow. It reports false if it was one
// behind its end.
func (t *Table) beginsOrEnds(id ID, f *flow, seg *capture.Segment) bool {
	if isSYN(seg) {
		if f.phase == lingering {
			t.finish(id, f) // as at the next Feed
		}
		if f.phase == free {
			if r, known := t.find(f.hash, &seg.Src, &seg.Dst); known {
				t.shake(r, t.entry(r), authz.FromClient, seg)
			} else {
				t.unknown(f.hash, seg)
			}
			return false
		}
		t.synInside(f, seg)
	}
	if seg.Flags&capture.RST != 0 {
		f.aborted, f.reset = true, f.reset || f.resets(seg.Seq)
	}
	return true
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

// aheadOfAnswer notes what a client sent behind a SYN inside a flow. That can be of the
// connection that this begins, as a file can show the answer late.
func (t *Table) aheadOfAnswer(f *flow, seg *capture.Segment) {
	if !carries(seg) && seg.Flags&(capture.FIN|capture.URG) == 0 {
		return
	}
	end := seg.Seq + uint32(length(seg))
	if h := t.reuseOf(f); h != nil && (h.several || !before(end, h.clientISN)) {
		h.ahead = t.now
	}
}

// replaced reports whether a SYN-ACK between the ends of a flow belongs to
// another connection, which then takes its place.
func (t *Table) replaced(id ID, f *flow, seg *capture.Segment, contradicts bool) bool {
	if seg.Seq+1 == f.serverISN && seg.Ack == f.clientISN {
		return false // the flow's own, once more
	}
	h := t.reuseOf(f)
	switch {
	case h != nil && t.synAck(h, seg):
		r := f.reuse
		if f.phase == held && t.disorderly {
			t.taint(id, reasonNext) // which the copies that come late would be taken for
		}
		t.close(id)
		t.done.Lift(h.hash)
		t.tuples.add(h.hash, uint32(r))
	case f.guard.authentic(seg, contradicts):
		t.breakOff(id, reasonReplaced)
	case h == nil:
		t.stats.Forged++
	}
	return true
}

// late takes client bytes that the server had acknowledged before they came. Its kernel
// has no use for such, but a file whose packets are out of order shows so what it took.
// So a copy that differs from what was read is a doubt, and one of what is kept no more:
// commands may have had the answers to others since then. What keeps a connection alive
// that was silent may be any byte (RFC 1122 §4.2.3.6).
func (t *Table) late(id ID, f *flow, seg *capture.Segment, silent int64) {
	start, n := firstByte(seg), length(seg)
	from := distance(f.clientNext, start)
	switch {
	case from == -1 && n == 1 && silent > t.waiting.late, f.client == nil, !before(f.clientISN, start+uint32(n)):
	case seg.Flags&capture.URG != 0:
		t.taint(id, reasonUrgent)
	case from < -f.client.kept || !f.client.took(from, seg.Payload):
		t.disorder()
		t.taint(id, reasonLate)
	case seg.Missing > 0 && from+len(seg.Payload) < 0:
		t.taint(id, reasonClientSnap)
	}
}

// midstream says once that a session is there which cannot be read. It takes no
// slot for longer than that: anybody can send such a segment.
func (t *Table) midstream(k *tuple, reason string) {
	id, f := t.begun(k, authz.Unauthenticated, math.MaxInt)
	t.taint(id, reason)
	if f.phase != free {
		t.close(id)
	}
	t.done.Add(k.hash, t.second())
}
