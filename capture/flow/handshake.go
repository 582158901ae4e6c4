package flow

import (
	"cmp"

	"relaygate/authz"
	"relaygate/capture"
)

// ref is what a tuple leads to: a slot, or an entry of the ring of handshakes.
type ref uint32

const ringBit ref = 1 << 31

// stage is how far a handshake got.
type stage uint8

const (
	// asked: a SYN was seen.
	asked stage = iota
	// answered: an authentic SYN-ACK acknowledged it.
	answered
)

// handshake is an entry of the ring. Entries are overwritten oldest first, so a
// flood of SYNs costs only other handshakes in progress.
type handshake struct {
	tuple
	used  bool
	stage stage
	born  int64 // the tick of its first SYN

	clientISN, serverISN uint32 // the first sequence numbers of the streams
	link                 capture.Link
	host, outside        bool // the SYN was seen going out, coming in
	guard                guard
	reason               string // of the taint that the flow will begin with
	forged               bool   // an answer came that was not authentic
	several              bool   // SYNs came with several sequence numbers
	ahead                int64  // when bytes of the client came before it last, in Unix nanoseconds, that did not wait
}

// ringPage is how many entries of the ring are allocated at one time.
const ringPage = 256

func (t *Table) entry(r ref) *handshake {
	i := r &^ ringBit
	return &t.ring[i/ringPage][i%ringPage]
}

// ringEntry returns an entry of the ring, for a connection with a hash that begins
// with a SYN.
func (t *Table) ringEntry(hash uint64, seg *capture.Segment) (ref, *handshake) {
	r, given := t.given()
	if !given {
		i := t.oldest
		if int(i) == len(t.ring)*ringPage {
			t.ring = append(t.ring, new([ringPage]handshake))
		}
		if t.oldest++; int(t.oldest) == t.limits.Handshakes {
			t.oldest = 0
		}
		r = ringBit | ref(i)
	}
	h := t.entry(r)
	if h.used {
		t.stats.Bounds.Handshakes++
		t.tuples.remove(h.hash, uint32(r))
	}
	*h = handshake{}
	h.hash, h.used, h.born = hash, true, t.tick
	h.ask(seg)
	return r, h
}

// given returns an entry that was given up a while ago and is still in a cache.
// One that is soon the oldest is left alone: what would stand there would soon be
// pushed out.
func (t *Table) given() (r ref, ok bool) {
	n := len(t.unused)
	if n == 0 {
		return 0, false
	}
	r, t.unused = t.unused[n-1], t.unused[:n-1]
	size := uint32(t.limits.Handshakes)
	age := (t.oldest + size - 1 - uint32(r&^ringBit)) % size // entries taken since
	return r, !t.entry(r).used && age < size/2
}

// giveUp frees an entry of the ring, to which no tuple leads any more.
func (t *Table) giveUp(r ref) {
	t.entry(r).used = false
	t.unused = append(t.unused, r)
}

// asks begins a handshake.
func (t *Table) asks(hash uint64, seg *capture.Segment) {
	r, h := t.ringEntry(hash, seg)
	t.name(&h.tuple, &seg.Src, &seg.Dst)
	t.tuples.add(hash, uint32(r))
	t.syn(h, seg)
}

// opens notes a SYN that this host sent from the server's end: both may open a connection
// towards each other (RFC 9293 §3.5), and who is at the server's is no listener then.
func (t *Table) opens(hash uint64, seg *capture.Segment) {
	r, h := t.ringEntry(hash, seg)
	t.name(&h.tuple, &seg.Dst, &seg.Src)
	t.tuples.add(hash, uint32(r))
	h.reason = reasonOpens
}

// ask begins h anew with a SYN.
func (h *handshake) ask(seg *capture.Segment) {
	h.stage, h.clientISN = asked, seg.Seq+1
	h.link, h.host, h.outside, h.forged = seg.Link, false, false, false
}

// syn notes a SYN in h. Of several SYNs the latest sequence number counts: the
// SYN-ACK says whether it was the one that the kernel took. Of copies of one that the
// hardware addresses tell apart, as on both sides of a router, the latest place counts,
// which is the nearest to the server. What a file shows behind each may come before its
// answer.
func (t *Table) syn(h *handshake, seg *capture.Segment) {
	t.done.Ask(h.hash, t.second())
	switch {
	case h.stage != asked, h.clientISN != seg.Seq+1:
		h.several = h.several || h.stage == asked
		h.ask(seg)
	case seg.Sent == capture.SenderUnknown:
		h.link = seg.Link
	}
	h.host = h.host || seg.Sent == capture.SenderHost
	if seg.Sent == capture.SenderOutside {
		// On a gateway that it left; by another tapped interface it may have come in.
		h.outside, h.link = true, seg.Link
	}
	if carries(seg) {
		h.reason = dataWithHandshake(seg)
	}
}

// synAck notes a SYN-ACK, and reports whether it is an authentic answer to the
// SYN of h.
func (t *Table) synAck(h *handshake, seg *capture.Segment) bool {
	g, ok := guardOf(&h.link, h.host, h.outside, t.stations.has(h.link.Dst), seg)
	if !ok {
		t.stats.Forged++
		h.forged = true
		return false
	}
	if seg.Ack != h.clientISN {
		// An answer to another SYN; or it acknowledges data of this one,
		// whose bytes the kernel then has (RFC 7413 §4.2). Neither is
		// followed.
		return false
	}
	switch {
	case seg.MPTCP:
		h.reason = reasonMPTCP
	case carries(seg):
		h.reason = dataWithHandshake(seg)
	}
	if past, late := t.now-h.ahead, t.waiting.late; h.ahead != 0 && late > 0 && -late <= past && past <= late {
		h.reason = cmp.Or(h.reason, reasonHandshakeData) // they can be behind it
	}
	h.stage, h.serverISN, h.guard, h.ahead = answered, seg.Seq+1, g, 0
	return true
}

// shake takes a segment of a tuple that has no flow yet.
func (t *Table) shake(r ref, h *handshake, dir authz.Dir, seg *capture.Segment) {
	switch {
	case dir == authz.FromClient && isSYN(seg):
		if h.stage != answered || h.clientISN != seg.Seq+1 || carries(seg) {
			t.syn(h, seg)
		}
	case dir == authz.FromServer && isSYN(seg):
		if seg.Sent == capture.SenderHost {
			h.reason = reasonOpens
		}
	case dir == authz.FromServer && isSYNACK(seg):
		if t.synAck(h, seg) {
			t.done.Lift(h.hash)
		}
	case h.stage == answered:
		t.complete(r, h, dir, seg)
	case (seg.Flags&capture.RST == 0 || t.waiting.again == seg) && t.wait(h.hash, seg): // a new one refuses the SYN
	case tells(seg): // of what is done, of what cannot be read, or of what h begins
		if dir == authz.FromClient {
			h.ahead = t.now
		}
		if !t.done.Has(h.hash) {
			t.unanswered(h)
		}
	}
}

// unanswered says that a session is there of whose beginning only the SYN of h was seen,
// unless that begins the next one.
func (t *Table) unanswered(h *handshake) {
	reason := cmp.Or(h.reason, t.unseen(&h.conn, reasonUnanswered))
	if h.forged {
		reason = reasonForgedAnswer
	}
	k := h.tuple
	t.midstream(&k, reason)
	t.done.Ask(h.hash, t.second())
}

// complete begins the flow of an answered handshake when a segment shows that
// the connection is established.
func (t *Table) complete(r ref, h *handshake, dir authz.Dir, seg *capture.Segment) {
	contradicts := h.guard.contradicts(seg)
	if contradicts {
		h.reason = cmp.Or(h.reason, reasonStations)
	}
	payload := carries(seg)
	control := seg.Flags & (capture.SYN | capture.RST | capture.ACK)
	if dir == authz.FromServer {
		if !h.guard.authentic(seg, contradicts) {
			t.stats.Forged++
			return
		}
		if seg.Flags&capture.RST != 0 {
			t.refuse(r, h)
			return
		}
		// A pure ACK of the server proves nothing: the kernel sends such
		// before the connection is established, too.
		if control != capture.ACK || !payload && seg.Flags&capture.FIN == 0 {
			return
		}
	} else {
		// The bytes of this segment, or of an odd one before it, are in a
		// place where a live tap has no eyes (see the package comment).
		if payload && t.wait(h.hash, seg) {
			return // in a file, what comes before them may be late
		}
		if payload {
			h.reason = cmp.Or(h.reason, reasonHandshakeData)
		}
		if control != capture.ACK || seg.Ack != h.serverISN {
			return
		}
	}
	t.established(r, h, dir, seg)
}

// refuse gives a handshake up that comes to nothing.
func (t *Table) refuse(r ref, h *handshake) {
	t.tuples.remove(h.hash, uint32(r))
	t.done.End(h.hash, t.second())
	t.giveUp(r)
}

func (t *Table) established(r ref, h *handshake, dir authz.Dir, seg *capture.Segment) {
	if t.seen.again(h.identity(&t.hasher)) {
		t.refuse(r, h)
		return
	}
	id, f, ok := t.open(&h.tuple, h.guard.origin(), t.limits.FlowsPerClient)
	if !ok {
		t.refuse(r, h)
		return
	}
	f.guard, f.last = h.guard, t.now
	f.start(h.clientISN, h.serverISN)
	reason := h.reason
	if h.born <= t.doubtAt {
		reason = cmp.Or(reason, t.doubted(&h.conn, h.born))
	}
	if h.forged && h.guard.proof == byGroups {
		reason = cmp.Or(reason, reasonStations)
	}
	if h.born <= t.lostAt {
		reason = cmp.Or(reason, reasonLost)
	}
	t.tuples.replace(f.hash, uint32(r), uint32(id))
	t.giveUp(r)
	if reason != "" {
		t.taint(id, reason)
	}
	if f.phase != free {
		t.followed(id, f, dir, seg)
	}
}
