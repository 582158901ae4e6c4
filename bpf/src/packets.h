/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* cgroup_skb: the packets of the followed connections go into their ring. */
#ifndef RELAYGATE_PACKETS_H
#define RELAYGATE_PACKETS_H

#include "first.h"
#include "hello.h"
#include "ports.h"
#include "record.h"
#include "tap.h"
#include "trust.h"

/*
 * Connections of which nothing is to be seen any more, each at the place of its
 * cookie, which no other connection ever gets. It spares the look into the hash
 * table, the dearest part of a packet behind the verdict. Two that share a place
 * take turns.
 */
#define OVER_PLACES 65536
__u64 over[OVER_PLACES];

/*
 * When a client's bytes came for a socket whose connection was not in its table yet,
 * because another processor was about to put it there (ns, CLOCK_MONOTONIC), each at
 * the place of the socket's cookie. The kernel may keep them and drop the copy that is
 * recorded later, as in burdened.
 */
#define HASTY_PLACES 16384
#define HASTY_NS (1000 * 1000 * 1000ULL)
__u64 hasty[HASTY_PLACES];

/* hastened notes that. A packet passes here before its socket gets it. */
static __always_inline void hastened(struct __sk_buff *skb, __u64 cookie)
{
	struct shape shape = {};

	if (measure(skb, &shape) && (shape.payload || shape.control))
		hasty[cookie % HASTY_PLACES] = bpf_ktime_get_ns();
}

/*
 * was_hasty says whether that may have happened to a connection. Two that share a place
 * share the doubt.
 */
static __always_inline int was_hasty(const struct flow *flow, __u64 cookie)
{
	__u64 at = hasty[cookie % HASTY_PLACES];

	return at && at + HASTY_NS > flow->opened;
}

/*
 * handed says whether bytes may come to the socket in no packet: by programs that take
 * what another socket sends for it (BPF_MAP_TYPE_SOCKMAP), as those do that spare local
 * connections the network stack, or by whoever else keeps something with the socket.
 * Those that a mail server accepts have nothing there.
 */
static __always_inline int handed(struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	return tp && tp->inet_conn.icsk_inet.sk.sk_user_data;
}

static __always_inline void tap(struct __sk_buff *skb, __u32 egress)
{
	struct bpf_sock *sk = skb->sk;
	struct shape shape = {};
	struct flow *flow;
	__u64 cookie, *place;
	__u32 begins;

	if (!sk)
		return;
	if (sk->state == BPF_TCP_LISTEN) {
		if (!egress)
			note_first(skb, sk->src_port);
		return;
	}
	/* The socket's own port: a packet's can be rewritten on its way. */
	if (!watched(sk->src_port))
		return;
	/* Before the look into the table: a state of later would be that of a later table. */
	begins = !egress && sk->state == BPF_TCP_SYN_RECV;
	cookie = bpf_get_socket_cookie(skb);
	place = &over[cookie % OVER_PLACES];
	if (*place == cookie)
		return;
	flow = bpf_map_lookup_elem(&flows, &cookie);
	if (begins && (!flow || flow->state == OPENING)) {
		/* Others could put all places in doubt: with Fast Open their sockets may take bytes here. */
		if (among_trusted(sk))
			hastened(skb, cookie);
		return;
	}
	if (!flow)
		return;
	if (flow->state != READING && !(egress && flow->state == ENCRYPTED)) {
		if (flow->state == DONE || flow->state == LOST)
			*place = cookie;
		return;
	}
	if (!measure(skb, &shape))
		return;
	if (egress && tls && shape.offset && shape.payload >= HELLO_BYTES)
		hello(skb, sk, &shape, flow, cookie);
	if (flow->state != READING)
		return;
	if (handed(sk)) {
		lose(flow, cookie, HANDED);
		return;
	}
	if (egress && shape.payload && was_hasty(flow, cookie)) {
		lose(flow, cookie, FAST_OPEN);
		COUNT(fast_open);
		return;
	}
	record(skb, 0, skb->len, reading_of(flow), cookie, &shape, egress);
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
