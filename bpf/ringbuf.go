package bpf

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// ring is a BPF ring buffer as its only consumer sees it (linux/bpf.h, struct
// bpf_ringbuf_hdr; Documentation/bpf/ringbuf.rst). Unlike cilium's reader it
// copies nothing, asks the kernel nothing, and never spins on a record that its
// producer has reserved and not yet filled.
type ring struct {
	control, data []byte // mappings: the consumer's page; the producer's and the records
	read, written *uint64
	records       []byte // twice, so that none is cut
	mask          uint64
	at            uint64 // of the record that next looks at
}

func openRing(m *ebpf.Map) (r *ring, err error) {
	page, size := os.Getpagesize(), int(m.MaxEntries())
	r = &ring{mask: uint64(size) - 1}
	if r.control, err = unix.Mmap(m.FD(), 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map the consumer's page: %w", err)
	}
	if r.data, err = unix.Mmap(m.FD(), int64(page), page+2*size, unix.PROT_READ, unix.MAP_SHARED); err != nil {
		return nil, errors.Join(fmt.Errorf("map the records: %w", err), r.close())
	}
	r.read, r.written = (*uint64)(unsafe.Pointer(&r.control[0])), (*uint64)(unsafe.Pointer(&r.data[0]))
	r.records = r.data[page:]
	r.at = atomic.LoadUint64(r.read)
	return r, nil
}

func (r *ring) close() error {
	var errs []error
	for _, mapping := range [][]byte{r.control, r.data} {
		if mapping != nil {
			errs = append(errs, unix.Munmap(mapping))
		}
	}
	r.control, r.data = nil, nil
	return errors.Join(errs...)
}

// What the length of a record says besides (BPF_RINGBUF_BUSY_BIT and
// BPF_RINGBUF_DISCARD_BIT), and the size of its header.
const (
	ringBusy    = 1 << 31
	ringDiscard = 1 << 30
	ringHeader  = 8
)

// ringBytes is the room that a record takes in a ring (struct bpf_ringbuf_hdr
// and the rounding of __bpf_ringbuf_reserve).
func ringBytes(n int) uint64 { return (uint64(n) + ringHeader + 7) &^ 7 }

// next returns the next record, or nil if there is none. It is valid until
// release, or until next returns nil.
func (r *ring) next() []byte {
	for r.at != atomic.LoadUint64(r.written) {
		at := r.at & r.mask
		length := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.records[at])))
		if length&ringBusy != 0 {
			break
		}
		n := int(length &^ ringDiscard)
		r.at += ringBytes(n)
		if length&ringDiscard == 0 {
			return r.records[at+ringHeader:][:n:n]
		}
	}
	r.release()
	return nil
}

// release gives the room of all records that next returned back to the kernel.
func (r *ring) release() { atomic.StoreUint64(r.read, r.at) }

// fill says what there is behind the records that next returned.
type fill uint8

const (
	empty    fill = iota
	unfilled      // a record that its producer has reserved
	filled
)

func (r *ring) pending() fill {
	if r.at == atomic.LoadUint64(r.written) {
		return empty
	}
	length := atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.records[r.at&r.mask])))
	if length&ringBusy != 0 {
		return unfilled
	}
	return filled
}
