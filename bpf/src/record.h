/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* A packet of a connection that is read goes into its ring, within the bounds. */
#ifndef RELAYGATE_RECORD_H
#define RELAYGATE_RECORD_H

#include "headers.h"
#include "hurry.h"
#include "lent.h"
#include "records.h"

#define DATA_OF(size) (size - RING_HEADER - sizeof(struct packet))

/*
 * COPY puts len bytes of the packet, from base on, into a record that takes size
 * bytes of the ring: bpf_ringbuf_reserve wants a constant. bpf_skb_load_bytes also
 * reads what is not linear. A record is always submitted, so that the reader can
 * count its position; one that could not be filled has captured = 0. The bound is
 * on the last index because Linux 6.1 does not learn from len != 0.
 *
 * Each size is at most four times the one below: a flood that overruns the ring has to
 * send a quarter of it.
 */
#define COPY(size)                                                                \
	static __always_inline int copy_##size(struct __sk_buff *skb, __u32 base, \
					       const struct packet *head,         \
					       __u32 len)                         \
	{                                                                         \
		struct {                                                          \
			struct packet head;                                       \
			__u8 data[DATA_OF(size)];                                 \
		} *rec;                                                           \
		__u32 last = len - 1, captured = 0;                               \
                                                                                  \
		rec = bpf_ringbuf_reserve(&packets, sizeof(*rec), 0);             \
		if (!rec)                                                         \
			return -1;                                                \
		rec->head = *head;                                                \
		rec->head.captured = 0;                                           \
		barrier_var(last);                                                \
		if (last < sizeof(rec->data) &&                                   \
		    bpf_skb_load_bytes(skb, base, rec->data, last + 1) == 0)      \
			rec->head.captured = captured = last + 1;                 \
		bpf_ringbuf_submit(rec, BPF_RB_NO_WAKEUP);                        \
		return captured ? 0 : -1;                                         \
	}

COPY(128)
COPY(512)
COPY(2048)
COPY(4096)
COPY(16384)

#define CAPTURE_MAX DATA_OF(16384)

static __always_inline int copy(struct __sk_buff *skb, __u32 base, const struct packet *head,
				__u32 len)
{
	if (len <= DATA_OF(128))
		return copy_128(skb, base, head, len);
	if (len <= DATA_OF(512))
		return copy_512(skb, base, head, len);
	if (len <= DATA_OF(2048))
		return copy_2048(skb, base, head, len);
	if (len <= DATA_OF(4096))
		return copy_4096(skb, base, head, len);
	return copy_16384(skb, base, head, len);
}

/* What the headers say about a packet. */
struct shape {
	__u32 payload; /* bytes behind the TCP header */
	__u32 offset;  /* of the payload from the IP header on, 0 if not known */
	__u32 tcp;     /* the same of the TCP header; for cgroup_skb alone */
	__u32 control; /* FIN or URG, on interfaces RST: it says something without a payload too */
};

/* hurried says that what a client sent may end in a login: see preliminary. */
static __always_inline int hurried(struct __sk_buff *skb, __u32 base, const struct shape *shape)
{
	__u8 b[PRELIMINARY_MAX] = {};
	__u32 last = shape->payload - 1;

	barrier_var(last);
	if (!shape->offset || last >= sizeof(b) || bpf_skb_load_bytes(skb, base + shape->offset, b, last + 1))
		return 1;
	return !preliminary(b, last);
}

/* record takes a packet of size bytes, whose IP header is at base. */
static __always_inline void record(struct __sk_buff *skb, __u32 base, __u32 size,
				   struct reading *r, __u64 cookie, const struct shape *shape,
				   __u32 from_server)
{
	struct packet head = {};
	__u32 len = size, urgent = 0;

	if (from_server) {
		if (shape->payload > 0) {
			r->unanswered = 0;
			urgent = r->urgent;
		}
	} else {
		/*
		 * Acknowledgements of strangers mean nothing. The server's
		 * do: they say which client bytes are real.
		 */
		if (shape->payload == 0 && !shape->control)
			return;
		if (r->unanswered + shape->payload > UNANSWERED_MAX) {
			lose_reading(r, cookie, UNANSWERED);
			COUNT(unanswered);
			return;
		}
		r->unanswered += shape->payload;
		if (!r->urgent && shape->payload > 0 && hurried(skb, base, shape))
			r->urgent = 1;
		if (shape->payload > 0 && lent(skb))
			head.kind = LENT;
		/* The reader catches up while the server checks the password. */
		urgent = r->urgent && shape->payload > 0;
	}

	if (len > CAPTURE_MAX) {
		len = CAPTURE_MAX;
		COUNT(truncated);
	}
	if (r->total + len + sizeof(head) > FLOW_MAX) {
		lose_reading(r, cookie, FLOW_FULL);
		COUNT(flow_full);
		return;
	}
	r->total += len + sizeof(head);

	head.cookie = cookie;
	head.time = bpf_ktime_get_ns();
	head.wire_len = size;
	head.egress = from_server;
	if (copy(skb, base, &head, len)) {
		lose_reading(r, cookie, RING_FULL);
		COUNT(ring_full);
		return;
	}
	COUNT(packets);
	if (urgent || bpf_ringbuf_query(&packets, BPF_RB_AVAIL_DATA) > wakeup_bytes)
		wake_reader();
}

#endif
