/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * uprobes: what a server's processes read and wrote through a TLS library. The
 * object of the call says by its server random which connection it is; nothing
 * is remembered of objects, so each call proves it anew.
 */
#ifndef RELAYGATE_TLS_H
#define RELAYGATE_TLS_H

#include "family.h"
#include "tell.h"

/* Calls that a function of a library makes of others before it is taken to be gone. */
#define INNER_MAX 64

/*
 * within says whether a call is a part of the one that is under way: made by it
 * (the stack grows downwards), or what it has become by a jump.
 */
static __always_inline int within(const struct call *call, const struct call *outer)
{
	if (outer->inner >= INNER_MAX || outer->stack < call->stack)
		return 0;
	return outer->stack > call->stack ||
	       (outer->object == call->object && outer->buffer == call->buffer &&
		writes(outer->function) == writes(call->function));
}

/*
 * finished says that nothing is told of this object's connection any more. After the
 * verdict a call costs no more than this, whosever it is.
 */
static __always_inline int finished(__u64 object)
{
	__u8 random[RANDOM_BYTES] __attribute__((aligned(8)));
	struct origin origin;
	struct flow *flow;

	if (random_of(object, random) <= 0)
		return 0;
	if (is_over(random))
		return 1;
	if (!origin_with(object, random, &origin) || owner_of(&origin))
		return 0;
	flow = bpf_map_lookup_elem(&flows, &origin.cookie);
	if (flow && (flow->state == DONE || flow->state == LOST))
		*place_of(random) = kept_of(random);
	return 1;
}

/* enter notes a call; it returns 1 if its end matters. */
static __noinline int enter(void *ctx, enum function function)
{
	struct call call = {
		.object = argument1(ctx),
		.buffer = buffer_of(ctx, function),
		.length = length_of(ctx, function),
		.stack = stack_pointer(ctx),
		.function = function,
	};
	__u64 thread = bpf_get_current_pid_tgid();
	struct call *outer;

	if (!armed || finished(call.object))
		return 0;
	call.server = family(&call.since);
	if (!call.server) {
		COUNT(refused, 1);
		return 0;
	}
	outer = bpf_map_lookup_elem(&calls, &thread);
	/* What passes is told once, by the outer one, if it tells of that. */
	if (outer && within(&call, outer)) {
		outer->inner++;
		if (outer->object != call.object || writes(outer->function) != writes(function))
			missed(call.object);
		return 0;
	}
	if (outer) {
		/* It never returned: a jump out of it, or another stack. */
		missed(outer->object);
		bpf_map_delete_elem(&calls, &thread);
	}
	if (bpf_map_update_elem(&calls, &thread, &call, BPF_ANY)) {
		COUNT(calls_full, 1);
		missed(call.object);
		return 0;
	}
	return 1;
}

/* returned tells of the call that ends, if it is the one under way. */
static __noinline void returned(void *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct call *under_way, call;

	under_way = bpf_map_lookup_elem(&calls, &thread);
	/* An inner call has another stack; one that was jumped to returns as the outer. */
	if (!under_way || under_way->stack != returned_from(ctx))
		return;
	call = *under_way;
	bpf_map_delete_elem(&calls, &thread);
	if (armed)
		leave(ctx, &call);
}

/*
 * Linux 6.13 has links that pair each entry with its return: 1 spares the trap at
 * the return. The link's cookie says which function it is.
 */
SEC("uprobe")
int relaygate_both(void *ctx)
{
	if (bpf_get_func_ip(ctx) == instruction_pointer(ctx))
		return !enter(ctx, bpf_get_attach_cookie(ctx));
	returned(ctx);
	return 0;
}

/* Before that each has a program of its own. */
SEC("uretprobe")
int relaygate_return(void *ctx)
{
	returned(ctx);
	return 0;
}

#define ENTRY(name, function)           \
	SEC("uprobe")                   \
	int relaygate_##name(void *ctx) \
	{                               \
		enter(ctx, function);   \
		return 0;               \
	}

ENTRY(read, READ)
ENTRY(read_ex, READ_EX)
ENTRY(read_unseen, READ_UNSEEN)
ENTRY(early_read, EARLY_READ)
ENTRY(early_read_ex, EARLY_READ_EX)
ENTRY(write, WRITE)
ENTRY(write_ex, WRITE_EX)
ENTRY(write_ex2, WRITE_EX2)
ENTRY(write_unseen, WRITE_UNSEEN)
ENTRY(flush, FLUSH)

#endif
