package capture

import (
	"net/netip"
	"time"

	"relaygate/authz"
)

// Kind says what an Event is.
type Kind uint8

const (
	// Packet: Event.Segment holds a TCP segment of a watched port.
	Packet Kind = iota
	// Doubt: something between Segment.Src and Segment.Dst (addresses only,
	// ports are zero) could not be read the way a kernel would read it, for
	// instance overlapping IP fragments. Every connection between the two is
	// in doubt; Reason says why.
	Doubt
	// Opened: the kernel established a connection (live taps only). Conn is
	// set, and ClientISN and ServerISN are the first sequence numbers of the
	// two streams (RFC 9293 IRS+1 and ISS+1).
	Opened
	// Closed: the kernel reports TCP_CLOSE for Conn.Cookie.
	Closed
	// Lost: the tap lost a record of Conn.Cookie (Reason says how); with cookie
	// 0 it does not know of which connection, and every one is in doubt.
	Lost
	// Handshake: a ServerHello (RFC 8446 §4.1.3) left for Conn.Cookie.
	Handshake
	// Plain: Plain holds what passed through the TLS library of one of the
	// server's processes on connection Conn.Cookie.
	Plain
)

// Event is the one value that a source hands on.
type Event struct {
	Kind Kind
	Time time.Time

	Segment Segment // Packet, Doubt

	Conn                 authz.Conn // Opened, Closed, Lost
	ClientISN, ServerISN uint32     // Opened
	Listener             uint64     // Opened: cookie of who accepted it, 0 if that was not seen
	Inside               bool       // Opened: the server is behind this host, a gateway
	Trusted              bool       // Opened: nothing is known against the listener; Plain: the process may be believed
	Reason               string     // Doubt, Lost, Opened and Plain (why not trusted)

	Plain Plaintext // Plain
}

// Plaintext is what one call of a TLS library read or wrote.
type Plaintext struct {
	Dir authz.Dir
	// Bytes is valid until the source's next Next. Missing counts the bytes of
	// the call behind it that were not captured.
	Bytes   []byte
	Missing int
	// Early: it is early data (RFC 8446 §2.3), which anybody on the path can
	// send a second time.
	Early bool
	// Stranger: where the process may not be trusted, it is known to be none of the
	// connection's server, and what it did says nothing about the connection. Else
	// it may be, and the dialogue would go on behind a hole.
	Stranger bool
	// Process called the library; Owner is the process of the mail server that
	// it descends from (or itself). Both are process ids in the initial
	// namespace.
	Process, Owner uint32
}

// Segment is one TCP segment (RFC 9293 §3.1), or a GRO or TSO super-segment.
type Segment struct {
	// Src and Dst are unmapped addresses.
	Src, Dst netip.AddrPort
	// Hash is a keyed hash of the two, the same for both directions; 0 where
	// the source does not need one.
	Hash uint64
	// Cookie is the socket's cookie on live taps, else 0.
	Cookie uint64
	// Sent is what the tap knows about the sender.
	Sent Sender
	// Aside: it came in where the tap was not put. It counts in the connections that
	// other segments show, and shows none itself.
	Aside bool
	// Link tells where the frame was seen; zero on the live taps of a host.
	Link Link

	Seq, Ack uint32
	Flags    Flags
	// MPTCP is true if option 30 is present (RFC 8684), TFO if the TCP Fast
	// Open option is (34, or the experimental 254; RFC 7413).
	MPTCP, TFO bool
	// Lent: what the client sent is memory of this kernel that can still change, so
	// that the server may read something else. Only live taps of a host tell.
	Lent bool
	// Payload aliases the source's buffer and is valid until its next Next.
	// Missing counts the payload bytes that were on the wire behind Payload
	// but not captured (snap length), in bytes.
	Payload []byte
	Missing int
}

// Flags are the TCP control bits, as on the wire.
type Flags uint8

// The control bits of RFC 9293 §3.1.
const (
	FIN Flags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// Sender says where a frame came from.
type Sender uint8

const (
	// SenderUnknown: the capture does not say (Ethernet, raw IP, ...).
	SenderUnknown Sender = iota
	// SenderHost: this host sent it.
	SenderHost
	// SenderOutside: it came in. On a gateway's inside interface it left, and
	// came from anywhere.
	SenderOutside
	// SenderInside: it came in on a gateway's inside interface, from where its
	// mail servers are.
	SenderInside
)

// Link is what the link layer shows of a frame. Two frames of one station
// have equal Src; HasMAC is false where the link layer has no addresses.
type Link struct {
	HasMAC   bool
	Src, Dst [6]byte
	// VLAN holds the 802.1Q identifiers, outer first, 0 if untagged.
	VLAN [2]uint16
	// Interface is the pcapng interface number, or on a live tap the index.
	Interface uint32
}
