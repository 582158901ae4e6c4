/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Clients in doubt: something came from their address that could not be read. All
 * their connections that are read are in doubt then.
 */
#ifndef RELAYGATE_DOUBTS_H
#define RELAYGATE_DOUBTS_H

#include "hash.h"
#include "records.h"
#include "ticks.h"

/*
 * When that was, in ticks, by a hash of the address. Two that share a place share
 * the doubt.
 */
#define DOUBTS 16384

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, DOUBTS);
	__type(key, __u32);
	__type(value, __u32);
} doubts SEC(".maps");

static __always_inline __u32 *doubt_of(const __u32 *client)
{
	__u32 place = mix(hash_key, client, 4) >> 32 & (DOUBTS - 1);

	return bpf_map_lookup_elem(&doubts, &place);
}

/* doubt notes that something of this client's could not be read. */
static __always_inline void doubt(const __u32 *client)
{
	__u32 *at = doubt_of(client);

	COUNT(unreadable);
	if (at)
		*at = ticks;
}

/* doubted says whether that was so since a time. */
static __always_inline int doubted(const __u32 *client, __u32 since)
{
	__u32 *at = doubt_of(client);

	return !at || *at >= since;
}

#endif
