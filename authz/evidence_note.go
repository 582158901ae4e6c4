package authz

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// A note is an Event as a record keeps it, in bytes: many thousands of them hold
// nothing that the garbage collector must look into, and a state file takes them as
// they are. It has a head of fixed size, then what differs between notes of the same
// (client and answer), then what does not.
//
//	offset  size
//	0       2     length of the note
//	2       2     where that begins which is the same
//	4       1     kind
//	5       1     1: without a deadline (Open)
//	6       4     count
//	10      24    time, last and until: Unix time in nanoseconds, 0 for none
//	34            client, answer
//	              TLS (1), protocol (1), implicit TLS (1), network namespace (8),
//	              user, mechanism, reason, by, server
//
// Texts and addresses have their length in front, in two bytes. Numbers are
// big-endian.
type note []byte

const (
	noteSame  = 2
	noteKind  = 4
	noteOpen  = 5
	noteCount = 6
	noteTime  = 10
	noteLast  = 18
	noteUntil = 26
	noteHead  = 34
)

// noteLimit is more than any note has: its texts are bounded (Event.bound).
const noteLimit = 1 << 12

// appendNote appends all of an event but its prefix and its socket's cookie.
func appendNote(b []byte, e *Event) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, byte(e.Kind), truth(e.Open))
	b = binary.BigEndian.AppendUint32(b, uint32(min(max(e.Count, 1), 1<<32-1)))
	for _, t := range [...]time.Time{e.Time, e.Last, e.Until} {
		b = binary.BigEndian.AppendUint64(b, uint64(nanos(t)))
	}
	b = appendField(appendAddrPort(b, e.Conn.Client), e.Answer)
	binary.BigEndian.PutUint16(b[at+noteSame:], uint16(len(b)-at))
	s := e.Conn.Service
	b = append(b, truth(e.TLS), byte(s.Protocol), truth(s.ImplicitTLS))
	b = binary.BigEndian.AppendUint64(b, e.Conn.Netns)
	b = appendField(appendField(appendField(appendField(b, e.User), e.Mechanism), e.Reason), e.By)
	b = appendAddrPort(b, e.Conn.Server)
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at))
	return b
}

func truth(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendField(b []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
}

func appendAddrPort(b []byte, a netip.AddrPort) []byte {
	at := len(b)
	a = netip.AddrPortFrom(a.Addr().WithZone(""), a.Port())
	b, _ = a.AppendBinary(append(b, 0, 0)) // it never fails
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-2))
	return b
}

func (n note) kind() EventKind { return EventKind(n[noteKind]) }
func (n note) count() uint32   { return binary.BigEndian.Uint32(n[noteCount:]) }
func (n note) last() int64     { return int64(binary.BigEndian.Uint64(n[noteLast:])) }

// same reports whether two notes differ in nothing but when and where from.
func (n note) same(o note) bool {
	return n[noteKind] == o[noteKind] && bytes.Equal(n[binary.BigEndian.Uint16(n[noteSame:]):], o[binary.BigEndian.Uint16(o[noteSame:]):])
}

// repeats makes a note count as one more of an earlier one.
func (n note) repeats(earlier note) {
	count := n.count()
	binary.BigEndian.PutUint32(n[noteCount:], count+min(earlier.count(), 1<<32-1-count))
	copy(n[noteTime:noteLast], earlier[noteTime:noteLast])
}

// turn reports whether the event opens or closes a grant.
func (n note) turn() bool { return n.kind().concernsGrant() && n.kind() != EventRenewed }

// event is the note as an event about p.
func (n note) event(p netip.Prefix) Event {
	at := func(from int) time.Time { return fromNanos(int64(binary.BigEndian.Uint64(n[from:]))) }
	e := Event{
		Kind: n.kind(), Time: at(noteTime), Last: at(noteLast), Until: at(noteUntil), Prefix: p,
		Count: int(n.count()), Open: n[noteOpen] == 1,
	}
	rest := n[noteHead:]
	field := func() []byte {
		size := 2 + int(binary.BigEndian.Uint16(rest))
		f := rest[2:size]
		rest = rest[size:]
		return f
	}
	_ = e.Conn.Client.UnmarshalBinary(field()) // it has been checked
	e.Answer = string(field())
	e.TLS = rest[0] == 1
	e.Conn.Service = Service{Protocol: Protocol(rest[1]), ImplicitTLS: rest[2] == 1}
	e.Conn.Netns = binary.BigEndian.Uint64(rest[3:])
	rest = rest[11:]
	e.User, e.Mechanism, e.Reason, e.By = string(field()), string(field()), string(field()), string(field())
	_ = e.Conn.Server.UnmarshalBinary(field())
	return e
}

// valid says whether a note from a file can be read.
func (n note) valid() bool {
	if len(n) < noteHead || len(n) > noteLimit || n.kind() == 0 || n.kind() > EventSet || n.count() == 0 {
		return false
	}
	rest, good := n[noteHead:], true
	skip := func(size int) (f []byte) {
		if good = good && size <= len(rest); good {
			f, rest = rest[:size], rest[size:]
		}
		return f
	}
	field := func() []byte {
		if size := skip(2); good {
			return skip(int(binary.BigEndian.Uint16(size)))
		}
		return nil
	}
	addr := func() {
		var a netip.AddrPort
		good = a.UnmarshalBinary(field()) == nil && good && a.Addr().Zone() == ""
	}
	addr()
	field()
	good = good && int(binary.BigEndian.Uint16(n[noteSame:])) == len(n)-len(rest)
	skip(11)
	for range 4 {
		field()
	}
	addr()
	return good && len(rest) == 0
}

// The events kept per address, by who can cause them: neither kind can push out
// the other.
const (
	decisionsKept = 16
	doubtsKept    = 8
)

// notes are several, one behind the other.
type notes []byte

// all yields each note and where it begins.
func (list notes) all() iter.Seq2[int, note] {
	return func(yield func(int, note) bool) {
		for at := 0; at < len(list); {
			n := note(list[at:])
			n = n[:binary.BigEndian.Uint16(n)]
			if !yield(at, n) {
				return
			}
			at += len(n)
		}
	}
}

var errNotes = errors.New("the notes of a record cannot be read")

// check says whether notes from a file can be read.
func (list notes) check() error {
	for at := 0; at < len(list); {
		n := note(list[at:])
		if len(n) < noteHead {
			return errNotes
		}
		size := int(binary.BigEndian.Uint16(n))
		if size > len(n) || !n[:size].valid() {
			return errNotes
		}
		at += size
	}
	return nil
}

// add adds n, into an equal one if there is one. A turn in the story (granted,
// expired, revoked) is never joined, nor anything across it.
func (list notes) add(n note, limit int) notes {
	var begins [decisionsKept + 1]int
	count, turns, granted := 0, 0, false
	for at, old := range list.all() {
		if count == len(begins)-1 {
			return list // there are never so many
		}
		if old.turn() {
			granted = granted || count == 0 && old.kind() == EventGranted
			turns++
		}
		begins[count] = at
		count++
	}
	begins[count] = len(list)
	one := func(i int) note { return note(list[begins[i]:begins[i+1]]) }
	for i := count - 1; i >= 0 && !one(i).turn() && !n.turn(); i-- {
		if old := one(i); old.same(n) {
			n.repeats(old)
			return slices.Replace(list, begins[i], begins[i+1], n...)
		}
	}
	if count >= limit {
		first := 0
		if granted && turns == 1 {
			first = 1 // what opened the present grant stays
		}
		list = slices.Delete(list, begins[first], begins[first+1])
	}
	return append(list, n...)
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
