package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// wire plays connections of a file: what the server sends is 50 µs later.
type wire struct {
	events []capture.Event
	now    time.Time
	raw    bool // it does not tell who sent them
}

// segment adds one at offsets from the first bytes of both streams.
func (w *wire) segment(port uint16, server bool, flags capture.Flags, seq, ack uint32, text string) {
	c, s := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(port)}), port), netip.MustParseAddrPort("198.51.100.2:110")
	seg := capture.Segment{Src: c, Dst: s, Sent: capture.SenderOutside, Flags: flags, Seq: 1000 + seq, Ack: 9000 + ack, Payload: []byte(text)}
	if server {
		seg.Src, seg.Dst, seg.Sent, seg.Seq, seg.Ack = s, c, capture.SenderHost, 9000+seq, 1000+ack
	}
	if w.raw {
		seg.Sent = capture.SenderUnknown
	}
	w.events = append(w.events, capture.Event{Kind: capture.Packet, Time: w.now, Segment: seg})
	w.now = w.now.Add(50 * time.Microsecond)
}

// login adds a login of alice with the answer to PASS.
func (w *wire) login(port uint16, answer string) {
	const ack = capture.ACK
	w.segment(port, false, capture.SYN, ^uint32(0), 0, "")
	w.segment(port, true, capture.SYN|ack, ^uint32(0), 0, "")
	w.segment(port, false, ack, 0, 0, "")
	w.segment(port, true, ack, 0, 0, "+OK\r\n")
	w.segment(port, false, ack, 0, 5, "USER alice\r\n")
	w.segment(port, true, ack, 5, 12, "+OK\r\n")
	w.segment(port, false, ack, 12, 10, "PASS decoy\r\n")
	w.segment(port, true, ack, 10, 24, answer)
}

// shifted adds a login that is none: the server read two commands where one is shown, and
// since then each command has the answer to the one before. So many come before USER, and
// what the server read comes last.
func (w *wire) shifted(port uint16, commands int) {
	const ack = capture.ACK
	w.segment(port, false, capture.SYN, ^uint32(0), 0, "")
	w.segment(port, true, capture.SYN|ack, ^uint32(0), 0, "")
	w.segment(port, false, ack, 0, 0, "")
	w.segment(port, true, ack, 0, 0, accepted)
	sent, answered := uint32(0), uint32(len(accepted))
	say := func(line string) {
		w.segment(port, false, ack, sent, answered, line)
		sent += uint32(len(line))
		w.segment(port, true, ack, answered, sent, accepted)
		answered += uint32(len(accepted))
	}
	say("NOOP xxxxx\r\n")
	for range commands {
		say("NOOP " + strings.Repeat("x", 100) + "\r\n")
	}
	say("USER alice\r\n")
	say("PASS decoy\r\n")
	w.segment(port, false, ack, 0, 0, "NOOP\r\nNOOP\r\n")
}

// late adds another copy of the password.
func (w *wire) late(port uint16, text string) { w.segment(port, false, capture.ACK, 12, 10, text) }

// end adds the server's FIN behind "+OK".
func (w *wire) end(port uint16) { w.segment(port, true, capture.FIN|capture.ACK, 15, 24, "") }

// read tells verdicts, and between them how many came with each batch of size.
func (w *wire) read(size int) (told []string) {
	services := map[uint16]authz.Service{110: {Protocol: authz.POP3}}
	r := NewFileReader(services, nil, authz.NewEvidence(authz.EvidenceConfig{NamesOnly: true}), new(capture.DoneSet))
	note := func(verdicts []authz.Verdict) {
		for _, v := range verdicts {
			told = append(told, fmt.Sprintf("%d %v %s", v.Conn.Client.Port(), v.Result, v.Reason))
		}
	}
	for batch := range slices.Chunk(w.events, size) {
		note(r.FeedAll(batch))
	}
	told = append(told, "flush")
	note(r.Flush(w.now))
	return told
}

const (
	accepted   = "+OK\r\n"
	refused    = "-ERR\r\n"
	failed     = " failure the server refused the login"
	lateReason = " tainted another copy of client bytes came after the server acknowledged them"
)

// TestLate: a login of a file is told when nothing that casts doubt on it comes for a
// while, and with it what was told behind it.
func TestLate(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(w *wire)
		want []string
	}{
		{"at the end", func(w *wire) { w.login(1, accepted) }, []string{"flush", "1 success "}},
		{"after a while", func(w *wire) {
			w.login(1, accepted)
			w.now = w.now.Add(Lateness)
			w.login(2, refused)
		}, []string{"1 success ", "2" + failed, "flush"}},
		{"in order", func(w *wire) { w.login(1, accepted); w.login(2, refused) }, []string{"flush", "1 success ", "2" + failed}},
		{"a failure alone", func(w *wire) { w.login(1, refused) }, []string{"1" + failed, "flush"}},
		{"the same late", func(w *wire) { w.login(1, accepted); w.late(1, "PASS decoy\r\n") }, []string{"flush", "1 success "}},
		{"another late", func(w *wire) { w.login(1, accepted); w.late(1, "USER alice\r\n") }, []string{"flush", "1" + lateReason}},
		{"another late, between others", func(w *wire) {
			w.login(1, accepted)
			w.login(2, accepted)
			w.login(3, accepted)
			w.late(2, "USER alice\r\n")
		}, []string{"flush", "1 success ", "2" + lateReason, "3 success "}},
		{"another behind the end", func(w *wire) { w.login(1, accepted); w.end(1); w.late(1, "USER alice\r\n") }, []string{"flush", "1" + lateReason}},
		{"another behind what is missing", func(w *wire) {
			w.login(1, accepted)
			w.segment(1, true, capture.FIN|capture.ACK, 60, 36, "")
			w.late(1, "USER alice\r\n")
		}, []string{"flush", "1" + lateReason}},
		{"another of what is long past", func(w *wire) { w.shifted(1, 100) }, []string{"flush", "1" + lateReason}},
		{"fragments that kernels may read otherwise", func(w *wire) {
			w.login(1, accepted)
			w.now = w.now.Add(time.Millisecond)
			w.events = append(w.events, capture.Event{Kind: capture.Doubt, Time: w.now, Reason: "fragments", Segment: capture.Segment{
				Src: netip.MustParseAddrPort("192.0.2.1:0"), Dst: netip.MustParseAddrPort("198.51.100.2:0"),
			}})
		}, []string{"flush", "1 tainted fragments"}},
		{"another answer, seconds later, where anybody may have sent the first", func(w *wire) {
			w.raw = true
			w.login(1, accepted)
			w.now = w.now.Add(5 * time.Second)
			w.segment(1, true, capture.ACK, 10, 24, refused)
		}, []string{"flush", "1 tainted conflicting copies of the same server bytes"}},
		{"another answer, where the first came in pieces and the last one is its end too", func(w *wire) {
			w.raw = true
			w.login(1, "+OK ")
			w.segment(1, true, capture.ACK, 14, 24, "\r\n")
			w.segment(1, true, capture.ACK, 10, 24, refused)
		}, []string{"flush", "1 tainted conflicting copies of the same server bytes"}},
		{"another answer, behind an end that anybody may have sent too", func(w *wire) {
			w.raw = true
			w.login(1, accepted)
			w.end(1)
			w.now = w.now.Add(5 * time.Second)
			w.segment(1, true, capture.ACK, 10, 24, refused)
		}, []string{"flush", "1 tainted conflicting copies of the same server bytes"}},
		{"where the host sent it", func(w *wire) {
			w.login(1, accepted)
			w.now = w.now.Add(5 * time.Second)
			w.segment(1, true, capture.ACK, 10, 24, refused)
		}, []string{"1 success ", "flush"}},
		{"another too late", func(w *wire) {
			w.login(1, accepted)
			w.now = w.now.Add(Lateness)
			w.login(2, refused)
			w.late(1, "USER alice\r\n")
		}, []string{"1 success ", "2" + failed, "flush"}},
	} {
		w := wire{now: start}
		tt.play(&w)
		for _, size := range []int{1, 2, 3, 64} {
			if got := w.read(size); !slices.Equal(got, tt.want) {
				t.Errorf("%s, in batches of %d: got %q, want %q", tt.name, size, got, tt.want)
			}
		}
	}
}

// TestManyWait: of verdicts that wait there is a bound, where a file's clock stands still;
// and where many logins were in order, none waits.
func TestManyWait(t *testing.T) {
	const over = 3
	patient := wire{now: start, raw: true}
	for port := range uint16(maxPatient + over) {
		patient.login(port+1, accepted)
	}
	patient.now = patient.now.Add(Lateness)
	patient.login(maxPatient+over+1, accepted)
	if at := slices.Index(patient.read(1), "flush"); at != over+1 {
		t.Errorf("%d told before the end, though no more than %d wait for long", at, maxPatient)
	}
	w := wire{now: start}
	for port := range uint16(maxWaiting + over) {
		w.login(port+1, accepted)
		w.now = start
	}
	got := w.read(64)
	at := slices.Index(got, "flush")
	if len(got) != maxWaiting+over+1 || at != over {
		t.Fatalf("%d told, %d before the end", len(got)-1, at)
	}
	for i, told := range slices.Delete(got, at, at+1) {
		if want := fmt.Sprintf("%d success ", i+1); told != want {
			t.Fatalf("%q, want %q", told, want)
		}
	}
	late := wire{now: start}
	for port := range uint16(1700) {
		late.login(port+1, accepted)
	}
	late.late(1700, "USER alice\r\n")
	inOrder := []string{"1700 success ", "flush"}
	if got := late.read(1); !slices.Equal(got[1699:], inOrder) {
		t.Errorf("in order: %q", got[1699:])
	}
	late.events[12].Time = start // one event is out of order at the beginning
	if got := late.read(1); !slices.Equal(got[1699:], inOrder) {
		t.Errorf("out of order at the beginning: %q", got[1699:])
	}
	late.events[len(late.events)-30].Time = start // and one at last
	if got := late.read(1); got[len(got)-1] != "1700"+lateReason {
		t.Errorf("out of order at the end: %q", got[len(got)-1])
	}
}
