/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Packets whose bytes can still change: a sender in this kernel, as in a container, can
 * have it send pages to which it goes on to write, by sendfile(2), splice(2) or
 * MSG_ZEROCOPY. What is copied of such a packet is not what the mail server reads later.
 *
 * The kernel marks them, and whatever it makes of them, for its own sake: it may not
 * decrypt in place what is not its own. Until May 2026 it lost the mark where it joined
 * segments to send them again (skb_shift).
 */
#ifndef RELAYGATE_LENT_H
#define RELAYGATE_LENT_H

#include "kernel.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <linux/bpf.h>

/*
 * How the kernel's own view of a packet is read: by casts, which cost nothing and are
 * there since Linux 6.2; else by a helper, which a kernel that is locked down does not
 * have; else not at all.
 */
enum access { NO_ACCESS = 0, BY_CASTS = 1, BY_HELPER = 2 };

volatile const enum access kernel_access = NO_ACCESS;

extern void *bpf_cast_to_kern_ctx(void *) __ksym __weak;
extern void *bpf_rdonly_cast(const void *, __u32) __ksym __weak;

/* OF is a field of a structure of the kernel's. */
#define OF(p, field)                                                                        \
	({                                                                                  \
		typeof((p)->field) value;                                                   \
		if (kernel_access == BY_CASTS)                                              \
			value = ((typeof(p))bpf_rdonly_cast(                                \
					 p, bpf_core_type_id_kernel(typeof(*(p)))))->field; \
		else                                                                        \
			bpf_core_read(&value, sizeof(value), &(p)->field);                  \
		value;                                                                      \
	})

/* SKBFL_ZEROCOPY_ENABLE and SKBFL_SHARED_FRAG; before Linux 5.12 SKBTX_DEV_ZEROCOPY and SKBTX_SHARED_FRAG. */
#define MARKS 0x03
#define MARKS_BEFORE_5_12 0x28

/* Pieces of a packet that are looked at; each bears marks of its own. */
#define PIECES 16

/* lent says whether some of the packet's bytes can still change. */
static __noinline int lent(struct __sk_buff *skb)
{
	struct sk_buff *piece = (void *)skb; /* to the helper */

	/* What can be reached without a helper is the kernel's own copy. */
	if (kernel_access == NO_ACCESS ||
	    (void *)(long)skb->data_end - (void *)(long)skb->data >= (long)skb->len)
		return 0;
	if (kernel_access == BY_CASTS)
		piece = bpf_cast_to_kern_ctx(skb);
	for (int i = 0; i < PIECES; i++) {
		struct skb_shared_info *info = (void *)(OF(piece, head) + OF(piece, end));
		struct sk_buff *pieces = OF(info, frag_list);
		__u8 marks;

		if (bpf_core_field_exists(info->flags))
			marks = OF(info, flags) & MARKS;
		else
			marks = OF(info, tx_flags) & MARKS_BEFORE_5_12;
		if (marks || (i > 0 && pieces))
			return 1;
		piece = i == 0 ? pieces : OF(piece, next);
		if (!piece)
			return 0;
	}
	return 1;
}

#endif
