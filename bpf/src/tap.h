/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * What the tap's programs share with each other and with its reader: records,
 * maps, bounds. The Go side has the same in record.go and counters.go.
 */
#ifndef RELAYGATE_TAP_H
#define RELAYGATE_TAP_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/*
 * Client bytes that may wait for the server's next payload. Commands before a
 * login are short; a longer one is refused by the servers themselves.
 */
#define UNANSWERED_MAX 8192

/* All that one connection may put into the ring before its verdict, in bytes. */
#define FLOW_MAX (256 * 1024)

/* Time between two reports of listeners that are not believed, per reason. */
#define UNTRUSTED_INTERVAL_NS (100 * 1000 * 1000ULL)

enum flow_state {
	OPENING = 0, /* Opened is not in its ring yet */
	READING = 1,
	DONE = 2, /* user space has its verdict */
	LOST = 3, /* a record is missing: nothing more can be proved */
};

/* One connection of a watched port, by socket cookie. */
struct flow {
	enum flow_state state;
	__u32 unanswered; /* client bytes since the server's last payload */
	__u32 total;	  /* bytes put into the ring */
	__u32 pad;
};

enum event_kind {
	OPENED = 1,
	CLOSED = 2,
	RECORD_LOST = 3,
};

enum reason {
	NONE = 0,
	/* Opened: why the listener is not believed. */
	FOREIGN_NETNS = 1,
	FOREIGN_OWNER = 2,
	FAST_OPEN = 3,
	MULTIPATH = 4,
	/* Lost: how. */
	RING_FULL = 5,
	UNANSWERED = 6,
	FLOW_FULL = 7,
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
	enum event_kind kind;
	enum reason reason;
	__u32 netns; /* inode number */
	__u32 uid;
	__u32 client_isn, server_isn; /* IRS+1, ISS+1 */
	__u16 client_port, server_port;
	__u32 family;
	__u8 client[16], server[16]; /* the first four bytes with AF_INET */
};

/* A record of the packets ring; the packet follows from its IP header on. */
struct packet {
	__u64 cookie;
	__u64 time; /* ns, CLOCK_MONOTONIC */
	__u32 wire_len;
	__u32 captured;
	__u32 egress;
	__u32 pad;
};

/* Without a variable of its type, BTF would not tell the reader of a record. */
const struct event *event_type __attribute__((unused));
const struct packet *packet_type __attribute__((unused));

/* What happened, summed over all connections since the load. */
struct counters {
	__u64 opened, closed;
	__u64 foreign_netns, foreign_owner, fast_open, multipath;
	__u64 flows_full, events_full, closes_lost;
	__u64 ring_full, unanswered, flow_full;
	__u64 packets, bytes, truncated, wakeups;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 * 1024 * 1024);
} packets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} events SEC(".maps");

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

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

/* The watched local ports, one bit each. */
__u64 watched_ports[1024];

/* The fill of the packets ring that wakes the reader, in bytes. */
volatile const __u64 wakeup_bytes = 2 * 1024 * 1024;

/* When a listener that is not believed was last reported, per reason. */
__u64 untrusted_at[MULTIPATH + 1];

static __always_inline int watched(__u32 port)
{
	return watched_ports[(port >> 6) & 1023] >> (port & 63) & 1;
}

/* Atomic, because a program can be interrupted by another of its CPU. */
#define COUNT(field, n)                                                        \
	do {                                                                   \
		__u32 zero = 0;                                                \
		struct counters *all = bpf_map_lookup_elem(&counters, &zero);  \
		if (all)                                                       \
			__sync_fetch_and_add(&all->field, (n));                \
	} while (0)

#endif
