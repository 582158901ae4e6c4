/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * What the programs on sockets share with those on the TLS libraries: maps and
 * bounds. The Go side has the same in tap.go and tls.go.
 */
#ifndef RELAYGATE_TAP_H
#define RELAYGATE_TAP_H

#include "records.h"

/* UNANSWERED_MAX and FLOW_MAX for the plaintext that TLS libraries show. */
#define PLAIN_UNANSWERED_MAX 8192
#define PLAIN_MAX (256 * 1024)

#define RANDOM_BYTES 32

/* One connection of a watched port, by socket cookie. It begins as struct reading. */
struct flow {
	enum flow_state state;
	__u32 unanswered; /* client bytes since the server's last payload */
	__u32 total;	  /* bytes put into the ring */
	__u32 urgent;	  /* the client said what may end in a login */
	__u32 plain_unanswered, plain_total;
	__u64 opened; /* ns, CLOCK_MONOTONIC */
};

/* What a server random (RFC 8446 section 4.1.3) belongs to. */
struct origin {
	__u64 cookie; /* 0: more than one connection showed it */
	__u64 owner;  /* who showed it first; its end removes the entry */
	__u64 opened; /* the connection was, ns, CLOCK_MONOTONIC */
	__u32 bound;  /* an object of a TLS library was found with it */
	__u32 pad;
};

/* A process that owns listeners. */
struct server {
	__u64 start; /* clock ticks since boot, proc_pid_stat(5) */
	__u64 since; /* when it became known, ns, CLOCK_MONOTONIC */
};

/* A process that was forked within a server's family. */
struct descendant {
	__u64 start;	    /* ns since boot */
	__u64 server_start; /* as in struct server */
	__u64 server_group; /* its control group */
	__u32 server;
	__u32 pad;
};

/* A call of a TLS library that is under way. */
struct call {
	__u64 object, buffer, length; /* length: where _ex puts it */
	__u64 stack;		      /* pointer at the entry */
	__u64 since;		      /* of its server */
	__u32 server;
	__u32 function;
	__u32 parts; /* calls that it made itself, to do its work */
	__u32 pad;
};

/*
 * The calls of a thread that are under way: a server can write from within a read, as
 * Node.js does once that has shaken hands.
 */
struct calls {
	struct call outer, inner; /* inner.stack is 0 where there is none */
};

/* The same of a call of a TLS library; what it read or wrote follows. */
struct plain {
	struct packet head;
	__u32 tgid;   /* of the caller */
	__u32 server; /* its ancestor among the servers */
};

/* Without a variable of its type, BTF would not tell the reader of a record. */
const struct plain *plain_type __attribute__((unused));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u64);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u8[RANDOM_BYTES]);
	__type(value, struct origin);
} randoms SEC(".maps");

/* The processes that own listeners, by thread group. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct server);
} servers SEC(".maps");

/*
 * Processes that were forked within a server's family, by thread group. What
 * has ended is displaced in time.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, struct descendant);
} descendants SEC(".maps");

/*
 * By thread. One map for all libraries: two files can be one (a layer that two
 * containers share), and then each call is still told once. A thread that dies
 * within a call leaves its entry: user space removes it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct calls);
} calls SEC(".maps");

_Static_assert(__builtin_offsetof(struct flow, state) == __builtin_offsetof(struct reading, state) &&
		       __builtin_offsetof(struct flow, unanswered) == __builtin_offsetof(struct reading, unanswered) &&
		       __builtin_offsetof(struct flow, total) == __builtin_offsetof(struct reading, total) &&
		       __builtin_offsetof(struct flow, urgent) == __builtin_offsetof(struct reading, urgent),
	       "struct flow begins as struct reading");

static __always_inline struct reading *reading_of(struct flow *flow)
{
	return (struct reading *)flow;
}

/* lose marks the connection: one missing record and nothing can be proved. */
static __always_inline void lose(struct flow *flow, __u64 cookie, enum reason reason)
{
	lose_reading(reading_of(flow), cookie, reason);
}

#endif
