/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* TCP segments in the packets of an interface. */
#ifndef RELAYGATE_SEGMENT_H
#define RELAYGATE_SEGMENT_H

#include "headers.h"
#include "kernel.h"
#include "lent.h"
#include "ports.h"
#include "record.h"

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

/*
 * base_of is where the IP header is: the link layer puts 14 bytes before it,
 * none, or something else. bpf_skb_load_bytes_relative would know as well, and
 * reads only what is linear.
 */
static __always_inline __u32 base_of(struct __sk_buff *skb)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);

	return kernel->network_header - (__u32)(kernel->data - kernel->head);
}

/* The two ends of a connection; IPv4 is mapped (RFC 4291 section 2.5.5.2). */
struct tuple {
	__u32 client[4], server[4];
	__be16 client_port, server_port;
};

struct segment {
	struct tuple tuple;
	__u32 base; /* where the IP header is; other offsets count from there */
	__u32 seq, ack, flags;
	/*
	 * From the IP header on, in bytes; 0 where that is more than the header
	 * can say (BIG TCP).
	 */
	__u32 size;
	__u32 options, options_size; /* of TCP */
	struct shape shape;
};

#define CHECKSUM_PARTIAL 3 /* linux/skbuff.h */
#define CHECK_AT 16	   /* in a TCP header */

/*
 * unfinished: a checksum is yet to be filled in, by the kernel or the network card, and
 * elsewhere than in the TCP header. Guests and containers say where (struct
 * virtio_net_hdr); the mail server reads it there.
 */
static __always_inline int unfinished(struct __sk_buff *skb, const struct segment *s)
{
	struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);
	__u32 tcp = kernel->network_header + s->options - sizeof(struct tcphdr);

	return BPF_CORE_READ_BITFIELD(kernel, ip_summed) == CHECKSUM_PARTIAL &&
	       (kernel->csum_start != tcp || kernel->csum_offset != CHECK_AT);
}

enum sight {
	OTHER,
	SEGMENT_SEEN, /* of a watched port */
	/*
	 * It may be TCP between the two addresses of the tuple, and shows no
	 * ports, or may lead on to another address: an IP fragment, or a packet
	 * with IPv4 options or IPv6 extension headers.
	 */
	UNREAD_SEEN,
};

static __always_inline long load(struct __sk_buff *skb, const struct segment *s, __u32 offset,
				 void *to, __u32 len)
{
	return bpf_skb_load_bytes(skb, s->base + offset, to, len);
}

/* load_head is load of the first bytes, which mostly are linear: then it calls nobody. */
static __always_inline long load_head(struct __sk_buff *skb, const struct segment *s, void *to,
				      __u32 len)
{
	void *head = (void *)(long)skb->data + (s->base & 0xff);

	if (s->base > 0xff || head + len > (void *)(long)skb->data_end)
		return load(skb, s, 0, to, len);
	__builtin_memcpy(to, head, len);
	return 0;
}

/* ends sets the addresses of a tuple. */
static __always_inline void ends(struct segment *s, __u32 server, const __u32 *from, const __u32 *to)
{
	__builtin_memcpy(s->tuple.client, server ? to : from, 16);
	__builtin_memcpy(s->tuple.server, server ? from : to, 16);
}

static __always_inline void ends4(struct segment *s, __u32 server, __be32 from, __be32 to)
{
	s->tuple.client[0] = s->tuple.client[1] = s->tuple.server[0] = s->tuple.server[1] = 0;
	s->tuple.client[2] = s->tuple.server[2] = bpf_htonl(0xffff);
	s->tuple.client[3] = server ? to : from;
	s->tuple.server[3] = server ? from : to;
}

/* see_ports takes the ports of a TCP header. */
static __always_inline int see_ports(struct segment *s, __u32 server, __be16 source, __be16 dest)
{
	s->tuple.client_port = server ? dest : source;
	s->tuple.server_port = server ? source : dest;
	return watched(bpf_ntohs(s->tuple.server_port));
}

/* see_tcp takes the rest of a TCP header (RFC 9293 section 3.1). */
static __always_inline void see_tcp(struct segment *s, const struct tcphdr *tcp, __u32 offset)
{
	__u32 header = offset + tcp->doff * 4;

	s->seq = bpf_ntohl(tcp->seq);
	s->ack = bpf_ntohl(tcp->ack_seq);
	s->flags = ((const __u8 *)tcp)[13];
	s->options = offset + sizeof(*tcp);
	s->options_size = header > s->options ? header - s->options : 0;
	s->shape.offset = header;
	s->shape.payload = s->size > header ? s->size - header : 0;
	s->shape.control = s->flags & (TCP_FIN | TCP_RST | TCP_URG);
}

static __always_inline enum sight see4(struct __sk_buff *skb, __u32 server, struct segment *s)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
	} h;
	/* Whole, or as a short last fragment is. */
	int whole = load_head(skb, s, &h, sizeof(h)) == 0;

	if ((!whole && load(skb, s, 0, &h.ip, sizeof(h.ip))) || h.ip.protocol != IPPROTO_TCP)
		return OTHER;
	if (h.ip.ihl != 5 || h.ip.frag_off & bpf_htons(0x3fff)) {
		ends4(s, server, h.ip.saddr, h.ip.daddr);
		return UNREAD_SEEN;
	}
	if (!whole || !see_ports(s, server, h.tcp.source, h.tcp.dest))
		return OTHER;
	ends4(s, server, h.ip.saddr, h.ip.daddr);
	s->size = bpf_ntohs(h.ip.tot_len);
	see_tcp(s, &h.tcp, sizeof(h.ip));
	return SEGMENT_SEEN;
}

static __always_inline enum sight see6(struct __sk_buff *skb, __u32 server, struct segment *s)
{
	struct {
		struct ipv6hdr ip;
		struct tcphdr tcp;
	} h;
	int whole = load_head(skb, s, &h, sizeof(h)) == 0;
	__u8 next;

	if (!whole && load(skb, s, 0, &h.ip, sizeof(h.ip)))
		return OTHER;
	if (h.ip.nexthdr != IPPROTO_TCP) {
		/*
		 * Multicast is no TCP. Without a length it is BIG TCP: of a server
		 * bytes are missing then, but a client's could be shown as others.
		 */
		if (!behind(h.ip.nexthdr) || h.ip.daddr.in6_u.u6_addr8[0] == 0xff ||
		    (server && h.ip.payload_len == 0) || load(skb, s, sizeof(h.ip), &next, 1) || !behind(next))
			return OTHER;
		ends(s, server, h.ip.saddr.in6_u.u6_addr32, h.ip.daddr.in6_u.u6_addr32);
		return UNREAD_SEEN;
	}
	if (!whole || !see_ports(s, server, h.tcp.source, h.tcp.dest))
		return OTHER;
	ends(s, server, h.ip.saddr.in6_u.u6_addr32, h.ip.daddr.in6_u.u6_addr32);
	s->size = h.ip.payload_len ? bpf_ntohs(h.ip.payload_len) + sizeof(h.ip) : 0;
	see_tcp(s, &h.tcp, sizeof(h.ip));
	return SEGMENT_SEEN;
}

/*
 * see reads the headers of a packet that comes from the server's side or, if
 * not server, goes there.
 */
static __always_inline enum sight see(struct __sk_buff *skb, __u32 server, struct segment *s)
{
	s->base = base_of(skb);
	switch (bpf_ntohs(skb->protocol)) {
	case ETH_P_IP:
		return see4(skb, server, s);
	case ETH_P_IPV6:
		return see6(skb, server, s);
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		/* A tag behind a tag: it is read on the interface of the inner one. */
		COUNT(tagged);
	}
	return OTHER;
}

#endif
