/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Arguments and results of the probed functions, in the registers where the
 * calling conventions have them. One object serves both processors: the
 * constant is set before the load, and the verifier drops the other branch.
 */
#ifndef RELAYGATE_REGISTERS_H
#define RELAYGATE_REGISTERS_H

#include <linux/types.h>

enum machine {
	X86_64 = 1,
	ARM64 = 2,
};

volatile const enum machine processor = X86_64;

/* As assembly, because a compiler would merge the two into one computed offset. */
#define REGISTER(name, x86_64, arm64)                                          \
	static __always_inline __u64 name(void *ctx)                           \
	{                                                                      \
		__u64 value;                                                   \
                                                                               \
		if (processor == ARM64)                                        \
			asm volatile("%0 = *(u64 *)(%1 + " #arm64 ")"          \
				     : "=r"(value)                             \
				     : "r"(ctx));                              \
		else                                                           \
			asm volatile("%0 = *(u64 *)(%1 + " #x86_64 ")"         \
				     : "=r"(value)                             \
				     : "r"(ctx));                              \
		return value;                                                  \
	}

/* Offsets in struct pt_regs (x86-64) and struct user_pt_regs (arm64). */
REGISTER(argument1, 112, 0)
REGISTER(argument2, 104, 8)
REGISTER(argument4, 88, 24)
REGISTER(argument5, 72, 32)
REGISTER(result, 80, 0)
REGISTER(stack_pointer, 152, 248)
REGISTER(instruction_pointer, 128, 256)

/* On x86-64 a return takes the return address off the stack. */
static __always_inline __u64 returned_from(void *ctx)
{
	return stack_pointer(ctx) - (processor == ARM64 ? 0 : 8);
}

#endif
