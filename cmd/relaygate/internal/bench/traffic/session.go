package traffic

import (
	"math/rand/v2"
	"net/netip"
)

// segmentLen is the payload of a full segment in bytes: an MTU of 1500 less the
// headers of IPv4 and TCP with timestamps.
const segmentLen = 1448

// session is one TCP connection: its packets in the order of time.
type session struct {
	client, server netip.AddrPort
	mail           bool
	packets        []packet
	next           int
}

// talk makes the packets of a session.
type talk struct {
	*session
	rng           *rand.Rand
	now, rtt      int64 // microseconds
	toNext, froms uint32
	loss, reorder float64
}

// emit adds a segment of one side.
func (c *talk) emit(toServer bool, flags byte, payload []byte) {
	p := packet{at: c.now, toServer: toServer, flags: flags, payload: payload}
	own, other := &c.toNext, &c.froms
	if !toServer {
		own, other = other, own
	}
	p.seq = *own
	if flags&ack != 0 {
		p.ack = *other
	}
	c.packets = append(c.packets, p)
	*own += uint32(len(payload))
	if flags&(syn|fin) != 0 {
		*own++
	}
}

func (c *talk) open() {
	c.emit(true, syn, nil)
	c.now += c.rtt / 2
	c.emit(false, syn|ack, nil)
	c.now += c.rtt / 2
	c.emit(true, ack, nil)
}

func (c *talk) close() {
	if c.rng.Float64() < 0.01 { // the client is gone
		c.now += c.rtt / 2
		c.emit(true, rst|ack, nil)
		return
	}
	c.emit(false, fin|ack, nil)
	c.now += c.rtt / 2
	c.emit(true, fin|ack, nil)
	c.now += c.rtt / 2
	c.emit(false, ack, nil)
}

// send sends bytes in segments. The other side acknowledges every second one.
func (c *talk) send(toServer bool, parts ...[]byte) {
	c.now += c.rtt/2 + c.rng.Int64N(400)
	late := int64(0)
	for i, n := 0, 0; i < len(parts); i++ {
		for b := parts[i]; len(b) > 0; n++ {
			part := b[:min(len(b), segmentLen)]
			b = b[len(part):]
			flags := byte(ack)
			if len(b) == 0 {
				flags |= psh
			}
			c.emit(toServer, flags, part)
			late = max(late, c.trouble(toServer))
			c.now += 12 + c.rng.Int64N(30)
			if n%2 == 1 {
				c.emit(!toServer, ack, nil)
				c.now += 2
			}
		}
	}
	c.now = max(c.now, late)
}

// trouble loses the last segment, or lets it change places with the one before,
// and returns until when that takes. What is lost behind the capture is seen
// twice, what is lost before it is seen late.
func (c *talk) trouble(toServer bool) (until int64) {
	last := len(c.packets) - 1
	p := &c.packets[last]
	draw := c.rng.Float64()
	again := c.now + c.rtt + c.rng.Int64N(2000)
	switch before := last - 1; {
	case draw < c.loss/2:
		twice := *p
		twice.at = again
		c.packets = append(c.packets, twice)
		return again
	case draw < c.loss && !toServer:
		p.at = again
		return again
	case draw < c.loss+c.reorder && before > 3 && c.packets[before].toServer == toServer && len(c.packets[before].payload) > 0:
		c.packets[before].at, p.at = p.at, c.packets[before].at
	}
	return 0
}

// command sends a line of the client, now and then in two pieces.
func (c *talk) command(line string) {
	if len(line) > 4 && c.rng.Float64() < 0.02 {
		k := 1 + c.rng.IntN(len(line)-2)
		c.send(true, []byte(line[:k]))
		c.now += 3000
		line = line[k:]
	}
	c.send(true, []byte(line))
}

func (c *talk) answer(text string) { c.send(false, []byte(text)) }

// tls sends what begins like TLS.
func (c *talk) tls(m *material) {
	c.send(true, append([]byte{0x16, 3, 1, 2, 0}, m.noise(c.rng, 512)...))
	c.send(false, append([]byte{0x16, 3, 3, 0x0b, 0xb8}, m.noise(c.rng, 3000)...))
	c.send(true, append([]byte{0x17, 3, 3, 0, 120}, m.noise(c.rng, 120)...))
	c.send(false, append([]byte{0x17, 3, 3, 0, 200}, m.noise(c.rng, 200)...))
}

// other is a connection to another port.
func (c *talk) other(m *material, size func() int) {
	c.tls(m)
	for range 1 + c.rng.IntN(6) {
		c.send(true, m.noise(c.rng, 400))
		c.send(false, m.noise(c.rng, size()))
	}
	c.close()
}
