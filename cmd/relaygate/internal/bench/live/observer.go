package live

import (
	"encoding/binary"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
)

// observer notes by one clock, the kernel's, when positive answers leave the
// server's sockets and when the system calls return with which the agent (or a
// peer of it, whatever is in its control group) sends to a socket and receives
// from one. It must be there before those that it observes: at the same hook it
// then comes first.
type observer struct{ hooks }

// What a sight is of.
const (
	answerLeft uint32 = iota + 1
	sendReturned
	receiveReturned
)

// sight is a record of the observer.
type sight struct {
	at   time.Duration // CLOCK_MONOTONIC
	kind uint32
	addr [4]byte // of the client that was answered
	size int     // of what was sent or received, in bytes
}

const sightSize = 16

// withObserver runs do while the agent's control group is observed.
func (m *measure) withObserver(do func(*observer)) {
	o := &observer{}
	defer m.End(o.close)
	o.record(16 << 20)
	o.everywhere(ebpf.AttachCGroupInetEgress, answerProgram(o.ring))
	var st unix.Stat_t
	must.Do(unix.Stat(m.groups["agent"], &st))
	p := o.load(ebpf.RawTracepoint, ebpf.AttachNone, syscallProgram(o.ring, st.Ino))
	o.links = append(o.links, must.Get(link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_exit", Program: p})))
	do(o)
}

// note is the end of both programs: a sight of a kind goes into the ring, with
// what r7 holds, the client's address or a size. Nobody is woken.
func note(ring *ebpf.Map, kind uint32) asm.Instructions {
	return append(asm.Instructions{
		asm.FnKtimeGetNs.Call(),
		asm.StoreMem(asm.R10, -sightSize, asm.R0, asm.DWord),
		asm.StoreImm(asm.R10, -sightSize+8, int64(kind), asm.Word),
		asm.StoreMem(asm.R10, -sightSize+12, asm.R7, asm.Word),
	}, output(ring, -sightSize, sightSize, wakeNobody)...)
}

// answerProgram sees IPv4 packets that sockets send (1 lets them pass) and notes
// those from the mail port that begin with the positive answer.
func answerProgram(ring *ebpf.Map) asm.Instructions {
	const head, payload = -64, -80 // on the stack
	want := binary.NativeEndian.Uint64([]byte(positive)[:8])
	code := append(mailPacket(head), // its offset is in r2
		asm.LoadMem(asm.R7, asm.R10, head+16, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, payload),
		asm.Mov.Imm(asm.R4, 8),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R10, payload, asm.DWord),
		asm.LoadImm(asm.R2, int64(want), asm.DWord),
		asm.JNE.Reg(asm.R1, asm.R2, "pass"),
	)
	code = append(code, note(ring, answerLeft)...)
	return append(code, asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return())
}

// mailPacket loads the headers of an IPv4 packet without options to head, on the
// stack, and jumps to "pass" if it does not come from the mail port. r6 is then
// the packet and r2 the offset of the payload.
func mailPacket(head int16) asm.Instructions {
	port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, mailPort))
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, int32(head)),
		asm.Mov.Imm(asm.R4, 40),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R10, head, asm.Byte),
		asm.JNE.Imm(asm.R1, 0x45, "pass"),
		asm.LoadMem(asm.R1, asm.R10, head+9, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(asm.R1, asm.R10, head+20, asm.Half),
		asm.JNE.Imm(asm.R1, int32(port), "pass"),
		// Data offset, RFC 9293 §3.1, in words of four bytes.
		asm.LoadMem(asm.R2, asm.R10, head+32, asm.Byte),
		asm.RSh.Imm(asm.R2, 4),
		asm.LSh.Imm(asm.R2, 2),
		asm.Add.Imm(asm.R2, 20),
	}
}

// callNumber is where struct pt_regs keeps the system call's number.
var callNumber = map[string]struct {
	offset int32
	size   int32
}{"amd64": {120, 8}, "arm64": {280, 4}}[runtime.GOARCH]

// syscallProgram sees system calls return (raw tracepoint sys_exit: registers
// and result) and notes those of a control group. A call that finds nothing to be
// received counts too: behind a send that the kernel has not refused, it tells that
// all was done (see nft).
func syscallProgram(ring *ebpf.Map, group uint64) asm.Instructions {
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, 8, asm.DWord),
		asm.JEq.Imm(asm.R7, -int32(unix.EAGAIN), "known"),
		asm.JSLE.Imm(asm.R7, 0, "exit"),
		asm.FnGetCurrentCgroupId.Call().WithSymbol("known"),
		asm.LoadImm(asm.R1, int64(group), asm.DWord),
		asm.JNE.Reg(asm.R0, asm.R1, "exit"),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R10, -24, asm.R1, asm.DWord),
		asm.Mov.Reg(asm.R1, asm.R10),
		asm.Add.Imm(asm.R1, -24),
		asm.Mov.Imm(asm.R2, callNumber.size),
		asm.LoadMem(asm.R3, asm.R6, 0, asm.DWord),
		asm.Add.Imm(asm.R3, callNumber.offset),
		asm.FnProbeReadKernel.Call(),
		asm.LoadMem(asm.R1, asm.R10, -24, asm.DWord),
		asm.JEq.Imm(asm.R1, unix.SYS_SENDTO, "sent"),
		asm.JEq.Imm(asm.R1, unix.SYS_SENDMSG, "sent"),
		asm.JEq.Imm(asm.R1, unix.SYS_RECVFROM, "received"),
		asm.JEq.Imm(asm.R1, unix.SYS_RECVMSG, "received"),
		asm.JEq.Imm(asm.R1, unix.SYS_READ, "received"), // of a socket, if behind a send
		asm.Ja.Label("exit"),
	}
	sent, received := note(ring, sendReturned), note(ring, receiveReturned)
	sent = append(asm.Instructions{asm.JSLE.Imm(asm.R7, 0, "exit")}, sent...)
	sent[0] = sent[0].WithSymbol("sent")
	received[0] = received[0].WithSymbol("received")
	code = append(append(code, sent...), asm.Ja.Label("exit"))
	code = append(code, received...)
	return append(code, asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"), asm.Return())
}

// sights takes what was noted since the last call, in the order of time.
func (o *observer) sights() (list []sight) {
	o.drain(func(b []byte) {
		list = append(list, sight{
			at:   time.Duration(binary.NativeEndian.Uint64(b) & math.MaxInt64),
			kind: binary.NativeEndian.Uint32(b[8:]),
			addr: [4]byte(b[12:16]),
			size: int(binary.NativeEndian.Uint32(b[12:])),
		})
	})
	slices.SortStableFunc(list, func(a, b sight) int { return int(a.at - b.at) })
	return list
}

// delays are the times from each answer's leaving to the return of the call that
// received the acknowledgement, or found that nothing was refused: the first one
// behind a send. Who sends elements
// sends them in the order of the answers, several at a time if it must; the
// shortest message has one.
func delays(sights []sight) (list []time.Duration, missing int) {
	shortest := math.MaxInt
	for _, s := range sights {
		if s.kind == sendReturned {
			shortest = min(shortest, s.size)
		}
	}
	var waiting []time.Duration
	sent := 0
	answered := make(map[[4]byte]bool) // an answer can be sent again
	for _, s := range sights {
		switch s.kind {
		case answerLeft:
			if !answered[s.addr] {
				answered[s.addr] = true
				waiting = append(waiting, s.at)
			}
		case sendReturned:
			sent = 1 + (s.size-shortest)/elementSize
		case receiveReturned:
			n := min(sent, len(waiting))
			for _, left := range waiting[:n] {
				list = append(list, s.at-left)
			}
			waiting, sent = waiting[n:], 0
		}
	}
	return list, len(waiting)
}

// elementSize is what one more IPv4 element adds to a message, in bytes: three
// nested attributes and three values.
const elementSize = 4 + 4 + 8 + 12 + 12
