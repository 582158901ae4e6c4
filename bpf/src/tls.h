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
#define PARTS_MAX 64

/* same says whether two calls read, or write, one object. */
static __always_inline int same(const struct call *a, const struct call *b)
{
	return a->object == b->object && writes(a->function) == writes(b->function);
}

/*
 * within says whether a call was made by one that is under way (the stack grows
 * downwards), or is what that has become by a jump.
 */
static __always_inline int within(const struct call *call, const struct call *outer)
{
	if (outer->parts >= PARTS_MAX || outer->stack < call->stack)
		return 0;
	return outer->stack > call->stack || (same(call, outer) && outer->buffer == call->buffer);
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

/*
 * enter_within notes a call that another has made, or that seems so. What passes is told
 * once: by the one that was asked for it. What was written from within a read came before
 * what that reads. Of all else nothing is told: of a read from within a write the order is
 * not known, and another connection's call may be on a stack of its own (see apart).
 */
static __always_inline int enter_within(const struct call *call, struct calls *under_way)
{
	struct call *inner = &under_way->inner, *outer = &under_way->outer;

	if (inner->stack && within(call, inner))
		outer = inner;
	outer->parts++;
	if (same(call, outer))
		return 0;
	if (inner->stack || outer->object != call->object || writes(outer->function)) {
		missed(call->object);
		return 0;
	}
	*inner = *call;
	return 1;
}

/* gone loses calls that never returned: a jump out of them, or another stack. */
static __always_inline void gone(const struct calls *under_way)
{
	missed(under_way->outer.object);
	if (under_way->inner.stack)
		missed(under_way->inner.object);
}

/*
 * apart says whether a call that is no part of one under way may be on another stack, as
 * those of coroutines are. The kernel keeps the returns that it awaits of a thread in one
 * pile: where they do not come in that order, it leads one to another's place or, having
 * none, ends the process. So no second one is asked for. Where the calls are in one place
 * the first is gone for sure.
 */
static __always_inline int apart(const struct call *call, const struct calls *under_way)
{
	return call->stack != under_way->outer.stack;
}

/* enter notes a call; it returns 1 if its end matters. */
static __noinline int enter(void *ctx, enum function function)
{
	struct calls fresh = {.outer = {
		.object = argument1(ctx),
		.buffer = buffer_of(ctx, function),
		.length = length_of(ctx, function),
		.stack = stack_pointer(ctx),
		.function = function,
	}};
	__u64 thread = bpf_get_current_pid_tgid();
	struct call *call = &fresh.outer;
	struct calls *under_way;
	struct kin kin = {};

	if (!armed || finished(call->object))
		return 0;
	call->server = family(&kin);
	if (!call->server) {
		COUNT(refused);
		return 0;
	}
	call->since = kin.since;
	under_way = bpf_map_lookup_elem(&calls, &thread);
	if (under_way && within(call, &under_way->outer))
		return enter_within(call, under_way);
	if (under_way) {
		gone(under_way);
		if (apart(call, under_way)) {
			missed(call->object);
			return 0;
		}
		bpf_map_delete_elem(&calls, &thread);
	}
	if (bpf_map_update_elem(&calls, &thread, &fresh, BPF_ANY)) {
		COUNT(calls_full);
		missed(call->object);
		return 0;
	}
	return 1;
}

/* returned tells of the call that ends, if it is one that is under way. */
static __noinline void returned(void *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid(), stack = returned_from(ctx);
	struct calls *under_way;
	struct call call;

	under_way = bpf_map_lookup_elem(&calls, &thread);
	if (!under_way)
		return;
	/* A part of one has another stack; what was jumped to returns as the one itself. */
	if (under_way->inner.stack == stack) {
		call = under_way->inner;
		under_way->inner.stack = 0;
	} else if (under_way->outer.stack == stack) {
		call = under_way->outer;
		if (under_way->inner.stack)
			missed(under_way->inner.object); /* it never returned */
		bpf_map_delete_elem(&calls, &thread);
	} else {
		return;
	}
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
