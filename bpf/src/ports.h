/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Which local ports are watched. */
#ifndef RELAYGATE_PORTS_H
#define RELAYGATE_PORTS_H

#include <linux/types.h>

/* The watched local ports, one bit each. */
__u64 watched_ports[1024];

static __always_inline int watched(__u32 port)
{
	return watched_ports[(port >> 6) & 1023] >> (port & 63) & 1;
}

#endif
