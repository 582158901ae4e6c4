/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The places of handshakes in progress. Anybody can send a SYN, so they have
 * places of their own, where only other handshakes push one out.
 */
#ifndef RELAYGATE_HANDSHAKES_H
#define RELAYGATE_HANDSHAKES_H

#include "hash.h"
#include "records.h"
#include "segment.h"

/* TAKEN: a processor makes a connection of it. */
enum stage { UNUSED, ASKED, ANSWERED, TAKEN };

/*
 * For so many ticks, two minutes and the one that had begun, a server takes the
 * client's acknowledgement of a SYN cookie (RFC 4987 section 3.6; in Linux
 * MAX_SYNCOOKIE_AGE). It answers each SYN of the same ends with another, and
 * which it took then is not to be seen.
 */
#define COOKIE_TICKS 180

/* How often clients' segments may have come in unseen; user space counts. */
__u32 blinded;

struct handshake {
	struct tuple tuple;
	__u32 client_isn, server_isn; /* the first sequence numbers of the streams */
	__u32 ifindex;
	__u32 since; /* ticks */
	__u32 blinded; /* that number, at the SYN */
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

/* reason_of is why a handshake is in doubt that comes behind one of the same ends. */
static __always_inline enum reason reason_of(const struct handshake *before, __u32 now)
{
	if (now - before->since > COOKIE_TICKS)
		return NONE;
	if (before->stage == ANSWERED || before->reason == TWO_ANSWERS)
		return TWO_ANSWERS;
	return NONE;
}

#endif
