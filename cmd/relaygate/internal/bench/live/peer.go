package live

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/nft"
)

//go:embed peer/direct.c
var directSource []byte

// buildDirect compiles the C program; it is "" where there is no compiler.
func (m *measure) buildDirect(ctx context.Context) (program string) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return ""
	}
	source := filepath.Join(m.Dir, "direct.c")
	must.Do(os.WriteFile(source, directSource, 0o600))
	program = filepath.Join(m.Dir, "direct")
	if out, err := exec.CommandContext(ctx, cc, "-O2", "-o", program, source).CombinedOutput(); err != nil {
		must.Do(fmt.Errorf("compile the C program: %w: %s", err, out))
	}
	return program
}

const directRing = 8 << 20 // bytes, as the daemon's

// withDirect runs do while the C program is in the agent's place, with a tap of its own.
// The gate's table must be there.
func (m *measure) withDirect(ctx context.Context, program string, do func()) {
	var tap hooks
	defer m.End(tap.close)
	tap.record(directRing)
	tap.everywhere(ebpf.AttachCGroupInetEgress, directTap(tap.ring))
	ring := os.NewFile(uintptr(must.Get(unix.FcntlInt(uintptr(tap.ring.FD()), unix.F_DUPFD_CLOEXEC, 0))), "ring")
	defer m.End(ring.Close)
	cmd := exec.CommandContext(ctx, program, strconv.Itoa(directRing), nft.Table, "allow4")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{ring}
	out := must.Get(cmd.StdoutPipe())
	must.Do(startIn(m.serverNS, m.groups["agent"], cmd))
	defer func() {
		m.End(cmd.Process.Kill)
		_ = cmd.Wait() // it was killed
	}()
	must.Get(bufio.NewReader(out).ReadString('\n')) // it waits for the ring
	do()
}

// directTap sees what sockets send and puts what comes from the mail port and
// has a payload into the ring: cookie, client, sequence number, and the
// payload's first bytes.
// Each wakes the reader.
func directTap(ring *ebpf.Map) asm.Instructions {
	const head, record, size = -48, -96, 32 // on the stack
	code := append(mailPacket(head),        // its offset is in r2
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R10, record+16, asm.R1, asm.DWord),
		asm.StoreMem(asm.R10, record+24, asm.R1, asm.DWord),
		asm.LoadMem(asm.R1, asm.R10, head+16, asm.Word), // client
		asm.StoreMem(asm.R10, record+8, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.R10, head+24, asm.Word), // sequence number
		asm.StoreMem(asm.R10, record+12, asm.R1, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, record+16),
		asm.Mov.Imm(asm.R4, 5), // the shortest answer
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.FnGetSocketCookie.Call(),
		asm.StoreMem(asm.R10, record, asm.R0, asm.DWord),
	)
	code = append(code, output(ring, record, size, wakeAtOnce)...)
	return append(code, asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), asm.Return())
}
