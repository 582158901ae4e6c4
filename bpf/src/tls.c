// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * What reads the memory of processes: the tap itself does without, as kernels can
 * refuse it. The programs on one TLS library file: each file has a copy of them, with
 * memory of its own for where its objects keep the server random; all copies share the
 * maps of the tap. And, once, the one that sees forks.
 */
#include "fork.h"
#include "tls.h"

char __license[] SEC("license") = "Dual MIT/GPL";
