package flow

import (
	"strings"
	"testing"
	"time"

	"relaygate/capture"
)

// Held reports whether a flow is held.
func (t *Table) Held(id ID) bool { return t.slots.at(id).phase == held }

// TestLateCopies: of bytes that the server has acknowledged, another copy is nothing to a
// live flow, and a doubt in a file, which can show it late.
func TestLateCopies(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 1000)
	for _, tt := range []struct {
		name       string
		steps      []step
		live, file string
	}{
		{"other bytes, and one more", []step{cl(0, "AB"), sv(0, 2, ""), cl(0, "XYC"), sv(0, 3, "1")}, "C<AB>C<C>S<1>", "C<AB>!" + reasonLate},
		{"other bytes from the middle", []step{cl(0, "ABCD"), sv(0, 4, ""), cl(1, "BX"), sv(0, 4, "1")}, "C<ABCD>S<1>", "C<ABCD>!" + reasonLate},
		{"the last byte and more", []step{cl(0, "AB"), sv(0, 2, ""), cl(1, "XC"), sv(0, 3, "1")}, "C<AB>C<C>S<1>", "C<AB>!" + reasonLate},
		{"a byte before the last", []step{cl(0, "AB"), sv(0, 2, ""), cl(0, "X"), sv(0, 2, "1")}, "C<AB>S<1>", "C<AB>!" + reasonLate},
		{"of what was acknowledged before", []step{cl(0, "AB"), sv(0, 2, ""), cl(2, "CD"), sv(0, 4, ""), cl(0, "AX")}, "C<AB>C<CD>", "C<AB>C<CD>!" + reasonLate},
		{"behind the FIN", []step{cl(0, "AB", plus(capture.FIN)), sv(0, 3, ""), cl(0, "AX")}, "C<AB>", "C<AB>!" + reasonLate},
		{"of the last that is kept", []step{cl(0, long), sv(0, 16000, ""), cl(0, ""), cl(16000-keptBytes, "X"+long[1:keptBytes])}, "C<" + long + ">", "C<" + long + ">!" + reasonLate},
		{"of what is kept no more", []step{cl(0, long), sv(0, 16000, ""), cl(0, ""), cl(0, "0")}, "C<" + long + ">", "C<" + long + ">!" + reasonLate},
		{"of what is kept no more, cut", []step{cl(0, long), sv(0, 16000, ""), cl(0, ""), cl(0, "0", missing(15999))}, "C<" + long + ">", "C<" + long + ">!" + reasonLate},
		{"with urgent data", []step{cl(0, "AB"), sv(0, 2, ""), cl(0, "AB", plus(capture.URG))}, "", "C<AB>!" + reasonUrgent},
		{"cut", []step{cl(0, "ABCDE"), sv(0, 5, "1"), cl(0, "AB", missing(3)), sv(1, 5, "2")}, "C<ABCDE>S<1>S<2>", "C<ABCDE>S<1>!" + reasonClientSnap},
		{"the same", []step{cl(0, "ABCDE"), sv(0, 5, "1"), cl(0, "ABCDE"), cl(2, "CDEF"), sv(1, 6, "2")}, "C<ABCDE>S<1>C<F>S<2>", "C<ABCDE>S<1>C<F>S<2>"},
		{"the same behind the FIN", []step{cl(0, "AB", plus(capture.FIN)), sv(0, 3, "1"), cl(0, "AB"), sv(1, 3, "2")}, "C<AB>S<1>S<2>", "C<AB>S<1>S<2>"},
	} {
		for name, m := range modes {
			want := tt.file
			if m.live() {
				want = tt.live
			}
			if want == "" {
				continue
			}
			if got := tell(t, newTable(Limits{}), m, begin(m, tt.steps)); got != "("+want {
				t.Errorf("%s/%s: got  %.300q\nwant %.300q", name, tt.name, got, "("+want)
			}
		}
	}
}

// TestHoldReplaced: in a file that is out of order late copies are not told from what the
// next connection between the same ends sends.
func TestHoldReplaced(t *testing.T) {
	for want, first := range map[string][]step{
		"(C<AB>S<1>)(":                   shake(cl(0, "AB"), sv(0, 2, "1")),
		"(C<AB>S<1>!" + reasonNext + "(": shake(sv(0, 2, "1"), cl(0, "AB")),
	} {
		table := newWaitingTable(Limits{})
		got := played(t, table, ethernet, start, first)
		table.Hold(0)
		got += played(t, table, ethernet, start.Add(time.Second), nextTime(1, shake()))
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestHold: a flow that is held gives nothing but the doubt of a late copy, or of another
// answer, and Closed if it had not told that.
func TestHold(t *testing.T) {
	for _, tt := range []struct {
		name string
		rest []step
		end  bool // the answer ends the flow
		want string
	}{
		{"nothing comes", nil, false, ""},
		{"what is next", []step{cl(2, "C"), sv(1, 3, "2"), cl(3, "", plus(capture.FIN)), sv(2, 4, "", plus(capture.FIN))}, false, ""},
		{"a late copy", []step{cl(0, "XB")}, false, "!" + reasonLate},
		{"a late copy behind what is next", []step{cl(2, "C"), sv(1, 3, "2"), cl(1, "XC")}, false, "!" + reasonLate},
		{"a late copy behind the end", []step{sv(1, 2, "", plus(capture.FIN)), cl(0, "XB")}, false, "!" + reasonLate},
		{"a late copy behind an RST", []step{sv(1, 2, "", plus(capture.RST)), cl(0, "XB")}, false, "!" + reasonLate},
		{"the answer again", []step{sv(0, 2, "1")}, false, ""},
		{"the answer again, with what is next", []step{sv(0, 2, "12"), sv(1, 3, "2")}, false, ""},
		{"another answer", []step{sv(0, 2, "X")}, false, "!" + reasonServerCopies},
		{"another answer, and more", []step{sv(0, 2, "X2")}, false, "!" + reasonServerCopies},
		{"another answer that bears other addresses", []step{sv(0, 2, "X", macs(routerMAC, clientMAC))}, false, ""},
		{"the server's end where it answered", []step{sv(0, 3, "", plus(capture.FIN))}, false, "!" + reasonServerCopies},
		{"an end of before the handshake", []step{sv(-9, 2, "", plus(capture.FIN)), sv(-9, 2, "123456789X")}, false, ""},
		{"two late copies", []step{cl(0, "XB"), cl(0, "YB")}, false, "!" + reasonLate},
		{"something between the two cannot be read", []step{doubt}, false, "!" + "overlapping fragments"},
		{"the end at once", nil, true, ")"},
		{"the end at once, and again", []step{sv(0, 2, "1", plus(capture.FIN))}, true, ")"},
		{"the end at once, and a late copy", []step{cl(0, "XB")}, true, ")!" + reasonLate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer := sv(0, 2, "1")
			if tt.end {
				answer = sv(0, 2, "1", plus(capture.FIN))
			}
			for _, table := range []*Table{newTable(Limits{}), newLeavingTable(Limits{})} {
				const m = ethernet
				var s story
				var id ID
				play := func(steps []step) {
					for _, st := range steps {
						var ev capture.Event
						st(m, &ev)
						ev.Time = start
						told := table.Feed(&ev)
						if s.add(told); len(told) > 0 && told[0].Kind == Opened {
							id = told[0].ID
						}
						check(t, table)
					}
				}
				play(begin(m, []step{cl(0, "AB"), answer}))
				table.Hold(id)
				play(tt.rest)
				if told := s.String(); strings.TrimSuffix(told, ")") != "(C<AB>S<1>"+strings.TrimSuffix(tt.want, ")") {
					t.Errorf("got %q, want %q", told, "(C<AB>S<1>"+tt.want)
				}
				if table.Held(id) == strings.Contains(tt.want, "!") {
					t.Error("held: ", table.Held(id))
				}
				if table.Held(id) {
					table.Forget(id)
				}
				table.Flush(start)
				check(t, table)
				if open := table.Stats().Open; open != 0 {
					t.Errorf("%d flows are open", open)
				}
			}
		})
	}
}

// TestHoldAnswer: an answer is compared as a whole, in whatever pieces it came, where all
// that the server said is known, and with nothing else.
func TestHoldAnswer(t *testing.T) {
	junk := strings.Repeat("x", 3*keptBytes)
	for _, tt := range []struct {
		name  string
		said  []step
		again step
		want  string
	}{
		{"another in the place of pieces", []step{sv(0, 2, "12"), sv(2, 2, "3")}, sv(0, 2, "1X3"), "!" + reasonServerCopies},
		{"the same in one", []step{sv(0, 2, "12"), sv(2, 2, "3")}, sv(0, 2, "123"), ""},
		{"that came out of order", []step{sv(2, 2, "3"), sv(0, 2, "12")}, sv(0, 2, "123"), ""},
		{"another, that came out of order", []step{sv(2, 2, "3"), sv(0, 2, "12")}, sv(0, 2, "12X"), "!" + reasonServerCopies},
		{"in the place of more than is kept", []step{sv(0, 2, junk), sv(len(junk), 2, junk)}, sv(0, 2, "x"), "!" + reasonServerCopies},
		{"nothing, there", []step{sv(0, 2, junk), sv(len(junk), 2, junk)}, sv(0, 2, ""), ""},
		{"in the place of one that the snap length cut", []step{sv(0, 2, "12", missing(3))}, sv(0, 2, "1X345"), ""},
		{"in the place of a greeting that it cut", []step{sv(0, 2, "12", missing(3)), sv(5, 2, "1")}, sv(5, 2, "X"), ""},
	} {
		table := newTable(Limits{})
		played(t, table, ethernet, start, shake(append([]step{cl(0, "AB")}, tt.said...)...))
		table.Hold(0)
		if got := played(t, table, ethernet, start, []step{tt.again}); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestHoldBehindOrder: where a capture came out of order after long, answers are compared
// only in flows of which all is known.
func TestHoldBehindOrder(t *testing.T) {
	for again, before := range map[string]int{"12": orderlyLogins - 1, "XY": orderlyLogins} {
		table := newTable(Limits{})
		table.orderly = before
		played(t, table, ethernet, start, shake(sv(0, 0, "1")))
		table.orderly = orderlyLogins
		played(t, table, ethernet, start, []step{cl(0, "AB"), sv(1, 2, "2")})
		table.disorder()
		if table.Hold(0); table.slots.at(0).phase != held {
			t.Fatal("it is not held")
		}
		if got := played(t, table, ethernet, start, []step{sv(0, 2, again)}); got != "" {
			t.Errorf("%q again: %q", again, got)
		}
	}
}
