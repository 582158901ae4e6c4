/* SPDX-License-Identifier: (MIT OR GPL-2.0) */
/* Numbers in the headers of packets. */
#ifndef RELAYGATE_HEADERS_H
#define RELAYGATE_HEADERS_H

#include <linux/types.h>
#include <linux/if_ether.h>
#include <linux/in.h>

/* Control bits, RFC 9293 section 3.1. */
#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_URG 0x20

/* behind says whether TCP may stand behind an IPv6 extension header. */
static __always_inline int behind(__u8 next)
{
	switch (next) {
	case IPPROTO_TCP:
	case 0:	  /* hop-by-hop options, RFC 8200 section 4.3 */
	case 43:  /* routing */
	case 44:  /* fragment */
	case 51:  /* authentication header, RFC 4302 */
	case 60:  /* destination options */
	case 135: /* mobility, RFC 6275 */
	case 139: /* HIP, RFC 7401 */
	case 140: /* shim6, RFC 5533 */
		return 1;
	}
	return 0;
}

#endif
