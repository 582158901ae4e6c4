package flow

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// model is a small world: a client, a network that loses, doubles and reorders,
// a tap somewhere on the path, a kernel with a reassembly queue, and a server
// that answers each line. It knows what the server read, and when.
type model struct {
	rng    *rand.Rand
	seed   uint64
	faulty bool // the network loses and reorders
	evil   bool // the client sends decoys
	decoys int  // percent of its chances to do so
	deaf   bool // the tap misses packets
	late   bool // the tap shows them in another order
	mode   mode

	// The client: its whole stream, and how much of it the server acknowledged.
	stream   []byte
	pipeline bool // it does not wait for answers
	sent     int
	acked    int
	answers  []byte // server bytes received in order
	arrived  map[int]byte

	toTap, toKernel []packet // client segments before and behind the tap
	toClient        []packet // server segments before the tap

	// The server's kernel and the server.
	queue     map[int]byte
	lastWins  bool   // which of two copies its queue keeps
	read      []byte // what the server was given
	closed    bool   // a FIN was taken
	processed int
	written   []byte
	basis     []int // per byte written: how many bytes had been read
	out       int   // server bytes sent at least once

	delayed  []delayed
	recorder func(step) // is shown what a tap sees, in place of the table
	table    *Table
	events   int
	released []byte // what the table said
	answered []byte
	tainted  string
}

// packet is a segment in flight; off counts from the first byte of its stream.
type packet struct {
	off, ack int
	data     []byte
	dropped  bool // by the kernel, for whatever is wrong with it
	flags    capture.Flags
}

func newModel(seed uint64, faulty, evil bool) *model {
	m := &model{
		rng: rand.New(rand.NewPCG(seed, 1)), seed: seed, faulty: faulty, evil: evil,
		arrived: map[int]byte{}, queue: map[int]byte{},
	}
	m.mode = mode(m.rng.IntN(len(modes)))
	m.lastWins = m.rng.IntN(2) == 0
	m.decoys = 1 + m.rng.IntN(20)
	m.pipeline = m.rng.IntN(3) == 0
	for i := range 2 + m.rng.IntN(5) {
		m.stream = append(m.stream, fmt.Sprintf("%c%*d\n", 'a'+i, 1+m.rng.IntN(30), i)...)
	}
	limits := Limits{}
	if evil { // small, so that decoys reach beyond
		limits = Limits{ClientBytes: 24 + m.rng.IntN(40), ServerBytes: 40 + m.rng.IntN(80)}
	}
	m.table = newTable(limits)
	m.write("greeting\n")
	return m
}

func (m *model) chance(percent int) bool { return m.rng.IntN(100) < percent }

// pick takes a packet out of a queue, not always the first.
func (m *model) pick(q *[]packet) packet {
	i := 0
	if m.faulty && m.chance(30) {
		i = m.rng.IntN(len(*q))
	}
	p := (*q)[i]
	*q = append((*q)[:i:i], (*q)[i+1:]...)
	if m.faulty && m.chance(10) {
		*q = append(*q, p) // doubled
	}
	return p
}

func (m *model) lost() bool { return m.faulty && m.chance(15) }

func (m *model) write(s string) {
	m.written = append(m.written, s...)
	for range len(s) {
		m.basis = append(m.basis, len(m.read))
	}
}

// clientSends sends the next bytes that the client may send, or old ones again.
func (m *model) clientSends() {
	allowed := len(m.stream)
	if !m.pipeline {
		lines := bytes.Count(m.answers, []byte("\n"))
		allowed = 0
		for range lines {
			if i := bytes.IndexByte(m.stream[allowed:], '\n'); i >= 0 {
				allowed += i + 1
			}
		}
	}
	from := m.sent
	if m.sent >= allowed || m.chance(30) {
		from = m.acked
		if m.chance(20) {
			from = max(0, from-m.rng.IntN(10)) // below the window, too
		}
	}
	to := min(allowed, from+1+m.rng.IntN(20))
	if from >= to {
		return
	}
	m.sent = max(m.sent, to)
	p := packet{off: from, ack: len(m.answers), data: m.stream[from:to], flags: capture.ACK}
	if to == len(m.stream) && m.pipeline {
		p.flags |= capture.FIN // half-closed: it still wants its answers
	}
	m.toTap = append(m.toTap, p)
}

// clientDeceives sends other bytes for a range near the window.
func (m *model) clientDeceives() {
	off := max(0, m.acked-5) + m.rng.IntN(120)
	p := packet{off: off, ack: len(m.answers), dropped: m.chance(60), flags: capture.ACK}
	if m.chance(5) {
		p.flags |= capture.FIN
	}
	n := 1 + m.rng.IntN(20)
	for i := range n {
		b := byte('a' + m.rng.IntN(3))
		if at := off + i; at < len(m.stream) && m.chance(40) {
			b = m.stream[at] // equal in part
		} else if m.chance(10) {
			b = '\n'
		}
		p.data = append(p.data, b)
	}
	if p.dropped {
		p.flags = []capture.Flags{0, capture.ACK, capture.RST, capture.ACK | capture.PSH, capture.ACK | capture.FIN}[m.rng.IntN(5)]
	}
	m.toTap = append(m.toTap, p)
}

// kernelTakes is a kernel that keeps one copy of each byte until it is in order.
func (m *model) kernelTakes(p packet) {
	if p.dropped || m.closed {
		return
	}
	for i, b := range p.data {
		at := p.off + i
		if _, has := m.queue[at]; at >= len(m.read) && (!has || m.lastWins) {
			m.queue[at] = b
		}
	}
	for {
		b, ok := m.queue[len(m.read)]
		if !ok {
			break
		}
		m.read = append(m.read, b)
	}
	m.closed = p.flags&capture.FIN != 0 && p.off+len(p.data) == len(m.read)
}

// serverRuns answers the next line.
func (m *model) serverRuns() {
	if i := bytes.IndexByte(m.read[m.processed:], '\n'); i >= 0 {
		line := m.read[m.processed : m.processed+i]
		m.processed += i + 1
		m.write(fmt.Sprintf("re %s\n", line))
	}
}

// serverSends sends new bytes, old ones, or an acknowledgement.
func (m *model) serverSends() {
	from := m.out
	if m.chance(30) {
		from = min(m.out, len(m.answers))
	}
	to := min(len(m.written), from+m.rng.IntN(30))
	m.out = max(m.out, to)
	ack := len(m.read)
	if m.closed {
		ack++
	}
	m.toClient = append(m.toClient, packet{off: from, ack: ack, data: m.written[from:to], flags: capture.ACK})
}

// clientHears takes a segment of the server behind the tap.
func (m *model) clientHears(p packet) {
	m.acked = max(m.acked, min(p.ack, len(m.stream)))
	for i, b := range p.data {
		m.arrived[p.off+i] = b
	}
	for {
		b, ok := m.arrived[len(m.answers)]
		if !ok {
			return
		}
		m.answers = append(m.answers, b)
	}
}

// step lets one random thing happen.
func (m *model) step(t *testing.T) {
	switch n := m.rng.IntN(10); {
	case n < 2:
		m.clientSends()
	case n == 2 && m.evil && m.chance(m.decoys):
		m.clientDeceives()
	case n < 5 && len(m.toTap) > 0:
		if p := m.pick(&m.toTap); !m.lost() {
			m.tap(t, p, false)
			m.toKernel = append(m.toKernel, p)
		}
	case n < 7 && len(m.toKernel) > 0:
		if p := m.pick(&m.toKernel); !m.lost() {
			m.kernelTakes(p)
		}
	case n == 7:
		m.serverRuns()
	case n == 8:
		m.serverSends()
	case len(m.toClient) > 0:
		if p := m.pick(&m.toClient); !m.lost() {
			m.tap(t, p, true)
			m.clientHears(p)
		}
	}
}

// tap feeds a packet to the table and checks what it says.
func (m *model) tap(t *testing.T, p packet, server bool) {
	if m.deaf && m.chance(3) {
		return
	}
	opt := flags(p.flags)
	if server {
		m.feed(t, sv(p.off, p.ack, string(p.data), opt))
	} else {
		m.feed(t, cl(p.off, string(p.data), opt, ackNo(serverISN+uint32(p.ack))))
	}
}

func (m *model) feed(t *testing.T, s step) {
	m.events++
	if m.recorder != nil {
		m.recorder(s)
		return
	}
	if m.late {
		m.delayed = append(m.delayed, delayed{m.events + m.rng.IntN(100), s})
		m.show(t, m.events)
		return
	}
	m.shown(t, s)
}

func (m *model) shown(t *testing.T, s step) {
	var ev capture.Event
	s(m.mode, &ev)
	ev.Time = start.Add(time.Duration(m.events) * time.Millisecond)
	for _, e := range m.table.Feed(&ev) {
		switch {
		case e.Kind == Tainted:
			m.tainted = e.Reason
		case e.Kind == Data && e.Chunk.Dir == authz.FromClient:
			m.released = append(m.released, e.Chunk.Bytes...)
		case e.Kind == Data:
			m.answered = append(m.answered, e.Chunk.Bytes...)
			if n := len(m.answered); n <= len(m.basis) && m.basis[n-1] > len(m.released) {
				t.Fatalf("seed %d: server byte %d released before client byte %d, on which it rests", m.seed, n, m.basis[n-1])
			}
		}
	}
	check(t, m.table)
	if m.late {
		return // another copy can come yet
	}
	m.judge(t)
}

// judge compares what the table said with what happened.
func (m *model) judge(t *testing.T) {
	if !bytes.HasPrefix(m.read, m.released) {
		t.Fatalf("seed %d: released %q, the server read %q", m.seed, m.released, m.read)
	}
	if !bytes.HasPrefix(m.written, m.answered) {
		t.Fatalf("seed %d: released %q, the server wrote %q", m.seed, m.answered, m.written)
	}
}
