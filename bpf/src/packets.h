/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* cgroup_skb: the packets of the followed connections go into their ring. */
#ifndef RELAYGATE_PACKETS_H
#define RELAYGATE_PACKETS_H

#include "hello.h"
#include "ports.h"
#include "tap.h"

#include <bpf/bpf_endian.h>

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define IPPROTO_TCP 6
#define TCP_FIN 0x01

/*
 * COPY puts the first len <= size bytes of the packet into a record of a fixed
 * size: bpf_ringbuf_reserve wants a constant. bpf_skb_load_bytes also reads
 * what is not linear. A record is always submitted, so that the reader can
 * count its position; one that could not be filled has captured = 0. The bound
 * is on the last index because Linux 6.1 does not learn from len != 0.
 */
#define COPY(size)                                                                   \
	static __always_inline int copy_##size(struct __sk_buff *skb,                \
					       const struct packet *head, __u32 len, \
					       __u64 flags)                          \
	{                                                                            \
		struct {                                                             \
			struct packet head;                                          \
			__u8 data[size - sizeof(struct packet)];                     \
		} *rec;                                                              \
		__u32 last = len - 1, captured = 0;                                  \
                                                                                     \
		rec = bpf_ringbuf_reserve(&packets, sizeof(*rec), 0);                \
		if (!rec)                                                            \
			return -1;                                                   \
		rec->head = *head;                                                   \
		rec->head.captured = 0;                                              \
		barrier_var(last);                                                   \
		if (last < sizeof(rec->data) &&                                      \
		    bpf_skb_load_bytes(skb, 0, rec->data, last + 1) == 0)            \
			rec->head.captured = captured = last + 1;                    \
		bpf_ringbuf_submit(rec, flags);                                      \
		return captured ? 0 : -1;                                            \
	}

COPY(128)
COPY(512)
COPY(2048)
COPY(16384)

#define CAPTURE_MAX (16384 - sizeof(struct packet))

static __always_inline int copy(struct __sk_buff *skb, const struct packet *head,
				__u32 len, __u64 flags)
{
	if (len <= 128 - sizeof(*head))
		return copy_128(skb, head, len, flags);
	if (len <= 512 - sizeof(*head))
		return copy_512(skb, head, len, flags);
	if (len <= 2048 - sizeof(*head))
		return copy_2048(skb, head, len, flags);
	return copy_16384(skb, head, len, flags);
}

/* What the headers say about a packet. */
struct shape {
	__u32 payload; /* bytes behind the TCP header */
	__u32 offset;  /* of the payload, 0 if not known */
	__u32 fin;
};

/*
 * measure reads the headers; it returns 0 if the packet is not TCP. Behind an
 * IPv6 extension header all counts as payload: user space reads it properly.
 */
static __always_inline int measure(struct __sk_buff *skb, struct shape *shape)
{
	__u32 offset;
	__u8 b[10];

	if (bpf_skb_load_bytes(skb, 0, b, sizeof(b)))
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (b[9] != IPPROTO_TCP)
			return 0;
		offset = (b[0] & 0xf) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		switch (b[6]) {
		case IPPROTO_TCP:
			offset = 40;
			break;
		case 0:	  /* hop-by-hop options, RFC 8200 section 4.3 */
		case 43:  /* routing */
		case 44:  /* fragment */
		case 51:  /* authentication header, RFC 4302 */
		case 60:  /* destination options */
		case 135: /* mobility, RFC 6275 */
			shape->payload = skb->len > 40 ? skb->len - 40 : 0;
			shape->fin = 0;
			return 1;
		default:
			return 0;
		}
	} else {
		return 0;
	}

	/* Data offset and control bits, RFC 9293 section 3.1. */
	if (bpf_skb_load_bytes(skb, offset + 12, b, 2))
		return 0;
	offset += (b[0] >> 4) * 4;
	shape->payload = skb->len > offset ? skb->len - offset : 0;
	shape->offset = offset;
	shape->fin = b[1] & TCP_FIN;
	return 1;
}

static __always_inline void tap(struct __sk_buff *skb, __u32 egress)
{
	struct bpf_sock *sk = skb->sk;
	struct packet head = {};
	struct shape shape = {};
	struct flow *flow;
	__u64 cookie, flags = BPF_RB_NO_WAKEUP;
	__u32 len;

	/* The socket's own port: a packet's can be rewritten on its way. */
	if (!sk || !watched(sk->src_port))
		return;
	cookie = bpf_get_socket_cookie(skb);
	flow = bpf_map_lookup_elem(&flows, &cookie);
	if (!flow || (flow->state != READING && !(egress && flow->state == ENCRYPTED)))
		return;
	if (!measure(skb, &shape))
		return;
	if (egress && tls && shape.offset && shape.payload >= HELLO_BYTES)
		hello(skb, shape.offset, flow, cookie);
	if (flow->state != READING)
		return;

	if (egress) {
		if (shape.payload > 0) {
			flow->unanswered = 0;
			flags = BPF_RB_FORCE_WAKEUP;
		}
	} else {
		/*
		 * Acknowledgements of strangers mean nothing. The server's
		 * do: they say which client bytes are real.
		 */
		if (shape.payload == 0 && !shape.fin)
			return;
		if (flow->unanswered + shape.payload > UNANSWERED_MAX) {
			lose(flow, cookie, UNANSWERED);
			COUNT(unanswered, 1);
			return;
		}
		flow->unanswered += shape.payload;
	}

	len = skb->len;
	if (len > CAPTURE_MAX) {
		len = CAPTURE_MAX;
		COUNT(truncated, 1);
	}
	if (flow->total + len + sizeof(head) > FLOW_MAX) {
		lose(flow, cookie, FLOW_FULL);
		COUNT(flow_full, 1);
		return;
	}
	flow->total += len + sizeof(head);

	if (bpf_ringbuf_query(&packets, BPF_RB_AVAIL_DATA) > wakeup_bytes)
		flags = BPF_RB_FORCE_WAKEUP;
	head.cookie = cookie;
	head.time = bpf_ktime_get_ns();
	head.wire_len = skb->len;
	head.egress = egress;
	if (copy(skb, &head, len, flags)) {
		lose(flow, cookie, RING_FULL);
		COUNT(ring_full, 1);
		return;
	}
	COUNT(packets, 1);
	COUNT(bytes, len);
	if (flags == BPF_RB_FORCE_WAKEUP)
		COUNT(wakeups, 1);
}

SEC("cgroup_skb/ingress")
int relaygate_in(struct __sk_buff *skb)
{
	tap(skb, 0);
	return 1;
}

SEC("cgroup_skb/egress")
int relaygate_out(struct __sk_buff *skb)
{
	tap(skb, 1);
	return 1;
}

#endif
