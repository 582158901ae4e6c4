// Package flow puts the segments of each connection in the order in which the
// server's kernel gave and took them, and says where that is in doubt.
//
// Whoever watches packets sees what arrives; what counts is what the kernel
// kept. The two differ wherever a stranger wants them to: a segment with a bad
// checksum, an old timestamp, a foreign hardware address or a wrong ACK is
// shown to the watcher and dropped by the kernel. Guessing the kernel's checks
// is a race that the watcher loses. This package asks the kernel instead: the
// acknowledgements that it sends are its own account of what it took.
//
// # Who is the server
//
// The watched port is the server's. On a live tap the kernel itself announced
// the connection (capture.Opened) and each segment carries its socket's cookie;
// what the host sent is the server's. In a file a connection begins with a SYN,
// an authentic SYN-ACK that acknowledges exactly that SYN, and one more segment
// of an established connection. Authentic means, in this order of preference:
//
//   - the capture knows the direction: this host sent it (FromHost). If the SYN
//     went out and the SYN-ACK came in, the capture was made at the client, and
//     nothing shows who sent the server's segments (Unauthenticated);
//   - the capture is that of a gateway's inside interface, and the SYN left there:
//     the answer came in, on the same VLAN and interface (FromInside). Where this
//     host sends what is for the server, its own routes say; what bears the
//     server's address and comes in elsewhere is another's;
//   - the hardware addresses: the station that the SYN was sent to answered, to
//     another station, on the same VLAN and interface (FromHandshake). Later
//     segments must come from it, and go neither to it nor to a group: so goes what a
//     stranger sends who borrows the server's hardware address, to reach the tap. Of
//     copies of the SYN, as on both sides of a router, the last one before the
//     answer counts, which is the nearest to the server: routers that share an
//     address (VRRP) answer their clients from another;
//   - neither exists (raw IP) or all are zero (loopback): Unauthenticated;
//   - SYN and SYN-ACK bear the same source and the same destination, as in files
//     whose addresses were rewritten: Unauthenticated. It is also what a stranger
//     does who invents a whole session, so it holds only while the station that
//     the SYN was sent to was never heard in this capture, and a segment of the
//     connection with other addresses, such as the real server's RST, taints;
//   - both are group addresses, from which no station sends: tcprewrite(1) makes such
//     of those of IPv6. They are followed as stations are, but Unauthenticated, and
//     what a station sends in the connection taints.
//
// Where the capture does not tell what this host sent, a stranger whose frames the tap
// sees unswitched, or without hardware addresses, can send an answer in the server's place
// that is like its own. The server sends its own all the same, unless the client closed
// its window or reset the connection: other bytes, or its FIN, where the answer was read
// that proved a login, taint for as long as the flow is held (Hold).
//
// A SYN that this host sent from the server's end taints: both ends may open a
// connection towards each other (RFC 9293 §3.5), and no listener accepted it then.
//
// Server segments that fail this are dropped and counted: neither payload nor
// acknowledgement nor flags are used. A host that forwards packets also "sent"
// them, so who grants on AF_PACKET must still find the connection in a socket
// table.
//
// # When client bytes are believed
//
// Client bytes are candidates until an authentic server segment acknowledges
// them; they are released before that segment's own payload. The argument:
//
//   - An acknowledgement A means that the kernel has each byte below A (RFC 9293
//     §3.4), and has it from a segment that passed the tap before A did. So if
//     all copies of that byte that passed the tap before A are equal, the
//     kernel's copy is that one, whichever copies it dropped. If two differ, or a
//     copy was cut by the snap length, the flow is tainted. Therefore nothing is
//     rejected for its checksum, flags, options, TTL, hardware address or VLAN: a
//     segment that the kernel dropped can only add a conflict.
//   - Copies of bytes that were acknowledged before are ignored on a live tap: the
//     kernel has those bytes already and trims them off (RFC 9293 §3.10.7.4). A
//     file can show them late (see "Late packets").
//   - Candidates too far ahead to be kept are not just forgotten: the kernel may
//     have queued them and later prefer them over a copy that we do keep. The
//     lowest such position is remembered, and an acknowledgement past it taints.
//   - An acknowledged byte that was never seen taints.
//   - A capture that lost packets itself can hide one of two copies. A live tap
//     says so (capture.Lost), a file does not: there an attacker would have to
//     make the capture lose exactly the copy that the kernel took.
//   - A FIN occupies a sequence number (RFC 9293 §3.4) and is a candidate of its
//     own: a byte at or after it, or a second FIN elsewhere, is a conflict.
//   - The ACK field of an RST is not used: a kernel without a connection
//     "acknowledges" whatever it refuses (RFC 9293 §3.10.7.1).
//
// What the kernel acknowledges and yet does not hand to the server as it came
// taints as well: urgent data (the byte at the urgent pointer is taken out of
// the stream; the pointer may come in a segment without payload and point
// ahead), MPTCP (a subflow's bytes may never reach the server), what a client in the
// same kernel can still change before the server reads it, but of a trusted proxy, which
// so sends what it forwards by splice(2), and data in the handshake (TCP Fast Open; that
// of the last ACK a live tap does not see, and its programs believe no connection that
// begins with such; in a file it is read where another segment shows that the connection
// is established).
//
// A server that sends SYN cookies (RFC 4987 §3.6) answers every SYN and decides
// only at the client's acknowledgement which of the handshakes it was. Two whose
// first sequence numbers differ by n at the client differ by n at the server, so
// that a client who shows the watcher the later one hides the first n bytes of
// both streams, the commands and the answers in them. So these taint: what the
// server says or acknowledges before the first byte, and client bytes that lead
// from before the first byte up to it. And a client that resets its connection can
// go on behind it, so that its next segment begins another there (see below).
//
// # Order between the two directions
//
// A server segment with acknowledgement A was sent when the server could have
// read at most the bytes below A. So client bytes that are released after a
// server byte cannot have influenced it: to the dialogue above, a command that
// comes after an answer is one that the answer cannot belong to. Where the
// capture is imprecise the error is to the other side: the acknowledgement of a
// segment that stays ahead of a hole, or of a retransmission, releases client
// bytes earlier than the kernel read them. The client then looks more pipelined
// than it was, which the dialogues have to allow for anyway, as any client may
// send without waiting.
//
// Server bytes come in sequence, first copy. A hole waits for a retransmission
// within bounds; at a bound, or at the end of the flow, it taints.
//
// # Late packets
//
// A tap shows segments in the order in which the kernel has them, AF_PACKET too: it
// sees what comes in before TCP does, and what leaves before anybody can answer it.
// The packets of a file can be out of order, also where their times are not: several
// threads captured them, or a mirror port held one direction back. Each can be late
// by Config.Late. So in a file
//
//   - a segment waits for what it follows from: all for the handshake of their
//     connection, one of the server for the client bytes that it acknowledges and for
//     the server bytes before it. When that came it is taken as if it came then; when
//     it has waited for Config.Late, as it is, and what is missing taints. Where its
//     connection ends, or is in doubt, it is dropped;
//   - between the ends of a connection that is known, or done, what a client sends behind
//     a SYN can be of the next one: where it did not wait, that is in doubt if the answer
//     comes within Config.Late. What stands before the SYN is taken for the old one's;
//   - a flow that is held is in doubt when the next connection between the same ends takes
//     its place, if the file was out of order before: late copies are then not told apart;
//   - copies of acknowledged bytes are compared with what was read, as the kernel may
//     have taken what stands behind its acknowledgement, and dropped what stands
//     before. One that differs taints, or begins before the last bytes that are kept
//     for that; also, for as long as the flow is held (Hold), behind the answer that
//     proves a login.
//
// A server segment that waited is compared with more copies than one that did not, and
// releases the same: what that is its own two numbers say, and not where it stands. A
// capture that lost what the kernel took looks like one that shows it late, so that a
// copy may come behind the acknowledgement where it had to come before: the attacker
// still needs that very loss.
//
// Nothing is held once many logins in a row were in order, as order is by how a capture
// was made, and one that is not shows it in almost every connection; holding each costs
// a login in order a tenth of its time. What waits is not bound to that: in a capture
// that is in order almost nothing does.
//
// # When a flow ends
//
// A live flow ends when the kernel says so, never by a packet. A file flow ends
// at an authentic server RST, or with the server's FIN in order: after either no
// answer can come, so there is nothing left to believe. (Its slot stays up to the
// next Feed, for what comes late.) A FIN or RST of the client proves nothing, since
// the kernel may have dropped it. What follows it is read on: if the RST was valid,
// the server acknowledges no more. But one that sends SYN cookies may: so behind an
// RST that can have been valid, what the server says or acknowledges taints. A SYN
// changes nothing unless an authentic SYN-ACK acknowledges it; then a new connection
// took the old one's place.
//
// # What strangers can fill
//
// Limits names every bound, Stats.Bounds counts each time one is hit. A flow
// that hits one is tainted. A handshake takes an entry in a small ring, where
// only other handshakes push it out; a slot in the table of flows is taken when
// it is complete, so spoofed SYNs get none. What finds no room to wait for late packets
// is taken as it is. A full table refuses the new and
// never evicts the old. Buffers are taken only while bytes wait, and the
// smallest buffer, enough for a login, does not count toward the common budget:
// a flood of bytes that wait cannot take it away.
package flow
