// SPDX-License-Identifier: Apache-2.0
/*
 * The floor of "answer leaves, element acknowledged": the least that a program
 * can do that is woken by a BPF ring buffer. It waits with epoll, counts the
 * positive answers of each connection (greeting, USER, PASS), and for the third
 * adds the client's address to an nftables set, with a message that it made
 * before, over one netlink socket, and reads the acknowledgement. There is no
 * proof of anything in it, no bound, and no clock.
 *
 * Descriptor 3 is the ring. Its records are struct record. Arguments: the size
 * of the ring in bytes, the table's name (family inet) and the set's.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct record {
	uint64_t cookie;
	uint32_t client, sequence; /* network byte order */
	char payload[16];
};

#define LIFE_MS 3600000ULL

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* ---- the message ---- */

static char message[512];
static size_t used;
static struct nlmsghdr *add;
static char *key;

static void *grow(size_t size)
{
	void *at = message + used;

	used += NLMSG_ALIGN(size);
	return at;
}

static struct nlmsghdr *begin(int type, int flags, int family, int resource)
{
	struct nlmsghdr *h = grow(sizeof(*h));
	struct nfgenmsg *g = grow(sizeof(*g));

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	g->nfgen_family = family;
	g->version = NFNETLINK_V0;
	g->res_id = htons(resource);
	return h;
}

static void end(struct nlmsghdr *h)
{
	h->nlmsg_len = message + used - (char *)h;
}

static struct nlattr *open_attribute(int type)
{
	struct nlattr *a = grow(sizeof(*a));

	a->nla_type = type;
	return a;
}

static void close_attribute(struct nlattr *a)
{
	a->nla_len = message + used - (char *)a;
}

static char *attribute(int type, const void *value, size_t size)
{
	struct nlattr *a = open_attribute(type);
	char *at = grow(size);

	memcpy(at, value, size);
	a->nla_len = sizeof(*a) + size;
	return at;
}

static void milliseconds(int type, uint64_t ms)
{
	uint32_t parts[2] = {htonl(ms >> 32), htonl(ms)};

	attribute(type, parts, sizeof(parts));
}

static void make_message(const char *table, const char *set)
{
	struct nlattr *list, *element, *data;
	uint32_t none = 0;

	end(begin(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
	add = begin(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM,
		    NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK, NFPROTO_INET, 0);
	attribute(NFTA_SET_ELEM_LIST_TABLE, table, strlen(table) + 1);
	attribute(NFTA_SET_ELEM_LIST_SET, set, strlen(set) + 1);
	list = open_attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED);
	element = open_attribute(NFTA_LIST_ELEM | NLA_F_NESTED);
	data = open_attribute(NFTA_SET_ELEM_KEY | NLA_F_NESTED);
	key = attribute(NFTA_DATA_VALUE, &none, sizeof(none));
	close_attribute(data);
	milliseconds(NFTA_SET_ELEM_TIMEOUT, LIFE_MS);
	milliseconds(NFTA_SET_ELEM_EXPIRATION, LIFE_MS);
	close_attribute(element);
	close_attribute(list);
	end(add);
	end(begin(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES));
}

/* let_in adds an address and waits until the kernel says so. */
static void let_in(int netlink, uint32_t client)
{
	char answer[8192];
	struct nlmsghdr *h = (void *)answer;

	memcpy(key, &client, sizeof(client));
	add->nlmsg_seq++;
	if (send(netlink, message, used, 0) < 0)
		die("send");
	do {
		if (recv(netlink, answer, sizeof(answer), 0) < (ssize_t)sizeof(*h))
			die("recv");
	} while (h->nlmsg_seq != add->nlmsg_seq);
	if (h->nlmsg_type != NLMSG_ERROR || ((struct nlmsgerr *)NLMSG_DATA(h))->error) {
		errno = -((struct nlmsgerr *)NLMSG_DATA(h))->error;
		die("add element");
	}
}

/* ---- the connections ---- */

#define CONNECTIONS (1 << 16)

static struct {
	uint64_t cookie;
	uint32_t sequence; /* of the last answer */
	int answers;
} connections[CONNECTIONS];

/* third says whether this is the third positive answer of a connection. */
static int third(const struct record *r)
{
	unsigned at = r->cookie * 0x9E3779B97F4A7C15ULL >> 48;
	uint32_t sequence = ntohl(r->sequence);

	if (memcmp(r->payload, "+OK", 3))
		return 0;
	if (connections[at].cookie != r->cookie) {
		connections[at].cookie = r->cookie;
		connections[at].answers = 0;
	} else if ((int32_t)(sequence - connections[at].sequence) <= 0) {
		return 0; /* sent again */
	}
	connections[at].sequence = sequence;
	return ++connections[at].answers == 3;
}

/* ---- the ring ---- */

int main(int argc, char **argv)
{
	size_t size = argc == 4 ? strtoul(argv[1], NULL, 0) : 0, page = sysconf(_SC_PAGESIZE);
	int epoll = epoll_create1(0), netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	struct epoll_event ready = {.events = EPOLLIN};
	uint64_t *consumer, *producer, at = 0;
	const char *data;

	if (!size || epoll < 0 || netlink < 0)
		die("start");
	make_message(argv[2], argv[3]);
	consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
	producer = mmap(NULL, page + 2 * size, PROT_READ, MAP_SHARED, 3, page);
	if (consumer == MAP_FAILED || producer == MAP_FAILED)
		die("map the ring");
	data = (const char *)producer + page;
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, 3, &ready))
		die("epoll_ctl");
	puts("ready");
	fflush(stdout);
	for (;;) {
		if (epoll_wait(epoll, &ready, 1, -1) < 0 && errno != EINTR)
			die("epoll_wait");
		while (at < __atomic_load_n(producer, __ATOMIC_ACQUIRE)) {
			const uint32_t *head = (const void *)(data + (at & (size - 1)));
			uint32_t length = __atomic_load_n(head, __ATOMIC_ACQUIRE);
			const struct record *r = (const void *)(head + 2);

			if (length & BPF_RINGBUF_BUSY_BIT)
				break;
			if (!(length & BPF_RINGBUF_DISCARD_BIT) && third(r))
				let_in(netlink, r->client);
			length &= ~BPF_RINGBUF_DISCARD_BIT;
			at += (length + BPF_RINGBUF_HDR_SZ + 7) & ~7U;
			__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
		}
	}
}
