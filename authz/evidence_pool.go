package authz

import (
	"net/netip"
	"time"
)

// pool holds the records of many prefixes, the one touched longest ago first. Of
// what it holds the garbage collector must look into nothing but the records' two
// slices.
type pool struct {
	numbers map[place]uint32 // of records
	// records are in no order; that of number 0 is the two ends of the order: next
	// is the one touched longest ago.
	records []record
	free    []uint32
	// latest is the record found last, or 0: a login asks several times for its own.
	latest uint32
	// lengths counts the records per family and prefix length.
	lengths [2][129]int
	limit   int
	dropped uint64
	// rest is how many insertions more look for no place.
	rest int
}

// place is a prefix, without the pointer that one has.
type place struct {
	addr [16]byte
	bits uint8
	six  bool
}

func placeOf(p netip.Prefix) place {
	return place{p.Addr().As16(), uint8(p.Bits()), p.Addr().Is6()}
}

func (p place) prefix() netip.Prefix {
	a := netip.AddrFrom16(p.addr)
	if !p.six {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, int(p.bits))
}

// record is what is known about one prefix.
type record struct {
	place
	// open means that its grant has no deadline.
	open              bool
	before, next      uint32
	last, until       int64 // of its events, and when its grant closes; Unix ns, 0 for none
	decisions, doubts notes
}

func newPool(limit int) pool {
	return pool{numbers: make(map[place]uint32), records: make([]record, 1), limit: limit}
}

func (p *pool) n() int { return len(p.numbers) }

// number is that of the record of a prefix, 0 if there is none.
func (p *pool) number(at place) uint32 {
	if p.latest != 0 && p.records[p.latest].place == at {
		return p.latest
	}
	i := p.numbers[at]
	if i != 0 {
		p.latest = i
	}
	return i
}

// find is the record of a prefix, nil if there is none. It is valid until the next
// insert.
func (p *pool) find(at place) *record {
	if i := p.number(at); i != 0 {
		return &p.records[i]
	}
	return nil
}

// insert makes a record, in the place of the oldest one if the pool is full. It
// returns nil if that place cannot be had: grants that stand are not forgotten.
func (p *pool) insert(at place, now time.Time) *record {
	if p.n() >= p.limit && !p.evict(now) {
		return nil
	}
	var i uint32
	if n := len(p.free); n > 0 {
		i, p.free = p.free[n-1], p.free[:n-1]
	} else {
		i = uint32(len(p.records))
		p.records = append(p.records, record{})
	}
	r := &p.records[i]
	// Its memory is used again.
	*r = record{place: at, decisions: r.decisions[:0], doubts: r.doubts[:0]}
	p.link(i)
	p.numbers[at], p.latest = i, i
	p.lengths[at.family()][at.bits]++
	return r
}

func (p place) family() int {
	if p.six {
		return 1
	}
	return 0
}

// link puts a record at the end of the order, unlink takes it out.
func (p *pool) link(i uint32) {
	last := p.records[0].before
	p.records[i].before, p.records[i].next = last, 0
	p.records[last].next, p.records[0].before = i, i
}

func (p *pool) unlink(i uint32) {
	r := &p.records[i]
	p.records[r.before].next, p.records[r.next].before = r.next, r.before
}

// touch finds a record and puts it at the end of the order.
func (p *pool) touch(at place) *record {
	i := p.number(at)
	if i == 0 {
		return nil
	}
	p.unlink(i)
	p.link(i)
	return &p.records[i]
}

// oldest is the number of the record that was touched longest ago, 0 for none.
func (p *pool) oldest() uint32 { return p.records[0].next }

// evictionTries bounds the search for a record that may go, per insertion. Behind one in
// vain, as in a storm of logins whose grants all stand, as many insertions go without.
const evictionTries = 16

func (p *pool) evict(now time.Time) bool {
	p.dropped++
	if p.rest > 0 {
		p.rest--
		return false
	}
	for range min(evictionTries, p.n()) {
		i := p.oldest()
		if r := &p.records[i]; !r.standing(now.UnixNano()) {
			p.remove(i)
			return true
		}
		p.unlink(i)
		p.link(i)
	}
	p.rest = evictionTries
	return false
}

// maxRoom bounds the memory that a record leaves to the next in its place.
const maxRoom = 1 << 10

func (p *pool) remove(i uint32) {
	r := &p.records[i]
	p.unlink(i)
	delete(p.numbers, r.place)
	p.free = append(p.free, i)
	p.lengths[r.family()][r.bits]--
	if p.latest == i {
		p.latest = 0
	}
	if cap(r.decisions)+cap(r.doubts) > maxRoom {
		r.decisions, r.doubts = nil, nil
	}
}

// prune removes stale records from the front. One with a grant that stands goes
// to the back, so that it does not hide others.
func (p *pool) prune(now time.Time, retain time.Duration) {
	for range evictionTries {
		i := p.oldest()
		if i == 0 {
			return
		}
		r := &p.records[i]
		switch at := now.UnixNano(); {
		case r.stale(at, retain):
			p.remove(i)
		case r.standing(at) && at-r.last > int64(retain):
			p.unlink(i)
			p.link(i)
		default:
			return
		}
	}
}

// standing reports whether the record's grant is open; now is Unix time in
// nanoseconds.
func (r *record) standing(now int64) bool { return r.open || r.until > now }

// stale reports whether the record has outlived its use.
func (r *record) stale(now int64, retain time.Duration) bool {
	return !r.standing(now) && now-r.last > int64(retain) && now-r.until > int64(retain)
}

// note adds an event and takes note of what it does to the grant.
func (r *record) note(ev *Event, n note) {
	switch ev.Kind {
	case EventGranted, EventRenewed:
		r.until, r.open = nanos(ev.Until), ev.Open
	case EventExpired, EventRevoked:
		r.until, r.open = nanos(ev.Time), false
	default:
	}
	r.keep(n)
}

// keep adds a note, or counts it into an equal one.
func (r *record) keep(n note) {
	r.last = max(r.last, n.last())
	if n.kind().doubt() {
		r.doubts = r.doubts.add(n, doubtsKept)
	} else {
		r.decisions = r.decisions.add(n, decisionsKept)
	}
}

// events appends what is known, the decisions first.
func (r *record) events(out []Event) []Event {
	for _, list := range []notes{r.decisions, r.doubts} {
		for _, n := range list.all() {
			out = append(out, n.event(r.prefix()))
		}
	}
	return out
}
