/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* The clock of the programs on interfaces. */
#ifndef RELAYGATE_TICKS_H
#define RELAYGATE_TICKS_H

#include <linux/types.h>

/* The time in ticks, of a second or so each; user space sets it. */
__u32 ticks;

#endif
