package bpf

import (
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
)

// filledRing is a ring as producers leave it.
type filledRing struct{ *ring }

func newFilledRing() filledRing {
	const size = 1 << 12
	return filledRing{&ring{read: new(uint64), written: new(uint64), records: make([]byte, 2*size), mask: size - 1}}
}

// add adds an event, whose producer may not have filled it yet.
func (w filledRing) add(kind tapEventKind, cookie uint64, busy bool) (length *uint32) {
	at := w.records[*w.written&w.mask:]
	length = (*uint32)(unsafe.Pointer(&at[0]))
	*length = uint32(eventSize)
	if busy {
		*length |= ringBusy
	}
	*(*tapEvent)(unsafe.Pointer(&at[ringHeader])) = tapEvent{Kind: kind, Cookie: cookie}
	*w.written += ringBytes(eventSize)
	return length
}

// TestEndsInTheirPlace: an end that found no room comes behind what the rings held then,
// also what its producer had not filled yet, and not behind what comes later, or a storm
// that the reader never gets ahead of would keep it away.
func TestEndsInTheirPlace(t *testing.T) {
	queue, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Queue, ValueSize: uint32(unsafe.Sizeof(tapEnd{})), MaxEntries: 8})
	must(t, err)
	defer func() { must(t, queue.Close()) }()
	events := newFilledRing()
	r := &Reader{packets: newFilledRing().ring, events: events.ring, untold: queue, notes: new(tapNote), deadline: time.Unix(1, 0)}
	next := func(kind Kind, cookie uint64) {
		t.Helper()
		var rec Record
		if err := r.Next(&rec); err != nil || rec.Kind != kind || rec.Cookie != cookie {
			t.Errorf("%v of %d, %v; want %v of %d", rec.Kind, rec.Cookie, err, kind, cookie)
		}
	}
	busy := events.add(tapEventKindOPENED, 1, true)
	events.add(tapEventKindOPENED, 7, false)
	must(t, queue.Put(nil, &tapEnd{Cookie: 7, Time: 5}))
	r.notes.Untold = 1
	if err := r.Next(new(Record)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v before what it waits for was filled", err)
	}
	atomic.StoreUint32(busy, uint32(eventSize))
	for cookie := uint64(100); cookie < 102; cookie++ { // as many as are read
		events.add(tapEventKindOPENED, cookie, false)
		next(Opened, []uint64{1, 7}[cookie-100])
	}
	next(Closed, 7)
	next(Opened, 100)
	next(Opened, 101)
}
