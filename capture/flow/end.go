package flow

import (
	"cmp"
	"slices"
	"time"

	"relaygate/capture"
)

// Forget ends the reading of a flow, for instance when its verdict is reached.
// Its buffers are dropped, later packets cost one look-up, and Closed is all
// that it still gives; with Config.Done not even that. Chunks of the last Feed
// stay valid.
func (t *Table) Forget(id ID) {
	if id >= t.slots.size() {
		return
	}
	if f := t.slots.at(id); f.reads() {
		t.finish(id, f)
	}
}

// orderlyLogins is how many logins in a row show that a capture is in order: it is by how
// it was made, for all or for none.
const orderlyLogins = 200

// disorder notes that a file is out of order.
func (t *Table) disorder() { t.orderly, t.disorderly = 0, true }

// Hold ends the reading of a flow of a file in which a login was proved, as Forget does,
// but for what its client sent up to there, and the answer: copies of these may come late,
// and one that differs taints the flow until it is forgotten. Its slot is kept as long. It reports
// false where nothing comes late, as the capture was in order for long.
func (t *Table) Hold(id ID) bool {
	if t.orderly++; t.orderly > orderlyLogins {
		t.Forget(id)
		return false
	}
	f := t.slots.at(id)
	if f.conn.Cookie != 0 || f.phase != following && f.phase != lingering {
		return true // it is in doubt, or closed
	}
	f.phase = held
	t.pool.drop(f.server)
	f.server = nil
	if t.leaving {
		t.done.AddHeld(f.hash, t.second(), f.clientNext, f.closed)
		t.asksStill(f)
	}
	return true
}

// remember keeps what the server says next, for saidAgain: from its first byte, as an answer
// can come in any pieces, or not at all.
func (t *Table) remember(f *flow, said []byte, cut int) {
	switch {
	case f.said == nil && f.serverNext == f.serverISN && t.orderly < orderlyLogins:
		f.said = t.pool.window()
	case f.said == nil:
		return
	}
	if cut > 0 || !t.pool.reserve(f.said, len(said)) {
		t.pool.drop(f.said)
		f.said = nil
		return
	}
	f.said.put(0, said)
	if f.said.advanceKeeping(len(said)); f.said.head > 2*keptBytes {
		t.pool.released(f.said)
	}
}

// saidAgain takes what the server says where a login was proved. Who borrows its addresses
// can send an answer in its place, but not keep it from sending its own: other bytes, or its
// end, where others were read, and any where these are kept no more.
func (t *Table) saidAgain(id ID, f *flow, seg *capture.Segment) {
	from := distance(f.serverNext, seg.Seq)
	if from >= 0 || before(seg.Seq, f.serverISN) {
		return
	}
	again := f.said == nil || !carries(seg) || from >= -f.said.kept && f.said.took(from, seg.Payload)
	if ended := seg.Flags&capture.FIN != 0 && from+length(seg) < 0; ended || !again {
		t.taint(id, reasonServerCopies)
	}
}

// end closes a flow of a file of whose server no more can come.
func (t *Table) end(id ID, f *flow) {
	gap := f.serverGap()
	if gap {
		t.emit(Tainted, id).Reason = reasonServerGap
	}
	if f.closed = !gap || !t.leaving; f.closed { // else it leaves without
		t.emit(Closed, id)
	}
	t.linger(id, f)
}

// endAll frees the slots of flows that ended with the last Feed.
func (t *Table) endAll() {
	for _, id := range t.ended {
		if f := t.slots.at(id); f.phase == lingering {
			t.finish(id, f)
		}
	}
	t.ended = t.ended[:0]
}

// Flush closes all flows: the capture is at its end. The table is then empty.
func (t *Table) Flush(now time.Time) []Event {
	t.begin()
	t.now = now.UnixNano()
	t.expire(never)
	t.endAll()
	t.closeThose(func(f *flow) bool { return f.phase != free })
	t.tuples.clear()
	t.seen = seen{}
	for _, page := range t.ring {
		clear(page[:])
	}
	t.unused = t.unused[:0]
	t.done.Clear()
	return t.events
}

// sweepEvery is the packet time between two searches for idle flows. One costs
// a walk over all slots. A file's clock that goes to and fro would ask for one with each
// packet: there each pays for slotsPerEvent slots, a tenth of what it costs itself, and
// freeSlots may be looked at before.
const (
	sweepEvery    = int64(time.Minute)
	slotsPerEvent = 2
	freeSlots     = 1 << 20
)

// abortedIdle is the silence after which a flow of a file is given up where the
// last word was an RST of the client. If the RST was no valid one, the kernel
// mostly answers with a challenge ACK (RFC 5961 §3), and the server has 5
// minutes to say anything.
const abortedIdle = int64(5 * time.Minute)

// resets reports whether the server's kernel may end the connection at an RST of the
// client with this sequence number: that of the next byte, or in Linux the one before or
// behind bytes ahead of a hole (RFC 5961 §3.2; tcp_validate_incoming). Which it has of
// those that it did not acknowledge yet is not known.
func (f *flow) resets(seq uint32) bool {
	at := distance(f.clientNext, seq)
	return at >= -1 && (at <= f.client.end() || f.hasClientPast)
}

// sweep closes the flows of files that were silent for too long. (The kernel
// reports the end of live ones.)
func (t *Table) sweep() {
	since := t.now - (t.nextSweep - sweepEvery)
	recorded := t.leaving // not live, where the clock is the host's
	if recorded && t.swept > slotsPerEvent*t.tick+freeSlots {
		return
	}
	t.nextSweep = t.now + sweepEvery
	if recorded && (since < 0 || since > 2*sweepEvery) {
		// A clock that jumps says nothing about silence: it may be another's, of
		// packets that were joined with these. If it is not, the next minute tells.
		return
	}
	t.swept += int64(t.slots.size())
	t.closeThose(func(f *flow) bool {
		limit := int64(t.limits.Idle)
		if f.aborted {
			limit = min(limit, abortedIdle)
		}
		return f.phase != free && f.conn.Cookie == 0 && t.now-f.last > limit
	})
}

// closeThose closes the flows that which names, in the order in which they were
// last heard of: what their slots are is nobody's business.
func (t *Table) closeThose(which func(*flow) bool) {
	var ids []ID
	for id := range t.slots.size() {
		if which(t.slots.at(id)) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b ID) int {
		f, g := t.slots.at(a), t.slots.at(b)
		return cmp.Or(cmp.Compare(f.last, g.last), f.conn.Client.Compare(g.conn.Client), f.conn.Server.Compare(g.conn.Server))
	})
	for _, id := range ids {
		t.close(id)
	}
}

// taint says that a flow is in doubt, for good, and with it what was read before.
func (t *Table) taint(id ID, reason string) {
	if f := t.slots.at(id); f.reads() {
		e := t.emit(Tainted, id)
		e.Reason, e.Past = reason, true
		t.finish(id, f)
	}
}

// breakOff says that a flow is in doubt from here on. In a file late copies of what was
// read are still compared, up to the next Feed.
func (t *Table) breakOff(id ID, reason string) {
	f := t.slots.at(id)
	if f.phase != following {
		return
	}
	t.emit(Tainted, id).Reason = reason
	if f.conn.Cookie != 0 {
		t.finish(id, f)
		return
	}
	t.linger(id, f)
}

// linger keeps a flow that ended, for what comes late, up to the next Feed.
func (t *Table) linger(id ID, f *flow) {
	f.phase = lingering
	t.pool.drop(f.server)
	f.server = nil
	t.ended = append(t.ended, id)
}

// finish ends the reading of a flow. Where the set of those that are done is
// shared, it takes the flow's place if it has room.
func (t *Table) finish(id ID, f *flow) {
	if f.closed {
		t.close(id)
		return
	}
	was := f.phase
	f.phase = finished
	t.drop(f)
	t.waitNoMore(f.hash)
	if t.leaving && f.conn.Cookie == 0 && (was == held && t.done.Release(f.hash) || t.done.Add(f.hash, t.second())) {
		t.leave(id, f)
		t.slots.release(id)
	}
}

// drop gives up what waits in a flow's windows.
func (t *Table) drop(f *flow) {
	t.pool.drop(f.client)
	t.pool.drop(f.server)
	t.pool.drop(f.said)
	f.client, f.server, f.said = nil, nil, nil
}

// close ends a flow and frees its slot.
func (t *Table) close(id ID) {
	f := t.slots.at(id)
	switch {
	case !f.reads():
	case f.phase == following && f.serverGap():
		t.emit(Tainted, id).Reason = reasonServerGap
		t.finish(id, f)
	default:
		t.drop(f)
	}
	if f.phase != free {
		if !f.closed {
			t.emit(Closed, id)
		}
		if f.conn.Cookie != 0 {
			delete(t.byCookie, f.conn.Cookie)
		} else {
			t.leave(id, f)
		}
		t.slots.release(id)
	}
	if f.conn.Cookie == 0 {
		t.done.End(f.hash, t.second())
		t.asksStill(f)
		t.waitNoMore(f.hash)
	}
}

// leave takes a flow of a file out of the tuples. A SYN inside it may still be
// answered, and stands there instead.
func (t *Table) leave(id ID, f *flow) {
	if t.reuseOf(f) == nil {
		t.tuples.remove(f.hash, uint32(id))
	} else {
		t.tuples.replace(f.hash, uint32(id), uint32(f.reuse))
		t.asksStill(f)
	}
}

// asksStill tells the set of those that are done of a SYN inside a flow.
func (t *Table) asksStill(f *flow) {
	if t.reuseOf(f) != nil {
		t.done.Ask(f.hash, t.second())
	}
}
