/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* What user space has done to connections: they are done with, forgotten, or given up. */
#ifndef RELAYGATE_VERDICTS_H
#define RELAYGATE_VERDICTS_H

#include "wires.h"

/* What user space says of one connection. */
struct verdict {
	struct tuple tuple;
	__u32 forget; /* nothing is to be told of it, its end neither */
	__u64 cookie;
};

/* relaygate_done ends the recording of a connection, unless another has its ends. */
SEC("syscall")
int relaygate_done(struct verdict *v)
{
	struct tuple key = v->tuple;
	struct wire *w = bpf_map_lookup_elem(&wires, &key);

	if (!w || w->cookie != v->cookie)
		return 0;
	if (v->forget)
		bpf_map_delete_elem(&wires, &key);
	else
		w->read.state = DONE;
	return 0;
}

/* Which connections are given up. */
struct sweep {
	__u32 idle;   /* whose server was silent for so many ticks */
	__u32 ending; /* the same where one side has closed */
	__u32 gone;   /* those of this interface, 0 for none */
};

static long sweep_one(void *map, const struct tuple *key, struct wire *w, struct sweep *by)
{
	__s16 silent = (__u16)ticks - w->seen; /* below 0: seen a moment ago */
	int ending = w->fins & SERVER_FIN ||
		     (w->fins & CLIENT_FIN && (__s32)(w->acked - w->client_fin) >= 0);

	if (w->ifindex != by->gone && silent <= (__s32)(ending ? by->ending : by->idle))
		return 0;
	COUNT(idle);
	finished(key, w->cookie);
	return 0;
}

SEC("syscall")
int relaygate_sweep(struct sweep *args)
{
	struct sweep by = *args;

	bpf_for_each_map_elem(&wires, sweep_one, &by, 0);
	return 0;
}

#endif
