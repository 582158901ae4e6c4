/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* What a call of a TLS library read or wrote, and the telling of it. */
#ifndef RELAYGATE_TELL_H
#define RELAYGATE_TELL_H

#include "hurry.h"
#include "object.h"
#include "registers.h"
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

static __always_inline int writes(enum function function)
{
	return function >= WRITE;
}

/* buffer_of is where the content is, or 0. */
static __always_inline __u64 buffer_of(void *ctx, enum function function)
{
	if (function == READ_UNSEEN || function == WRITE_UNSEEN || function == FLUSH)
		return 0;
	return argument2(ctx);
}

/* length_of is where the call puts the length, or 0. */
static __always_inline __u64 length_of(void *ctx, enum function function)
{
	if (function == READ_EX || function == EARLY_READ_EX || function == WRITE_EX)
		return argument4(ctx);
	return function == WRITE_EX2 ? argument5(ctx) : 0;
}

/* When the probes were complete, ns, CLOCK_MONOTONIC; 0 before and after. */
__u64 armed;

/* When a call was last missed that can be any connection's, or that nobody could be told of. */
__u64 missed_at;

/* Set once the random of a followed connection was found in an object. */
__u32 recognised;

/* owner_of is the flow that an object's calls belong to, if it wants them. */
static __always_inline struct flow *owner_of(const struct origin *origin)
{
	struct flow *flow = bpf_map_lookup_elem(&flows, &origin->cookie);

	if (flow && (flow->state == READING || flow->state == ENCRYPTED))
		return flow;
	return NULL;
}

/*
 * tell_missed says that a call of a connection is missing; 0 is any of them. If that
 * cannot be said, nothing is told any more of all that are open now.
 */
static __always_inline void tell_missed(__u64 cookie, enum reason reason)
{
	if (tell_lost(cookie, reason))
		missed_at = bpf_ktime_get_ns();
}

/* unread is a call on an object that cannot be read: any connection's. */
static __noinline void unread(void)
{
	COUNT(unread);
	tell_missed(0, OBJECT_UNREAD);
}

/*
 * lose_call marks a connection of which a call is missing. User space can overwrite
 * the mark in this moment (SetEncrypted), but not what it is told.
 */
static __always_inline void lose_call(struct flow *flow, __u64 cookie, enum reason reason)
{
	flow->state = LOST;
	tell_missed(cookie, reason);
}

/* missed says that a call on this object was not seen whole. */
static __noinline void missed(__u64 object)
{
	__u8 random[RANDOM_BYTES] __attribute__((aligned(8)));
	struct origin origin = {};
	struct flow *flow;
	int has = random_of(object, random);

	COUNT(unseen);
	/* It may shake hands yet, for any of the connections that are there. */
	if (has == 0 || (has > 0 && !kept_of(random))) {
		if (may_serve(object))
			missed_at = bpf_ktime_get_ns();
		return;
	}
	if (has < 0 || !origin_with(object, random, &origin)) {
		if (has < 0 || origin.cookie == UNREAD)
			unread();
		return;
	}
	flow = owner_of(&origin);
	if (flow)
		lose_call(flow, origin.cookie, CALL_UNSEEN);
}

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

#define PLAIN_OF(size) (size - RING_HEADER - sizeof(struct plain))

/* As in record.h: what the record takes of the ring is a constant. */
#define COPY(size)                                                              \
	static __always_inline int copy_##size(const struct plain *head,        \
					       __u64 buffer, __u32 len)         \
	{                                                                       \
		struct {                                                        \
			struct plain head;                                      \
			__u8 data[PLAIN_OF(size)];                              \
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
		bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);                      \
		return 0;                                                       \
	}

COPY(128)
COPY(512)
COPY(2048)
COPY(16384)

#define CAPTURE_MAX PLAIN_OF(16384)

static __always_inline int copy(const struct plain *head, __u64 buffer, __u32 len)
{
	if (len <= PLAIN_OF(128))
		return copy_128(head, buffer, len);
	if (len <= PLAIN_OF(512))
		return copy_512(head, buffer, len);
	if (len <= PLAIN_OF(2048))
		return copy_2048(head, buffer, len);
	return copy_16384(head, buffer, len);
}

static __always_inline void lose_plain(struct flow *flow, __u64 cookie, enum reason reason)
{
	COUNT(plain_lost);
	lose_call(flow, cookie, reason);
}

/* hurried says that what a client sent may end in a login: see preliminary. */
static __always_inline int hurried(__u64 buffer, __u32 length)
{
	__u8 b[PRELIMINARY_MAX] = {};
	__u32 last = length - 1;

	barrier_var(last);
	if (!buffer || last >= sizeof(b) || bpf_probe_read_user(b, last + 1, (void *)buffer))
		return 1;
	return !preliminary(b, last);
}

/* tell puts what a call read or wrote into the ring. */
static __always_inline void tell(const struct call *call, struct flow *flow, __u64 cookie,
				 __u32 length)
{
	__u32 captured = length > CAPTURE_MAX ? CAPTURE_MAX : length;
	struct plain head = {
		.head = {.cookie = cookie, .wire_len = length, .kind = PLAIN},
		.tgid = bpf_get_current_pid_tgid() >> 32,
		.server = call->server,
	};

	if (call->function == EARLY_READ || call->function == EARLY_READ_EX)
		head.head.kind = EARLY;
	head.head.egress = writes(call->function);
	if (head.head.egress) {
		flow->plain_unanswered = 0;
	} else {
		if (flow->plain_unanswered + length > PLAIN_UNANSWERED_MAX) {
			lose_plain(flow, cookie, PLAIN_UNANSWERED);
			return;
		}
		flow->plain_unanswered += length;
		if (!flow->urgent && hurried(call->buffer, length))
			flow->urgent = 1;
	}
	if (flow->plain_total + captured + sizeof(head) > PLAIN_MAX) {
		lose_plain(flow, cookie, PLAIN_FULL);
		return;
	}
	flow->plain_total += captured + sizeof(head);
	head.head.time = bpf_ktime_get_ns();
	if (copy(&head, call->buffer, captured)) {
		lose_plain(flow, cookie, RING_FULL);
		return;
	}
	COUNT(plain);
	if (captured < length)
		COUNT(plain_truncated);
	/* The client's words too: the reader catches up while the server checks them. */
	if (flow->urgent || bpf_ringbuf_query(&packets, BPF_RB_AVAIL_DATA) > wakeup_bytes)
		wake_reader();
}

static __always_inline void leave(void *ctx, const struct call *call)
{
	__s64 length = passed(ctx, call);
	struct origin origin, *entry;
	struct flow *flow;

	if (length == 0)
		return;
	entry = origin_of(call->object, &origin);
	if (!entry) {
		if (origin.cookie == UNREAD)
			unread();
		else
			COUNT(unbound);
		return;
	}
	flow = owner_of(&origin);
	if (!flow)
		return;
	if (!entry->bound) {
		entry->bound = recognised = 1;
		COUNT(bound);
	}
	/*
	 * What was said before that is missing, or may be: a call that had begun
	 * then, to shake hands or for another reason, is not seen to end.
	 */
	if (origin.opened < armed || origin.opened < call->since || origin.opened < missed_at) {
		COUNT(late);
		lose(flow, origin.cookie, ATTACHED_LATE);
		return;
	}
	if (length < 0) {
		lose_plain(flow, origin.cookie, CALL_UNSEEN);
		return;
	}
	tell(call, flow, origin.cookie, length);
}

#endif
