package flow

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// tapped is what a tap saw and when it shows it, in milliseconds.
type tapped struct {
	at, shown int
	s         step
}

// lateTap shows packets late by up to spread, those of a direction by as much at least.
type lateTap struct {
	spread, client, server int
	twice                  bool // some are shown once more
	stamped                bool // their times are those when they were seen
}

func newLateTap(rng *rand.Rand, late int) lateTap {
	tap := lateTap{spread: late, twice: rng.IntN(2) == 0, stamped: rng.IntN(2) == 0}
	switch rng.IntN(4) {
	case 0:
		tap.client = rng.IntN(late)
	case 1:
		tap.server = rng.IntN(late)
	case 2:
		tap.spread = 1 + rng.IntN(late)
	}
	return tap
}

// shows gives the events in the order in which they are shown.
func (l *lateTap) shows(rng *rand.Rand, m mode, all []tapped) (events []capture.Event) {
	for i := range all {
		p := &all[i]
		var ev capture.Event
		p.s(m, &ev)
		by := l.client
		if ev.Segment.Src == serverAddr {
			by = l.server
		}
		p.shown = p.at + by + rng.IntN(l.spread-by)
		if isSYN(&ev.Segment) {
			p.shown = p.at // what stands before a SYN is taken for the old connection's
		}
		if l.twice && rng.IntN(20) == 0 {
			all = append(all, tapped{p.at, p.at + by + rng.IntN(l.spread-by), p.s})
		}
	}
	slices.SortStableFunc(all, func(a, b tapped) int { return cmp.Compare(a.shown, b.shown) })
	for _, p := range all {
		var ev capture.Event
		p.s(m, &ev)
		at := p.shown
		if l.stamped {
			at = p.at
		}
		ev.Time = start.Add(time.Duration(at) * time.Millisecond)
		events = append(events, ev)
	}
	return events
}

// life is one connection of several between the same ends: a model, and what is added to
// the sequence numbers of its sides.
type life struct {
	*model
	client, server uint32
}

func (l *life) moved(s step) step {
	return func(m mode, ev *capture.Event) {
		s(m, ev)
		seq, ack := &ev.Segment.Seq, &ev.Segment.Ack
		if ev.Segment.Src == serverAddr {
			seq, ack = ack, seq
		}
		*seq += l.client
		if ev.Segment.Flags&capture.ACK != 0 || ev.Segment.Src == serverAddr {
			*ack += l.server
		}
	}
}

// livesOf are connections one after the other, of hostile clients that choose their first
// sequence numbers, and what a tap saw of them.
func livesOf(seed uint64, rng *rand.Rand) (lives []*life, all []tapped) {
	now := 0
	for i := range 1 + rng.IntN(3) {
		l := &life{newLateModel(seed*3+uint64(i), rng.IntN(4) != 0, true), uint32(i) * 1000, uint32(i) * 100_000}
		if i > 0 {
			l.mode = lives[0].mode
			if rng.IntN(2) == 0 {
				l.client = lives[i-1].client + uint32(rng.IntN(60))
			}
		}
		lives = append(lives, l)
		l.recorder = func(s step) { all = append(all, tapped{at: now + l.events, s: l.moved(s)}) }
		l.run(nil, 50+rng.IntN(250))
		l.ends(rng.IntN(4))
		now += l.events + rng.IntN(1+rng.IntN(60))
		if rng.IntN(2) == 0 { // or long after
			now += 500 + rng.IntN(4000)
		}
	}
	for range rng.IntN(8) { // what the kernel dropped
		l := lives[rng.IntN(len(lives))]
		s := cl(rng.IntN(20), "abc\n"[:1+rng.IntN(4)])
		if rng.IntN(2) == 0 {
			s = cl(-1+rng.IntN(2)*rng.IntN(30), "", flags(capture.SYN), ackNo(0))
		}
		all = append(all, tapped{at: rng.IntN(now), s: l.moved(s)})
	}
	return lives, all
}

// ends lets a connection end in one of some ways, or not.
func (l *life) ends(way int) {
	ack := len(l.read)
	if l.closed {
		ack++
	}
	for _, s := range [][]step{
		{cl(ack, "", flags(capture.RST))},
		{sv(len(l.written), ack, "", flags(capture.RST|capture.ACK))},
		{sv(len(l.written), ack, "", plus(capture.FIN)), cl(ack, "", plus(capture.FIN))},
		nil,
	}[way] {
		l.events++
		l.recorder(s)
	}
}

// reading is what a table told of a flow up to the answer that proves a login.
type reading struct {
	l                  *life
	released, answered []byte
	answers            int   // up to that
	due                int64 // when nothing can come late any more
}

// reader takes what a table tells, and judges what was not in doubt when it was due.
type reader struct {
	table     *Table
	lives     []*life
	reads     map[ID]*reading
	held, far int // logins, and those of more than a few bytes
}

const heldLate = 100 * time.Millisecond

// told judges the logins that are due at a time.
func (r *reader) told(t *testing.T, seed uint64, now int64) {
	for id, it := range r.reads {
		if it.due == 0 || now < it.due {
			continue
		}
		if r.table.Held(id) {
			r.table.Forget(id)
		}
		delete(r.reads, id)
		if r.held++; len(it.released) > 20 {
			r.far++
		}
		if it.l == nil {
			t.Errorf("seed %d: %q of no connection", seed, it.released)
		} else if !bytes.HasPrefix(it.l.read, it.released) || !bytes.HasPrefix(it.l.written, it.answered) {
			t.Errorf("seed %d: released %q and %q, the server read %q and wrote %q", seed, it.released, it.answered, it.l.read, it.l.written)
		}
	}
}

func (r *reader) take(e *Event, now time.Time, answers int) {
	it := r.reads[e.ID]
	switch {
	case e.Kind == Opened:
		it = &reading{answers: answers}
		for _, l := range r.lives {
			if f := r.table.slots.at(e.ID); f.serverISN == serverISN+l.server && f.clientISN == clientISN+l.client {
				it.l = l
			}
		}
		r.reads[e.ID] = it
	case it == nil:
	case e.Kind == Tainted && (it.due == 0 || e.Past), e.Kind == Closed && it.due == 0:
		delete(r.reads, e.ID)
	case e.Kind != Data || it.due != 0:
	case e.Chunk.Dir == authz.FromClient:
		it.released = append(it.released, e.Chunk.Bytes...)
	default:
		it.answered = append(it.answered, e.Chunk.Bytes...)
		if it.answers--; it.answers == 0 {
			it.due = now.Add(heldLate).UnixNano()
			r.table.Hold(e.ID)
		}
	}
}

// TestModelHeld: whatever hostile clients send in connections between the same ends, and
// however late a tap shows it, a login that was held as long as something can be late rests
// on what the server read and wrote.
func TestModelHeld(t *testing.T) {
	t.Parallel()
	held, far := 0, 0
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		lives, all := livesOf(seed, rng)
		r := reader{lives: lives, reads: map[ID]*reading{}}
		r.table = New(Config{Services: services, Limits: lives[0].table.limits, Done: new(capture.DoneSet), Late: heldLate})
		tap := newLateTap(rng, int(heldLate.Milliseconds()))
		for _, ev := range tap.shows(rng, lives[0].mode, all) {
			if ev.Segment.Hash = 1 << 50; r.table.PassesOver(&ev) { // as a decoder does
				continue
			}
			r.told(t, seed, ev.Time.UnixNano())
			for _, e := range r.table.Feed(&ev) {
				r.take(&e, ev.Time, 1+rng.IntN(8))
			}
			if rng.IntN(50) == 0 {
				check(t, r.table)
			}
		}
		r.told(t, seed, never)
		held, far = held+r.held, far+r.far
	}
	t.Logf("%d held, %d with released bytes", held, far)
	if held < 150 || far < 25 {
		t.Errorf("the model shows little: %d held, %d with released bytes", held, far)
	}
}
