/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Who sent a segment that bears the server's address. */
#ifndef RELAYGATE_SENDER_H
#define RELAYGATE_SENDER_H

#include "kernel.h"
#include "lent.h"
#include "segment.h"

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

/*
 * Where the server's segments come from: with inside set, in through the
 * interface (a gateway's, towards its mail servers); else out of it (a host's
 * own servers).
 */
volatile const __u32 inside = 1;

#define SOCK_STREAM 1

static __always_inline __u16 vlan_of(struct __sk_buff *skb)
{
	return skb->vlan_present ? skb->vlan_tci & 0xfff : 0;
}

/*
 * astray: the server's segment came in where this host does not send to the
 * server, so another sent it. On a host it says nothing where its own leave.
 */
static __always_inline int astray(struct __sk_buff *skb, __u32 ifindex, __u16 vlan)
{
	return inside && (skb->ifindex != ifindex || vlan_of(skb) != vlan);
}

/*
 * opens: a socket that connects itself answers the SYN, as both ends may (RFC 9293
 * section 3.5); for a listener a request does. Any user may have one at the port of a
 * mail server that is not there at the time.
 */
static __always_inline int opens(struct __sk_buff *skb)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	struct sock *sk = kernel->sk;

	return !inside && sk && sk->__sk_common.skc_state == BPF_TCP_SYN_RECV;
}

/*
 * stray: the segment leaves, and no socket of this namespace sent it. IPv6 forwards
 * what bears an address of this host like all else, and a bridge or a macvlan sends
 * whatever its ports do, so that the words of a container or a guest would pass for
 * the host's server's. Nor do those count of who sends packets that it made itself
 * (packet(7), raw(7)), as a container may that shares this namespace. What shakes hands
 * or resets may have no socket (SYN cookies), and says nothing.
 */
static __always_inline int stray(struct __sk_buff *skb, const struct segment *s)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	struct sock *sk;

	if (inside || s->flags & (TCP_SYN | TCP_RST))
		return 0;
	sk = kernel->sk;
	if (!sk || sk->__sk_common.skc_net.net != kernel->dev->nd_net.net)
		return 1;
	/* A tun device's has no type: it is a guest's. Nor has that of a crafted packet, in tests. */
	return s->shape.payload && sk->sk_type != SOCK_STREAM && (sk->sk_type || sk->sk_socket);
}

#endif
