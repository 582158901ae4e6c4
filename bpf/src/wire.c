// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * The tap on interfaces, by tcx: for a gateway with mail servers behind it, and
 * for hosts where the cgroup programs of tap.c cannot be had. Traffic is never
 * changed or dropped: all programs let the next one decide.
 */
#include "doubts.h"
#include "segment.h"
#include "sender.h"
#include "shake.h"
#include "verdicts.h"
#include "wires.h"

#define PACKET_HOST 0 /* linux/if_packet.h */
#define TCX_NEXT -1

struct network {
	__u32 length; /* of the prefix, in bits */
	__u32 addr[4];
};

/* Where the mail servers are; IPv4 is mapped. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, __u8);
} mail_servers SEC(".maps");

static __always_inline int serves(const __u32 *addr)
{
	struct network n = {.length = 128};

	__builtin_memcpy(n.addr, addr, sizeof(n.addr));
	return bpf_map_lookup_elem(&mail_servers, &n) != NULL;
}

/*
 * shake follows handshakes; it returns the connection that the segment belongs
 * to, which may begin with it.
 */
static __always_inline struct wire *shake(struct __sk_buff *skb, struct wire *w,
					  const struct segment *s, __u32 server)
{
	switch (s->flags & (TCP_SYN | TCP_ACK | TCP_RST)) {
	case TCP_SYN:
		if (!server && serves(s->tuple.server))
			asked(skb, s);
		return w;
	case TCP_SYN | TCP_ACK:
		if (server && answered(skb, s) && w) {
			/* The server has forgotten the connection of these ends. */
			finished(&s->tuple, w->cookie);
			return NULL;
		}
		return w;
	case TCP_ACK:
	case 0:
		if (!server)
			return completed(s);
		spoke(s);
	}
	return w;
}

static __always_inline void follow(struct __sk_buff *skb, __u32 server)
{
	struct segment s;
	struct wire *w;
	int over;

	switch (see(skb, server, &s)) {
	case UNREAD_SEEN:
		doubt(s.tuple.client);
		return;
	case OTHER:
		return;
	case SEGMENT_SEEN:
		break;
	}
	if (server && stray(skb, &s)) {
		strayed(&s);
		return;
	}
	w = bpf_map_lookup_elem(&wires, &s.tuple);
	if (!w || s.flags & TCP_SYN)
		w = shake(skb, w, &s, server);
	if (!w)
		return;
	if (server && astray(skb, w->ifindex, w->vlan)) {
		COUNT(forged);
		return;
	}
	over = server ? from_server(w, &s) : from_client(w, &s);
	if (w->read.state == READING)
		read(skb, w, &s, server);
	else if (w->read.state == OPENING && s.shape.payload)
		doubt(s.tuple.client); /* another processor begins it */
	if (over)
		finished(&s.tuple, w->cookie);
}

SEC("tcx/ingress")
int relaygate_arrive(struct __sk_buff *skb)
{
	/*
	 * What is addressed to another station does not get further than this, and is no
	 * server's. On a host a firewall or a bridge can make it the host's own.
	 */
	if (!inside || skb->pkt_type == PACKET_HOST)
		follow(skb, inside);
	return TCX_NEXT;
}

SEC("tcx/egress")
int relaygate_leave(struct __sk_buff *skb)
{
	follow(skb, !inside);
	return TCX_NEXT;
}

char __license[] SEC("license") = "Dual MIT/GPL";
