/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * What an object of a TLS library says about its connection: the server random,
 * and which end of the connection it is. User space reads in the library's own
 * code where it keeps them (layout.go).
 *
 * To search the object for a random that egress saw would not do. Beside the
 * server random it keeps what the client chose, its random and session id: a
 * client could choose another connection's server random. And a client's object
 * keeps the random that some server chose, which can be a stranger's.
 */
#ifndef RELAYGATE_OBJECT_H
#define RELAYGATE_OBJECT_H

#include "tap.h"

/*
 * Offsets in bytes: of the server random, behind the pointer at pointer_at
 * unless that is 0 (OpenSSL 1.1.1: ssl->s3->server_random), and of a number that
 * is SERVER_ROLE at the server's end.
 */
volatile const __u32 random_at = 0;
volatile const __u32 pointer_at = 0;
volatile const __u32 role_at = 0;

#define SERVER_ROLE 1

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
 * random_of reads the random of an object; it returns 0 if there is none, or -1 if
 * the object cannot be read, because a page is swapped out.
 */
static __always_inline int random_of(__u64 object, __u8 *random)
{
	__u64 holder = object;

	if (pointer_at) {
		if (bpf_probe_read_user(&holder, sizeof(holder), (void *)(object + pointer_at)))
			return -1;
		if (!holder)
			return 0;
	}
	return bpf_probe_read_user(random, RANDOM_BYTES, (void *)(holder + random_at)) ? -1 : 1;
}

/*
 * origin_with is the connection of an object with this random at the server's end,
 * or NULL. Where the object cannot be read, copy->cookie is UNREAD.
 */
#define UNREAD (~0ULL)

static __always_inline struct origin *origin_with(__u64 object, const __u8 *random,
						  struct origin *copy)
{
	struct origin *origin;
	__u32 role;

	copy->cookie = 0;
	origin = look_up(random, copy);
	if (!origin)
		return NULL;
	if (bpf_probe_read_user(&role, sizeof(role), (void *)(object + role_at))) {
		copy->cookie = UNREAD;
		return NULL;
	}
	if (role == SERVER_ROLE)
		return origin;
	COUNT(clients);
	copy->cookie = 0;
	return NULL;
}

/* may_serve says that an object is, or may be, at the server's end. */
static __always_inline int may_serve(__u64 object)
{
	__u32 role;

	return bpf_probe_read_user(&role, sizeof(role), (void *)(object + role_at)) || role == SERVER_ROLE;
}

/* origin_of is the same of whatever random the object has. */
static __always_inline struct origin *origin_of(__u64 object, struct origin *copy)
{
	__u8 random[RANDOM_BYTES];
	int has = random_of(object, random);

	if (has > 0)
		return origin_with(object, random, copy);
	copy->cookie = has < 0 ? UNREAD : 0;
	return NULL;
}

/*
 * Randoms of connections of which nothing is to be told any more, which is most
 * calls' case: it spares them the look into the hash tables. Each has a place, where
 * others displace it; eight bytes of it are kept, beside the time that some servers
 * begin it with and the mark that others end it with (RFC 8446 section 4.1.3).
 */
#define OVER_PLACES 16384

__u64 over[OVER_PLACES];

static __always_inline __u64 *place_of(const __u8 *random)
{
	return &over[*(const __u32 *)(random + 4) % OVER_PLACES];
}

static __always_inline __u64 kept_of(const __u8 *random)
{
	return *(const __u64 *)(random + 8);
}

/* An object has a random of zeros until it shakes hands, as empty places have. */
static __always_inline int is_over(const __u8 *random)
{
	__u64 kept = kept_of(random);

	return kept && *place_of(random) == kept;
}

#endif
