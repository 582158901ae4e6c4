/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* The pace at which connections are reported that are not followed. */
#ifndef RELAYGATE_REPORT_H
#define RELAYGATE_REPORT_H

#include "records.h"

/* Time between two reports of connections that are not followed, per reason. */
#define UNTRUSTED_INTERVAL_NS (100 * 1000 * 1000ULL)

/* When a connection that is not followed was last reported, per reason. */
__u64 untrusted_at[REASONS];

/* reported says whether one of this reason was, of late; else it is now. */
static __always_inline int reported(__u32 reason)
{
	__u64 now = bpf_ktime_get_ns();

	if (reason >= REASONS || now - untrusted_at[reason] < UNTRUSTED_INTERVAL_NS)
		return 1;
	untrusted_at[reason] = now;
	return 0;
}

#endif
