package authz

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// noted are events with everything that an event can have.
func noted() []Event {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	full := Event{
		Kind: EventBraked, Time: at, Last: at.Add(time.Second), Count: 1<<32 - 1, Prefix: netip.MustParsePrefix("2001:db8::/64"),
		Conn: Conn{
			Client: netip.MustParseAddrPort("[2001:db8::1]:4711"), Server: netip.MustParseAddrPort("198.51.100.2:143"),
			Service: Service{Protocol: IMAP, ImplicitTLS: true}, Netns: 4026531840,
		},
		Mechanism: "PLAIN", User: "ünï\x00\xff", Answer: "a OK", TLS: true, By: "root (uid 0)", Until: at.Add(time.Hour), Open: true, Reason: "because",
	}
	long := full
	long.Kind, long.Count = EventLogin, 1
	long.User, long.Reason, long.By = strings.Repeat("u", UserLimit), strings.Repeat("r", reasonLimit), strings.Repeat("b", UserLimit)
	long.Mechanism, long.Answer = strings.Repeat("m", UserLimit), strings.Repeat("a", AnswerLimit)
	return []Event{{Kind: EventDenied, Count: 1, Prefix: full.Prefix}, full, long}
}

func TestNotesComeBackAsTheyWere(t *testing.T) {
	var all notes
	for _, ev := range noted() {
		n := note(appendNote(nil, &ev))
		if got := n.event(ev.Prefix); got != ev || !n.valid() {
			t.Errorf("%+v\ncame back as\n%+v, valid: %v", ev, got, n.valid())
		}
		all = append(all, n...)
	}
	if err := all.check(); err != nil {
		t.Error(err)
	}
	e := noted()[1]
	e.Conn.Client = netip.MustParseAddrPort("[fe80::1%eth0]:1") // of one link
	if n := note(appendNote(nil, &e)); !n.valid() || n.event(e.Prefix).Conn.Client != netip.MustParseAddrPort("[fe80::1]:1") {
		t.Error("an address with a zone cannot be read again")
	}
}

// Notes in a file can be cut, or be nonsense: they are refused, and never read
// beyond their end.
func TestNotesThatCannotBeRead(t *testing.T) {
	for _, ev := range noted() {
		n := appendNote(nil, &ev)
		for size := 1; size < len(n); size++ {
			if notes(n[:size]).check() == nil {
				t.Errorf("%d of %d bytes are a note", size, len(n))
			}
		}
		for i := range n {
			for _, b := range []byte{0, 1, 0x7f, 0xff} {
				bad := bytes.Clone(n)
				bad[i] = b
				readable(bad)
			}
		}
	}
}

// readable reads notes that are said to be good.
func readable(text []byte) {
	k := Kept{Notes: text}
	if events, err := k.Events(); err == nil {
		var again notes
		for i := range events {
			again = again.add(appendNote(nil, &events[i]), decisionsKept)
		}
	}
}

func FuzzNotes(f *testing.F) {
	for _, ev := range noted() {
		f.Add(appendNote(nil, &ev))
	}
	f.Fuzz(func(_ *testing.T, text []byte) { readable(text) })
}

// A login's note goes where its grant's does, also if there is no room for that.
func TestLoginWithoutRoomForItsGrant(t *testing.T) {
	e := NewEvidence(EvidenceConfig{Earned: 1, Strangers: 1})
	for i, client := range []string{"203.0.113.1", "203.0.113.2"} {
		recorded(e, seen(client, "alice", Success, time.Duration(i)*time.Minute))
		e.Add(change(EventGranted, client+"/32", time.Duration(i)*time.Minute, time.Hour))
	}
	story(t, e, "203.0.113.1", 2*time.Minute, "login alice, granted alice")
	story(t, e, "203.0.113.2", 2*time.Minute, "login alice")
	if n, d := held(e), e.Dropped(); n != [2]int{1, 1} || d != (EvidenceDropped{Earned: 1}) {
		t.Errorf("%d granted and others are held; %+v", n, d)
	}
}

// The place of a record that went is used again, and nothing of it stays.
func TestRecordsLeaveNothing(t *testing.T) {
	e := NewEvidence(EvidenceConfig{Strangers: 1})
	recorded(e, seen("203.0.113.1", "alice", Tainted, 0))
	recorded(e, seen("2001:db8::1", "bob", Failure, time.Minute))
	story(t, e, "203.0.113.1", time.Minute, "")
	story(t, e, "2001:db8::1", time.Minute, "failure (masked)")
}

func BenchmarkLoginAndGrant(b *testing.B) {
	e := NewEvidence(EvidenceConfig{})
	v := seen("203.0.113.7", "alice", Success, 0)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		v.Conn.Client = netip.AddrPortFrom(a, 1)
		recorded(e, v)
		e.Add(Event{Kind: EventGranted, Time: v.Time, Prefix: single(a), Until: start.Add(time.Hour), User: "alice", Reason: "login of alice", Conn: v.Conn})
	}
}
