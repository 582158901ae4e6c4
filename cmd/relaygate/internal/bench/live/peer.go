package live

import (
	"bufio"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"relaygate/nft"
)

//go:embed peer/direct.c
var directSource []byte

// errNoCompiler says that the C program cannot be had.
var errNoCompiler = errors.New("no C compiler (cc)")

// buildDirect compiles the C program; errNoCompiler where there is none.
func (m *measure) buildDirect(ctx context.Context) (program string, err error) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", errNoCompiler
	}
	source := filepath.Join(m.dir, "direct.c")
	if err := os.WriteFile(source, directSource, 0o600); err != nil {
		return "", fmt.Errorf("write the C program: %w", err)
	}
	program = filepath.Join(m.dir, "direct")
	if out, err := exec.CommandContext(ctx, cc, "-O2", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the C program: %w: %s", err, out)
	}
	return program, nil
}

// direct is the C program at work, with a tap of its own.
type direct struct {
	hooks
	cmd *exec.Cmd
}

const directRing = 8 << 20 // bytes, as the daemon's

// startDirect starts the C program in the agent's place. The gate's table must
// be there.
func (m *measure) startDirect(ctx context.Context, program string) (d *direct, err error) {
	d = &direct{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.stop())
		}
	}()
	if err := d.record(directRing); err != nil {
		return d, err
	}
	if err := d.everywhere(ebpf.AttachCGroupInetEgress, directTap(d.ring)); err != nil {
		return d, fmt.Errorf("the C program's tap: %w", err)
	}
	return d, m.runDirect(ctx, d, program)
}

// runDirect starts the process and waits until it waits for the ring.
func (m *measure) runDirect(ctx context.Context, d *direct, program string) error {
	fd, err := unix.FcntlInt(uintptr(d.ring.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("hand the ring over: %w", err)
	}
	ring := os.NewFile(uintptr(fd), "ring")
	defer ring.Close() //nolint:errcheck // the child has its own
	cmd := exec.CommandContext(ctx, program, strconv.Itoa(directRing), nft.Table, "allow4")
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{ring}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	if err := startIn(m.serverNS, m.groups["agent"], cmd); err != nil {
		return fmt.Errorf("start the C program: %w", err)
	}
	d.cmd = cmd
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return fmt.Errorf("the C program does not say that it is ready: %w", err)
	}
	return nil
}

func (d *direct) stop() error {
	var errs []error
	if d.cmd != nil {
		errs = append(errs, d.cmd.Process.Kill())
		_ = d.cmd.Wait() // it was killed
	}
	return errors.Join(append(errs, d.close())...)
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
