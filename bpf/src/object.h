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
 * origin_of is the connection of an object at the server's end, or NULL. Where
 * the object cannot be read, because a page is swapped out, copy->cookie is
 * UNREAD.
 */
#define UNREAD (~0ULL)

static __always_inline struct origin *origin_of(__u64 object, struct origin *copy)
{
	__u8 random[RANDOM_BYTES];
	struct origin *origin;
	__u64 holder = object;
	__u32 role;

	copy->cookie = UNREAD;
	if (pointer_at) {
		if (bpf_probe_read_user(&holder, sizeof(holder), (void *)(object + pointer_at)))
			return NULL;
	}
	if (holder && bpf_probe_read_user(random, sizeof(random), (void *)(holder + random_at)))
		return NULL;
	copy->cookie = 0;
	if (!holder)
		return NULL;
	origin = look_up(random, copy);
	if (!origin)
		return NULL;
	if (bpf_probe_read_user(&role, sizeof(role), (void *)(object + role_at))) {
		copy->cookie = UNREAD;
		return NULL;
	}
	if (role == SERVER_ROLE)
		return origin;
	COUNT(clients, 1);
	copy->cookie = 0;
	return NULL;
}

#endif
