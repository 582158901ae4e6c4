package flow

import (
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// ID is the slot of a flow. It is reused after Closed.
type ID uint32

// Kind says what an Event is.
type Kind uint8

const (
	// Opened begins a flow: Conn and Origin are set.
	Opened Kind = iota + 1
	// Data holds the next bytes of one direction in Chunk.
	Data
	// Tainted: the flow is in doubt, Reason says why. No Data follows.
	Tainted
	// Closed ends a flow: the slot ID is free, unless it is held (Hold).
	Closed
)

// Event is what became of a flow. Each flow gives Opened, then any number of
// Data, at most one Tainted, and Closed; one of a file may be Tainted once more behind
// these, with Past, while its slot is kept for what comes late. A session whose beginning was not seen
// gives Opened, Tainted and Closed at once. Table.Conn tells whose flow it is.
type Event struct {
	Kind Kind
	ID   ID
	// Came is when the segment came that brought it, in Unix nanoseconds, if that waited
	// for others (see Config.Late); else 0.
	Came int64
	// Chunk is valid until the next call to Feed.
	Chunk authz.Chunk
	// Reason says in words why the flow is Tainted.
	Reason string
	// Past: the doubt is about what was read before, too.
	Past bool
}

// Config is what New needs.
type Config struct {
	// Services are the watched server ports.
	Services map[uint16]authz.Service
	Limits   Limits
	// Proxies speak for many clients: Limits.FlowsPerClient does not bound their
	// connections where the kernel announces these, and they may send memory that can
	// still change.
	Proxies []netip.Prefix
	// Done is the set that a Decoder passes over (capture.Decoder.PassOver).
	// Where there is one, a flow of a file that was tainted or forgotten leaves
	// the table for it at once, without Closed.
	Done *capture.DoneSet
	// Late is how late a packet of a file may come. 0 is for a tap, which sees all in
	// the order in which the kernel does.
	Late time.Duration
}

// Limits bounds what strangers can fill. A field that is not positive takes its
// default.
type Limits struct {
	// Flows that are open at one time (65536).
	Flows int
	// FlowsPerClient are the flows that are open at one time from one IPv4
	// address or one IPv6 /64 (1024). An address with more is a gateway of
	// many users, far beyond what the policy grants.
	FlowsPerClient int
	// Handshakes in progress, of files (16384).
	Handshakes int
	// ClientBytes of one flow that may wait for their acknowledgement (16 KiB).
	// A login line with a long token is a few KiB. 128 KiB at most.
	ClientBytes int
	// ServerBytes of one flow that may wait behind a hole (64 KiB; 128 KiB at
	// most).
	ServerBytes int
	// Pieces that either direction of one flow may consist of while bytes
	// wait, that is the number of holes (64).
	Pieces int
	// Waiting are the bytes of segments of files that wait at one time for what they
	// follow from (4 MiB; each counts as 1 KiB at least), Pieces those of one connection.
	Waiting int
	// Buffered is the sum of all buffers of more than 512 bytes (32 MiB). The
	// smaller ones are bounded by Flows.
	Buffered int
	// Idle is the packet time after which a silent flow of a file is given up
	// (capture.Idle).
	Idle time.Duration
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Flows, 1<<16)
	def(&l.FlowsPerClient, 1<<10)
	def(&l.Handshakes, 1<<14)
	def(&l.ClientBytes, 16<<10)
	def(&l.ServerBytes, 64<<10)
	l.ClientBytes = min(l.ClientBytes, maxWindow)
	l.ServerBytes = min(l.ServerBytes, maxWindow)
	def(&l.Pieces, 64)
	def(&l.Waiting, 4<<20)
	def(&l.Buffered, 32<<20)
	if l.Idle <= 0 {
		l.Idle = capture.Idle
	}
	return l
}

// Stats counts since New, except where a field says otherwise.
type Stats struct {
	// Packets are segments fed.
	Packets uint64
	// Forged are segments that bear a server's address and that no server sent.
	Forged uint64
	// Backward are segments of files that are older than the event before them.
	Backward uint64
	// Opened are flows begun, Open those that are open now.
	Opened uint64
	Open   int
	// Full says that no other can begin now.
	Full   bool
	Bounds Bounds
}

// Bounds counts how often each of Limits was hit.
type Bounds struct {
	Flows, FlowsPerClient, Handshakes, ClientBytes, ServerBytes, Pieces, Waiting, Buffered uint64
}

// The reasons of Tainted.
const (
	reasonMidstream     = "the capture does not show how the session began"
	reasonUnanswered    = "the capture shows no answer to the handshake"
	reasonForgedAnswer  = "the answer to the handshake does not come from where that was sent"
	reasonStations      = "another hardware address where all had been the same"
	reasonHandshakeData = "data sent with the handshake"
	reasonFastOpen      = "TCP Fast Open"
	reasonOpens         = "the server's end opened the connection too, as no listener does"
	reasonReplaced      = "another connection took its place unseen"
	reasonNext          = "the next connection between the same ports began while copies could come late"
	reasonBefore        = "bytes from before the handshake that was seen: the server took another"
	reasonReset         = "the client reset the connection and the server went on: maybe in another"
	reasonConflict      = "conflicting copies of the same client bytes"
	reasonLate          = "another copy of client bytes came after the server acknowledged them"
	reasonFIN           = "client data where another segment ended the stream"
	reasonMissing       = "acknowledged client bytes are missing from the capture"
	reasonClientSnap    = "client bytes were cut by the snap length"
	reasonServerSnap    = "server bytes were cut by the snap length"
	reasonServerGap     = "server bytes are missing from the capture"
	reasonServerCopies  = "conflicting copies of the same server bytes"
	reasonUrgent        = "urgent data from the client"
	reasonMPTCP         = "Multipath TCP"
	reasonLent          = "the client, in this host's kernel, can still change what it sent, as by sendfile"
	reasonNoDirection   = "a live segment without a direction"
	reasonClientBound   = "more unacknowledged client bytes than are kept"
	reasonServerBound   = "more server bytes behind a hole than are kept"
	reasonPieces        = "more holes in the stream than are kept"
	reasonBuffered      = "no buffer left"
	reasonDoubt         = "something between the two addresses could not be read as a kernel would"
	reasonLost          = "the tap lost a record of the connection"
)
