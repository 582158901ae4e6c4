// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * The programs on one TLS library file. Each file has a copy of them, with
 * memory of its own for where its objects keep the server random; all copies
 * share the maps of the tap.
 */
#include "tls.h"

char __license[] SEC("license") = "Dual MIT/GPL";
