package flow

import (
	"relaygate/authz"
	"relaygate/capture"
)

// fromClient keeps what a client segment carries as a candidate, whatever its
// flags, until the server's acknowledgement says that the kernel has it.
func (t *Table) fromClient(id ID, f *flow, seg *capture.Segment) {
	start := firstByte(seg)
	// Offsets from the next byte to release. The kernel takes segments near
	// that byte only, so a difference that wrapped around is one it drops.
	from := distance(f.clientNext, start)
	to := from + length(seg)
	if seg.Flags&capture.URG != 0 && to >= 0 {
		t.breakOff(id, reasonUrgent)
		return
	}
	if seg.Lent && to >= 0 && !t.proxied(&f.conn) {
		t.breakOff(id, reasonLent)
		return
	}
	fin := seg.Flags&capture.FIN != 0
	if to < 0 || to == from && !fin || f.clientDone() {
		return
	}
	if before(start, f.clientISN) && carries(seg) {
		t.breakOff(id, reasonBefore) // up to the first byte, so the server may want it
		return
	}
	payload, cut := seg.Payload, seg.Missing > 0 && to > 0
	if from < 0 {
		payload = payload[min(-from, len(payload)):]
		from = 0
	}
	if limit := t.limits.ClientBytes; to > limit {
		t.past(f, max(from, limit))
		if from >= limit {
			return
		}
		payload = payload[:min(limit-from, len(payload))]
		fin = false
		cut = cut && from+len(payload) < limit
	}
	if cut {
		t.breakOff(id, reasonClientSnap)
		return
	}
	if reason := t.candidate(f, from, payload, fin, to); reason != "" {
		t.breakOff(id, reason)
	}
}

// past remembers the lowest candidate that is too far ahead to be kept.
func (t *Table) past(f *flow, off int) {
	t.stats.Bounds.ClientBytes++
	seq := f.clientNext + uint32(off)
	if !f.hasClientPast || before(seq, f.clientPast) {
		f.clientPast, f.hasClientPast = seq, true
	}
}

// candidate adds bytes at an offset, and a FIN at another; it returns why the
// flow is in doubt, "" if it is not.
func (t *Table) candidate(f *flow, from int, payload []byte, fin bool, finAt int) string {
	if fin {
		at := f.clientNext + uint32(finAt)
		if f.hasClientFIN && f.clientFIN != at {
			return reasonFIN
		}
		f.clientFIN, f.hasClientFIN = at, true
	}
	if f.hasClientFIN && max(f.client.end(), from+len(payload)) > distance(f.clientNext, f.clientFIN) {
		return reasonFIN
	}
	if len(payload) == 0 {
		return ""
	}
	switch n := int32(len(payload)); {
	case from == 0 && f.client.end() == 0:
		f.single = n
	case from > 0 || f.single != n:
		f.single = 0
	}
	if f.client == nil {
		f.client = t.pool.window()
	} else if !f.client.agrees(from, payload) {
		return reasonConflict
	}
	return t.keep(f.client, from, payload)
}

// keep stores bytes that agree in a window; it returns which bound is hit, ""
// if none is.
func (t *Table) keep(w *window, off int, p []byte) string {
	if !t.pool.reserve(w, off+len(p)) {
		t.stats.Bounds.Buffered++
		return reasonBuffered
	}
	w.put(off, p)
	if len(w.spans) > t.limits.Pieces {
		t.stats.Bounds.Pieces++
		return reasonPieces
	}
	return ""
}

// fromServer takes a segment that the server sent.
func (t *Table) fromServer(id ID, f *flow, seg *capture.Segment) {
	switch {
	case before(f.serverNext, seg.Seq) && t.wait(f.hash, seg):
		return
	case seg.MPTCP:
		t.breakOff(id, reasonMPTCP)
		return
	case seg.Flags&capture.RST != 0:
		if f.conn.Cookie == 0 {
			t.end(id, f)
		}
		return
	case seg.Flags&(capture.SYN|capture.ACK) != capture.ACK:
		return // a repeated SYN-ACK; every other segment has ACK
	case before(seg.Ack, f.clientISN), before(seg.Seq, f.serverISN-1), carries(seg) && before(seg.Seq, f.serverISN):
		// One that is empty, and one before, keeps the connection alive (RFC 1122 §4.2.3.6).
		t.breakOff(id, reasonBefore)
		return
	case f.reset && (carries(seg) || before(f.clientNext, seg.Ack)):
		t.breakOff(id, reasonReset)
		return
	}
	if n := distance(f.clientNext, seg.Ack); n > 0 {
		reason := t.acknowledged(id, f, n)
		if reason == reasonMissing && t.wait(f.hash, seg) {
			return
		}
		if reason != "" {
			t.breakOff(id, reason)
			return
		}
	}
	if reason := t.answer(id, f, seg); reason != "" {
		t.breakOff(id, reason)
		return
	}
	if f.hasServerFIN && f.serverFIN == f.serverNext && f.conn.Cookie == 0 {
		t.end(id, f)
	}
}

// acknowledged releases the next n sequence numbers of the client. It returns why
// the flow is in doubt, "" if it is not.
func (t *Table) acknowledged(id ID, f *flow, n int) string {
	if f.hasClientPast && before(f.clientPast, f.clientNext+uint32(n)) {
		return reasonClientBound
	}
	ready := f.client.ready()
	if len(ready) > n {
		ready = ready[:n]
	}
	fin := f.hasClientFIN && f.clientFIN == f.clientNext+uint32(len(ready))
	switch rest := n - len(ready); {
	case rest == 0, rest == 1 && fin:
	case f.conn.Cookie != 0 && f.clientNext == f.clientISN && len(ready) == 0:
		return reasonHandshakeData // which a live tap does not see
	default:
		t.disorder() // it can come late
		return reasonMissing
	}
	f.clientNext += uint32(n)
	if len(ready) > 0 {
		t.data(id, authz.FromClient, ready, 0)
		late := t.disorderly && f.conn.Cookie == 0 // its parts can be shown later
		t.events[len(t.events)-1].Chunk.Whole = len(ready) == int(f.single) && !late
		f.single = 0
	}
	switch {
	case f.client == nil:
	case f.conn.Cookie != 0:
		t.advance(&f.client, n)
	default:
		// In a file another copy may come late.
		if f.client.advanceKeeping(n); f.client.head > 2*keptBytes {
			t.pool.released(f.client)
		}
	}
	return ""
}

// advance moves a window on, or drops it if nothing more waits in it.
func (t *Table) advance(w **window, n int) {
	if (*w).end() <= n {
		t.pool.drop(*w)
		*w = nil
	} else {
		(*w).advance(n)
		t.pool.released(*w)
	}
}

// answer releases the server's bytes in order. It returns why the flow is in
// doubt, "" if it is not.
func (t *Table) answer(id ID, f *flow, seg *capture.Segment) string {
	from := distance(f.serverNext, seg.Seq)
	to := from + length(seg)
	end := f.serverNext + uint32(to)
	if seg.Flags&capture.FIN != 0 {
		f.serverFIN, f.hasServerFIN = end, true
	}
	if f.hasServerFIN && before(f.serverFIN, end) {
		end = f.serverFIN // FIN has a sequence number and is no byte
	}
	if before(f.serverEnd, end) {
		f.serverEnd = end
	}
	if to <= 0 || to == from {
		return ""
	}
	payload := seg.Payload
	if from < 0 {
		payload, from = payload[min(-from, len(payload)):], 0
	}
	cut := to - from - len(payload)
	if cut > 0 && (from > 0 || f.server != nil) {
		return reasonServerSnap // it can be told only where it comes in order
	}
	if f.server != nil && !f.server.agrees(from, payload) {
		return reasonServerCopies
	}
	if from == 0 {
		// Of what is cut the dialogue is told, and says what it means.
		t.says(id, f, payload, cut)
		if f.server != nil {
			t.behind(id, f, to)
		}
		return ""
	}
	if to > t.limits.ServerBytes {
		t.stats.Bounds.ServerBytes++
		return reasonServerBound
	}
	if f.server == nil {
		f.server = t.pool.window()
	}
	return t.keep(f.server, from, payload)
}

// says releases what the server said, and cut bytes behind that the file does not have.
func (t *Table) says(id ID, f *flow, said []byte, cut int) {
	t.data(id, authz.FromServer, said, cut)
	if !f.origin.Shown() {
		t.remember(f, said, cut)
	}
	f.serverNext += uint32(len(said) + cut)
}

// serverGap reports whether the server is known to have sent more than was read.
// Its FIN, which has a sequence number, is no byte.
func (f *flow) serverGap() bool {
	if f.hasServerFIN && f.serverFIN == f.serverNext {
		return false
	}
	return before(f.serverNext, f.serverEnd)
}

// behind releases what waited behind n bytes that the server sent.
func (t *Table) behind(id ID, f *flow, n int) {
	t.advance(&f.server, n)
	if ready := f.server.ready(); len(ready) > 0 {
		t.says(id, f, ready, 0)
		t.advance(&f.server, len(ready))
	}
}
