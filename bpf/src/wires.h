/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Connections as an interface shows them: by the addresses and ports in their
 * packets, without a socket. An entry begins with a whole handshake (shake.h)
 * and is never pushed out by another.
 */
#ifndef RELAYGATE_WIRES_H
#define RELAYGATE_WIRES_H

#include "doubts.h"
#include "record.h"
#include "segment.h"
#include "ticks.h"

enum { CLIENT_FIN = 1, SERVER_FIN = 2, SERVER_FIN_ACKED = 4, FINS = 7 };

/* One connection, by its ends. */
struct wire {
	struct reading read;
	__u32 since; /* its SYN, in ticks */
	__u32 ifindex;
	__u64 cookie;		      /* its number: no socket's */
	__u32 acked;		      /* the server's last acknowledgement */
	__u32 client_fin, server_fin; /* behind the FINs */
	__u16 vlan;
	__u8 fins;
	__u8 spoke; /* the server has, by a socket of this namespace */
	__u16 seen;  /* when the server was, in ticks */
	__u16 heard; /* when the client was: it went on exactly at acked */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct tuple);
	__type(value, struct wire);
} wires SEC(".maps");

/* Cookies of connections without a socket have this bit; no socket's has it. */
#define WIRE_COOKIE (1ULL << 63)

/* How many connections began. */
__u64 numbered;

/*
 * strayed takes a segment that is stray (sender.h). It is no word of the server's; but
 * where that has not spoken it may be no server of this host's, whose words are all
 * forwarded.
 */
static __always_inline void strayed(const struct segment *s)
{
	struct wire *w = bpf_map_lookup_elem(&wires, &s->tuple);

	COUNT(forged);
	if (w && w->read.state == READING && !w->spoke && s->shape.payload)
		lose_reading(&w->read, w->cookie, STRAY);
}

/* finished forgets a connection. */
static __always_inline void finished(const struct tuple *key, __u64 cookie)
{
	if (bpf_map_delete_elem(&wires, key) == 0)
		tell_closed(cookie);
}

/* both_closed: each side's FIN was acknowledged by the other. */
static __always_inline int both_closed(const struct wire *w)
{
	return w->fins == FINS && (__s32)(w->acked - w->client_fin) >= 0;
}

/*
 * from_server keeps the account of what the server sent; it says whether that
 * ended the connection.
 */
static __always_inline int from_server(struct wire *w, const struct segment *s)
{
	__u16 now = ticks;

	if (s->flags & TCP_RST)
		return 1;
	if (s->flags & TCP_ACK && (__s32)(s->ack - w->acked) > 0)
		w->acked = s->ack;
	if (s->flags & TCP_FIN) {
		w->server_fin = s->seq + s->shape.payload + 1;
		w->fins |= SERVER_FIN;
	}
	if (w->seen != now)
		w->seen = now;
	if (s->shape.payload)
		w->spoke = 1;
	return both_closed(w);
}

/*
 * from_client does the same for the client's, of which any may be a stranger's:
 * an RST ends the connection only where the server would take it (RFC 5961
 * section 3.2), and the client is heard only where it goes on as it must.
 */
static __always_inline int from_client(struct wire *w, const struct segment *s)
{
	__u16 now;

	if (s->flags & TCP_RST)
		return s->seq == w->acked;
	if (s->seq == w->acked || s->seq + 1 == w->acked) { /* or it keeps alive */
		now = ticks;
		if (w->heard != now)
			w->heard = now;
	}
	if (s->flags & TCP_FIN) {
		w->client_fin = s->seq + s->shape.payload + 1;
		w->fins |= CLIENT_FIN;
	}
	if (w->fins & SERVER_FIN && s->flags & TCP_ACK && s->ack == w->server_fin)
		w->fins |= SERVER_FIN_ACKED;
	return both_closed(w);
}

/* read puts a segment of a connection that is read into the ring. */
static __always_inline void read(struct __sk_buff *skb, struct wire *w, const struct segment *s,
				 __u32 server)
{
	if (doubted(s->tuple.client, w->since)) {
		lose_reading(&w->read, w->cookie, UNREADABLE);
		return;
	}
	if (!server && s->shape.payload && unfinished(skb, s)) {
		lose_reading(&w->read, w->cookie, UNFINISHED);
		return;
	}
	if (s->size == 0) {
		lose_reading(&w->read, w->cookie, FLOW_FULL);
		COUNT(flow_full);
		return;
	}
	record(skb, s->base, s->size, &w->read, w->cookie, &s->shape, server);
}

#endif
