/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/*
 * tlsd's own "library": functions with the signatures of OpenSSL's, on objects
 * laid out as those of OpenSSL 1.1.1, which have the server random behind a
 * pointer. It also has what a server rarely calls.
 */
typedef struct {
	char before[0x38];
	int server;
	char between[0xa8 - 0x3c];
	char *s3;
	char after[0x700];
	SSL *real;
} object;

static object *tls_accept(int fd)
{
	SSL *real = accept_openssl(fd);
	object *o;

	if (!real)
		return NULL;
	MUST(o = calloc(1, sizeof(*o)));
	o->s3 = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	MUST(o->s3 != MAP_FAILED);
	MUST(SSL_get_server_random(real, (unsigned char *)o->s3 + 0x98, 32) == 32);
	o->real = real;
	o->server = 1;
	if (with_hide)
		MUST(mprotect(o->s3, 4096, PROT_NONE) == 0);
	return o;
}

static void tls_free(object *o)
{
	free_openssl(o->real);
	munmap(o->s3, 4096);
	free(o);
}

#define EXPORT __attribute__((noinline, used))

/* These say where the random is, and at which end an object is. */
EXPORT size_t old_get_server_random(const object *o, unsigned char *out, size_t size)
{
	if (size > 32)
		size = 32;
	memcpy(out, o->s3 + 0x98, size);
	return size;
}

EXPORT int old_is_server(const object *o)
{
	return o->server;
}

EXPORT int old_write(object *o, const void *b, int size);

static ucontext_t coroutines[2];
static int current;

/* other lets the other coroutine go on, until that does the same. */
static void other(void)
{
	int self = current;

	current = !self;
	MUST(swapcontext(&coroutines[self], &coroutines[current]) == 0);
}

EXPORT int old_read(object *o, void *b, int size)
{
	static int asked;

	if (with_turns || with_below)
		other();
	if (with_inside && !asked++)
		MUST(old_write(o, "+OK ready\r\n", 11) == 11);
	return SSL_read(o->real, b, size);
}

EXPORT int old_write(object *o, const void *b, int size)
{
	static int asked;
	char one;

	if (with_deep && !asked++)
		MUST(old_read(o, &one, 1) == 1);
	return SSL_write(o->real, b, size);
}

EXPORT int old_read_early_data(object *o, void *b, size_t size, size_t *n)
{
	return SSL_read_ex(o->real, b, size, n);
}

EXPORT int old_write_ex2(object *o, const void *b, size_t size, unsigned long flags, size_t *n)
{
	return SSL_write_ex(o->real, b, size, n);
}

/* Stands for a file's contents, which are in no buffer. */
EXPORT long old_sendfile(object *o, int fd, long offset, size_t size, int flags)
{
	static const char file[] = "+OK file";

	return SSL_write(o->real, file, sizeof(file) - 1);
}

static int tls_read(object *o, void *b, int size)
{
	size_t n;

	if (with_ex)
		return old_read_early_data(o, b, size, &n) == 1 ? (int)n : -1;
	return old_read(o, b, size);
}

static int tls_write(object *o, const void *b, int size)
{
	size_t n;

	if (with_big)
		return old_sendfile(o, 1, 0, 8, 0) > 0 ? size : -1;
	if (with_ex)
		return old_write_ex2(o, b, size, 0, &n) == 1 ? (int)n : -1;
	return old_write(o, b, size);
}
