/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* tlsd's TLS by OpenSSL 3, declared here because its headers need not be there. */
typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;
typedef struct ssl_method_st SSL_METHOD;
typedef struct bio_st BIO;
typedef struct bio_method_st BIO_METHOD;

SSL_CTX *SSL_CTX_new(const SSL_METHOD *);
const SSL_METHOD *TLS_server_method(void);
const SSL_METHOD *TLS_client_method(void);
int SSL_CTX_use_certificate_file(SSL_CTX *, const char *, int);
int SSL_CTX_use_PrivateKey_file(SSL_CTX *, const char *, int);
uint64_t SSL_CTX_set_options(SSL_CTX *, uint64_t);
long SSL_CTX_ctrl(SSL_CTX *, int, long, void *);
long SSL_CTX_callback_ctrl(SSL_CTX *, int, void (*)(void));
void SSL_CTX_set_info_callback(SSL_CTX *, void (*)(const SSL *, int, int));
SSL *SSL_new(SSL_CTX *);
void SSL_free(SSL *);
int SSL_clear(SSL *);
int SSL_set_fd(SSL *, int);
void SSL_set_bio(SSL *, BIO *, BIO *);
void SSL_set_accept_state(SSL *);
void SSL_set_connect_state(SSL *);
int SSL_accept(SSL *);
int SSL_connect(SSL *);
int SSL_do_handshake(SSL *);
int SSL_renegotiate(SSL *);
int SSL_read(SSL *, void *, int);
int SSL_write(SSL *, const void *, int);
int SSL_read_ex(SSL *, void *, size_t, size_t *);
int SSL_write_ex(SSL *, const void *, size_t, size_t *);
size_t SSL_get_server_random(const SSL *, unsigned char *, size_t);
BIO *BIO_new(const BIO_METHOD *);
const BIO_METHOD *BIO_s_mem(void);
const BIO_METHOD *BIO_s_null(void);
void SSL_set0_wbio(SSL *, BIO *);
int BIO_up_ref(BIO *);

/* Numbers of the library's interface. */
#define SSL_FILETYPE_PEM 1
#define SSL_OP_ENABLE_KTLS (1 << 3)
#define SSL_CTRL_SET_TLSEXT_SERVERNAME_CB 53
#define SSL_TLSEXT_ERR_ALERT_WARNING 1
#define SSL_CB_HANDSHAKE_DONE 0x20
#define SSL_CTRL_SET_GROUPS_LIST 92
#define SSL_CTRL_SET_MAX_PROTO_VERSION 124
#define TLS1_2_VERSION 0x0303

static SSL_CTX *context;
static SSL *only;

/* unknown_name has a warning sent before the ServerHello (RFC 6066 section 3). */
static int unknown_name(SSL *o, int *alert, void *arg)
{
	return SSL_TLSEXT_ERR_ALERT_WARNING;
}

/* greet_inside greets as soon as the hands are shaken, which a read may do. */
static void greet_inside(const SSL *o, int where, int value)
{
	if (where & SSL_CB_HANDSHAKE_DONE)
		MUST(SSL_write((SSL *)o, "+OK ready\r\n", 11) == 11);
}

static void tls_start(void)
{
	MUST(context = SSL_CTX_new(TLS_server_method()));
	MUST(SSL_CTX_use_certificate_file(context, cert, SSL_FILETYPE_PEM) == 1);
	MUST(SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) == 1);
	if (with_tls12)
		MUST(SSL_CTX_ctrl(context, SSL_CTRL_SET_MAX_PROTO_VERSION, TLS1_2_VERSION, NULL));
	if (with_ktls)
		SSL_CTX_set_options(context, SSL_OP_ENABLE_KTLS);
	if (with_warning)
		MUST(SSL_CTX_callback_ctrl(context, SSL_CTRL_SET_TLSEXT_SERVERNAME_CB,
					   (void (*)(void))unknown_name));
	if (with_inside)
		SSL_CTX_set_info_callback(context, greet_inside);
	if (with_p384)
		MUST(SSL_CTX_ctrl(context, SSL_CTRL_SET_GROUPS_LIST, 0, "P-384"));
}

static SSL *accept_openssl(int fd)
{
	SSL *o = only;

	if (!o)
		MUST(o = SSL_new(context));
	if (with_reuse) {
		if (only)
			MUST(SSL_clear(o));
		only = o;
	}
	MUST(SSL_set_fd(o, fd));
	if (with_lazy)
		SSL_set_accept_state(o);
	if (with_lazy || SSL_accept(o) == 1)
		return o;
	if (!with_reuse)
		SSL_free(o);
	return NULL;
}

static void free_openssl(SSL *o)
{
	if (!with_reuse)
		SSL_free(o);
}

#ifdef OLD
#include "tlsd_old.h"
#else
typedef SSL object;

static object *tls_accept(int fd)
{
	return accept_openssl(fd);
}

static void tls_free(object *o)
{
	free_openssl(o);
}

static int tls_read(object *o, void *b, int size)
{
	size_t n;

	if (with_ex)
		return SSL_read_ex(o, b, size, &n) == 1 ? (int)n : -1;
	return SSL_read(o, b, size);
}

static int tls_write(object *o, const void *b, int size)
{
	size_t n;

	if (with_ex)
		return SSL_write_ex(o, b, size, &n) == 1 ? (int)n : -1;
	return SSL_write(o, b, size);
}
#endif

#ifndef OLD
/* tls_renegotiate asks the client for another handshake (RFC 5246 section 7.4.1.1). */
static void tls_renegotiate(SSL *o)
{
	MUST(SSL_renegotiate(o) == 1 && SSL_do_handshake(o) == 1);
}
#endif

static int client(int port, const char *line)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port),
				 .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char b[1000];
	SSL *o;

	MUST(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
	MUST(o = SSL_new(SSL_CTX_new(TLS_client_method())));
	MUST(SSL_set_fd(o, fd));
	MUST(SSL_connect(o) == 1);
	MUST(SSL_write(o, line, strlen(line)) > 0);
	MUST(SSL_read(o, b, sizeof(b)) > 0);
	return 0;
}

/* planted has two objects shake hands in memory; the server's gets the random. */
static SSL *planted(const char *hex)
{
	unsigned char random[32], own[32], *at;
	SSL *s, *c;
	BIO *up, *down;
	int done = 0;

	for (int i = 0; i < 32; i++)
		MUST(sscanf(hex + 2 * i, "%2hhx", &random[i]) == 1);
	tls_start();
	MUST((s = SSL_new(context)) && (c = SSL_new(SSL_CTX_new(TLS_client_method()))));
	MUST((up = BIO_new(BIO_s_mem())) && (down = BIO_new(BIO_s_mem())));
	MUST(BIO_up_ref(up) && BIO_up_ref(down));
	SSL_set_bio(s, up, down);
	SSL_set_bio(c, down, up);
	SSL_set_accept_state(s);
	SSL_set_connect_state(c);
	for (int i = 0; i < 10 && done != 2; i++)
		done = (SSL_do_handshake(c) == 1) + (SSL_do_handshake(s) == 1);
	MUST(done == 2);
	MUST(SSL_get_server_random(s, own, 32) == 32);
	MUST(at = memmem(s, 0x600, own, 32));
	memcpy(at, random, 32);
	return s;
}

static int plant(const char *hex, const char *line)
{
	MUST(SSL_write(planted(hex), line, strlen(line)) > 0);
	return 0;
}

/* calls writes often, to nowhere, and prints how long a call takes, in ns. */
static int calls(const char *hex, long count)
{
	SSL *s = planted(hex);
	struct timespec begin, end;

	SSL_set0_wbio(s, BIO_new(BIO_s_null()));
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begin);
	for (long i = 0; i < count; i++)
		MUST(SSL_write(s, "+OK\r\n", 5) == 5);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	printf("%.1f\n", ((end.tv_sec - begin.tv_sec) * 1e9 + end.tv_nsec - begin.tv_nsec) / count);
	return 0;
}
