/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Handshakes on an interface: a SYN towards a mail server, its SYN-ACK, and the
 * client's acknowledgement of exactly that, which begins a connection. Anybody
 * can send a SYN, so they have places of their own, where only other handshakes
 * push one out.
 */
#ifndef RELAYGATE_SHAKE_H
#define RELAYGATE_SHAKE_H

#include "report.h"
#include "wire.h"

enum stage { UNUSED, ASKED, ANSWERED };

struct handshake {
	struct tuple tuple;
	__u32 client_isn, server_isn; /* the first sequence numbers of the streams */
	__u32 ifindex;
	__u32 since; /* ticks */
	__u16 vlan;
	__u8 stage;
	__u8 reason; /* why the connection will not be followed */
};

#define WAYS 4
#define SETS 4096

/* Handshakes whose ends have one hash. */
struct handshakes {
	struct bpf_spin_lock lock;
	struct handshake way[WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SETS);
	__type(key, __u32);
	__type(value, struct handshakes);
} shaking SEC(".maps");

static __always_inline struct handshakes *set_of(const struct tuple *t)
{
	__u32 place = mix(hash_key, (const __u32 *)t, sizeof(*t) / 4) >> 32 & (SETS - 1);

	return bpf_map_lookup_elem(&shaking, &place);
}

static __always_inline int same_ends(const struct tuple *a, const struct tuple *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;
	__u32 differ = 0;

	for (int i = 0; i < sizeof(*a) / 4; i++)
		differ |= x[i] ^ y[i];
	return !differ;
}

/* way_of finds the handshake of these ends; the set is locked. */
static __always_inline struct handshake *way_of(struct handshakes *set, const struct tuple *t)
{
	for (int i = 0; i < WAYS; i++)
		if (set->way[i].stage != UNUSED && same_ends(&set->way[i].tuple, t))
			return &set->way[i];
	return NULL;
}

/* oldest is the way that is unused, or else that began first. */
static __always_inline struct handshake *oldest(struct handshakes *set)
{
	struct handshake *found = &set->way[0];

	for (int i = 1; i < WAYS; i++)
		if (found->stage != UNUSED &&
		    (set->way[i].stage == UNUSED || set->way[i].since < found->since))
			found = &set->way[i];
	return found;
}

/*
 * asked notes a SYN. Of several the last counts: the SYN-ACK says whether it was
 * the one that the server took. No honest client sends data with it but for TCP
 * Fast Open (RFC 7413), and which server takes that is not to be seen.
 */
static __always_inline void asked(struct __sk_buff *skb, const struct segment *s)
{
	struct handshakes *set = set_of(&s->tuple);
	__u32 first = s->seq + 1, now = ticks, displaced = 0;
	__u32 ifindex = skb->ifindex;
	__u16 vlan = vlan_of(skb);
	struct handshake *h;

	if (!set)
		return;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (!h || h->client_isn != first) {
		if (!h) {
			h = oldest(set);
			displaced = h->stage != UNUSED;
		}
		h->tuple = s->tuple;
		h->client_isn = first;
		h->since = now;
		h->stage = ASKED;
		h->reason = NONE;
	}
	h->ifindex = ifindex;
	h->vlan = vlan;
	if (s->shape.payload)
		h->reason = FAST_OPEN;
	bpf_spin_unlock(&set->lock);
	if (displaced)
		COUNT(displaced, 1);
}

/* multipath looks for option 30 (RFC 8684 section 3), as Linux does for options. */
static __always_inline int multipath(struct __sk_buff *skb, const struct segment *s)
{
	__u32 at = 0;
	__u8 b[2];

	for (int i = 0; i < 40 && at < s->options_size; i++) {
		if (load(skb, s, s->options + at, b, sizeof(b)) || b[0] == 0)
			break;
		if (b[0] == 1) {
			at++;
			continue;
		}
		if (b[0] == 30)
			return 1;
		if (b[1] < 2)
			break;
		at += b[1];
	}
	return 0;
}

/* answered takes a SYN-ACK; it says whether it answers a SYN. */
static __always_inline int answered(struct __sk_buff *skb, const struct segment *s)
{
	__u32 forged = 0, answers = 0, reason = NONE;
	struct handshakes *set = set_of(&s->tuple);
	__u32 ifindex = skb->ifindex;
	__u16 vlan = vlan_of(skb);
	struct handshake *h;

	if (!set)
		return 0;
	if (s->shape.payload)
		reason = FAST_OPEN;
	if (multipath(skb, s))
		reason = MULTIPATH;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (h) {
		forged = inside && (h->ifindex != ifindex || h->vlan != vlan);
		/* The acknowledgement of data means Fast Open: not another SYN's. */
		answers = !forged && (s->ack == h->client_isn || h->reason == FAST_OPEN);
	}
	if (answers) {
		h->server_isn = s->seq + 1;
		h->stage = ANSWERED;
		if (reason != NONE)
			h->reason = reason;
	}
	bpf_spin_unlock(&set->lock);
	if (forged)
		COUNT(forged, 1);
	return answers;
}

/* fill sets all of an Opened event but its position. */
static __always_inline void fill(struct event *ev, const struct handshake *h, __u64 cookie)
{
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->cookie = cookie;
	ev->time = bpf_ktime_get_ns();
	ev->kind = OPENED;
	ev->reason = h->reason;
	ev->client_isn = h->client_isn;
	ev->server_isn = h->server_isn;
	ev->client_port = bpf_ntohs(h->tuple.client_port);
	ev->server_port = bpf_ntohs(h->tuple.server_port);
	ev->family = 10; /* AF_INET6: mapped where it is IPv4 */
	__builtin_memcpy(ev->client, h->tuple.client, sizeof(ev->client));
	__builtin_memcpy(ev->server, h->tuple.server, sizeof(ev->server));
}

/* refuse tells of a connection that is not followed, a few times a second. */
static __always_inline void refuse(const struct handshake *h)
{
	struct event *ev;

	if (h->reason == MULTIPATH)
		COUNT(multipath, 1);
	else
		COUNT(fast_open, 1);
	if (reported(h->reason))
		return;
	ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);
	if (!ev) {
		COUNT(events_full, 1);
		return;
	}
	fill(ev, h, 0);
	submit(ev);
}

/* opened begins a connection, in the order that connections.h explains. */
static __always_inline struct wire *opened(const struct handshake *h)
{
	struct wire fresh = {
		.read.state = OPENING, .since = h->since, .ifindex = h->ifindex,
		.vlan = h->vlan, .acked = h->client_isn,
	}, *w;
	__u64 position = bpf_ringbuf_query(&packets, BPF_RB_PROD_POS);
	struct event *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev) {
		COUNT(events_full, 1);
		return NULL;
	}
	fresh.cookie = WIRE_COOKIE | __sync_fetch_and_add(&numbered, 1);
	fresh.seen = fresh.heard = ticks;
	/* No other is pushed out for it: a full table follows nobody new. */
	if (bpf_map_update_elem(&wires, &h->tuple, &fresh, BPF_NOEXIST)) {
		bpf_ringbuf_discard(ev, BPF_RB_NO_WAKEUP);
		COUNT(flows_full, 1);
		return NULL;
	}
	fill(ev, h, fresh.cookie);
	ev->position = position;
	submit(ev);
	COUNT(opened, 1);
	w = bpf_map_lookup_elem(&wires, &h->tuple);
	if (w && w->read.state == OPENING)
		w->read.state = READING;
	return w;
}

/*
 * completed begins the connection whose handshake this segment of the client
 * completes: any that acknowledges the server's SYN, wherever its own bytes are,
 * because the server's kernel may keep those. That it keeps bytes of another
 * segment before is not known of any, and doubted.
 */
static __always_inline struct wire *completed(const struct segment *s)
{
	struct handshakes *set = set_of(&s->tuple);
	struct handshake found = {}, *h;

	if (!set)
		return NULL;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (h && h->stage == ANSWERED && s->ack == h->server_isn) {
		found = *h;
		h->stage = UNUSED;
	} else if (h && s->shape.payload) {
		h->reason = FAST_OPEN;
	}
	bpf_spin_unlock(&set->lock);
	if (found.stage != ANSWERED)
		return NULL;
	if (found.reason != NONE) {
		refuse(&found);
		return NULL;
	}
	return opened(&found);
}

#endif
