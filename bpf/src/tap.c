// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * The tap: sockops tells which connections there are, cgroup_skb copies their
 * packets until user space has its verdict. Everything is keyed by socket
 * cookie, because behind a REDIRECT rule the ports of the two directions
 * differ. Traffic is never changed or dropped: all programs return 1.
 */
#include "connections.h"
#include "packets.h"

char __license[] SEC("license") = "Dual MIT/GPL";
