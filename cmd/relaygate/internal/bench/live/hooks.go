package live

import (
	"errors"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"

	"relaygate/bpf"
	"relaygate/cmd/relaygate/internal/bench/must"
)

// hooks are BPF programs of the benchmark's own, what holds them where they are, and the
// ring that they fill.
type hooks struct {
	ring  *ebpf.Map
	progs []*ebpf.Program
	links []link.Link
}

// record makes the ring, of a size in bytes.
func (h *hooks) record(size uint32) {
	h.ring = must.Get(ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: size}))
}

func (h *hooks) load(kind ebpf.ProgramType, at ebpf.AttachType, code asm.Instructions) *ebpf.Program {
	p := must.Get(ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, AttachType: at, Instructions: code, License: "GPL"}))
	h.progs = append(h.progs, p)
	return p
}

// everywhere has a program see the packets of all sockets in one direction.
func (h *hooks) everywhere(at ebpf.AttachType, code asm.Instructions) {
	root, p := must.Get(bpf.RootCgroup()), h.load(ebpf.CGroupSKB, at, code)
	h.links = append(h.links, must.Get(link.AttachCgroup(link.CgroupOptions{Path: root, Attach: at, Program: p})))
}

// drain takes the records that are in the ring.
func (h *hooks) drain(do func(record []byte)) {
	r := must.Get(ringbuf.NewReader(h.ring))
	defer r.Close()                //nolint:errcheck // it was only read
	r.SetDeadline(time.Unix(1, 0)) // what is there, and no more
	for {
		rec, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		must.Do(err)
		do(rec.RawSample)
	}
}

func (h *hooks) close() error {
	var errs []error
	for _, l := range h.links {
		errs = append(errs, l.Close())
	}
	for _, p := range h.progs {
		errs = append(errs, p.Close())
	}
	if h.ring != nil {
		errs = append(errs, h.ring.Close())
	}
	return errors.Join(errs...)
}

// attachEmpties attaches programs that do nothing, beside the daemon's: that of what comes
// in first.
func (h *hooks) attachEmpties() {
	for _, at := range []ebpf.AttachType{ebpf.AttachCGroupInetIngress, ebpf.AttachCGroupInetEgress} {
		h.everywhere(at, asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()})
	}
}

// Whom a record wakes (linux/bpf.h).
const (
	wakeNobody = 1 // BPF_RB_NO_WAKEUP
	wakeAtOnce = 2 // BPF_RB_FORCE_WAKEUP
)

// output puts a record of size bytes, at a place on the stack, into a ring.
func output(ring *ebpf.Map, at int16, size, wake int32) asm.Instructions {
	return asm.Instructions{
		asm.LoadMapPtr(asm.R1, ring.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, int32(at)),
		asm.Mov.Imm(asm.R3, size),
		asm.Mov.Imm(asm.R4, wake),
		asm.FnRingbufOutput.Call(),
	}
}
