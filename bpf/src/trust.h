/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Whose listeners are believed. */
#ifndef RELAYGATE_TRUST_H
#define RELAYGATE_TRUST_H

#include "kernel.h"

#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32); /* inode number */
	__type(value, __u8);
} trusted_netns SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* uid in the initial user namespace */
	__type(value, __u8);
} trusted_owners SEC(".maps");

static __always_inline __u32 netns_of(const struct tcp_sock *tp)
{
	return tp->inet_conn.icsk_inet.sk.__sk_common.skc_net.net->ns.inum;
}

/* among_trusted says whether a socket is in a trusted network namespace. */
static __always_inline int among_trusted(struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	__u32 netns = tp ? netns_of(tp) : 0;

	return bpf_map_lookup_elem(&trusted_netns, &netns) != NULL;
}

#endif
