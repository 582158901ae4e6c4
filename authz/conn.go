package authz

import "net/netip"

// Protocol is the mail access protocol of a watched port.
type Protocol uint8

const (
	// POP3 is RFC 1939.
	POP3 Protocol = iota + 1
	// IMAP is RFC 9051 (IMAP4rev2) and RFC 3501 (IMAP4rev1).
	IMAP
)

var protocolWords = []string{POP3: "pop3", IMAP: "imap"}

func (p Protocol) String() string { return Word(protocolWords, p) }

// Word is the word for one of a few kinds, by kind: "unknown" where there is none.
func Word[K ~uint8](words []string, k K) string {
	if int(k) < len(words) && words[k] != "" {
		return words[k]
	}
	return "unknown"
}

// Service is what a watched server port speaks.
type Service struct {
	Protocol Protocol
	// ImplicitTLS is true where TLS starts with the first byte
	// (995 and 993, RFC 8314 §3).
	ImplicitTLS bool
}

// Conn names one TCP connection between a mail client and this host's server.
// Addresses are unmapped: ::ffff:192.0.2.1 is 192.0.2.1.
type Conn struct {
	Client, Server netip.AddrPort
	Service        Service
	// Cookie is the kernel's socket cookie, 0 where the connection was read
	// from a file. Netns is the inode number of the network namespace, 0
	// likewise.
	Cookie, Netns uint64
}

// Dir says who sent something.
type Dir uint8

const (
	// FromClient marks commands.
	FromClient Dir = iota
	// FromServer marks replies.
	FromServer
)

func (d Dir) String() string {
	if d == FromServer {
		return "server"
	}
	return "client"
}
