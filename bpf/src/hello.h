/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The ServerHello join, its half on the wire: a random that a server's socket
 * sent in a ServerHello belongs to that socket's connection. The server made it
 * for this one handshake, so nothing else needs to be compared.
 */
#ifndef RELAYGATE_HELLO_H
#define RELAYGATE_HELLO_H

#include "record.h"
#include "tap.h"

#include <bpf/bpf_endian.h>

/* Set once the TLS libraries are of interest. */
__u32 tls;

/* Which random a connection showed, by cookie; for its end. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u8[RANDOM_BYTES]);
} hellos SEC(".maps");

/* Record header (5), handshake header (4), version (2) and random. */
#define HELLO_RANDOM 11
#define HELLO_BYTES (HELLO_RANDOM + RANDOM_BYTES)

/*
 * is_hello says whether a segment starts with a ServerHello, by RFC 8446
 * sections 5.1, 4 and 4.1.3; RFC 5246 has the same. Being strict matters: a
 * server that echoes what clients say should not seem to shake hands.
 */
static __always_inline int is_hello(const __u8 *b)
{
	__u32 record = b[3] << 8 | b[4], message = b[6] << 16 | b[7] << 8 | b[8];

	return b[0] == 22 && b[1] == 3 && b[2] <= 4 && b[5] == 2 && b[9] == 3 &&
	       b[10] >= 1 && b[10] <= 3 && message >= 38 && message + 4 <= record &&
	       record <= 16384;
}

/*
 * A warning can come first in the segment, that the server's name is not known (RFC
 * 6066 section 3): an alert, of two bytes behind its header (RFC 5246 section 7.2).
 */
#define WARNING_BYTES 7

static __always_inline int is_warning(const __u8 *b)
{
	return b[0] == 21 && b[1] == 3 && b[3] == 0 && b[4] == 2 && b[5] == 1;
}

/* The random of a HelloRetryRequest, RFC 8446 section 4.1.3. */
const __u8 retry_random[RANDOM_BYTES] = {
	0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C,
	0x02, 0x1E, 0x65, 0xB8, 0x91, 0xC2, 0xA2, 0x11, 0x16, 0x7A, 0xBB,
	0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
};

static __always_inline int same_bytes(const __u8 *a, const __u8 *b)
{
	for (int i = 0; i < RANDOM_BYTES; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* forget_hello removes what a closed connection showed. */
static __always_inline void forget_hello(__u64 cookie)
{
	void *random = bpf_map_lookup_elem(&hellos, &cookie);
	struct origin *origin;

	if (!random)
		return;
	origin = bpf_map_lookup_elem(&randoms, random);
	if (origin && origin->owner == cookie)
		bpf_map_delete_elem(&randoms, random);
	bpf_map_delete_elem(&hellos, &cookie);
}

/* distrust ends both connections that showed one random: whose is it? */
static __always_inline void distrust(struct origin *origin, struct flow *flow, __u64 cookie)
{
	__u64 owner = origin->owner;
	struct flow *first;

	origin->cookie = 0;
	lose(flow, cookie, SAME_RANDOM);
	COUNT(same_random);
	first = bpf_map_lookup_elem(&flows, &owner);
	if (first && (first->state == READING || first->state == ENCRYPTED))
		lose(first, owner, SAME_RANDOM);
}

/* repeated is a second ServerHello of one connection. */
static __always_inline void repeated(const __u8 *first, const __u8 *random,
				     struct flow *flow, __u64 cookie)
{
	struct origin *origin;

	if (same_bytes(first, random))
		return; /* a retransmission */
	/* There is one handshake in clear: one of the two is no handshake. */
	origin = bpf_map_lookup_elem(&randoms, first);
	if (origin && origin->owner == cookie)
		origin->cookie = 0;
	lose(flow, cookie, TWO_HELLOS);
	COUNT(two_hellos);
}

/*
 * is_resent says whether a socket may have sent a part of this segment before: which
 * bytes it sends together is the client's choice, by its window and what it
 * acknowledges. Unless it sent anything twice, nothing; else what goes on where it
 * stopped. (Of a segment that waited in a firewall's queue that cannot be told.)
 */
static __always_inline int is_resent(struct __sk_buff *skb, struct bpf_sock *sk, const struct shape *shape)
{
	struct bpf_tcp_sock *tcp = bpf_tcp_sock(sk); /* that of a crafted packet, in tests, is none */
	__be32 seq;

	if (!tcp || tcp->total_retrans == 0)
		return 0;
	return bpf_skb_load_bytes(skb, shape->tcp + 4, &seq, sizeof(seq)) || bpf_ntohl(seq) != tcp->snd_nxt;
}

/*
 * hello notes the random if the segment starts with a ServerHello that is sent for the
 * first time. The client, who must have it to go on, has said nothing before that.
 */
static __always_inline void hello(struct __sk_buff *skb, struct bpf_sock *sk, const struct shape *shape,
				  struct flow *flow, __u64 cookie)
{
	struct origin fresh = {.cookie = cookie, .owner = cookie, .opened = flow->opened}, *origin;
	__u8 b[HELLO_BYTES + 1], *random = &b[HELLO_RANDOM], *first;

	if (bpf_skb_load_bytes(skb, shape->offset, b, HELLO_BYTES))
		return;
	if (is_warning(b) && bpf_skb_load_bytes(skb, shape->offset + WARNING_BYTES, b, HELLO_BYTES))
		return;
	if (!is_hello(b) || same_bytes(random, retry_random) || is_resent(skb, sk, shape))
		return;
	first = bpf_map_lookup_elem(&hellos, &cookie);
	if (first) {
		repeated(first, random, flow, cookie);
		return;
	}
	COUNT(handshakes);
	/*
	 * Told even if the random cannot be kept: then nobody can speak for it. Nobody
	 * is woken: plaintext follows, or not.
	 */
	if (tell_event(HANDSHAKE, cookie, NONE))
		COUNT(events_full);
	if (bpf_map_update_elem(&hellos, &cookie, random, BPF_NOEXIST)) {
		COUNT(randoms_full);
		return;
	}
	if (bpf_map_update_elem(&randoms, random, &fresh, BPF_NOEXIST)) {
		bpf_map_delete_elem(&hellos, &cookie);
		origin = bpf_map_lookup_elem(&randoms, random);
		if (origin)
			distrust(origin, flow, cookie);
		else
			COUNT(randoms_full);
		return;
	}
	/* Closed meanwhile: then nobody else would remove it. */
	if (!bpf_map_lookup_elem(&flows, &cookie))
		forget_hello(cookie);
}

#endif
