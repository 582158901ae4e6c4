/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * Whose process it is. A server random is public and a process's memory is its
 * own: any process can show a random in an object that it made up. So only
 * those count that descend from a process that owns a listener.
 *
 * Some lose their parents: couriertls forks once more and leaves, so that the
 * one that speaks TLS is a child of init. Hence each fork within a family is
 * remembered.
 *
 * Whoever logs in at a super-server's SSH service descends from it too, but is put
 * into a control group of the session. It is asked here, of the caller itself: who has
 * ended cannot be asked any more.
 */
#ifndef RELAYGATE_FAMILY_H
#define RELAYGATE_FAMILY_H

#include "kernel.h"
#include "tap.h"

#include <bpf/bpf_core_read.h>

#define GENERATIONS 8

/* A clock tick of proc_pid_stat(5): USER_HZ is 100. */
#define TICK_NS (10 * 1000 * 1000ULL)

/* The control group that is the root has this id. */
#define ROOT_GROUP 1

/* Which family the current process is of. */
struct kin {
	__u64 since; /* when its server became known */
	__u64 group; /* its server's control group */
	__u32 server;
	__u32 pad;
};

static __always_inline __u64 group_of(struct task_struct *task)
{
	return BPF_CORE_READ(task, group_leader, cgroups, dfl_cgrp, kn, id);
}

/* elsewhere says whether the current process has another group than its server. */
static __always_inline int elsewhere(const struct kin *kin)
{
	__u64 own = group_of((struct task_struct *)bpf_get_current_task());

	return own != kin->group && own != ROOT_GROUP && kin->group != ROOT_GROUP;
}

/* remembered fills in the family that the current process was forked in. */
static __always_inline void remembered(struct kin *kin)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	struct descendant *self = bpf_map_lookup_elem(&descendants, &tgid);
	struct server *server;

	if (!self || self->start != BPF_CORE_READ(task, group_leader, start_boottime))
		return;
	server = bpf_map_lookup_elem(&servers, &self->server);
	if (!server || server->start != self->server_start)
		return;
	kin->since = server->since;
	kin->group = self->server_group;
	kin->server = self->server;
}

/* ascend fills in the family by the parents of the current process. */
static __always_inline void ascend(struct kin *kin)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task();

	for (int i = 0; i < GENERATIONS; i++) {
		/* All threads of a process have the same parent. */
		__u32 tgid = BPF_CORE_READ(task, tgid);
		struct server *server;

		/* Who lost its parents is a child of init, and still a stranger. */
		if (tgid == 0 || (tgid == 1 && i > 0))
			return;
		server = bpf_map_lookup_elem(&servers, &tgid);
		/* A process id can be another process's by now. */
		if (server && server->start ==
				      BPF_CORE_READ(task, group_leader, start_boottime) / TICK_NS) {
			kin->since = server->since;
			kin->group = group_of(task);
			kin->server = tgid;
			return;
		}
		task = BPF_CORE_READ(task, real_parent);
	}
}

/*
 * family returns the thread group of the current process's server, and the rest in
 * kin; or 0.
 */
static __always_inline __u32 family(struct kin *kin)
{
	kin->server = 0;
	ascend(kin);
	if (!kin->server)
		remembered(kin);
	if (kin->server && elsewhere(kin))
		kin->server = 0;
	return kin->server;
}

#endif
