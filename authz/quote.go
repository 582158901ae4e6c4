package authz

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quoteLimit bounds what Quote returns, in bytes, the mark of a cut excluded.
const quoteLimit = 256

// cutMark ends a text that was cut. The same rune in the input is escaped, so
// that nobody can pretend a cut.
const cutMark = '…'

// Quote makes text from the wire fit to be shown on a terminal, in a log line,
// in HTML and in a CSV cell. Ordinary names come back as they are; everything
// that could act on its reader becomes \xNN (bytes) or \u{N} (runes):
//
//   - control characters, line ends and invalid UTF-8
//   - invisible and bidirectional format characters
//   - the backslash and HTML's <>&"'
//   - a first character that makes a spreadsheet read a formula (=+-@), a
//     space at the edges, and a combining mark with nothing to combine with
//
// Two inputs that are not cut never give the same output.
func Quote(s string) string {
	if plain(s) {
		return s
	}
	return quote(s, shown)
}

// QuoteWords is Quote for what an administrator wrote: quotation marks and
// ampersands stay as they are.
func QuoteWords(s string) string {
	if plain(s) {
		return s
	}
	return quote(s, func(r rune) bool { return shown(r) || strings.ContainsRune(`'"&`, r) })
}

func quote(s string, shown func(rune) bool) string {
	var dst []byte
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		before := len(dst)
		switch {
		case r == utf8.RuneError && size == 1:
			dst = appendByte(dst, s[i])
		case shown(r) && (i > 0 || mayLead(r)) && (r != ' ' || i+1 < len(s)):
			dst = append(dst, s[i:i+size]...)
		case r < utf8.RuneSelf:
			dst = appendByte(dst, s[i])
		default:
			dst = append(dst, `\u{`...)
			dst = strconv.AppendUint(dst, uint64(r), 16)
			dst = append(dst, '}')
		}
		if len(dst) > quoteLimit {
			return string(utf8.AppendRune(dst[:before], cutMark))
		}
		i += size
	}
	return string(dst)
}

func appendByte(dst []byte, b byte) []byte {
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'x', hex[b>>4], hex[b&15])
}

// plain reports whether s needs no quoting, for the common case of an ordinary
// ASCII name.
func plain(s string) bool {
	if len(s) > quoteLimit {
		return false
	}
	for i := range len(s) {
		if !plainBytes[s[i]] {
			return false
		}
	}
	return s == "" || mayLead(rune(s[0]))
}

// plainBytes are the graphic ASCII characters that are shown: almost every login
// asks about its name, several times.
var plainBytes = func() (t [256]bool) {
	for b := '!'; b <= '~'; b++ {
		t[b] = shown(b)
	}
	return t
}()

// shown reports whether r may stand in the middle of a quoted text.
func shown(r rune) bool {
	switch r {
	case '\\', '<', '>', '&', '"', '\'', cutMark:
		return false
	case '\u2800': // BRAILLE PATTERN BLANK prints nothing
		return false
	}
	// IsPrint leaves out controls (Cc), format characters (Cf: bidi, zero
	// width) and every space but U+0020.
	return unicode.IsPrint(r) &&
		!unicode.In(r, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector)
}

// Shown reports whether Quote leaves r as it is in front of other text: as the first
// character, or behind others.
func Shown(r rune, first bool) bool { return shown(r) && (!first || mayLead(r)) }

// mayLead reports whether r may be the first character. Spreadsheets take
// = + - @ for the start of a formula, some also their full-width forms.
func mayLead(r rune) bool {
	return !strings.ContainsRune("=+-@ \uff1d\uff0b\uff0d\uff20", r) && !unicode.IsMark(r)
}
