package flow

import (
	"cmp"
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// Table follows connections. It is not safe for concurrent use.
type Table struct {
	limits   Limits
	ports    *capture.PortSet
	services []service // watched
	proxies  []netip.Prefix
	slots    slots
	pool     pool
	stats    Stats
	events   []Event

	byCookie map[uint64]ID // live
	files

	now  int64 // time of the event being fed, in Unix nanoseconds
	tick int64 // events fed so far
}

// files is what a Table needs for connections that nobody announces: those of files, and
// of a packet socket.
type files struct {
	hasher  capture.Hasher
	tuples  index                  // see tuple.go
	ring    []*[ringPage]handshake // see handshake.go
	oldest  uint32                 // the ring's next entry to be reused
	unused  []ref                  // entries of the ring that were given up lately
	done    *capture.DoneSet       // of which nothing more is to be said
	leaving bool                   // finished flows go there at once
	doubts  [doubtSlots]lastDoubt  // see doubt.go
	doubtAt int64                  // the tick of the last doubt of any two addresses
	ended   []ID                   // flows whose slots are to be freed
	orderly int                    // logins since anything was out of order
	// disorderly: something was in this file.
	disorderly bool
	seen       seen
	stations   stations // who sent a SYN or an RST
	waiting    waiting
	lostAt     int64 // the tick at which records were lost, of any connection

	nextSweep int64 // when to look for idle flows, in Unix nanoseconds
	swept     int64 // the slots that were looked at for it
}

// New returns an empty table.
func New(c Config) *Table {
	limits := c.Limits.withDefaults()
	t := &Table{
		limits:   limits,
		slots:    slots{hasher: capture.NewHasher()},
		pool:     pool{limit: limits.Buffered},
		byCookie: make(map[uint64]ID),
		proxies:  c.Proxies,
		files: files{
			hasher: capture.NewHasher(), done: c.Done, leaving: c.Done != nil, waiting: waiting{late: int64(c.Late)},
		},
	}
	if t.done == nil {
		t.done = new(capture.DoneSet)
	}
	var ports []uint16
	for port, s := range c.Services {
		if s.Protocol != 0 {
			t.services = append(t.services, service{port, s})
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
	s.Full = s.Open >= t.limits.Flows
	return s
}

// Feed takes one capture event and returns what became of the flows that it
// concerns, in order. The slice, and the chunks in it, are valid until the next
// call; chunks alias the segment or a buffer of the table.
func (t *Table) Feed(ev *capture.Event) []Event {
	t.begin()
	if t.waiting.any() {
		t.expire(ev.Time.UnixNano())
	}
	if t.feed(ev); t.waiting.any() {
		t.resume(&ev.Segment)
	}
	return t.events
}

// PassesOver reports whether a segment of a file has nothing to say any more: its
// connection is done. It was not when it was decoded, so ask where DoneSet.Changed says so.
func (t *Table) PassesOver(ev *capture.Event) bool {
	seg := &ev.Segment
	return ev.Kind == capture.Packet && t.done.PassesOver(seg, t.ports.Has(seg.Dst.Port()), ev.Time.Unix())
}

// feed takes one event. It finds the flow or the handshake of a segment itself, as
// it does so for each packet: what is found is handed on, not looked up again.
func (t *Table) feed(ev *capture.Event) {
	before := t.now
	t.now = ev.Time.UnixNano()
	t.tick++
	seg := &ev.Segment
	if ev.Kind != capture.Packet || seg.Cookie != 0 {
		t.announced(ev)
		return
	}
	t.stats.Packets++
	if t.now < before {
		t.stats.Backward++
		t.disorder()
	}
	if wait := t.nextSweep - t.now; wait <= 0 || wait > sweepEvery {
		t.sweep() // a file's clock can also go back
	}
	if seg.Flags&(capture.SYN|capture.RST) != 0 {
		t.stations.add(seg.Link.Src)
	}
	hash := t.hashOf(seg)
	for i := tag(hash); ; i++ {
		s := t.tuples.at(i)
		if s == freeSlot {
			t.unknown(hash, seg)
			return
		}
		if s.tag() != tag(hash) {
			continue
		}
		r := ref(s.number())
		var k *tuple
		var f *flow
		var h *handshake
		if r&ringBit == 0 {
			f = t.slots.at(ID(r))
			k = &f.tuple
		} else {
			h = t.entry(r)
			k = &h.tuple
		}
		dir := authz.FromClient
		if k.conn.Client != seg.Src || k.conn.Server != seg.Dst {
			dir = authz.FromServer
			if k.conn.Client != seg.Dst || k.conn.Server != seg.Src ||
				k.eitherWay && t.otherWay(hash, seg) {
				continue
			}
		}
		if f != nil {
			t.followed(ID(r), f, dir, seg)
		} else {
			t.shake(r, h, dir, seg)
		}
		return
	}
}

// announced takes what the kernel or the tap says, and the segments of
// connections that were so announced.
func (t *Table) announced(ev *capture.Event) {
	switch ev.Kind {
	case capture.Packet:
		t.live(&ev.Segment)
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
			t.lost(cmp.Or(ev.Reason, reasonLost))
		} else if id, ok := t.byCookie[ev.Conn.Cookie]; ok {
			t.taint(id, cmp.Or(ev.Reason, reasonLost))
		}
	}
}

// lost taints every connection without a cookie, and those whose handshake has
// begun: the tap lost records and cannot say whose. The cost, a walk over all
// slots, is that of one overflow of the tap's ring.
func (t *Table) lost(reason string) {
	t.lostAt = t.tick
	for id := range t.slots.size() {
		if f := t.slots.at(id); f.reads() && f.conn.Cookie == 0 {
			t.taint(id, reason)
		}
	}
}

// Conn is the connection of a flow that an event of the last Feed names, and why
// its server's bytes are believed to be the server's.
func (t *Table) Conn(id ID) (*authz.Conn, authz.Origin) {
	f := t.slots.at(id)
	return &f.conn, f.origin
}

// begin forgets what the last call returned.
func (t *Table) begin() {
	if len(t.ended) > 0 {
		t.endAll()
	}
	if len(t.pool.dirty)+len(t.pool.retired) > 0 {
		t.pool.recycle()
	}
	if len(t.slots.freed) > 0 {
		t.slots.recycle()
	}
	t.events = t.events[:0]
}

// second is the Unix time of the event being fed.
func (t *Table) second() int64 { return t.now / int64(time.Second) }

// open begins a flow, unless a bound is hit; share is that on flows of its client.
func (t *Table) open(k *tuple, origin authz.Origin, share int) (ID, *flow, bool) {
	if t.slots.open >= t.limits.Flows {
		t.stats.Bounds.Flows++
		return 0, nil, false
	}
	id, f := t.begun(k, origin, share)
	if f == nil {
		t.stats.Bounds.FlowsPerClient++
		return 0, nil, false
	}
	return id, f, true
}

// begun begins a flow if its client has less than limit; else it returns nil.
func (t *Table) begun(k *tuple, origin authz.Origin, limit int) (ID, *flow) {
	id, f := t.slots.take(k, limit)
	if f != nil {
		f.origin = origin
		t.stats.Opened++
		t.emit(Opened, id)
	}
	return id, f
}

// emit adds an event in place.
func (t *Table) emit(kind Kind, id ID) *Event {
	e := t.place()
	*e = Event{}
	e.Kind, e.ID, e.Came = kind, id, t.waiting.came
	return e
}

// data adds what most events are; it sets each field once, and clears none before.
func (t *Table) data(id ID, dir authz.Dir, b []byte, cut int) {
	e := t.place()
	e.Kind, e.ID, e.Came, e.Reason = Data, id, t.waiting.came, ""
	e.Chunk = authz.Chunk{Dir: dir, Bytes: b, Cut: cut}
}

// place makes room for an event. An older one stands there.
func (t *Table) place() *Event {
	n := len(t.events)
	if n == cap(t.events) {
		t.events = append(t.events, Event{})
	}
	t.events = t.events[:n+1]
	return &t.events[n]
}

// service is what a watched port speaks. There are few.
type service struct {
	port uint16
	authz.Service
}

// serviceOf returns what a server's port speaks, false if it is not watched.
func (t *Table) serviceOf(port uint16) (authz.Service, bool) {
	for i := range t.services {
		if t.services[i].port == port {
			return t.services[i].Service, true
		}
	}
	return authz.Service{}, false
}
