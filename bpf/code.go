package bpf

import (
	"bytes"
	"encoding/binary"
	"io"

	"golang.org/x/arch/x86/x86asm"
)

// operand is what an instruction does at a constant distance from an address in
// a register, other than those of the stack.
type operand struct {
	use    use
	offset uint32
}

type use uint8

const (
	address use = iota + 1 // the address is formed
	load64                 // a number of 64 bits is loaded, for instance a pointer
	load32
)

// Function is where a function's code is in a file, in bytes. Size is 0 where it
// is not known.
type Function struct{ Offset, Size uint64 }

// What is read of one function, in bytes: at most, and where its size is not known.
const (
	codeMax   = 4096
	codeGuess = 64
)

// machineCode is the code of a library, which may be anybody's.
type machineCode struct {
	machine   tlsMachine
	functions map[string]Function
	file      io.ReaderAt
}

// of is the code of a function by name, empty if there is none.
func (c *machineCode) of(name string) []byte {
	f, ok := c.functions[name]
	if !ok {
		return nil
	}
	if f.Size == 0 {
		f.Size = codeGuess
	}
	return c.at(f.Offset, min(f.Size, codeMax))
}

// at is the code at an offset of the file, as far as there is any.
func (c *machineCode) at(offset, size uint64) []byte {
	b := make([]byte, size)
	n, _ := c.file.ReadAt(b, int64(offset)) // what cannot be read is not code
	return b[:n]
}

// operands lists those of a function's code, in its order, up to what cannot be
// decoded.
func (c *machineCode) operands(name string) []operand {
	if c.machine == tlsMachineARM64 {
		return operandsARM64(c.of(name))
	}
	return operandsX8664(c.of(name))
}

// endbr64 may begin a function; the decoder does not know it.
var endbr64 = []byte{0xf3, 0x0f, 0x1e, 0xfa}

func operandsX8664(code []byte) []operand {
	var all []operand
	code = bytes.TrimPrefix(code, endbr64)
	for len(code) > 0 {
		inst, err := x86asm.Decode(code, 64)
		if err != nil {
			break
		}
		code = code[inst.Len:]
		if o, ok := operandX8664(&inst); ok {
			all = append(all, o)
		}
	}
	return all
}

func operandX8664(inst *x86asm.Inst) (operand, bool) {
	to, ok := inst.Args[0].(x86asm.Reg)
	if !ok || to < x86asm.EAX || to > x86asm.R15 || to == x86asm.RSP || to == x86asm.RBP {
		return operand{}, false
	}
	wide := to >= x86asm.RAX
	switch from := inst.Args[1].(type) {
	case x86asm.Imm:
		// clang moves the constant, and adds the pointer to it.
		adds := inst.Op == x86asm.ADD && wide || inst.Op == x86asm.MOV
		if adds && from > 0 && from < 1<<15 {
			return operand{address, uint32(from)}, true
		}
	case x86asm.Mem:
		onStack := from.Base == x86asm.RSP || from.Base == x86asm.RBP
		if onStack || from.Base < x86asm.RAX || from.Base > x86asm.R15 || from.Index != 0 || from.Segment != 0 ||
			from.Disp < 0 || from.Disp >= 1<<15 {
			break
		}
		switch {
		case inst.Op == x86asm.LEA && wide:
			return operand{address, uint32(from.Disp)}, true
		case (inst.Op == x86asm.MOV || inst.Op == x86asm.ADD) && wide:
			return operand{load64, uint32(from.Disp)}, true
		case inst.Op == x86asm.MOV:
			return operand{load32, uint32(from.Disp)}, true
		}
	}
	return operand{}, false
}

// operandsARM64 reads instructions with an immediate that is not negative (Arm
// Architecture Reference Manual, ADD (immediate) and LDR (immediate), unsigned
// offset).
func operandsARM64(code []byte) []operand {
	const framePointer, stackPointer = 29, 31
	var all []operand
	for ; len(code) >= 4; code = code[4:] {
		inst := binary.LittleEndian.Uint32(code)
		immediate, base := inst>>10&0xfff, inst>>5&31
		if base == framePointer || base == stackPointer {
			continue
		}
		switch inst & 0xffc00000 {
		case 0x91000000: // ADD Xd, Xn, #imm
			all = append(all, operand{address, immediate})
		case 0xf9400000: // LDR Xt, [Xn, #imm * 8]
			all = append(all, operand{load64, immediate * 8})
		case 0xb9400000: // LDR Wt, [Xn, #imm * 4]
			all = append(all, operand{load32, immediate * 4})
		}
	}
	return all
}
