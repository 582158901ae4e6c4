package state

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// Each login in a storm needs a record of its grant and one of its journal. These are
// CBOR arrays without names, and are written by hand, which takes a tenth of the
// time. They are read by the library, into the shapes below: their fields are those
// of AppendGrant and AppendKept, in order.

type (
	grantShape struct {
		_                 struct{} `cbor:",toarray"`
		Prefix            netip.Prefix
		Since, Expires    int64 // Unix time in nanoseconds, 0 for none
		Source            uint8
		Sessions          int
		Users             []userShape
		Logins            int
		By, Note          string
		Conn              connShape
		Protocol          uint8
		Mechanism         string
		TLS               bool
		Answer, Boot      string
		DeadlineSinceBoot int64 // nanoseconds
	}
	userShape struct {
		_         struct{} `cbor:",toarray"`
		Name      string
		Seen      int64
		Protocol  uint8
		Mechanism string
	}
	connShape struct {
		_              struct{} `cbor:",toarray"`
		Client, Server netip.AddrPort
		Protocol       uint8
		ImplicitTLS    bool
		Cookie, Netns  uint64
	}
	keptShape struct {
		_      struct{} `cbor:",toarray"`
		Prefix netip.Prefix
		Earned bool
		Until  int64
		Open   bool
		Notes  []byte
	}
)

// AppendGrant appends the record of a grant to b.
func AppendGrant(b []byte, s *grant.Saved) []byte {
	b = appendPrefix(appendArray(b, 16), s.Prefix)
	b = appendTime(appendTime(b, s.Since), s.Expires)
	b = appendInt(appendInt(b, int64(s.Source)), int64(s.Sessions))
	b = appendArray(b, len(s.Users))
	for i := range s.Users {
		u := &s.Users[i]
		b = appendTime(appendText(appendArray(b, 4), u.Name), u.Seen)
		b = appendText(appendInt(b, int64(u.Protocol)), u.Mechanism)
	}
	b = appendInt(b, int64(s.Logins))
	b = appendText(appendText(b, s.By), s.Note)
	b = appendConn(b, &s.Conn)
	b = appendText(appendInt(b, int64(s.Protocol)), s.Mechanism)
	b = appendText(appendBool(b, s.TLS), s.Answer)
	return appendInt(appendText(b, s.Deadline.ID), int64(s.Deadline.At))
}

// AppendKept appends the record of what the journal knows about a prefix to b.
func AppendKept(b []byte, k *authz.Kept) []byte {
	b = appendPrefix(appendArray(b, 5), k.Prefix)
	b = appendTime(appendBool(b, k.Earned), k.Until)
	return append(appendUint(appendBool(b, k.Open), majorBytes, uint64(len(k.Notes))), k.Notes...)
}

func appendConn(b []byte, c *authz.Conn) []byte {
	b = appendAddrPort(appendAddrPort(appendArray(b, 6), c.Client), c.Server)
	b = appendBool(appendInt(b, int64(c.Service.Protocol)), c.Service.ImplicitTLS)
	return appendUint(appendUint(b, majorUint, c.Cookie), majorUint, c.Netns)
}

// The major types of RFC 8949 §3.1, and the values of §3.3.
const (
	majorUint     = 0 << 5
	majorNegative = 1 << 5
	majorBytes    = 2 << 5
	majorText     = 3 << 5
	majorArray    = 4 << 5
	valueFalse    = 7<<5 | 20
	valueTrue     = 7<<5 | 21
)

// appendUint appends a head with its argument (RFC 8949 §3).
func appendUint(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendInt(b []byte, n int64) []byte {
	if n < 0 {
		return appendUint(b, majorNegative, uint64(-1-n))
	}
	return appendUint(b, majorUint, uint64(n))
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, valueTrue)
	}
	return append(b, valueFalse)
}

func appendText(b []byte, s string) []byte {
	return append(appendUint(b, majorText, uint64(len(s))), s...)
}

func appendArray(b []byte, n int) []byte { return appendUint(b, majorArray, uint64(n)) }

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return appendInt(b, 0)
	}
	return appendInt(b, t.UnixNano())
}

// appendPrefix and appendAddrPort are as their MarshalBinary has them.
func appendPrefix(b []byte, p netip.Prefix) []byte {
	var buf [32]byte
	data, _ := p.AppendBinary(buf[:0]) // it never fails
	return append(appendUint(b, majorBytes, uint64(len(data))), data...)
}

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	var buf [64]byte
	data, _ := a.AppendBinary(buf[:0]) // it never fails
	return append(appendUint(b, majorBytes, uint64(len(data))), data...)
}

// ParseGrant reads what AppendGrant wrote.
func ParseGrant(data []byte) (s grant.Saved, err error) {
	var g grantShape
	if err := decoding.Unmarshal(data, &g); err != nil {
		return s, fmt.Errorf("decode a grant: %w", err)
	}
	s.Grant = grant.Grant{
		Prefix: g.Prefix, Since: fromNanos(g.Since), Expires: fromNanos(g.Expires), Source: grant.Source(g.Source),
		Sessions: g.Sessions, Logins: g.Logins, By: g.By, Note: g.Note, Conn: g.Conn.conn(),
		Protocol: authz.Protocol(g.Protocol), Mechanism: g.Mechanism, TLS: g.TLS, Answer: g.Answer,
	}
	for i := range g.Users {
		u := &g.Users[i]
		s.Users = append(s.Users, grant.User{Name: u.Name, Seen: fromNanos(u.Seen), Protocol: authz.Protocol(u.Protocol), Mechanism: u.Mechanism})
	}
	s.Deadline = grant.Boot{ID: g.Boot, At: time.Duration(g.DeadlineSinceBoot)}
	return s, nil
}

// ParseKept reads what AppendKept wrote.
func ParseKept(data []byte) (k authz.Kept, err error) {
	var shape keptShape
	if err := decoding.Unmarshal(data, &shape); err != nil {
		return k, fmt.Errorf("decode a record of the journal: %w", err)
	}
	return authz.Kept{Prefix: shape.Prefix, Earned: shape.Earned, Until: fromNanos(shape.Until), Open: shape.Open, Notes: shape.Notes}, nil
}

func (c *connShape) conn() authz.Conn {
	return authz.Conn{
		Client: c.Client, Server: c.Server, Cookie: c.Cookie, Netns: c.Netns,
		Service: authz.Service{Protocol: authz.Protocol(c.Protocol), ImplicitTLS: c.ImplicitTLS},
	}
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
