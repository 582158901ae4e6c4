// Package proxy reads what a proxy says about the client that it speaks for:
// the header of the PROXY protocol, versions 1 and 2 (HAProxy's
// proxy-protocol.txt, whose sections are cited), and the address in a command of its
// own, ID of IMAP and XCLIENT of POP3 (Announce).
//
// A header is believed only from peers that the administrator named, and only
// if the server took it for one. A server that was not told to expect it reads
// it as a command, and a client behind a proxy that merely copies octets can
// send one itself: then the server's answers are off by one, and the announced
// address is a stranger's choice. Two things show that the server took the
// header away: a TLS handshake behind it, or the answers (see Receipt).
package proxy
