package bpf

import (
	"encoding/binary"
	"net/netip"
)

// The programs on interfaces run here on crafted packets, on the loopback
// interface unless a packet names another. The client's first byte has sequence
// number 1001, the server's 5001.

var (
	mail4   = netip.MustParseAddrPort("198.51.100.25:143")
	mail6   = netip.MustParseAddrPort("[2001:db8:25::25]:143")
	client4 = netip.MustParseAddrPort("192.0.2.10:50000")
	client6 = netip.MustParseAddrPort("[2001:db8:6::10]:50000")
)

// frame is a packet between client4 and mail4, unless it says otherwise.
type frame struct {
	server         bool // the server's side sends it
	client, mail   netip.AddrPort
	flags          byte
	seq, ack       uint32
	payload        string
	options        []byte // of TCP, in words
	ifindex        uint32
	edit           func([]byte) []byte // of the frame, at last
	toOtherStation bool
}

// bytes lays the frame out.
func (f frame) bytes() []byte {
	from, to := f.client, f.mail
	if !from.IsValid() {
		from = client4
	}
	if !to.IsValid() {
		to = mail4
	}
	if f.server {
		from, to = to, from
	}
	segment := make([]byte, 20, 20+len(f.options)+len(f.payload))
	binary.BigEndian.PutUint16(segment, from.Port())
	binary.BigEndian.PutUint16(segment[2:], to.Port())
	binary.BigEndian.PutUint32(segment[4:], f.seq)
	binary.BigEndian.PutUint32(segment[8:], f.ack)
	segment[12], segment[13] = byte(20+len(f.options))/4<<4, f.flags
	segment = append(append(segment, f.options...), f.payload...)
	var b []byte
	if from.Addr().Is4() {
		b = ip4(6, 0, segment)
		copy(b[14+12:], from.Addr().AsSlice())
		copy(b[14+16:], to.Addr().AsSlice())
	} else {
		b = ip6(6, segment)
		copy(b[14+8:], from.Addr().AsSlice())
		copy(b[14+24:], to.Addr().AsSlice())
	}
	if f.edit != nil {
		b = f.edit(b)
	}
	if f.toOtherStation {
		b[0] = 2
	}
	return b
}

func cl(flags byte, seq, ack uint32, payload string) frame {
	return frame{flags: flags, seq: seq, ack: ack, payload: payload}
}

func sv(flags byte, seq, ack uint32, payload string) frame {
	return frame{server: true, flags: flags, seq: seq, ack: ack, payload: payload}
}

// handshake are the three segments that begin a connection.
func handshake() []frame {
	return []frame{cl(syn, 1000, 0, ""), sv(syn|ack, 5000, 1001, ""), cl(ack, 1001, 5001, "")}
}

// then is a handshake and what follows.
func then(frames ...frame) []frame { return append(handshake(), frames...) }

// fragmentOf sets the fragment field of an IPv4 frame.
func fragmentOf(field uint16) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint16(b[14+6:], field); return b }
}

// extended puts an IPv6 extension header of 8 bytes before what follows.
func extended(kind, next byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b[14+6] = kind
		header := []byte{next, 0, 0, 1, 0, 0, 0, 0}
		return append(append(append([]byte(nil), b[:54]...), header...), b[54:]...)
	}
}

// optioned puts an IPv4 option of 4 bytes behind the header.
func optioned(b []byte) []byte {
	b[14] = 0x46
	return append(append(append([]byte(nil), b[:34]...), 1, 1, 1, 0), b[34:]...)
}

// lengthless clears the length of an IP header, as BIG TCP does.
func lengthless(b []byte) []byte {
	if b[12] == 0x08 {
		binary.BigEndian.PutUint16(b[14+2:], 0)
	} else {
		binary.BigEndian.PutUint16(b[14+4:], 0)
	}
	return b
}

// jumbo is how Linux 5.19 to 6.18 gives packets above 64 KiB their length (RFC 2675).
func jumbo(b []byte) []byte { return lengthless(extended(0, 6)(b)) }

// ofClient are frames of another client than client4 and client6: one for each number.
func ofClient(n byte, frames []frame) []frame {
	for i := range frames {
		switch f := &frames[i]; f.client {
		case netip.AddrPort{}:
			f.client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 3, n}), client4.Port())
		case client6:
			a := client6.Addr().As16()
			a[14] = n
			f.client = netip.AddrPortFrom(netip.AddrFrom16(a), client6.Port())
		}
	}
	return frames
}

func edited(f frame, edit func([]byte) []byte) frame { f.edit = edit; return f }

func sixes(frames []frame) []frame {
	for i := range frames {
		frames[i].client, frames[i].mail = client6, mail6
	}
	return frames
}
