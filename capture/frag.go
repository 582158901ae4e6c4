package capture

import "time"

// Fragments are reassembled strictly: a datagram is complete when its pieces
// tile it without overlap; equal copies of a piece are tolerated. The argument
// why a client cannot show the capture one text and the server another:
//
// A kernel may drop any fragment that the capture shows, and of two copies of a
// piece it keeps the first that it takes. The bytes that it delivers become
// complete with some last fragment, after the connection was opened. Here that
// fragment either completes the datagram, or repeats a piece of a completed one,
// which is then handed on again; or it leaves the datagram waiting; or it finds
// no room, overlaps, contradicts, or is malformed, which is a Doubt at once.
// A datagram that waits from A to B becomes a Doubt as soon as B sends payload
// to A, thus before any answer to those bytes can be read. One that waits too
// long is a Doubt too.
//
// What is handed on is what the kernel delivers if every fragment of the same
// identifier was compared that the kernel can still hold. Therefore each time
// that one is forgotten, for whatever reason, its identifier is suspect for
// longer than kernels wait, and what then becomes complete is a Doubt. (What a
// kernel holds from before the capture began is beyond knowing.)
//
// The key is the kernel's. Fragments of one datagram that differ in direction
// or link layer are a Doubt, so that what came in from outside never becomes
// part of what this host sent.
const (
	// fragmentTimeout is that of Linux for IPv4 (ipfrag_time).
	fragmentTimeout = 30 * time.Second
	// suspectTime is twice that of Linux for IPv6 (ip6frag_time).
	suspectTime = 2 * time.Minute
	// maxDatagrams, maxFragmentBytes and maxPieces bound the memory: datagrams
	// waiting or kept for comparison, their payload in bytes, and pieces of one.
	// Each is kept for suspectTime: behind a small MTU every segment is one, and a
	// session has some twenty.
	maxDatagrams     = 4096
	maxFragmentBytes = 4 << 20
	maxPieces        = 128
	// suspectSlots are the hashes of identifiers that are suspect. A collision
	// costs a Doubt.
	suspectSlots = 1 << 17
	// maxDatagram is the longest payload that fragments can make, in bytes.
	maxDatagram = 65535
)

// fragmentHeader is what IPv4 (RFC 791 §3.1) and IPv6 (RFC 8200 §4.5) say about
// a fragment. proto is 0 for IPv6, where it does not tell datagrams apart, and
// next then is the header after the fragment header.
type fragmentHeader struct {
	id     uint32
	proto  uint8
	next   uint8
	offset int
	more   bool
}

// fragment takes one fragment, and decodes the datagram that it completes.
func (d *Decoder) fragment(p *packet, h fragmentHeader, body []byte, missing int, ev *Event) bool {
	f := &d.frags
	f.forgetDone(p.time)
	key := fragmentKey{p.src, p.dst, h.id, h.proto}
	g, reason := f.take(p, key, h, body, missing)
	if reason != "" {
		if g != nil {
			f.remove(g, p.time)
		}
		f.distrust(key, p.time)
		return d.doubt(p, reason)
	}
	if !g.complete {
		if !g.tiles() {
			return false
		}
		f.finish(g)
	}
	g.touched = p.time
	f.done.MoveToBack(g.element)
	if f.suspected(g) {
		return d.doubt(p, "an IP datagram of which fragments may be forgotten")
	}
	whole := f.assemble(g)
	if g.key.proto != 0 {
		return d.tcp(p, whole, 0, ev)
	}
	return d.extensions(p, g.next, whole, 0, false, ev)
}

// expireFragments ends what has waited too long.
func (d *Decoder) expireFragments(now time.Time) {
	for e := d.frags.pending.Front(); e != nil; e = d.frags.pending.Front() {
		g := e.Value.(*datagram)
		if now.Sub(g.since) < fragmentTimeout {
			return
		}
		d.frags.remove(g, now)
		d.doubtPair(&packet{time: now, sent: g.sent, link: g.link}, g.key.src, g.key.dst,
			"an IP datagram whose fragments are not complete")
	}
}

// doubtUnfinished ends the datagrams that wait in the direction against p, a
// packet with payload, with one Doubt.
func (d *Decoder) doubtUnfinished(p *packet) {
	f := &d.frags
	if f.waiting[pair{p.dst, p.src}] == 0 {
		return
	}
	for e := f.pending.Front(); e != nil; {
		g := e.Value.(*datagram)
		e = e.Next()
		if g.key.src == p.dst && g.key.dst == p.src {
			f.remove(g, p.time)
		}
	}
	d.doubtPair(p, p.dst, p.src, "answered while the fragments of an IP datagram were not complete")
}
