/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * What the taps share with their reader: records, rings, bounds, counters. The
 * Go side has the same in record.go and counters.go.
 */
#ifndef RELAYGATE_RECORDS_H
#define RELAYGATE_RECORDS_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/*
 * Client bytes that may wait for the server's next payload. Commands before a
 * login are short; a longer one is refused by the servers themselves.
 */
#define UNANSWERED_MAX 8192

/* The events ring, and the fill of it that wakes the reader. */
#define EVENTS_BYTES (4 * 1024 * 1024)
#define EVENTS_WAKEUP (EVENTS_BYTES / 4)

/* All that one connection may put into the ring before its verdict, in bytes. */
#define FLOW_MAX (256 * 1024)

enum flow_state {
	OPENING = 0, /* Opened is not in its ring yet */
	READING = 1,
	DONE = 2, /* user space has its verdict */
	LOST = 3, /* a record is missing: nothing more can be proved */
	ENCRYPTED = 4, /* no packets any more, but plaintext */
};

/* How far a connection is read. */
struct reading {
	enum flow_state state;
	__u32 unanswered; /* client bytes since the server's last payload */
	__u32 total;	  /* bytes put into the ring */
	__u32 urgent;	  /* the client said what may end in a login */
};

enum event_kind {
	OPENED = 1,
	CLOSED = 2,
	RECORD_LOST = 3,
	HANDSHAKE = 4,
};

enum reason {
	NONE = 0,
	/* Opened: why the listener is not believed. */
	FOREIGN_NETNS = 1,
	FOREIGN_OWNER = 2,
	FAST_OPEN = 3,
	MULTIPATH = 4,
	FOREIGN_PORT = 21,
	/* Lost: how. */
	RING_FULL = 5,
	UNANSWERED = 6,
	FLOW_FULL = 7,
	/* Lost, with TLS: how. */
	PLAIN_UNANSWERED = 8,
	PLAIN_FULL = 9,
	SAME_RANDOM = 10,
	TWO_HELLOS = 11,
	ATTACHED_LATE = 12,
	CALL_UNSEEN = 13,
	OBJECT_UNREAD = 14,
	/* Lost, on an interface: how. */
	UNREADABLE = 15,
	/* Opened, on an interface: the server may have taken another handshake. */
	TWO_ANSWERS = 16,
	OPENS = 19, /* it was no listener that answered */
	/* Lost, on an interface. */
	STRAY = 17,
	BLIND = 18, /* its beginning may not have been seen whole */
	UNFINISHED = 20, /* a checksum is yet to be filled in */
	/* Lost: a program can hand the socket bytes that were in no packet. */
	HANDED = 22,
	REASONS = 23,
};

/* A record of the events ring. */
struct event {
	__u64 cookie;
	__u64 time; /* ns, CLOCK_MONOTONIC */
	/*
	 * Where the packets ring stood, read before this record was reserved:
	 * the connection's packets come at or above the position of Opened,
	 * and below that of Closed. It orders the two rings exactly.
	 */
	__u64 position;
	__u64 listener; /* cookie of who accepted it, 0 on interfaces */
	enum event_kind kind;
	enum reason reason;
	__u32 netns; /* inode number */
	__u32 uid;
	__u32 client_isn, server_isn; /* IRS+1, ISS+1 */
	__u16 client_port, server_port;
	__u32 family;
	__u8 client[16], server[16]; /* the first four bytes with AF_INET */
};

enum packet_kind {
	SEGMENT = 0,
	PLAIN = 1,
	EARLY = 2, /* early data, RFC 8446 section 2.3 */
	LENT = 3,  /* a client's segment, in memory that can still change */
};

/* A record of the packets ring; the packet follows from its IP header on. */
struct packet {
	__u64 cookie;
	__u64 time; /* ns, CLOCK_MONOTONIC */
	__u32 wire_len;
	__u32 captured;
	__u32 egress;
	enum packet_kind kind;
};

/* Without a variable of its type, BTF would not tell the reader of a record. */
const struct event *event_type __attribute__((unused));
const struct packet *packet_type __attribute__((unused));

/* What happened, summed over all connections since the load. */
struct counters {
	__u64 opened, closed;
	__u64 fast_open, multipath;
	__u64 flows_full, events_full, closes_late;
	__u64 ring_full, unanswered, flow_full;
	__u64 packets, truncated, wakeups;
	__u64 handshakes, same_random, two_hellos, randoms_full;
	__u64 refused, clients, unbound, bound, late, calls_full, unseen, unread;
	__u64 plain_lost, plain, plain_truncated;
	/* On interfaces. */
	__u64 displaced, forged, unreadable, tagged, idle, two_answers;
};

/*
 * A ring puts a header of so many bytes before each record (BPF_RINGBUF_HDR_SZ).
 * With it those of the packets ring take whole cache lines: to fetch these is
 * most of what a record costs.
 */
#define RING_HEADER 8

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENTS_BYTES);
} events SEC(".maps");

/* When a connection ended. */
struct end {
	__u64 cookie, time;
};

/* The ends that the events ring had no room for. */
struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 65536); /* as many as are followed */
	__type(value, struct end);
} untold SEC(".maps");

/* Whether the reader sleeps, and whether the queue has something for it. */
struct note {
	__u32 sleeps, untold;
};

/* The reader has this page too. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct note);
} notes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* The fill of the packets ring that wakes the reader, in bytes. */
volatile const __u64 wakeup_bytes = 2 * 1024 * 1024;

/* Atomic, because a program can be interrupted by another of its CPU. */
#define COUNT(field)                                                           \
	do {                                                                   \
		__u32 zero = 0;                                                \
		struct counters *all = bpf_map_lookup_elem(&counters, &zero);  \
		if (all)                                                       \
			__sync_fetch_and_add(&all->field, 1);                  \
	} while (0)

/*
 * wake_reader wakes the reader if it sleeps, once: the interrupt that this takes
 * (irq_work) costs more than all else that is done for a packet. It comes behind
 * the submit of a record, which is a full barrier, as is the reader's note that
 * it sleeps: either the reader sees the record or we see that it sleeps.
 */
static __always_inline void wake_reader(void)
{
	__u32 zero = 0;
	struct note *reader = bpf_map_lookup_elem(&notes, &zero);
	void *nothing;

	if (!reader || !reader->sleeps)
		return;
	/* Only the end of a record wakes. This one says nothing. */
	nothing = bpf_ringbuf_reserve(&events, 8, 0);
	if (!nothing)
		return;
	reader->sleeps = 0;
	bpf_ringbuf_discard(nothing, BPF_RB_FORCE_WAKEUP);
	COUNT(wakeups);
}

/* submit hands an event over, which nobody is in a hurry for. */
static __always_inline void submit(struct event *ev)
{
	bpf_ringbuf_submit(ev, BPF_RB_NO_WAKEUP);
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) > EVENTS_WAKEUP)
		wake_reader();
}

/* reserve_event makes room for an event; where there is none, NULL, it is counted. */
static __always_inline struct event *reserve_event(void)
{
	struct event *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev)
		COUNT(events_full);
	return ev;
}

/* tell_event puts an event that says no more than its kind and reason into the ring. */
static __always_inline int tell_event(enum event_kind kind, __u64 cookie, enum reason reason)
{
	__u64 now = bpf_ktime_get_ns(), position = bpf_ringbuf_query(&packets, BPF_RB_PROD_POS);
	struct event *ev = bpf_ringbuf_reserve(&events, sizeof(*ev), 0);

	if (!ev)
		return -1;
	__builtin_memset(ev, 0, sizeof(*ev));
	ev->cookie = cookie;
	ev->time = now;
	ev->position = position;
	ev->kind = kind;
	ev->reason = reason;
	submit(ev);
	return 0;
}

/*
 * tell_lost says that a record of a connection is missing; 0 is any of them. It
 * returns -1 if there is no room to say it.
 */
static __always_inline int tell_lost(__u64 cookie, enum reason reason)
{
	/* If not, no matter for one: without its packets it proves nothing. */
	int failed = tell_event(RECORD_LOST, cookie, reason);

	if (failed)
		COUNT(events_full);
	wake_reader();
	return failed;
}

/*
 * tell_closed says that a connection has ended. That must not get lost, or user space
 * would follow it for good, nor when it did, as the time of a grant runs from there:
 * where the ring has no room it is told by its queue.
 */
static __always_inline void tell_closed(__u64 cookie)
{
	struct end end = {.cookie = cookie};
	__u32 zero = 0;
	struct note *reader;

	COUNT(closed);
	if (!tell_event(CLOSED, cookie, NONE))
		return;
	COUNT(closes_late);
	end.time = bpf_ktime_get_ns();
	bpf_map_push_elem(&untold, &end, BPF_ANY);
	reader = bpf_map_lookup_elem(&notes, &zero);
	if (reader)
		reader->untold = 1; /* behind the push, which has a lock */
}

/* lose_reading marks a connection: one missing record and nothing can be proved. */
static __always_inline void lose_reading(struct reading *r, __u64 cookie, enum reason reason)
{
	r->state = LOST;
	tell_lost(cookie, reason);
}

#endif
