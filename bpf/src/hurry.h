/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Which words of a client nobody is in a hurry for. It decides about no more than that. */
#ifndef RELAYGATE_HURRY_H
#define RELAYGATE_HURRY_H

#include <linux/types.h>

/* A client's line of at most so many bytes is looked at before it is copied. */
#define PRELIMINARY_MAX 64

/* The first word of a line, RFC 1939 section 7 and RFC 2449 section 5. */
#define WORD(a, b, c, d) ((__u32)(a) << 24 | (b) << 16 | (c) << 8 | (d))
#define UPPER 0xdfdfdfdf /* letters only */

/*
 * preliminary says whether all that a client sent, up to b[last], is one line that
 * no answer can make a login of: USER or CAPA. Where it is wrong, a verdict is read
 * a second later.
 */
static __always_inline int preliminary(const __u8 b[PRELIMINARY_MAX], __u32 last)
{
	__u32 word = WORD(b[0], b[1], b[2], b[3]) & UPPER;

	if (word != WORD('U', 'S', 'E', 'R') && word != WORD('C', 'A', 'P', 'A'))
		return 0;
	for (__u32 i = 0; i < PRELIMINARY_MAX; i++)
		if (b[i] == '\n' && i != last)
			return 0;
	return 1;
}

#endif
