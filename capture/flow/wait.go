package flow

import (
	"math"
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// waiting are segments of a file that came before what they follow from (see the package
// comment).
type waiting struct {
	late   int64   // how long they may, in nanoseconds; 0 where none does
	places []place // oldest first
	first  int     // the places before it are free
	used   int     // those that are not
	bytes  int     // see Limits.Waiting
	// rows lead to the places of connections by a part of their hash: to the first, whence
	// each leads to the next. It is the number of a place, plus one; 0 for none.
	rows [1 << 12]uint32
	// again is one that is taken once more, nil for none, and came when it did; stays: it
	// still waits. due: it may no longer.
	again      *capture.Segment
	came       int64
	stays, due bool
}

// place is where a segment waits, since a time. Its payload is in a buffer of the pool.
type place struct {
	hash  uint64
	next  uint32
	free  bool
	since int64
	seg   capture.Segment
	buf   []byte
}

// size is what counts of a place toward Limits.Waiting.
func (p *place) size() int { return max(len(p.buf), placeSize) }

const placeSize = 1 << 10

// any reports whether there are some.
func (w *waiting) any() bool { return len(w.places) > 0 }

// row is where the places of a connection are looked for.
func (w *waiting) row(hash uint64) *uint32 { return &w.rows[hash>>52] }

// wait lets a segment wait for what it follows from. It reports false if that is to be
// taken as it is: it has waited for long, too much waits, or none is late.
func (t *Table) wait(hash uint64, seg *capture.Segment) bool {
	w := &t.waiting
	switch {
	case w.late == 0 || w.due:
		return false
	case w.again == seg:
		w.stays = true
		return true
	}
	p := place{hash: hash, since: t.now, seg: *seg}
	if n := len(seg.Payload); n > 0 {
		if p.buf = t.pool.room(n); p.buf == nil {
			t.stats.Bounds.Buffered++
			return false
		}
		p.seg.Payload = p.buf[:copy(p.buf, seg.Payload)]
	}
	if w.bytes+p.size() > t.limits.Waiting || w.of(hash) >= t.limits.Pieces {
		t.stats.Bounds.Waiting++
		t.pool.retire(p.buf, len(seg.Payload))
		return false
	}
	w.places = append(w.places, p)
	w.link(len(w.places))
	w.used, w.bytes = w.used+1, w.bytes+p.size()
	return true
}

// link puts the n-th place at the end of its row.
func (w *waiting) link(n int) {
	end := w.row(w.places[n-1].hash)
	for *end != 0 {
		end = &w.places[*end-1].next
	}
	*end = uint32(n)
}

// unlink takes a place out of its row. From there it still leads to those behind it.
func (w *waiting) unlink(p *place) {
	at := w.row(p.hash)
	for &w.places[*at-1] != p {
		at = &w.places[*at-1].next
	}
	*at = p.next
}

// of counts the segments of a connection that wait.
func (w *waiting) of(hash uint64) (n int) {
	for at := *w.row(hash); at != 0; at = w.places[at-1].next {
		if w.places[at-1].hash == hash {
			n++
		}
	}
	return n
}

// resume takes what waits of the connection of a segment that came, as far as it follows
// from that.
func (t *Table) resume(came *capture.Segment) {
	w, hash := &t.waiting, t.hashOf(came)
	for some := true; some; {
		some = false
		for at := *w.row(hash); at != 0; at = w.places[at-1].next {
			p := &w.places[at-1]
			if p.hash != hash || p.free {
				continue
			}
			w.stays = false
			if t.again(p); !w.stays {
				t.taken(p)
				t.disorder()
				some = true
			}
		}
	}
	w.trim()
}

// again takes a segment that waited, by the time when it came: what stands between, and may
// be passed over, has no say in it.
func (t *Table) again(p *place) {
	w, hash, seg := &t.waiting, p.hash, &p.seg
	now := t.now
	w.again, w.came, t.now = seg, p.since, p.since
	dir := authz.FromClient
	r, known := t.find(hash, &seg.Src, &seg.Dst)
	if !known {
		dir = authz.FromServer
		r, known = t.find(hash, &seg.Dst, &seg.Src)
	}
	switch {
	case !known:
		t.unknown(hash, seg)
	case r&ringBit == 0:
		t.followed(ID(r), t.slots.at(ID(r)), dir, seg)
	default:
		t.shake(r, t.entry(r), dir, seg)
	}
	w.again, w.came, t.now = nil, 0, now
}

// never is a time at which nothing waits any more.
const never = math.MaxInt64

// expire takes what has waited for long at a time, as it is. Where the clock was set back
// by as much, it has, too.
func (t *Table) expire(now int64) {
	w := &t.waiting
	w.due = true
	for ; w.first < len(w.places); w.first++ {
		p := &w.places[w.first]
		if p.free {
			continue
		}
		if waited := now - p.since; -w.late <= waited && waited <= w.late {
			break
		}
		t.again(p)
		t.taken(p)
	}
	w.due = false
	w.trim()
}

// expireBetween takes what waits between two addresses as it is.
func (t *Table) expireBetween(a, b netip.Addr) {
	w := &t.waiting
	w.due = true
	for i := range w.places {
		p := &w.places[i]
		src, dst := p.seg.Src.Addr(), p.seg.Dst.Addr()
		if !p.free && (src == a && dst == b || src == b && dst == a) {
			t.again(p)
			t.taken(p)
		}
	}
	w.due = false
	w.trim()
}

// taken frees a place. Its buffer is kept for the chunks that alias it.
func (t *Table) taken(p *place) {
	w := &t.waiting
	w.used, w.bytes = w.used-1, w.bytes-p.size()
	t.pool.retire(p.buf, len(p.seg.Payload))
	w.unlink(p)
	p.free, p.seg, p.buf = true, capture.Segment{}, nil
}

// waitNoMore frees the places of a connection that is read no more: what comes of the next
// between the same ends is not to meet them.
func (t *Table) waitNoMore(hash uint64) {
	w := &t.waiting
	if !w.any() {
		return
	}
	for at := *w.row(hash); at != 0; at = w.places[at-1].next {
		if p := &w.places[at-1]; p.hash == hash && !p.free && &p.seg != w.again {
			t.taken(p)
		}
	}
}

// trim closes up where half of the places are free.
func (w *waiting) trim() {
	if 2*w.used > len(w.places) {
		return
	}
	for i := range w.places {
		*w.row(w.places[i].hash) = 0
	}
	n := 0
	for i := range w.places {
		if p := &w.places[i]; !p.free {
			w.places[n], w.places[n].next = *p, 0
			n++
			w.link(n)
		}
	}
	w.places, w.first = w.places[:n], 0
}

// Settle takes what still waits as it is: what that waits for does not come.
func (t *Table) Settle(now time.Time) []Event {
	t.begin()
	t.now = now.UnixNano()
	t.expire(never)
	return t.events
}
