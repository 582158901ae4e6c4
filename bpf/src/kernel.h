/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * The few kernel types that the programs read through BTF. CO-RE matches them
 * by name and moves each access to where the running kernel has the field, so
 * only the fields that are read need to be here.
 */
#ifndef RELAYGATE_KERNEL_H
#define RELAYGATE_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	__u32 val;
} kuid_t;

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct sock_common {
	possible_net_t skc_net;
	volatile unsigned char skc_state;
};

struct socket;

struct sock {
	struct sock_common __sk_common;
	__u16 sk_type;
	struct socket *sk_socket; /* who holds it open, if anybody */
	kuid_t sk_uid;
	void *sk_user_data; /* what others keep with it */
};

struct net_device {
	possible_net_t nd_net;
};

struct sk_buff {
	struct sock *sk; /* that sent it */
	struct net_device *dev;
	struct sk_buff *next;
	unsigned char *head, *data;
	__u32 end;	      /* from head on */
	__u16 network_header; /* from head on */
	__u8 ip_summed : 2;
	__u16 csum_start, csum_offset; /* from head on, and from there */
};

/* It begins where a buffer ends. */
struct skb_shared_info {
	__u8 flags, tx_flags;
	struct sk_buff *frag_list;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct request_sock;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct request_sock *fastopen_rsk;
	_Bool is_mptcp; /* absent where MPTCP is not configured */
};

struct kernfs_node {
	__u64 id;
};

struct cgroup {
	struct kernfs_node *kn;
};

struct css_set {
	struct cgroup *dfl_cgrp; /* in the hierarchy of version 2 */
};

struct task_struct {
	int tgid;
	struct css_set *cgroups;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	__u64 start_boottime;
};

#pragma clang attribute pop

#endif
