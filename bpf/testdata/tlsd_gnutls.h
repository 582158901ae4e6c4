/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* tlsd's TLS by GnuTLS 3, declared here because its headers need not be there. */
typedef struct gnutls_session_int *gnutls_session_t;
typedef struct gnutls_certificate_credentials_st *gnutls_certificate_credentials_t;

int gnutls_certificate_allocate_credentials(gnutls_certificate_credentials_t *);
int gnutls_certificate_set_x509_key_file(gnutls_certificate_credentials_t, const char *,
					 const char *, int);
int gnutls_init(gnutls_session_t *, unsigned int);
void gnutls_deinit(gnutls_session_t);
int gnutls_priority_set_direct(gnutls_session_t, const char *, const char **);
int gnutls_credentials_set(gnutls_session_t, int, void *);
void gnutls_transport_set_int2(gnutls_session_t, int, int);
int gnutls_handshake(gnutls_session_t);
ssize_t gnutls_record_recv(gnutls_session_t, void *, size_t);
ssize_t gnutls_record_send(gnutls_session_t, const void *, size_t);
ssize_t gnutls_record_send2(gnutls_session_t, const void *, size_t, size_t, unsigned int);
void gnutls_record_cork(gnutls_session_t);
int gnutls_record_uncork(gnutls_session_t, unsigned int);

/* Numbers of the library's interface. */
#define GNUTLS_X509_FMT_PEM 1
#define GNUTLS_SERVER 1
#define GNUTLS_CRD_CERTIFICATE 1
#define GNUTLS_RECORD_WAIT 1

typedef struct gnutls_session_int object;

static gnutls_certificate_credentials_t credentials;

static void tls_start(void)
{
	MUST(gnutls_certificate_allocate_credentials(&credentials) == 0);
	MUST(gnutls_certificate_set_x509_key_file(credentials, cert, key, GNUTLS_X509_FMT_PEM) >= 0);
}

static object *tls_accept(int fd)
{
	const char *priority = with_tls12 ? "NORMAL:-VERS-TLS1.3" : "NORMAL";
	object *o;

	if (with_p384)
		priority = "NORMAL:-GROUP-ALL:+GROUP-SECP384R1";
	MUST(gnutls_init(&o, GNUTLS_SERVER) == 0);
	MUST(gnutls_priority_set_direct(o, priority, NULL) == 0);
	MUST(gnutls_credentials_set(o, GNUTLS_CRD_CERTIFICATE, credentials) == 0);
	gnutls_transport_set_int2(o, fd, fd);
	if (gnutls_handshake(o) == 0)
		return o;
	gnutls_deinit(o);
	return NULL;
}

static void tls_free(object *o)
{
	gnutls_deinit(o);
}

static int tls_read(object *o, void *b, int size)
{
	return gnutls_record_recv(o, b, size);
}

static int tls_write(object *o, const void *b, int size)
{
	int n = 0;

	if (with_cork) {
		gnutls_record_cork(o);
		MUST(gnutls_record_send(o, b, size) == size);
		return gnutls_record_uncork(o, GNUTLS_RECORD_WAIT);
	}
	if (with_ex)
		return gnutls_record_send2(o, b, size, 0, 0);
	/* A record holds 16 KiB. */
	while (n < size) {
		int sent = gnutls_record_send(o, (const char *)b + n, size - n);

		if (sent <= 0)
			return sent;
		n += sent;
	}
	return n;
}
