package authz

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestQuoteWords(t *testing.T) {
	for in, want := range map[string]string{
		"Bob's \"new\" printer & scanner": "Bob's \"new\" printer & scanner",
		"ticket 4711":                     "ticket 4711",
		"<b>":                             `\x3cb\x3e`,
		"a\nb":                            `a\x0ab`,
		"=1":                              `\x3d1`,
		"a\u202eb":                        `a\u{202e}b`,
	} {
		if got := QuoteWords(in); got != want {
			t.Errorf("QuoteWords(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestQuote(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", ""},
		{"ordinary", "alice@example.org", "alice@example.org"},
		{"subaddress", "alice+lists@example.org", "alice+lists@example.org"},
		{"utf8 name", "jürgen@例え.jp", "jürgen@例え.jp"},
		{"inner space", "Alice Example", "Alice Example"},
		{"line end", "a\r\nb", `a\x0d\x0ab`},
		{"nul", "a\x00b", `a\x00b`},
		{"escape sequence", "\x1b[31mred", `\x1b[31mred`},
		{"delete", "a\x7f", `a\x7f`},
		{"C1 control", "a\u009bm", `a\u{9b}m`},
		{"raw C1 byte", "a\x9bm", `a\x9bm`},
		{"invalid UTF-8", "\xff\xfe", `\xff\xfe`},
		{"overlong slash", "\xc0\xaf", `\xc0\xaf`},
		{"surrogate half", "\xed\xa0\x80", `\xed\xa0\x80`},
		{"replacement character itself", "\ufffd", "\ufffd"},
		{"right-to-left override", "gpj.\u202eexe", `gpj.\u{202e}exe`},
		{"isolate", "\u2066x\u2069", `\u{2066}x\u{2069}`},
		{"zero width space", "ad\u200bmin", `ad\u{200b}min`},
		{"byte order mark", "\ufeffx", `\u{feff}x`},
		{"hangul filler", "a\u3164b", `a\u{3164}b`},
		{"braille blank", "a\u2800b", `a\u{2800}b`},
		{"variation selector", "a\ufe0fb", `a\u{fe0f}b`},
		{"tag characters", "a\U000e0041", `a\u{e0041}`},
		{"line separator", "a\u2028b", `a\u{2028}b`},
		{"no-break space", "a\u00a0b", `a\u{a0}b`},
		{"lone combining mark", "\u0301x", `\u{301}x`},
		{"html", `<b a="1" c='2'>&`, `\x3cb a=\x221\x22 c=\x272\x27\x3e\x26`},
		{"backslash", `a\x00`, `a\x5cx00`},
		{"formula =", "=1+1", `\x3d1+1`},
		{"formula +", "+1", `\x2b1`},
		{"formula -", "-1", `\x2d1`},
		{"formula @", "@SUM(A1)", `\x40SUM(A1)`},
		{"formula tab", "\t=1", `\x09=1`},
		{"formula after space", " =1", `\x20=1`},
		{"formula full width", "\uff1d1", `\u{ff1d}1`},
		{"trailing space", "a ", `a\x20`},
		{"only a space", " ", `\x20`},
		{"pretended cut", "a…", `a\u{2026}`},
		{"as long as allowed", strings.Repeat("a", quoteLimit), strings.Repeat("a", quoteLimit)},
		{"too long", strings.Repeat("a", quoteLimit+1), strings.Repeat("a", quoteLimit) + "…"},
		{"cut before an escape, not in it", strings.Repeat("a", quoteLimit-2) + "\x00", strings.Repeat("a", quoteLimit-2) + "…"},
		{"cut before a rune, not in it", strings.Repeat("a", quoteLimit-1) + "ü", strings.Repeat("a", quoteLimit-1) + "…"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Quote(tt.in); got != tt.want {
				t.Errorf("Quote(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestQuoteKeepsOrdinaryNamesWithoutAllocating(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { Quote("alice@example.org") }); n != 0 {
		t.Errorf("Quote allocates %v times for an ordinary name, want 0", n)
	}
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"alice@example.org", "=1", "\u202e", "\xff", `\x00`, "\x00", "a…", "<&>", " x ", strings.Repeat("\x00", 80)} {
		f.Add(s, s+"x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		qa, qb := Quote(a), Quote(b)
		if len(qa) > quoteLimit+utf8.RuneLen(cutMark) {
			t.Errorf("Quote(%q) has %d bytes", a, len(qa))
		}
		if !utf8.ValidString(qa) {
			t.Errorf("Quote(%q) = %q is not UTF-8", a, qa)
		}
		for _, r := range qa {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune(`<>&"'`, r) {
				t.Errorf("Quote(%q) = %q lets %U through", a, qa, r)
			}
		}
		if strings.IndexAny(qa, "=+-@ \t") == 0 {
			t.Errorf("Quote(%q) = %q can start a formula", a, qa)
		}
		cut := func(s string) bool { return strings.ContainsRune(s, cutMark) }
		if a != b && qa == qb && !cut(qa) {
			t.Errorf("Quote(%q) and Quote(%q) are both %q", a, b, qa)
		}
	})
}
