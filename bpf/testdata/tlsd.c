// SPDX-License-Identifier: (MIT OR GPL-2.0)
/*
 * A server that answers "+OK " and what it was told, over TLS; for tests. It is
 * linked to the run-time libraries without their headers:
 *
 *   cc -o tlsd tlsd.c -l:libssl.so.3 -l:libcrypto.so.3
 *   cc -o tlsd -DOLD tlsd.c -l:libssl.so.3 -l:libcrypto.so.3
 *   cc -o tlsd -DGNUTLS tlsd.c -l:libgnutls.so.30
 *
 * tlsd serve CERT KEY OPTION...  accepts on descriptor 3 for ever
 * tlsd client PORT LINE          says LINE to a local server over TLS
 * tlsd plant RANDOM LINE CERT KEY  shakes hands with itself, puts the random (hex)
 *                                into its object, and writes LINE through it
 * tlsd calls RANDOM COUNT CERT KEY  the same, and says how long a call takes, in ns
 *
 * Options: fork, forklate (after the handshake), starttls, ex (the _ex
 * functions), reuse (one object for all), cork, big (answers of 40000 bytes),
 * tls12, p384 (no other group), ktls (where the kernel can), hide (with OLD: objects
 * that cannot be read), lazy (the first read shakes hands; not with GNUTLS), warning
 * (before the ServerHello), inside (a greeting from within the handshake, with OLD from
 * within the first read; not with GNUTLS), deep (with OLD: the first byte is read from
 * within the first write), again (another handshake after each answer; not with OLD or
 * GNUTLS), turns (with OLD: two clients have a coroutine each, which a read leaves for the
 * other), below (the same, with the second one's stack below the first one's).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define LISTENER 3
#define CLIENTS_MAX 256
#define BIG 40000

static const char *cert, *key;
static int with_fork, with_forklate, with_starttls, with_ex, with_reuse, with_cork, with_big,
	with_tls12, with_p384, with_ktls, with_hide, with_warning, with_again, with_lazy,
	with_inside, with_deep, with_turns, with_below;

static void die(const char *what)
{
	fprintf(stderr, "tlsd: %s failed\n", what);
	exit(1);
}

#define MUST(call)                 \
	do {                       \
		if (!(call))       \
			die(#call); \
	} while (0)

#ifdef GNUTLS
#include "tlsd_gnutls.h"
#else
#include "tlsd_openssl.h"
#endif

static void greet_in_clear(int fd)
{
	char b[100];

	MUST(write(fd, "+OK ready\r\n", 11) == 11);
	MUST(read(fd, b, sizeof(b)) > 0);
	MUST(write(fd, "+OK begin\r\n", 11) == 11);
}

/* answer serves one read; 0 when the client is gone. */
static int answer(object *o)
{
	static char in[16384], out[BIG + sizeof(in)];
	int n = tls_read(o, in, sizeof(in)), size;

	if (n <= 0)
		return 0;
	size = 4 + n;
	memcpy(out, "+OK ", 4);
	memcpy(out + 4, in, n);
	if (with_big) {
		memset(out + size, 'x', BIG - size);
		size = BIG;
	}
	if (tls_write(o, out, size) != size)
		return 0;
#if !defined(GNUTLS) && !defined(OLD)
	if (with_again)
		tls_renegotiate(o);
#endif
	return 1;
}

static void serve_one(object *o, int fd)
{
	while (answer(o))
		;
	tls_free(o);
	close(fd);
	exit(0);
}

static int accept_one(object **o)
{
	int fd = accept(LISTENER, NULL, NULL), on = 1;

	MUST(fd >= 0);
	MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
	if (with_fork) {
		if (fork()) {
			close(fd);
			return -1;
		}
		close(LISTENER);
	}
	if (with_starttls)
		greet_in_clear(fd);
	*o = tls_accept(fd);
	if (!*o) {
		close(fd);
		if (with_fork)
			exit(1);
		return -1;
	}
	if (with_fork)
		serve_one(*o, fd);
	if (with_forklate) {
		if (fork() == 0)
			serve_one(*o, fd);
		close(fd);
		return -1;
	}
	return fd;
}

static void serve(void)
{
	struct pollfd fds[CLIENTS_MAX + 1] = {{.fd = LISTENER, .events = POLLIN}};
	object *objects[CLIENTS_MAX + 1];
	int n = 1;

	for (;;) {
		MUST(poll(fds, n, -1) > 0);
		for (int i = n - 1; i > 0; i--) {
			if (!fds[i].revents || answer(objects[i]))
				continue;
			tls_free(objects[i]);
			close(fds[i].fd);
			n--;
			fds[i] = fds[n];
			objects[i] = objects[n];
		}
		if (fds[0].revents && n <= CLIENTS_MAX) {
			int fd = accept_one(&objects[n]);

			if (fd >= 0)
				fds[n++] = (struct pollfd){.fd = fd, .events = POLLIN};
		}
	}
}

#ifdef OLD
static void serve_next(void)
{
	object *o;

	MUST(accept_one(&o) >= 0);
	while (answer(o))
		;
	pause();
}

static void serve_in_turns(void)
{
	static char stacks[2][256 * 1024] __attribute__((aligned(16)));

	for (int i = 0; i < 2; i++) {
		MUST(getcontext(&coroutines[i]) == 0);
		coroutines[i].uc_stack.ss_sp = stacks[with_below ? !i : i];
		coroutines[i].uc_stack.ss_size = sizeof(stacks[0]);
		makecontext(&coroutines[i], serve_next, 0);
	}
	setcontext(&coroutines[0]);
}
#endif

int main(int argc, char **argv)
{
	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	if (argc >= 4 && strcmp(argv[1], "serve") == 0) {
		cert = argv[2];
		key = argv[3];
		for (int i = 4; i < argc; i++) {
			with_fork |= !strcmp(argv[i], "fork");
			with_forklate |= !strcmp(argv[i], "forklate");
			with_starttls |= !strcmp(argv[i], "starttls");
			with_ex |= !strcmp(argv[i], "ex");
			with_reuse |= !strcmp(argv[i], "reuse");
			with_cork |= !strcmp(argv[i], "cork");
			with_big |= !strcmp(argv[i], "big");
			with_tls12 |= !strcmp(argv[i], "tls12");
			with_p384 |= !strcmp(argv[i], "p384");
			with_ktls |= !strcmp(argv[i], "ktls");
			with_hide |= !strcmp(argv[i], "hide");
			with_warning |= !strcmp(argv[i], "warning");
			with_again |= !strcmp(argv[i], "again");
			with_lazy |= !strcmp(argv[i], "lazy");
			with_inside |= !strcmp(argv[i], "inside");
			with_deep |= !strcmp(argv[i], "deep");
			with_turns |= !strcmp(argv[i], "turns");
			with_below |= !strcmp(argv[i], "below");
		}
		tls_start();
		puts("ready");
		fflush(stdout);
#ifdef OLD
		if (with_turns || with_below)
			serve_in_turns();
#endif
		serve();
	}
#ifndef GNUTLS
	if (argc == 4 && strcmp(argv[1], "client") == 0)
		return client(atoi(argv[2]), argv[3]);
	if (argc == 6 && (strcmp(argv[1], "plant") == 0 || strcmp(argv[1], "calls") == 0)) {
		cert = argv[4];
		key = argv[5];
		return argv[1][0] == 'p' ? plant(argv[2], argv[3]) : calls(argv[2], atol(argv[3]));
	}
#endif
	die("reading the arguments");
}
