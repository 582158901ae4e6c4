package capture

import (
	"bytes"
	"container/list"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"
)

type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    uint8
}

// pair is a direction between two addresses.
type pair struct{ src, dst netip.Addr }

// piece is a fragment's place in the datagram, and in datagram.data.
type piece struct{ offset, length, at int }

// datagram is one that is incomplete, or one that is kept to be compared.
type datagram struct {
	key      fragmentKey
	sent     Sender
	link     Link
	since    time.Time // of the first fragment
	touched  time.Time // of the last, once it is complete
	pieces   []piece   // by offset, without overlap
	data     []byte    // of the pieces, as they came
	total    int       // payload length in bytes, -1 while unknown
	next     uint8     // of the first fragment
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

	seed maphash.Seed
	// suspect holds until when identifiers are suspect, in Unix nanoseconds,
	// allSuspect until when all are.
	suspect    []int64
	allSuspect int64
}

func newFragments() fragments {
	return fragments{
		table:   make(map[fragmentKey]*datagram),
		pending: list.New(),
		done:    list.New(),
		waiting: make(map[pair]int),
		seed:    maphash.MakeSeed(),
	}
}

func (f *fragments) slot(key fragmentKey) *int64 {
	if f.suspect == nil {
		f.suspect = make([]int64, suspectSlots) // few captures need it
	}
	return &f.suspect[maphash.Comparable(f.seed, key)%suspectSlots]
}

// distrust makes an identifier suspect of which something is forgotten.
func (f *fragments) distrust(key fragmentKey, now time.Time) {
	slot := f.slot(key)
	*slot = max(*slot, now.Add(suspectTime).UnixNano())
}

// suspected tells whether something about a datagram may have been forgotten
// since a kernel can hold a piece of it.
func (f *fragments) suspected(g *datagram) bool {
	since := g.since.UnixNano()
	return f.allSuspect > since || f.suspect != nil && *f.slot(g.key) > since
}

// take puts a fragment into its datagram, or says in words why it cannot.
func (f *fragments) take(p *packet, key fragmentKey, h fragmentHeader, body []byte, missing int) (*datagram, string) {
	g := f.table[key]
	if missing > 0 {
		return g, "the snap length cuts an IP fragment"
	}
	if len(body) == 0 || h.more && len(body)%8 != 0 || h.offset+len(body) > maxDatagram {
		return g, "a malformed IP fragment"
	}
	if g == nil || !g.complete {
		if !f.makeRoom(g == nil, len(body), p.time) {
			return g, "no room for an IP fragment"
		}
	}
	if g == nil {
		g = f.add(key, p)
	}
	if g.sent != p.sent || g.link != p.link {
		return g, "IP fragments of one datagram came different ways"
	}
	return g, f.insert(g, h, body)
}

// makeRoom makes room for a fragment at the cost of completed datagrams; false
// if the waiting ones take it all. Those are never given up for a stranger's.
func (f *fragments) makeRoom(newDatagram bool, need int, now time.Time) bool {
	for newDatagram && len(f.table) >= maxDatagrams || f.bytes+need > maxFragmentBytes {
		oldest := f.done.Front()
		if oldest == nil {
			return false
		}
		f.remove(oldest.Value.(*datagram), now)
	}
	return true
}

// forgetDone ends the comparison with completed datagrams of which no kernel can
// hold a piece any more.
func (f *fragments) forgetDone(now time.Time) {
	for e := f.done.Front(); e != nil; e = f.done.Front() {
		g := e.Value.(*datagram)
		if now.Sub(g.touched) < suspectTime {
			return
		}
		f.drop(g)
	}
}

func (f *fragments) add(key fragmentKey, p *packet) *datagram {
	g := &datagram{key: key, sent: p.sent, link: p.link, since: p.time, total: -1}
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

// remove forgets a datagram of which a kernel may hold pieces.
func (f *fragments) remove(g *datagram, now time.Time) {
	f.drop(g)
	f.distrust(g.key, now)
}

func (f *fragments) drop(g *datagram) {
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
