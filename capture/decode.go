package capture

import (
	"net/netip"
	"time"
)

// Decoder turns frames and IP packets into Events. It reads as little as it
// can: a packet whose ports are not watched leaves as soon as its ports are
// known, and nothing is allocated unless IP fragments must wait.
//
// It judges nothing. What a kernel would surely drop (a wrong checksum, a hop
// limit of 0, flags that make no sense) is handed on as well: the flow stage
// treats every copy of a byte as a candidate and doubts the connection when two
// of them differ, so that a decoy which only the capture sees cannot be taken
// for what the server read.
//
// A Decoder belongs to one goroutine.
type Decoder struct {
	ports *PortSet
	frags fragments
	// done are connections to be passed over, by hasher.
	done   *DoneSet
	hasher Hasher
	// queue holds the Events of one packet behind the first; queue[next:] are
	// still to be fetched. It is bounded by the number of waiting datagrams.
	queue []Event
	next  int
	stats DecodeStats
}

// DecodeStats counts what a Decoder could not turn into a segment.
type DecodeStats struct {
	// Short counts frames captured too short to show both addresses.
	Short uint64
	// Doubts counts the Doubt events.
	Doubts uint64
}

// NewDecoder makes a Decoder for packets from or to the ports.
func NewDecoder(ports *PortSet) *Decoder {
	return &Decoder{ports: ports, frags: newFragments(), hasher: NewHasher(), done: new(DoneSet)}
}

// Stats returns the counters.
func (d *Decoder) Stats() DecodeStats { return d.stats }

// more fetches the next Event of the packet decoded last.
func (d *Decoder) more(ev *Event) bool {
	if d.next == len(d.queue) {
		d.queue, d.next = d.queue[:0], 0
		return false
	}
	*ev = d.queue[d.next]
	d.next++
	return true
}

// lost tells the Decoder that the tap lost packets before now: fragments among
// them are held by the kernel and not compared here.
func (d *Decoder) lost(now time.Time) {
	d.frags.allSuspect = max(d.frags.allSuspect, now.Add(suspectTime).UnixNano())
}

// packet is what is known about a packet besides its bytes.
type packet struct {
	time     time.Time
	sent     Sender
	aside    bool
	link     Link
	src, dst netip.Addr
}

// frame decodes a link-layer frame, as ip does an IP packet.
func (d *Decoder) frame(p *packet, link linkType, frame []byte, wireLen int, ev *Event) bool {
	net, ok := network(link, frame)
	if !ok {
		return false
	}
	if net.sent != SenderUnknown {
		p.sent = net.sent
	}
	p.link.VLAN = net.vlan
	if net.ethernet {
		p.link.HasMAC = true
		p.link.Dst, p.link.Src = [6]byte(frame[0:6]), [6]byte(frame[6:12])
	}
	return d.ip(p, frame[net.offset:], wireLen-net.offset, ev)
}

// ip decodes an IP packet, of which wireLen bytes were on the wire. It returns false
// if the packet has nothing to say. Further Events of it are fetched with more before
// its memory is reused. Doubts about fragments come before the packet that brought
// them up, so that nothing is believed in between.
func (d *Decoder) ip(p *packet, data []byte, wireLen int, ev *Event) bool {
	d.queue, d.next = d.queue[:0], 0
	wireLen = max(wireLen, len(data))
	if d.waiting() {
		d.expireFragments(p.time)
	}
	var found bool
	switch {
	case len(data) == 0:
		d.stats.Short++
	case data[0]>>4 == 4:
		found = d.ipv4(p, data, wireLen, ev)
	case data[0]>>4 == 6:
		found = d.ipv6(p, data, wireLen, ev)
	}
	if len(d.queue) == 0 {
		return found
	}
	if found {
		d.queue = append(d.queue, *ev)
	}
	return d.more(ev)
}

// doubtPair queues a Doubt about everything between two addresses.
func (d *Decoder) doubtPair(p *packet, src, dst netip.Addr, reason string) {
	d.stats.Doubts++
	d.queue = append(d.queue, Event{
		Kind:   Doubt,
		Time:   p.time,
		Reason: reason,
		Segment: Segment{
			Src:  netip.AddrPortFrom(src, 0),
			Dst:  netip.AddrPortFrom(dst, 0),
			Sent: p.sent,
			Link: p.link,
		},
	})
}

// doubt queues a Doubt about the packet's own addresses, and returns false for
// the caller to return.
func (d *Decoder) doubt(p *packet, reason string) bool {
	d.doubtPair(p, p.src, p.dst, reason)
	return false
}
