/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * uprobes: what a server's processes read and wrote through a TLS library. The
 * object of the call says by its server random which connection it is; nothing
 * is remembered of objects, so each call proves it anew.
 */
#ifndef RELAYGATE_TLS_H
#define RELAYGATE_TLS_H

#include "family.h"
#include "registers.h"
#include "scan.h"
#include "tap.h"

/* What a function's arguments and result mean. */
enum function {
	READ = 1,      /* (object, buffer, size) returns the length */
	READ_EX,       /* (object, buffer, size, *length) returns 1 */
	READ_UNSEEN,   /* (object, ...) returns the length; the buffer is unknown */
	EARLY_READ,    /* as READ, early data */
	EARLY_READ_EX, /* as READ_EX, early data */
	WRITE,
	WRITE_EX,
	WRITE_EX2, /* (object, buffer, size, flags, *length) returns 1 */
	WRITE_UNSEEN,
	FLUSH, /* (object, ...) writes again what was counted as written before */
};

/* When the probes were complete, ns, CLOCK_MONOTONIC; 0 before and after. */
__u64 armed;

/* Calls that a function of a library makes of others before it is taken to be gone. */
#define INNER_MAX 64

/* owner_of is the flow that an object's calls belong to, if it wants them. */
static __always_inline struct flow *owner_of(const struct origin *origin)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &origin->cookie);

	if (flow && (flow->state == READING || flow->state == ENCRYPTED))
		return flow;
	return NULL;
}

/* unread is a call on an object that cannot be read: any connection's. */
static __always_inline void unread(void)
{
	COUNT(unread, 1);
	tell_lost(0, OBJECT_UNREAD);
}

/* missed says that a call on this object was not seen whole. */
static __always_inline void missed(__u64 object)
{
	struct origin origin;
	struct flow *flow;

	COUNT(unseen, 1);
	if (!known(object, &origin)) {
		if (origin.cookie == UNREAD)
			unread();
		return;
	}
	flow = owner_of(&origin);
	if (flow)
		lose(flow, origin.cookie, CALL_UNSEEN);
}

static __always_inline void enter(void *ctx, enum function function, __u64 buffer, __u64 length)
{
	struct call call = {
		.object = argument1(ctx),
		.buffer = buffer,
		.length = length,
		.stack = stack_pointer(ctx),
		.function = function,
	};
	__u64 thread = bpf_get_current_pid_tgid();
	struct origin origin;
	struct call *outer;

	if (!armed)
		return;
	call.server = family(&call.since);
	if (!call.server) {
		COUNT(refused, 1);
		return;
	}
	outer = bpf_map_lookup_elem(&calls, &thread);
	/*
	 * A function that calls another of its library, or jumps to it: what
	 * passes is told once, by the outer one. The stack grows downwards.
	 */
	if (outer && outer->stack >= call.stack && outer->inner < INNER_MAX) {
		outer->inner++;
		if (outer->object != call.object)
			missed(call.object);
		return;
	}
	if (outer) {
		/* It never returned: a jump out of it, or another stack. */
		missed(outer->object);
		bpf_map_delete_elem(&calls, &thread);
	}
	/* After the verdict a call costs no more than this. */
	if (known(call.object, &origin) && !owner_of(&origin))
		return;
	if (bpf_map_update_elem(&calls, &thread, &call, BPF_ANY)) {
		COUNT(calls_full, 1);
		missed(call.object);
	}
}

#define ENTRY(name, function, buffer, length)         \
	SEC("uprobe")                                 \
	int relaygate_##name(void *ctx)               \
	{                                             \
		enter(ctx, function, buffer, length); \
		return 0;                             \
	}

ENTRY(read, READ, argument2(ctx), 0)
ENTRY(read_ex, READ_EX, argument2(ctx), argument4(ctx))
ENTRY(read_unseen, READ_UNSEEN, 0, 0)
ENTRY(early_read, EARLY_READ, argument2(ctx), 0)
ENTRY(early_read_ex, EARLY_READ_EX, argument2(ctx), argument4(ctx))
ENTRY(write, WRITE, argument2(ctx), 0)
ENTRY(write_ex, WRITE_EX, argument2(ctx), argument4(ctx))
ENTRY(write_ex2, WRITE_EX2, argument2(ctx), argument5(ctx))
ENTRY(write_unseen, WRITE_UNSEEN, 0, 0)
ENTRY(flush, FLUSH, 0, 0)

/* passed returns how many bytes the call read or wrote, -1 if that is unknown. */
static __always_inline __s64 passed(void *ctx, const struct call *call)
{
	/* An int, or a ssize_t of less than that. */
	__s32 result32 = result(ctx);
	__u64 length;

	switch (call->function) {
	case FLUSH:
		return 0;
	case READ_EX:
	case EARLY_READ_EX:
	case WRITE_EX:
	case WRITE_EX2:
		if (result32 != 1)
			return 0;
		if (bpf_probe_read_user(&length, sizeof(length), (void *)call->length) ||
		    length > 0x7fffffff)
			return -1;
		return length;
	}
	return result32 > 0 ? result32 : 0;
}

/* As in packets.h: the record's size is a constant. */
#define COPY(size)                                                              \
	static __always_inline int copy_##size(const struct plain *head,        \
					       __u64 buffer, __u32 len,         \
					       __u64 flags)                     \
	{                                                                       \
		struct {                                                        \
			struct plain head;                                      \
			__u8 data[size - sizeof(struct plain)];                 \
		} *rec;                                                         \
		__u32 last = len - 1;                                           \
                                                                                \
		rec = bpf_ringbuf_reserve(&packets, sizeof(*rec), 0);           \
		if (!rec)                                                       \
			return -1;                                              \
		rec->head = *head;                                              \
		rec->head.head.captured = 0;                                    \
		barrier_var(last);                                              \
		if (buffer && last < sizeof(rec->data) &&                       \
		    bpf_probe_read_user(rec->data, last + 1, (void *)buffer) == 0) \
			rec->head.head.captured = last + 1;                     \
		bpf_ringbuf_submit(rec, flags);                                 \
		return 0;                                                       \
	}

COPY(128)
COPY(512)
COPY(2048)
COPY(16384)

#define CAPTURE_MAX (16384 - sizeof(struct plain))

static __always_inline int copy(const struct plain *head, __u64 buffer, __u32 len, __u64 flags)
{
	if (len <= 128 - sizeof(*head))
		return copy_128(head, buffer, len, flags);
	if (len <= 512 - sizeof(*head))
		return copy_512(head, buffer, len, flags);
	if (len <= 2048 - sizeof(*head))
		return copy_2048(head, buffer, len, flags);
	return copy_16384(head, buffer, len, flags);
}

static __always_inline void lose_plain(struct flow *flow, __u64 cookie, enum reason reason)
{
	COUNT(plain_lost, 1);
	lose(flow, cookie, reason);
}

/* tell puts what a call read or wrote into the ring. */
static __always_inline void tell(const struct call *call, struct flow *flow, __u64 cookie,
				 __u32 length)
{
	__u32 captured = length > CAPTURE_MAX ? CAPTURE_MAX : length;
	__u64 flags = BPF_RB_NO_WAKEUP;
	struct plain head = {
		.head = {.cookie = cookie, .wire_len = length, .kind = PLAIN},
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.server = call->server,
	};

	if (call->function == EARLY_READ || call->function == EARLY_READ_EX)
		head.head.kind = EARLY;
	head.head.egress = call->function >= WRITE;
	if (head.head.egress) {
		flow->plain_unanswered = 0;
		flags = BPF_RB_FORCE_WAKEUP;
	} else {
		if (flow->plain_unanswered + length > PLAIN_UNANSWERED_MAX) {
			lose_plain(flow, cookie, PLAIN_UNANSWERED);
			return;
		}
		flow->plain_unanswered += length;
	}
	if (flow->plain_total + captured + sizeof(head) > PLAIN_MAX) {
		lose_plain(flow, cookie, PLAIN_FULL);
		return;
	}
	flow->plain_total += captured + sizeof(head);
	if (bpf_ringbuf_query(&packets, BPF_RB_AVAIL_DATA) > wakeup_bytes)
		flags = BPF_RB_FORCE_WAKEUP;
	head.head.time = bpf_ktime_get_ns();
	if (copy(&head, call->buffer, captured, flags)) {
		lose_plain(flow, cookie, RING_FULL);
		return;
	}
	COUNT(plain, 1);
	COUNT(plain_bytes, captured);
	if (captured < length)
		COUNT(plain_truncated, 1);
}

static __always_inline void leave(void *ctx, const struct call *call)
{
	__s64 length = passed(ctx, call);
	struct origin origin, *entry;
	struct flow *flow;

	if (length == 0)
		return;
	entry = find(call->object, &origin);
	if (!entry) {
		if (origin.cookie == UNREAD)
			unread();
		else
			COUNT(unbound, 1);
		return;
	}
	flow = owner_of(&origin);
	if (!flow)
		return;
	if (!entry->bound) {
		entry->bound = 1;
		COUNT(bound, 1);
	}
	/* What was said before the probes were complete is missing. */
	if (origin.time < armed || origin.time < call->since) {
		COUNT(late, 1);
		lose(flow, origin.cookie, ATTACHED_LATE);
		return;
	}
	if (length < 0) {
		lose_plain(flow, origin.cookie, CALL_UNSEEN);
		return;
	}
	tell(call, flow, origin.cookie, length);
}

SEC("uretprobe")
int relaygate_return(void *ctx)
{
	__u64 thread = bpf_get_current_pid_tgid();
	struct call *under_way, call;

	under_way = bpf_map_lookup_elem(&calls, &thread);
	/* An inner call has another stack; one that was jumped to returns as the outer. */
	if (!under_way || under_way->stack != returned_from(ctx))
		return 0;
	call = *under_way;
	bpf_map_delete_elem(&calls, &thread);
	if (armed)
		leave(ctx, &call);
	return 0;
}

#endif
