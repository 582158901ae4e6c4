package bpf

import (
	"fmt"
	"net/netip"
	"unsafe"
)

// Kind says what a Record is.
type Kind uint8

const (
	// Packet: a packet of a followed connection.
	Packet Kind = iota + 1
	// Opened: a connection to a watched port was established.
	Opened
	// Closed: the kernel closed a followed connection (TCP_CLOSE).
	Closed
	// Lost: a packet of a followed connection could not be recorded, or what
	// it said through TLS. Only its Closed comes after that. With cookie 0 it
	// is not known which connection's, and each may be concerned.
	Lost
	// Handshake: a ServerHello (RFC 8446 §4.1.3) left a followed connection's
	// socket, its first. Nothing more than the bytes at the start of a segment
	// says so: it counts only where the dialogue expects a handshake.
	Handshake
	// Plain: one call of a TLS library read or wrote something on the
	// connection. The library's object had the connection's server random,
	// and the calling process descends from Owner, or is it, and is in no other
	// control group than that.
	Plain
)

// Reason says why an Opened connection is not followed, or how a Lost one lost.
type Reason uint8

// The reasons.
const (
	None = Reason(tapReasonNONE)

	ForeignNetns = Reason(tapReasonFOREIGN_NETNS)
	ForeignOwner = Reason(tapReasonFOREIGN_OWNER)
	ForeignPort  = Reason(tapReasonFOREIGN_PORT)
	FastOpen     = Reason(tapReasonFAST_OPEN)
	Multipath    = Reason(tapReasonMULTIPATH)

	RingFull   = Reason(tapReasonRING_FULL)
	Unanswered = Reason(tapReasonUNANSWERED)
	FlowFull   = Reason(tapReasonFLOW_FULL)
	Handed     = Reason(tapReasonHANDED)

	PlainUnanswered = Reason(tapReasonPLAIN_UNANSWERED)
	PlainFull       = Reason(tapReasonPLAIN_FULL)
	SameRandom      = Reason(tapReasonSAME_RANDOM)
	TwoHellos       = Reason(tapReasonTWO_HELLOS)
	AttachedLate    = Reason(tapReasonATTACHED_LATE)
	CallUnseen      = Reason(tapReasonCALL_UNSEEN)
	ObjectUnread    = Reason(tapReasonOBJECT_UNREAD)

	Unreadable = Reason(tapReasonUNREADABLE)
	TwoAnswers = Reason(tapReasonTWO_ANSWERS)
	Stray      = Reason(tapReasonSTRAY)
	Blind      = Reason(tapReasonBLIND)
	Opens      = Reason(tapReasonOPENS)
	Unfinished = Reason(tapReasonUNFINISHED)
)

var reasons = map[Reason]string{
	None:            "",
	ForeignNetns:    "the listener is in a network namespace that is not trusted",
	ForeignOwner:    "the listener belongs to a user who is not trusted",
	ForeignPort:     "a listener at another port accepted the connection, as a transparent proxy does",
	FastOpen:        "the client sent data with the handshake, as TCP Fast Open does",
	Multipath:       "the connection is a part of a Multipath TCP connection",
	RingFull:        "the tap's ring buffer was full",
	Unanswered:      "the client sent too much without an answer",
	FlowFull:        "too much was sent before a verdict",
	Handed:          "BPF programs can hand the server's socket what the tap does not see (sockmap)",
	PlainUnanswered: "the client sent too much inside TLS without an answer",
	PlainFull:       "too much was sent inside TLS before a verdict",
	SameRandom:      "two connections showed the same server random, as where a proxy on this host passes TLS on",
	TwoHellos:       "the connection showed two ServerHellos",
	AttachedLate:    "the connection was opened before the server and its TLS library were followed",
	CallUnseen:      "a call of the TLS library was not seen whole",
	ObjectUnread:    "an object of the TLS library could not be read",
	Unreadable:      "IP fragments, options or extension headers came from the client's address",
	TwoAnswers:      "the server answered more than one handshake of the same addresses and ports",
	Stray:           "no socket of this host sent what the server says: this host only forwards it",
	Blind:           "an interface came while the connection began, and what it brought may not have been seen",
	Opens:           "the server's end opened the connection too, as no listener does",
	Unfinished:      "the client left a checksum to be filled in among what it said",
}

func (r Reason) String() string {
	if words, ok := reasons[r]; ok {
		return words
	}
	return fmt.Sprintf("unknown reason %d", uint8(r))
}

// Record is one thing that the tap saw.
type Record struct {
	Kind Kind
	// Cookie is the connection's socket cookie.
	Cookie uint64
	// Time is CLOCK_MONOTONIC, in nanoseconds.
	Time uint64

	// Packet: Data starts at the IP header and is valid until the next Next.
	// WireLen is the packet's length from there, in bytes; Data can be shorter.
	// Egress packets were sent by the server's socket itself; to a Wire they
	// came from the server's side, whichever way that is. Lent packets hold a
	// client's memory, in this kernel, that it can still change.
	Data    []byte
	WireLen int
	Egress  bool
	Lent    bool

	// Plain: Data is what the call read, or with Egress wrote; it is valid
	// until the next Next. WireLen is its whole length in bytes: Data can be
	// shorter, or empty if it could not be read. Early says that it is early
	// data (RFC 8446 §2.3). TGID is the calling process, Owner the one of
	// SetServers that it descends from or is; both as in the initial PID
	// namespace.
	Early       bool
	TGID, Owner uint32

	// Opened: the addresses as the server's socket sees them, unmapped; the
	// first sequence numbers of the streams (RFC 9293 IRS+1 and ISS+1); the
	// inode number of the network namespace; the owner of the listener, and its cookie,
	// which interfaces do not show.
	Client, Server       netip.AddrPort
	ClientISN, ServerISN uint32
	Netns                uint64
	UID                  uint32
	Listener             uint64

	// Opened: None if the connection is followed; else nothing more of it
	// comes, not even a Closed, and the owner and namespace are for
	// information only. Lost: how.
	Reason Reason
}

const (
	eventSize  = int(unsafe.Sizeof(tapEvent{}))
	packetSize = int(unsafe.Sizeof(tapPacket{}))
	plainSize  = int(unsafe.Sizeof(tapPlain{}))
)

// afINET is AF_INET, the family of IPv4 sockets.
const afINET = 2

// decodeEvent reads a record of the events ring. The programs wrote it, so it
// has the right shape, or program and reader do not belong together.
func decodeEvent(raw []byte, rec *Record) (position uint64, err error) {
	if len(raw) < eventSize {
		return 0, fmt.Errorf("event of %d bytes, want %d", len(raw), eventSize)
	}
	ev := *(*tapEvent)(unsafe.Pointer(unsafe.SliceData(raw)))
	*rec = Record{Cookie: ev.Cookie, Time: ev.Time, Reason: Reason(ev.Reason)}
	switch ev.Kind {
	case tapEventKindOPENED:
		rec.Kind = Opened
		rec.Client = addrPort(ev.Family, ev.Client, ev.ClientPort)
		rec.Server = addrPort(ev.Family, ev.Server, ev.ServerPort)
		rec.ClientISN, rec.ServerISN = ev.ClientIsn, ev.ServerIsn
		rec.Netns, rec.UID, rec.Listener = uint64(ev.Netns), ev.Uid, ev.Listener
	case tapEventKindCLOSED:
		rec.Kind = Closed
	case tapEventKindRECORD_LOST:
		rec.Kind = Lost
	case tapEventKindHANDSHAKE:
		rec.Kind = Handshake
	default:
		return 0, fmt.Errorf("event of unknown kind %d", ev.Kind)
	}
	return ev.Position, nil
}

func addrPort(family uint32, addr [16]byte, port uint16) netip.AddrPort {
	if family == afINET {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(addr[:4])), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(addr).Unmap(), port)
}

// decodePacket reads a record of the packets ring, which holds plaintext too;
// rec.Data aliases raw.
func decodePacket(raw []byte, rec *Record) error {
	if len(raw) < packetSize {
		return fmt.Errorf("packet record of %d bytes, want at least %d", len(raw), packetSize)
	}
	head := *(*tapPacket)(unsafe.Pointer(unsafe.SliceData(raw)))
	data := raw[packetSize:]
	kind, early := Packet, head.Kind == tapPacketKindEARLY
	var plain tapPlain
	switch head.Kind {
	case tapPacketKindSEGMENT, tapPacketKindLENT:
	case tapPacketKindPLAIN, tapPacketKindEARLY:
		if len(raw) < plainSize {
			return fmt.Errorf("plaintext record of %d bytes, want at least %d", len(raw), plainSize)
		}
		kind, data = Plain, raw[plainSize:]
		plain = *(*tapPlain)(unsafe.Pointer(unsafe.SliceData(raw)))
	default:
		return fmt.Errorf("packet record of unknown kind %d", head.Kind)
	}
	if int64(head.Captured) > int64(len(data)) {
		return fmt.Errorf("packet record holds %d bytes and claims %d", len(data), head.Captured)
	}
	*rec = Record{
		Kind:    kind,
		Cookie:  head.Cookie,
		Time:    head.Time,
		Data:    data[:head.Captured],
		WireLen: int(head.WireLen),
		Egress:  head.Egress != 0,
		Lent:    head.Kind == tapPacketKindLENT,
		Early:   early,
		TGID:    plain.Tgid,
		Owner:   plain.Server,
	}
	return nil
}
