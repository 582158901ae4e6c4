package capture

import (
	"bytes"
	"container/list"
	"net/netip"
	"slices"
	"time"
)

// Fragments are reassembled strictly: a datagram is complete when its pieces
// tile it without overlap; equal copies of a piece are tolerated. The argument
// why a client cannot show the capture one text and the server another:
//
// The bytes that a kernel delivers out of fragments become complete with some
// last fragment, after the connection was opened. Here that fragment either
// completes the same datagram, which is handed on and conflicts with every
// decoy; or it repeats a piece of a completed datagram, which is then handed on
// again; or it contradicts one, finds no room, overlaps or is malformed, which
// is a Doubt at once; or it is left waiting. A waiting datagram from A to B
// becomes a Doubt as soon as B sends payload to A, thus before any answer to
// those bytes can be read. (Fragments of one datagram with other segments in
// between are in order so far: only an answer matters.) A datagram that waits
// too long is a Doubt too. So each one ends in being complete or in a Doubt.
//
// The source of a fragment (addresses, direction, VLAN) is part of its key:
// what came in from outside never becomes part of what this host sent.
const (
	// fragmentTimeout is that of Linux for IPv4 (ipfrag_time).
	fragmentTimeout = 30 * time.Second
	// maxDatagrams, maxFragmentBytes and maxPieces bound the memory: datagrams
	// waiting or kept for comparison, their payload in bytes, and pieces of one.
	maxDatagrams     = 1024
	maxFragmentBytes = 4 << 20
	maxPieces        = 128
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

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
	sent     Sender
	link     Link
}

// pair is a direction between two addresses.
type pair struct{ src, dst netip.Addr }

// piece is a fragment's place in the datagram, and in datagram.data.
type piece struct{ offset, length, at int }

// datagram is one that is incomplete, or one that is kept to be compared.
type datagram struct {
	key      fragmentKey
	since    time.Time
	pieces   []piece // by offset, without overlap
	data     []byte  // of the pieces, as they came
	total    int     // payload length in bytes, -1 while unknown
	next     uint8   // of the first fragment
	complete bool
	element  *list.Element
}

// fragments is the bounded table of datagrams.
type fragments struct {
	table map[fragmentKey]*datagram
	// pending and done hold *datagram, oldest first.
	pending, done *list.List
	// waiting counts the pending datagrams of a direction.
	waiting map[pair]int
	bytes   int
	whole   []byte // the datagram assembled last
}

func newFragments() fragments {
	return fragments{
		table:   make(map[fragmentKey]*datagram),
		pending: list.New(),
		done:    list.New(),
		waiting: make(map[pair]int),
	}
}

// fragment takes one fragment, and decodes the datagram that it completes.
func (d *Decoder) fragment(p *packet, h fragmentHeader, body []byte, missing int, ev *Event) bool {
	d.stats.Fragments++
	if missing > 0 {
		return d.doubt(p, "the snap length cuts an IP fragment")
	}
	if len(body) == 0 || h.more && len(body)%8 != 0 || h.offset+len(body) > maxDatagram {
		return d.doubt(p, "a malformed IP fragment")
	}
	f := &d.frags
	f.forgetDone(p.time)
	key := fragmentKey{p.src, p.dst, h.id, h.proto, p.sent, p.link}
	g := f.table[key]
	if g == nil || !g.complete {
		if !f.makeRoom(g == nil, len(body)) {
			d.stats.FragmentsRefused++
			return d.doubt(p, "no room for an IP fragment")
		}
	}
	if g == nil {
		g = f.add(key, p.time)
	}
	if reason := f.insert(g, h, body); reason != "" {
		f.remove(g)
		return d.doubt(p, reason)
	}
	if !g.complete {
		if !g.tiles() {
			return false
		}
		f.finish(g)
		d.stats.Reassembled++
	}
	whole := f.assemble(g)
	if g.key.proto != 0 {
		return d.tcp(p, whole, 0, ev)
	}
	return d.extensions(p, g.next, whole, 0, false, ev)
}

// makeRoom makes room for a fragment at the cost of completed datagrams; false
// if the waiting ones take it all. Those are never given up for a stranger's.
func (f *fragments) makeRoom(newDatagram bool, need int) bool {
	for newDatagram && len(f.table) >= maxDatagrams || f.bytes+need > maxFragmentBytes {
		oldest := f.done.Front()
		if oldest == nil {
			return false
		}
		f.remove(oldest.Value.(*datagram))
	}
	return true
}

// forgetDone ends the comparison with completed datagrams: identifiers are used
// again (RFC 6864 §4.2). What repeats one later is left waiting.
func (f *fragments) forgetDone(now time.Time) {
	for e := f.done.Front(); e != nil; e = f.done.Front() {
		g := e.Value.(*datagram)
		if now.Sub(g.since) < fragmentTimeout {
			return
		}
		f.remove(g)
	}
}

func (f *fragments) add(key fragmentKey, now time.Time) *datagram {
	g := &datagram{key: key, since: now, total: -1}
	g.element = f.pending.PushBack(g)
	f.table[key] = g
	f.waiting[pair{key.src, key.dst}]++
	return g
}

// insert adds a fragment to a datagram, and says in words why it cannot.
func (f *fragments) insert(g *datagram, h fragmentHeader, body []byte) string {
	end := h.offset + len(body)
	i, found := slices.BinarySearchFunc(g.pieces, h.offset, func(p piece, offset int) int { return p.offset - offset })
	last := !h.more
	if found && g.pieces[i].length == len(body) && (end == g.total) == last && (h.offset > 0 || h.next == g.next) {
		if held := g.pieces[i]; bytes.Equal(g.data[held.at:held.at+held.length], body) {
			return ""
		}
		return "IP fragments contradict each other"
	}
	switch {
	case found,
		i > 0 && g.pieces[i-1].offset+g.pieces[i-1].length > h.offset,
		i < len(g.pieces) && g.pieces[i].offset < end:
		return "IP fragments overlap"
	case g.complete, // behind the end
		last && g.total >= 0,
		last && i < len(g.pieces),
		!last && g.total >= 0 && end >= g.total:
		return "IP fragments contradict each other"
	case len(g.pieces) == maxPieces:
		return "too many fragments of one IP datagram"
	}
	if last {
		g.total = end
	}
	if h.offset == 0 {
		g.next = h.next
	}
	g.pieces = slices.Insert(g.pieces, i, piece{h.offset, len(body), len(g.data)})
	g.data = append(g.data, body...)
	f.bytes += len(body)
	return ""
}

// tiles tells whether the pieces, which do not overlap, fill the datagram.
func (g *datagram) tiles() bool { return len(g.data) == g.total }

// assemble returns the payload of a complete datagram, valid until the next
// call.
func (f *fragments) assemble(g *datagram) []byte {
	f.whole = f.whole[:0]
	for _, p := range g.pieces {
		f.whole = append(f.whole, g.data[p.at:p.at+p.length]...)
	}
	return f.whole
}

// finish keeps a completed datagram for comparison.
func (f *fragments) finish(g *datagram) {
	f.unlink(g)
	g.complete = true
	g.element = f.done.PushBack(g)
}

func (f *fragments) remove(g *datagram) {
	f.unlink(g)
	delete(f.table, g.key)
	f.bytes -= len(g.data)
}

// unlink takes a datagram off its list.
func (f *fragments) unlink(g *datagram) {
	if g.complete {
		f.done.Remove(g.element)
		return
	}
	f.pending.Remove(g.element)
	direction := pair{g.key.src, g.key.dst}
	if f.waiting[direction]--; f.waiting[direction] == 0 {
		delete(f.waiting, direction)
	}
}

// expireFragments ends what has waited too long.
func (d *Decoder) expireFragments(now time.Time) {
	for e := d.frags.pending.Front(); e != nil; e = d.frags.pending.Front() {
		g := e.Value.(*datagram)
		if now.Sub(g.since) < fragmentTimeout {
			return
		}
		d.frags.remove(g)
		d.doubtPair(&packet{time: now, sent: g.key.sent, link: g.key.link}, g.key.src, g.key.dst,
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
			f.remove(g)
		}
	}
	d.doubtPair(p, p.dst, p.src, "answered while the fragments of an IP datagram were not complete")
}
