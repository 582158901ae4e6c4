/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Whose process it is. A server random is public and a process's memory is its
 * own: any process can show a random in an object that it made up. So only
 * those count that descend from a process that owns a listener.
 *
 * Some lose their parents: couriertls forks once more and leaves, so that the
 * one that speaks TLS is a child of init. Hence each fork within a family is
 * remembered.
 */
#ifndef RELAYGATE_FAMILY_H
#define RELAYGATE_FAMILY_H

#include "kernel.h"
#include "tap.h"

#include <bpf/bpf_core_read.h>

#define GENERATIONS 8

/* A clock tick of proc_pid_stat(5): USER_HZ is 100. */
#define TICK_NS (10 * 1000 * 1000ULL)

/* remembered is the server that the current process was forked from, or 0. */
static __always_inline __u32 remembered(__u64 *since)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct descendant *self = bpf_map_lookup_elem(&descendants, &tgid);
	struct server *server;

	if (!self || self->start != BPF_CORE_READ(task, group_leader, start_boottime))
		return 0;
	server = bpf_map_lookup_elem(&servers, &self->server);
	if (!server || server->start != self->server_start)
		return 0;
	*since = server->since;
	return self->server;
}

/*
 * family returns the thread group of the current process's server, and since
 * when it is known; or 0.
 */
static __always_inline __u32 family(__u64 *since)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	for (int i = 0; i < GENERATIONS; i++) {
		/* All threads of a process have the same parent. */
		__u32 tgid = BPF_CORE_READ(task, tgid);
		struct server *server;

		/* Who lost its parents is a child of init, and still a stranger. */
		if (tgid == 0 || (tgid == 1 && i > 0))
			break;
		server = bpf_map_lookup_elem(&servers, &tgid);
		/* A process id can be another process's by now. */
		if (server && server->start ==
				      BPF_CORE_READ(task, group_leader, start_boottime) / TICK_NS) {
			*since = server->since;
			return tgid;
		}
		task = BPF_CORE_READ(task, real_parent);
	}
	return remembered(since);
}

#endif
