package line

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read gives r the pieces and says what came of them.
func read(r *Reader, pieces ...string) (got []string) {
	for _, p := range pieces {
		for b := []byte(p); ; {
			l, rest, state := r.Next(b)
			switch state {
			case Partial:
			case Complete:
				got = append(got, fmt.Sprintf("%q lf=%v tab=%v eight=%v", l.Text, l.BareLF(), l.Tab(), l.Eight()))
				r.Wipe()
			case Control:
				return append(got, "control")
			case TooLong:
				return append(got, "too long")
			}
			if b = rest; len(b) == 0 {
				break
			}
		}
	}
	return got
}

func TestReader(t *testing.T) {
	const plain = " lf=false tab=false eight=false"
	for _, test := range []struct {
		name   string
		strict bool
		pieces []string
		want   []string
	}{
		{"one", true, []string{"NOOP\r\n"}, []string{`"NOOP"` + plain}},
		{"two in one piece", true, []string{"a\r\n\r\n"}, []string{`"a"` + plain, `""` + plain}},
		{"dripped", true, []string{"a", "b", "\r", "\n", "c\r\n"}, []string{`"ab"` + plain, `"c"` + plain}},
		{"bare LF", true, []string{"a\n", "b\r\n"}, []string{`"a" lf=true tab=false eight=false`, `"b"` + plain}},
		{"TAB and eight bit", true, []string{"a\tb", "\xc3\xa4\r\nc\r\n"}, []string{`"a\tbä" lf=false tab=true eight=true`, `"c"` + plain}},
		{"no end", true, []string{"abc"}, nil},
		{"eight octets with the line end", true, []string{"abcdef\r\n"}, []string{`"abcdef"` + plain}},
		{"nine octets", true, []string{"abcdefg\r\n"}, []string{"too long"}},
		{"nine octets dripped", true, []string{"abcd", "efgh", "i"}, []string{"too long"}},
		{"bare CR", true, []string{"a\rb\r\n"}, []string{"control"}},
		{"bare CR between pieces", true, []string{"a\r", "b"}, []string{"control"}},
		{"two CR", true, []string{"a\r\r\n"}, []string{"control"}},
		{"NUL", true, []string{"a\x00"}, []string{"control"}},
		{"NUL behind a good line", true, []string{"a\r\n\x00"}, []string{`"a"` + plain, "control"}},
		{"ESC", true, []string{"\x1b"}, []string{"control"}},
		{"DEL", true, []string{"\x7f"}, []string{"control"}},
		{"IAC", true, []string{"\xff"}, []string{"control"}},
		{"server: bare CR, ESC, IAC", false, []string{"a\rb\x1b\xff\r\n"}, []string{`"a\rb\x1b\xff"` + plain}},
		{"server: CR CR LF", false, []string{"a\r\r\nb\r\n"}, []string{`"a\r"` + plain, `"b"` + plain}},
		{"server: LF", false, []string{"\n\r\na\n"}, []string{`"" lf=true tab=false eight=false`, `""` + plain, `"a" lf=true tab=false eight=false`}},
		{"server: NUL", false, []string{"a\x00\r\n"}, []string{"control"}},
		{"server: nine octets", false, []string{"abcdefg\r\n"}, []string{"too long"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := read(&Reader{Max: 8, Strict: test.strict}, test.pieces...)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("lines (-want +got)\n%s", diff)
			}
		})
	}
}

// TestReaderSplits: a line is cut alike however it comes, with any octet at any
// place, be it short or long.
func TestReaderSplits(t *testing.T) {
	for _, strict := range []bool{false, true} {
		for _, text := range []string{"+OK ready\r\n", "* OK [CAPABILITY IMAP4rev1 LITERAL+ AUTH=PLAIN] ready.\r\n"} {
			for at := range text {
				for _, c := range []byte("\x00\t\n\r\x1b }~\x7f\x80\xff") {
					b := []byte(text + text)
					b[at] = c
					var octets []string
					for i := range b {
						octets = append(octets, string(b[i:i+1]))
					}
					want := read(&Reader{Max: 200, Strict: strict}, octets...)
					for _, cut := range []int{0, at, at + 1, len(text) - 1, len(text)} {
						got := read(&Reader{Max: 200, Strict: strict}, string(b[:cut]), string(b[cut:]))
						if diff := cmp.Diff(want, got); diff != "" {
							t.Fatalf("%q cut at %d, strict %v: lines (-octet by octet +cut)\n%s", b, cut, strict, diff)
						}
					}
				}
			}
		}
	}
}

// TestReaderOctets: so many octets are taken as are asked for, in any pieces, and what
// stands behind them is a line.
func TestReaderOctets(t *testing.T) {
	whole := []byte("\r\n\x00\xff}tail\r\n")
	for n := 1; n <= len(whole)-len("\r\n"); n++ {
		for first := range len(whole) {
			for second := first; second <= len(whole); second++ {
				r := Reader{Max: 100, Strict: true}
				var rest []byte
				state := Partial
				for _, piece := range [][]byte{whole[:first], whole[first:second], whole[second:]} {
					if state == Complete {
						rest = append(rest, piece...)
						continue
					}
					var text, behind []byte
					text, behind, state = r.Octets(piece, n)
					if state == Partial {
						continue
					}
					if string(text) != string(whole[:n]) {
						t.Fatalf("%d octets, cut at %d and %d: %q", n, first, second, text)
					}
					rest = append(rest, behind...)
					r.Wipe()
				}
				if string(rest) != string(whole[n:]) || !r.Empty() {
					t.Fatalf("%d octets, cut at %d and %d: %q is left, empty %v", n, first, second, rest, r.Empty())
				}
			}
		}
	}
}

// TestReaderWipes: what was joined is overwritten, also in buffers that became
// too small.
func TestReaderWipes(t *testing.T) {
	r := Reader{Max: 1000, Strict: true}
	r.Next([]byte("secret"))
	first := r.buf[:cap(r.buf)]
	r.Next([]byte(strings.Repeat("x", 300) + "\r\n"))
	second := r.buf[:cap(r.buf)]
	r.Wipe()
	for i, b := range [][]byte{first, second} {
		if strings.Trim(string(b), "\x00") != "" {
			t.Errorf("buffer %d holds %q", i+1, b)
		}
	}
	if !r.Empty() {
		t.Error("the reader is not at the start of a line")
	}
}

// TestReaderTakesNoMoreThanItsBound: of a line that never ends no more is kept than a
// line may have, however it comes.
func TestReaderTakesNoMoreThanItsBound(t *testing.T) {
	for _, piece := range []int{1, 100, 130, 501, 999, 1000} {
		r := Reader{Max: 1000}
		for range r.Max / piece {
			if _, _, s := r.Next([]byte(strings.Repeat("x", piece))); s != Partial {
				t.Fatalf("pieces of %d: state %v", piece, s)
			}
		}
		if cap(r.buf) > r.Max {
			t.Errorf("pieces of %d: room for %d octets, want at most %d", piece, cap(r.buf), r.Max)
		}
	}
}

func TestAnswers(t *testing.T) {
	for _, test := range []struct {
		text     string
		positive bool
		want     string
	}{
		{"+OK opened mailbox for alice", true, "+OK opened mailbox for alice"},
		{"OK " + strings.Repeat("x", 200), true, "OK " + strings.Repeat("x", 117)},
		{"-ERR [AUTH] no hunter2", false, "-ERR [AUTH]"},
		{"-ERR hunter2 [AUTH]", false, "-ERR"},
		{"NO [REFERRAL imap://x/] hunter2", false, "NO [REFERRAL imap://x/]"},
		{"NO [hunter2", false, "NO"},
		{"NO", false, "NO"},
		{"", false, ""},
	} {
		var a Answers
		of := a.Negative
		if test.positive {
			of = a.Positive
		}
		for range 2 {
			if got := of([]byte(test.text)); got != test.want {
				t.Errorf("answer %q (%v) = %q, want %q", test.text, test.positive, got, test.want)
			}
		}
	}
}

func TestBegins(t *testing.T) {
	for text, want := range map[string]bool{
		"OK": true, "ok": true, "Ok done": true, "OK ": true,
		"": false, "O": false, "OKAY": false, "OK\tdone": false, " OK": false, "NO": false, "O\x0b": false, "o\xcb": false,
	} {
		if got := Begins([]byte(text), "OK"); got != want {
			t.Errorf("Begins(%q, OK) = %v, want %v", text, got, want)
		}
	}
	for word, want := range map[string]bool{
		"LITERAL+": true, "literal+": true, "LITERAL\x0b": false, "LITERAL-": false, "LITERAL": false, "L\x09TERAL+": false,
	} {
		if got := Is([]byte(word), "LITERAL+"); got != want {
			t.Errorf("Is(%q, LITERAL+) = %v, want %v", word, got, want)
		}
	}
}

func TestSplits(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "alice": false, "jürgen": false, "j\xfcrgen": false,
		"a\x85b": true, "a\u0085b": true, "a\u2028b": true, "a\u2029b": true,
	} {
		if got := Splits([]byte(text)); got != want {
			t.Errorf("Splits(%q) = %v, want %v", text, got, want)
		}
	}
}

func TestHelloTLS(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "\x16": true, "\x16\x03\x01": true, "\x16\x02": false, "USER": false, "\x80\x16\x03": false,
	} {
		if got := HelloTLS([]byte(text)); got != want {
			t.Errorf("HelloTLS(%q) = %v, want %v", text, got, want)
		}
	}
}
