/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Forks: who comes from a server's family stays of it, whoever adopts it. */
#ifndef RELAYGATE_FORK_H
#define RELAYGATE_FORK_H

#include "family.h"

/* It runs in the parent, before the child does. */
SEC("raw_tp/sched_process_fork")
int relaygate_fork(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *child = (struct task_struct *)ctx->args[1];
	__u32 tgid = BPF_CORE_READ(child, tgid);
	struct descendant new = {};
	struct server *server;
	struct kin kin = {};

	if (tgid == bpf_get_current_pid_tgid() >> 32)
		return 0; /* a thread */
	new.server = family(&kin);
	server = bpf_map_lookup_elem(&servers, &new.server);
	if (!server)
		return 0;
	new.server_start = server->start;
	new.server_group = kin.group;
	new.start = BPF_CORE_READ(child, start_boottime);
	bpf_map_update_elem(&descendants, &tgid, &new, BPF_ANY);
	return 0;
}

#endif
