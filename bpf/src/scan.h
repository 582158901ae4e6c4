/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Where the objects of a library keep the server random. No table of versions:
 * the object is searched, and that a random is found among those that egress
 * saw is the proof.
 */
#ifndef RELAYGATE_SCAN_H
#define RELAYGATE_SCAN_H

#include "tap.h"

/* Objects are searched from this offset on, in steps of 4. */
#define SCAN_FROM 0x40
#define SCAN_STEPS 368
#define SCAN_STEP 4
#define SCAN_PIECE 128
#define SCAN_PIECES ((SCAN_STEPS * SCAN_STEP + SCAN_PIECE - 1) / SCAN_PIECE + 1)

/* OpenSSL 1.1.1 has it behind a pointer: ssl->s3->server_random. */
#define INDIRECT 0x80000000
#define OPENSSL_1_1_1 (INDIRECT | 0xa8 << 16 | 0x98)

/* Calls without a hit after which a known offset is doubted once. */
#define MISSES_MAX 256

/* The offset found: 0 is not found yet; see INDIRECT. */
__u32 offset;
__u32 misses;

struct scan {
	__u8 object[SCAN_PIECES * SCAN_PIECE];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scan);
} scratch SEC(".maps");

/*
 * look_up finds a random's connection. An entry can go and be another's while
 * it is read; a random never comes back, so it was the right one if it is
 * still there after.
 */
static __always_inline struct origin *look_up(const void *random, struct origin *copy)
{
	struct origin *origin = bpf_map_lookup_elem(&randoms, random);

	if (!origin)
		return NULL;
	*copy = *(volatile struct origin *)origin;
	return bpf_map_lookup_elem(&randoms, random);
}

/*
 * look_at looks for the random at an offset of the object. Where that cannot be
 * read, because a page is swapped out, copy->cookie is UNREAD.
 */
#define UNREAD (~0ULL)

static __always_inline struct origin *look_at(__u64 object, __u32 at, struct origin *copy)
{
	__u8 random[RANDOM_BYTES];

	copy->cookie = UNREAD;
	if (at & INDIRECT) {
		if (bpf_probe_read_user(&object, sizeof(object),
					(void *)(object + (at >> 16 & 0x7fff))))
			return NULL;
		at &= 0xffff;
	}
	if (bpf_probe_read_user(random, sizeof(random), (void *)(object + at)))
		return NULL;
	copy->cookie = 0;
	return look_up(random, copy);
}

/* known is the connection of an object, if the offset is known. */
static __always_inline struct origin *known(__u64 object, struct origin *copy)
{
	__u32 at = offset;

	copy->cookie = 0;
	return at ? look_at(object, at, copy) : NULL;
}

static __always_inline struct origin *search(__u64 object, struct origin *copy)
{
	struct origin *origin;
	__u32 zero = 0;
	struct scan *scan = bpf_map_lookup_elem(&scratch, &zero);

	COUNT(scans, 1);
	if (!scan)
		return NULL;
	/* A piece that cannot be read is zeroes. */
	for (int i = 0; i < SCAN_PIECES; i++)
		bpf_probe_read_user(&scan->object[i * SCAN_PIECE], SCAN_PIECE,
				    (void *)(object + SCAN_FROM + i * SCAN_PIECE));
	for (int i = 0; i < SCAN_STEPS; i++) {
		origin = look_up(&scan->object[i * SCAN_STEP], copy);
		if (origin) {
			offset = SCAN_FROM + i * SCAN_STEP;
			return origin;
		}
	}
	origin = look_at(object, OPENSSL_1_1_1, copy);
	if (origin) {
		offset = OPENSSL_1_1_1;
		return origin;
	}
	copy->cookie = 0; /* no pointer was there */
	COUNT(scan_misses, 1);
	return NULL;
}

/* find is the connection of an object; it learns the offset if need be. */
static __always_inline struct origin *find(__u64 object, struct origin *copy)
{
	struct origin *origin = known(object, copy);

	if (origin) {
		misses = 0;
		return origin;
	}
	if (copy->cookie == UNREAD)
		return NULL;
	/* Other ports' objects miss too: a found offset is rarely doubted. */
	if (offset && ++misses < MISSES_MAX)
		return NULL;
	misses = 0;
	return search(object, copy);
}

#endif
