package flow

import (
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// Table follows connections. It is not safe for concurrent use.
type Table struct {
	limits   Limits
	ports    *capture.PortSet
	services map[uint16]authz.Service // by server port
	slots    slots
	pool     pool
	stats    Stats
	events   []Event

	byCookie map[uint64]ID // live
	hasher   capture.Hasher
	tuples   index                  // files, see tuple.go
	key      tuple                  // files: of the segment being fed
	ring     []*[ringPage]handshake // files, see handshake.go
	oldest   uint32                 // the ring's next entry to be reused
	unused   []uint32               // entries of the ring that were given up lately
	doubts   [doubtSlots]int64      // files, see doubt.go
	stations stations               // files: who sent a SYN or an RST
	lostAt   int64                  // files: the tick at which records were lost, of any connection

	// Of the event being fed.
	time  time.Time
	now   int64 // time in Unix nanoseconds
	index uint64
	tick  int64 // events fed so far

	nextSweep int64 // files: when to look for idle flows, in Unix nanoseconds
}

// New returns an empty table.
func New(c Config) *Table {
	limits := c.Limits.withDefaults()
	t := &Table{
		limits:   limits,
		slots:    slots{hasher: capture.NewHasher()},
		pool:     pool{limit: limits.Buffered},
		byCookie: make(map[uint64]ID),
		hasher:   capture.NewHasher(),
		services: make(map[uint16]authz.Service),
	}
	var ports []uint16
	for port, service := range c.Services {
		if service.Protocol != 0 {
			t.services[port] = service
			ports = append(ports, port)
		}
	}
	t.ports = capture.NewPortSet(ports...)
	return t
}

// Stats returns the counters.
func (t *Table) Stats() Stats {
	s := t.stats
	s.Open = t.slots.open
	return s
}

// Feed takes one capture event and returns what became of the flows that it
// concerns, in order. The slice, and the chunks in it, are valid until the next
// call; chunks alias the segment or a buffer of the table.
func (t *Table) Feed(ev *capture.Event) []Event {
	t.begin(ev.Time, ev.Index)
	switch ev.Kind {
	case capture.Packet:
		t.stats.Packets++
		if ev.Segment.Cookie != 0 {
			t.live(&ev.Segment)
		} else {
			t.sweep()
			t.file(&ev.Segment)
		}
	case capture.Doubt:
		t.doubt(ev.Segment.Src.Addr(), ev.Segment.Dst.Addr(), ev.Reason)
	case capture.Opened:
		t.liveOpened(ev)
	case capture.Closed:
		if id, ok := t.byCookie[ev.Conn.Cookie]; ok {
			t.close(id)
		}
	case capture.Lost:
		if ev.Conn.Cookie == 0 {
			t.lost(orElse(ev.Reason, reasonLost))
		} else if id, ok := t.byCookie[ev.Conn.Cookie]; ok {
			t.taint(id, orElse(ev.Reason, reasonLost))
		}
	}
	return t.events
}

// lost taints every connection without a cookie, and those whose handshake has
// begun: the tap lost records and cannot say whose. The cost, a walk over all
// slots, is that of one overflow of the tap's ring.
func (t *Table) lost(reason string) {
	t.lostAt = t.tick
	for id := range t.slots.size() {
		if f := t.slots.at(id); f.phase == following && f.conn.Cookie == 0 {
			t.taint(id, reason)
		}
	}
}

// Forget ends the reading of a flow, for instance when its verdict is reached.
// Its buffers are dropped, later packets cost one look-up, and Closed is all
// that it still gives. Chunks of the last Feed stay valid.
func (t *Table) Forget(id ID) {
	if id >= t.slots.size() {
		return
	}
	if f := t.slots.at(id); f.phase == following {
		t.finish(f)
	}
}

// Flush closes all flows: the capture is at its end. The table is then empty.
func (t *Table) Flush(now time.Time) []Event {
	t.begin(now, t.index)
	for id := range t.slots.size() {
		if t.slots.at(id).phase != free {
			t.close(id)
		}
	}
	t.tuples.clear()
	for _, page := range t.ring {
		clear(page[:])
	}
	t.unused = t.unused[:0]
	return t.events
}

func (t *Table) begin(now time.Time, index uint64) {
	t.pool.recycle()
	t.events = t.events[:0]
	t.time, t.now, t.index = now, now.UnixNano(), index
	t.tick++
}

// sweepEvery is the packet time between two searches for idle flows. One costs
// a walk over all slots.
const sweepEvery = int64(time.Minute)

// abortedIdle is the silence after which a flow of a file is given up where the
// last word was an RST of the client. If the RST was no valid one, the kernel
// mostly answers with a challenge ACK (RFC 5961 §3), and the server has 5
// minutes to say anything.
const abortedIdle = int64(5 * time.Minute)

// sweep closes the flows of files that were silent for too long. (The kernel
// reports the end of live ones.)
func (t *Table) sweep() {
	now := t.now
	if wait := t.nextSweep - now; 0 < wait && wait <= sweepEvery {
		return // a file's clock can also go back
	}
	t.nextSweep = now + sweepEvery
	for id := range t.slots.size() {
		f := t.slots.at(id)
		limit := int64(t.limits.Idle)
		if f.aborted {
			limit = min(limit, abortedIdle)
		}
		if f.phase != free && f.conn.Cookie == 0 && now-f.last > limit {
			t.stats.Idle++
			t.close(id)
		}
	}
}

// open begins a flow, unless a bound is hit.
func (t *Table) open(conn authz.Conn, origin authz.Origin) (ID, *flow, bool) {
	if t.slots.open >= t.limits.Flows {
		t.stats.Bounds.Flows++
		return 0, nil, false
	}
	if head, _, ok := t.slots.ofClient(conn.Client.Addr()); ok && t.slots.at(head).siblings >= t.limits.FlowsPerClient {
		t.stats.Bounds.FlowsPerClient++
		return 0, nil, false
	}
	id, f := t.begun(conn, origin)
	return id, f, true
}

func (t *Table) begun(conn authz.Conn, origin authz.Origin) (ID, *flow) {
	id, f := t.slots.take(conn)
	f.origin = origin
	t.stats.Opened++
	t.emit(Opened, id, f)
	return id, f
}

// taint says that a flow is in doubt, for good.
func (t *Table) taint(id ID, reason string) {
	f := t.slots.at(id)
	if f.phase != following {
		return
	}
	t.finish(f)
	t.stats.Tainted++
	t.emit(Tainted, id, f).Reason = reason
}

func (t *Table) finish(f *flow) {
	f.phase = finished
	t.pool.drop(f.client)
	t.pool.drop(f.server)
	f.client, f.server = nil, nil
}

// close ends a flow and frees its slot.
func (t *Table) close(id ID) {
	f := t.slots.at(id)
	if f.phase == following && int32(f.serverEnd-f.serverNext) > 0 {
		t.taint(id, reasonServerGap)
	}
	if f.phase == following {
		t.finish(f)
	}
	t.emit(Closed, id, f)
	if f.conn.Cookie != 0 {
		delete(t.byCookie, f.conn.Cookie)
	} else {
		t.bury(f.key)
	}
	t.slots.release(id)
}

func (t *Table) emit(kind Kind, id ID, f *flow) *Event {
	t.events = append(t.events, Event{
		Kind: kind, ID: id, Conn: f.conn, Origin: f.origin, Time: t.time, Index: t.index,
	})
	return &t.events[len(t.events)-1]
}

func (t *Table) data(id ID, f *flow, dir authz.Dir, b []byte) {
	if len(b) > 0 {
		t.emit(Data, id, f).Chunk = authz.Chunk{Dir: dir, Time: t.time, Bytes: b}
	}
}

func orElse(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}

// serviceOf returns what a watched port speaks, false if it is not watched.
func (t *Table) serviceOf(server netip.AddrPort) (authz.Service, bool) {
	s, ok := t.services[server.Port()]
	return s, ok
}
