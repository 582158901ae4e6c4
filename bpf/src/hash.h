/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Hashes of addresses and ports. */
#ifndef RELAYGATE_HASH_H
#define RELAYGATE_HASH_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

/* Strangers choose addresses: the key keeps them from choosing places. */
volatile const __u64 hash_key = 1;

static __always_inline __u64 mix(__u64 h, const __u32 *words, int n)
{
	for (int i = 0; i < n; i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15; /* 2^64 / golden ratio */
		h ^= h >> 29;
	}
	return h;
}

#endif
