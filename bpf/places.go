package bpf

import (
	"bytes"
	"iter"
	"slices"

	"golang.org/x/arch/x86/x86asm"
)

// places says where in the library's file its functions are probed. A probe is a
// trap, and a second one if the kernel has to step through the instruction that
// it replaces, because it cannot emulate that one; in a virtual machine such a
// step can take ten times as long as the trap. So the probe is put to a near
// place where it need not.
func (c *machineCode) places(kind LibraryKind) map[tlsFunction][]uint64 {
	at := make(map[string]uint64)
	for name := range functionsOf(kind) {
		if f, ok := c.functions[name]; ok {
			at[name] = f.Offset
		}
	}
	if c.machine == tlsMachineX8664 {
		c.share(at, "SSL_read", "SSL_read_ex")
		c.share(at, "SSL_write", "SSL_write_ex2")
		c.share(at, "SSL_write", "SSL_write_ex")
		for name, offset := range at {
			at[name] = offset + quickStart(c.at(offset, codeGuess), argumentsOf[functionsOf(kind)[name]])
		}
	}
	places := make(map[tlsFunction][]uint64)
	for name, offset := range at {
		function := functionsOf(kind)[name]
		places[function] = append(places[function], offset)
	}
	return places
}

// share probes what a function of OpenSSL has in common with another, instead of
// both: one that does nothing but call it with its own arguments, so that they
// mean the same. It is not exported. (Older versions begin the exported ones with
// an instruction that cannot be emulated.)
func (c *machineCode) share(at map[string]uint64, plain, extended string) {
	if _, ok := at[plain]; !ok {
		return
	}
	inner, ok := c.onlyCall(extended)
	if !ok || !c.calls(plain, inner) {
		return
	}
	if code := c.at(inner, codeGuess); quickStart(code, argumentsOf[tlsFunctionWRITE_EX2]) > 0 || emulated(code) {
		delete(at, plain)
		at[extended] = inner
	}
}

// onlyCall is where in the file the function is that another calls first, with the
// arguments that it has itself.
func (c *machineCode) onlyCall(name string) (inner uint64, ok bool) {
	for inst, end := range c.instructions(name) {
		to, _ := inst.Args[0].(x86asm.Reg)
		switch {
		case inst.Op == x86asm.CALL:
			return target(&inst, end)
		case inst.Op == x86asm.PUSH,
			inst.Op == x86asm.SUB && to == x86asm.RSP,
			inst.Op == x86asm.MOV && to == x86asm.RBP:
		default:
			return 0, false
		}
	}
	return 0, false
}

// calls says whether a function calls the one at an offset of the file.
func (c *machineCode) calls(name string, offset uint64) bool {
	if c.functions[name].Size == 0 {
		return false // what follows it may
	}
	for inst, end := range c.instructions(name) {
		if to, ok := target(&inst, end); ok && inst.Op == x86asm.CALL && to == offset {
			return true
		}
	}
	return false
}

// instructions are those of a function, each with the offset in the file that it
// ends at.
func (c *machineCode) instructions(name string) iter.Seq2[x86asm.Inst, uint64] {
	return func(yield func(x86asm.Inst, uint64) bool) {
		code, end := c.of(name), c.functions[name].Offset
		if bytes.HasPrefix(code, endbr64) {
			code, end = code[len(endbr64):], end+uint64(len(endbr64))
		}
		for len(code) > 0 {
			inst, err := x86asm.Decode(code, 64)
			if err != nil {
				return
			}
			code, end = code[inst.Len:], end+uint64(inst.Len)
			if !yield(inst, end) {
				return
			}
		}
	}
}

// target is where an instruction goes to.
func target(inst *x86asm.Inst, end uint64) (uint64, bool) {
	distance, ok := inst.Args[0].(x86asm.Rel)
	return end + uint64(int64(distance)), ok
}

// argumentsOf are the registers that must be as the caller left them.
var argumentsOf = map[tlsFunction][]x86asm.Reg{
	tlsFunctionREAD:          {x86asm.RDI, x86asm.RSI},
	tlsFunctionREAD_EX:       {x86asm.RDI, x86asm.RSI, x86asm.RCX},
	tlsFunctionREAD_UNSEEN:   {x86asm.RDI},
	tlsFunctionEARLY_READ:    {x86asm.RDI, x86asm.RSI},
	tlsFunctionEARLY_READ_EX: {x86asm.RDI, x86asm.RSI, x86asm.RCX},
	tlsFunctionWRITE:         {x86asm.RDI, x86asm.RSI},
	tlsFunctionWRITE_EX:      {x86asm.RDI, x86asm.RSI, x86asm.RCX},
	tlsFunctionWRITE_EX2:     {x86asm.RDI, x86asm.RSI, x86asm.R8},
	tlsFunctionWRITE_UNSEEN:  {x86asm.RDI},
	tlsFunctionFLUSH:         {x86asm.RDI},
}

// quickStart is how many bytes behind its start a function can be probed as if it
// were there, so that the kernel emulates the instruction. It is 0 if that is not
// better: the stack must be as it was, and so must these registers.
func quickStart(code []byte, arguments []x86asm.Reg) uint64 {
	var skipped uint64
	if bytes.HasPrefix(code, endbr64) {
		code, skipped = code[len(endbr64):], uint64(len(endbr64))
	}
	for !emulated(code) {
		inst, err := x86asm.Decode(code, 64)
		if err != nil || inst.Op != x86asm.XOR {
			return 0
		}
		to, ok := inst.Args[0].(x86asm.Reg)
		if !ok || to < x86asm.EAX || to > x86asm.R15L || to == x86asm.ESP ||
			slices.Contains(arguments, to-x86asm.EAX+x86asm.RAX) {
			return 0
		}
		code, skipped = code[inst.Len:], skipped+uint64(inst.Len)
	}
	return skipped
}

// emulated says whether the kernel emulates the first instruction, which no
// branch of the function can come back to: to save a register, and to leave
// (arch/x86/kernel/uprobes.c).
func emulated(code []byte) bool {
	inst, err := x86asm.Decode(code, 64)
	if err != nil {
		return false
	}
	_, register := inst.Args[0].(x86asm.Reg)
	_, relative := inst.Args[0].(x86asm.Rel)
	return inst.Op == x86asm.PUSH && register || inst.Op == x86asm.JMP && relative
}
