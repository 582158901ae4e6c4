/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Handshakes on an interface: a SYN towards a mail server, its SYN-ACK, and the
 * client's acknowledgement of exactly that, which begins a connection.
 */
#ifndef RELAYGATE_SHAKE_H
#define RELAYGATE_SHAKE_H

#include "doubts.h"
#include "handshakes.h"
#include "report.h"
#include "sender.h"
#include "ticks.h"
#include "wires.h"

/*
 * asked notes a SYN. Of several the last counts: the SYN-ACK says whether it was
 * the one that the server took. No honest client sends data with it but for TCP
 * Fast Open (RFC 7413), and which server takes that is not to be seen.
 */
static __always_inline void asked(struct __sk_buff *skb, const struct segment *s)
{
	struct handshakes *set = set_of(&s->tuple);
	__u32 first = s->seq + 1, now = ticks, displaced = 0, reason = NONE;
	__u32 ifindex = skb->ifindex;
	__u16 vlan = vlan_of(skb);
	struct handshake *h;

	if (!set)
		return;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (!h || h->client_isn != first) {
		if (h) {
			reason = reason_of(h, now);
		} else {
			h = oldest(set);
			displaced = h->stage != UNUSED;
		}
		h->tuple = s->tuple;
		h->client_isn = first;
		h->since = now;
		h->blinded = blinded;
		h->stage = ASKED;
		h->reason = reason;
	}
	h->ifindex = ifindex;
	h->vlan = vlan;
	if (s->shape.payload)
		h->reason = FAST_OPEN;
	bpf_spin_unlock(&set->lock);
	if (displaced)
		COUNT(displaced);
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
	if (opens(skb))
		reason = OPENS;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (h) {
		forged = inside && (h->ifindex != ifindex || h->vlan != vlan);
		/* The acknowledgement of data means Fast Open: not another SYN's. */
		answers = !forged && h->stage != TAKEN &&
			  (s->ack == h->client_isn || h->reason == FAST_OPEN);
		if (!forged && !answers)
			h->reason = TWO_ANSWERS;
	}
	if (answers) {
		if (h->stage == ANSWERED && h->server_isn != s->seq + 1)
			h->reason = TWO_ANSWERS;
		h->server_isn = s->seq + 1;
		h->stage = ANSWERED;
		if (reason != NONE)
			h->reason = reason;
	}
	bpf_spin_unlock(&set->lock);
	if (forged)
		COUNT(forged);
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
		COUNT(multipath);
	else if (h->reason == TWO_ANSWERS)
		COUNT(two_answers);
	else if (h->reason == FAST_OPEN)
		COUNT(fast_open);
	if (reported(h->reason))
		return;
	ev = reserve_event();
	if (!ev)
		return;
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
	struct event *ev = reserve_event();

	if (!ev)
		return NULL;
	fresh.cookie = WIRE_COOKIE | __sync_fetch_and_add(&numbered, 1);
	fresh.seen = fresh.heard = ticks;
	/* No other is pushed out for it: a full table follows nobody new. */
	if (bpf_map_update_elem(&wires, &h->tuple, &fresh, BPF_NOEXIST)) {
		bpf_ringbuf_discard(ev, BPF_RB_NO_WAKEUP);
		COUNT(flows_full);
		return NULL;
	}
	fill(ev, h, fresh.cookie);
	ev->position = position;
	submit(ev);
	COUNT(opened);
	w = bpf_map_lookup_elem(&wires, &h->tuple);
	if (w && w->read.state == OPENING)
		w->read.state = READING;
	/* Behind its number: user space counts first, and then reads how many began. */
	if (w && h->blinded != blinded)
		lose_reading(&w->read, w->cookie, BLIND);
	return w;
}

/* leave frees the place of a handshake that was taken. */
static __always_inline void leave(struct handshakes *set, const struct tuple *t)
{
	struct handshake *h;

	bpf_spin_lock(&set->lock);
	h = way_of(set, t);
	if (h && h->stage == TAKEN)
		h->stage = UNUSED;
	bpf_spin_unlock(&set->lock);
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
	__u32 missed = 0;
	struct wire *w;

	if (!set)
		return NULL;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (h && h->stage == ANSWERED && s->ack == h->server_isn) {
		found = *h;
		h->stage = TAKEN;
	} else if (h && s->shape.payload) {
		/* Another processor begins the connection: this is missing there. */
		missed = h->stage == TAKEN;
		if (h->reason == NONE)
			h->reason = FAST_OPEN;
	}
	bpf_spin_unlock(&set->lock);
	if (missed)
		doubt(s->tuple.client);
	if (found.stage != ANSWERED) /* or it has begun in this moment */
		return s->shape.payload ? bpf_map_lookup_elem(&wires, &s->tuple) : NULL;
	if (found.reason != NONE) {
		refuse(&found);
		w = NULL;
	} else {
		w = opened(&found);
	}
	leave(set, &s->tuple);
	return w;
}

/*
 * spoke takes what the server says where no connection was seen to begin: if one
 * is about to, it is not the one that the server has.
 */
static __always_inline void spoke(const struct segment *s)
{
	struct handshakes *set;
	struct handshake *h;

	if (!s->shape.payload)
		return;
	set = set_of(&s->tuple);
	if (!set)
		return;
	bpf_spin_lock(&set->lock);
	h = way_of(set, &s->tuple);
	if (h && h->stage == ANSWERED && h->reason == NONE)
		h->reason = TWO_ANSWERS;
	bpf_spin_unlock(&set->lock);
}

#endif
