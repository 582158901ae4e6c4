/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The first segment of a client, where it ends the handshake too. The programs of the
 * listener's socket see it, and the connection that the kernel makes of it then has its
 * data. So it is with TCP_DEFER_ACCEPT, for which servers in TLS have a use, and with
 * everybody whose bare acknowledgement got lost on its way.
 */
#ifndef RELAYGATE_FIRST_H
#define RELAYGATE_FIRST_H

#include "headers.h"
#include "lent.h"
#include "ports.h"
#include "record.h"
#include "tap.h"

#include <bpf/bpf_endian.h>

/* An IPv4 header without options and what is looked at of the TCP header behind it. */
#define HEAD_BYTES 34

/*
 * measure reads the headers; it returns 0 if the packet is not TCP. Behind an
 * IPv6 extension header all counts as payload: user space reads it properly.
 */
static __always_inline int measure(struct __sk_buff *skb, struct shape *shape)
{
	__u32 offset;
	__u8 b[HEAD_BYTES], *tcp = b + 20 + 12;

	/* All that is TCP is longer. */
	if (bpf_skb_load_bytes(skb, 0, b, sizeof(b)))
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (b[9] != IPPROTO_TCP)
			return 0;
		offset = (b[0] & 0xf) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (b[6] != IPPROTO_TCP) {
			shape->payload = skb->len > 40 ? skb->len - 40 : 0;
			return behind(b[6]);
		}
		offset = 40;
	} else {
		return 0;
	}

	/* Data offset and control bits, RFC 9293 section 3.1. */
	if (offset != 20 && bpf_skb_load_bytes(skb, offset + 12, tcp, 2))
		return 0;
	shape->tcp = offset;
	offset += (tcp[0] >> 4) * 4;
	shape->payload = skb->len > offset ? skb->len - offset : 0;
	shape->offset = offset;
	shape->control = tcp[1] & (TCP_FIN | TCP_URG);
	return 1;
}

/* It is as much as a record of the ring. */
#define FIRST_BYTES (4096 - RING_HEADER)

struct first {
	struct packet head;
	__u8 data[FIRST_BYTES - sizeof(struct packet)];
	__u64 listener;	      /* its cookie */
	__u32 listener_port;
	__u32 payload; /* 0: there is none */
	__be32 seq;
	__be16 port;
};

/* What a listener was shown last, on this processor, which goes on with it at once. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct first);
} firsts SEC(".maps");

/* note_first keeps what the listener at a port is shown. */
static __always_inline void note_first(struct __sk_buff *skb, __u32 port)
{
	__u32 zero = 0, last = skb->len - 1;
	struct first *first = bpf_map_lookup_elem(&firsts, &zero);
	struct shape shape = {};

	if (!first)
		return;
	first->payload = 0;
	first->listener_port = port;
	if (!watched(port))
		return;
	first->listener = bpf_get_socket_cookie(skb);
	if (!measure(skb, &shape) || !shape.tcp || !shape.payload || shape.control || lent(skb))
		return;
	barrier_var(last);
	if (last >= sizeof(first->data) || bpf_skb_load_bytes(skb, 0, first->data, last + 1) ||
	    bpf_skb_load_bytes(skb, shape.tcp, &first->port, sizeof(first->port)) ||
	    bpf_skb_load_bytes(skb, shape.tcp + 4, &first->seq, sizeof(first->seq)))
		return;
	first->head.wire_len = first->head.captured = last + 1;
	first->payload = shape.payload;
}

/*
 * listener_of is the cookie of the listener that accepted this connection, or 0 if it is
 * at another port: a firewall (TPROXY) or a program (BPF_PROG_TYPE_SK_LOOKUP) can lead
 * it there, as to a proxy at which the client names the server.
 */
static __always_inline __u64 listener_of(struct bpf_sock_ops *ops)
{
	__u32 zero = 0;
	struct first *first = bpf_map_lookup_elem(&firsts, &zero);

	return first && first->listener_port == ops->local_port ? first->listener : 0;
}

/* first_of is the segment that makes this connection, if it carries its first bytes. */
static __always_inline struct first *first_of(struct bpf_sock_ops *ops)
{
	__u32 zero = 0;
	struct first *first = bpf_map_lookup_elem(&firsts, &zero);

	if (!first || !first->payload || first->seq != bpf_htonl(ops->rcv_nxt) ||
	    first->port != (__be16)bpf_htons(bpf_ntohl(ops->remote_port)))
		return NULL;
	return first;
}

/* tell_first records that. */
static __always_inline void tell_first(struct bpf_sock_ops *ops, struct flow *flow, __u64 cookie)
{
	struct first *first = first_of(ops);

	if (!first)
		return;
	flow->unanswered = first->payload;
	flow->total = FIRST_BYTES;
	flow->urgent = 1;
	first->payload = 0;
	first->head.cookie = cookie;
	first->head.time = bpf_ktime_get_ns();
	if (bpf_ringbuf_output(&packets, first, FIRST_BYTES, BPF_RB_NO_WAKEUP)) {
		lose(flow, cookie, RING_FULL);
		COUNT(ring_full);
		return;
	}
	COUNT(packets);
}

#endif
