package main

import (
	"bytes"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// folded is e for a verb that prints prose and tables: on a terminal its lines end at a
// space before the terminal's edge, and go on below the column that they are in.
func folded(e *env) *env {
	if e.OutWidth < narrowest {
		return e
	}
	with := *e
	with.Stdout = &folder{w: e.Stdout, width: e.OutWidth}
	return &with
}

// narrowest is the terminal in whose lines a table has no room.
const narrowest = 40

// folder folds whole lines; each verb ends with one.
type folder struct {
	w     io.Writer
	width int
	line  []byte // that has not ended
}

func (f *folder) Write(b []byte) (int, error) {
	f.line = append(f.line, b...)
	for {
		line, rest, ended := bytes.Cut(f.line, []byte("\n"))
		if !ended {
			return len(b), nil
		}
		if _, err := io.WriteString(f.w, fold(string(line), f.width)+"\n"); err != nil {
			return 0, err
		}
		f.line = rest
	}
}

// fold breaks a line at spaces, so that no part has more columns than most, if that can
// be.
func fold(line string, most int) string {
	indent := hang(line, most)
	var out strings.Builder
	for room := most; columns(line) > room; room = most - indent {
		least := 0
		if out.Len() == 0 {
			least = indent
		}
		at := breakAt(line, least, room)
		if at < 0 {
			break
		}
		out.WriteString(strings.TrimRight(line[:at], " "))
		out.WriteString("\n" + strings.Repeat(" ", indent))
		line = strings.TrimLeft(line[at:], " ")
	}
	return out.String() + line
}

// hang is the column below which a line goes on: that of the last text behind two spaces
// in its first half, as a table or a label has it.
func hang(line string, most int) (column int) {
	at, spaces := 0, 0
	for _, r := range shown(line) {
		if r == ' ' {
			spaces++
		} else {
			if spaces >= 2 && at <= most/2 {
				column = at
			}
			spaces = 0
		}
		at += runeColumns(r)
	}
	return column
}

// breakAt is the last space of a line within so many columns, else the first; -1 if there
// is none behind the least column. A number stays with what it counts.
func breakAt(line string, least, room int) (at int) {
	at = -1
	for i := range line {
		if line[i] != ' ' {
			continue
		}
		before := columns(line[:i])
		if before > least && (before <= room || at < 0) && !counts(line[:i]) {
			at = i
		}
		if before > room {
			break
		}
	}
	return at
}

// counts reports whether a text ends with a number that is a word.
func counts(text string) bool {
	word := text[strings.LastIndexByte(text, ' ')+1:]
	return strings.Trim(word, "(0123456789.") == "" && word != ""
}

// columns is how many columns of a terminal a text takes.
func columns(s string) (n int) {
	for _, r := range shown(s) {
		n += runeColumns(r)
	}
	return n
}

// shown is a text without its colours.
func shown(s string) string {
	before, rest, coloured := strings.Cut(s, "\x1b[")
	if !coloured {
		return s
	}
	_, rest, _ = strings.Cut(rest, "m")
	return before + shown(rest)
}

func runeColumns(r rune) int {
	if r < utf8.RuneSelf {
		return 1
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	if unicode.In(r, unicode.Mn, unicode.Me) {
		return 0
	}
	return 1
}

// pad fills a text up to so many columns.
func pad(s string, to int) string { return s + strings.Repeat(" ", max(to-columns(s), 0)) }
