/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* sockops: which connections there are, and whose listeners accepted them. */
#ifndef RELAYGATE_CONNECTIONS_H
#define RELAYGATE_CONNECTIONS_H

#include "first.h"
#include "headers.h"
#include "hello.h"
#include "kernel.h"
#include "ports.h"
#include "report.h"
#include "tap.h"
#include "trust.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <linux/tcp.h>

#define AF_INET 2

/*
 * burdened says whether the segment that established the connection brought more than an
 * acknowledgement. It went to the listener's socket, where the tap keeps what is in order
 * alone (first.h); and ahead of a hole the kernel keeps its bytes and drops the copy that
 * the tap does see.
 */
static __always_inline int burdened(struct bpf_sock_ops *ops)
{
	struct tcphdr *tcp = (void *)(long)ops->skb_data;

	if ((void *)(tcp + 1) > (void *)(long)ops->skb_data_end)
		return 1;
	return ops->skb_len > tcp->doff * 4 || ops->skb_tcp_flags & (TCP_FIN | TCP_URG);
}

/* doubt says why the connection is not believed, or NONE. */
static __always_inline enum reason doubt(struct bpf_sock_ops *ops, struct tcp_sock *tp,
					 __u32 netns, __u32 uid)
{
	if (!bpf_map_lookup_elem(&trusted_netns, &netns))
		return FOREIGN_NETNS;
	if (!bpf_map_lookup_elem(&trusted_owners, &uid))
		return FOREIGN_OWNER;
	if (!listener_of(ops))
		return FOREIGN_PORT;
	/* Those of the SYN went to the server unseen too: RFC 7413. */
	if (tp->fastopen_rsk || (burdened(ops) && !first_of(ops))) {
		COUNT(fast_open);
		return FAST_OPEN;
	}
	/* A subflow's bytes may be acknowledged and never reach the server. */
	if (bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp) {
		COUNT(multipath);
		return MULTIPATH;
	}
	return NONE;
}

/* fill sets all of an Opened event but its position. */
static __always_inline void fill(struct event *ev, struct bpf_sock_ops *ops, __u64 cookie,
				 enum reason reason, __u32 netns, __u32 uid)
{
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->cookie = cookie;
	ev->time = bpf_ktime_get_ns();
	ev->kind = OPENED;
	ev->reason = reason;
	ev->netns = netns;
	ev->uid = uid;
	ev->listener = listener_of(ops);
	ev->client_isn = ops->rcv_nxt;
	ev->server_isn = ops->snd_nxt;
	ev->client_port = bpf_ntohl(ops->remote_port);
	ev->server_port = ops->local_port;
	ev->family = ops->family;
	if (ev->family == AF_INET) {
		*(__u32 *)&ev->client[0] = ops->remote_ip4;
		*(__u32 *)&ev->server[0] = ops->local_ip4;
		return;
	}
	*(__u32 *)&ev->client[0] = ops->remote_ip6[0];
	*(__u32 *)&ev->client[4] = ops->remote_ip6[1];
	*(__u32 *)&ev->client[8] = ops->remote_ip6[2];
	*(__u32 *)&ev->client[12] = ops->remote_ip6[3];
	*(__u32 *)&ev->server[0] = ops->local_ip6[0];
	*(__u32 *)&ev->server[4] = ops->local_ip6[1];
	*(__u32 *)&ev->server[8] = ops->local_ip6[2];
	*(__u32 *)&ev->server[12] = ops->local_ip6[3];
}

/* report tells of a listener that is not believed, a few times a second. */
static __always_inline void report(struct bpf_sock_ops *ops, __u64 cookie, __u32 reason,
				   __u32 netns, __u32 uid)
{
	struct event *ev;

	if (reported(reason))
		return;
	ev = reserve_event();
	if (!ev)
		return;
	fill(ev, ops, cookie, reason, netns, uid);
	submit(ev);
}

static __always_inline void opened(struct bpf_sock_ops *ops)
{
	struct flow fresh = {.state = OPENING, .opened = bpf_ktime_get_ns()}, *flow;
	struct bpf_sock *sk = ops->sk;
	__u64 cookie, position;
	struct tcp_sock *tp;
	enum reason reason;
	struct event *ev;
	__u32 netns, uid;

	if (!sk || !watched(ops->local_port))
		return;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return;
	/* The listener's owner; accept will make it the acceptor's. */
	uid = tp->inet_conn.icsk_inet.sk.sk_uid.val;
	netns = netns_of(tp);
	cookie = bpf_get_socket_cookie(ops);
	reason = doubt(ops, tp, netns, uid);
	if (reason != NONE) {
		report(ops, cookie, reason, netns, uid);
		return;
	}
	/* Without a report of its end, a connection would stay for ever. */
	if (bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags |
						   BPF_SOCK_OPS_STATE_CB_FLAG))
		return;

	/*
	 * Nothing is recorded before Opened is in its ring (state OPENING), and
	 * the position is read before the record is reserved: so each event's
	 * position is at or below that of any packet of a later event.
	 */
	position = bpf_ringbuf_query(&packets, BPF_RB_PROD_POS);
	ev = reserve_event();
	if (!ev)
		return;
	/* No other is pushed out for it: a full table follows nobody new. */
	if (bpf_map_update_elem(&flows, &cookie, &fresh, BPF_NOEXIST)) {
		bpf_ringbuf_discard(ev, BPF_RB_NO_WAKEUP);
		COUNT(flows_full);
		return;
	}
	fill(ev, ops, cookie, NONE, netns, uid);
	ev->position = position;
	submit(ev);
	COUNT(opened);
	/* User space may have seen it already, and be done with it. */
	flow = bpf_map_lookup_elem(&flows, &cookie);
	if (!flow || flow->state != OPENING)
		return;
	flow->state = READING;
	tell_first(ops, flow, cookie);
}

static __always_inline void closed(struct bpf_sock_ops *ops)
{
	__u64 cookie = bpf_get_socket_cookie(ops);
	/*
	 * Connections from before the start, and those that user space forgot, have the
	 * callback, and no entry. The latter may have shown a ServerHello before.
	 */
	long unknown = bpf_map_delete_elem(&flows, &cookie);

	forget_hello(cookie);
	if (!unknown)
		tell_closed(cookie);
}

SEC("sockops")
int relaygate_conn(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		opened(ops);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] == BPF_TCP_CLOSE)
			closed(ops);
		break;
	}
	return 1;
}

#endif
