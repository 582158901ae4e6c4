package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestFold(t *testing.T) {
	for _, tt := range []struct {
		line string
		most int
		want string
	}{
		{"short", 40, "short"},
		{"", 40, ""},
		{"exactly forty columns are in this line..", 40, "exactly forty columns are in this line.."},
		{"a sentence of more than forty columns is broken", 40, "a sentence of more than forty columns is\nbroken"},
		{"Gate:    the gate filters port 25 for all but members", 40, "Gate:    the gate filters port 25 for\n         all but members"},
		{"  1 s ago  login  alice by pop3 from port 1 to another", 40, "  1 s ago  login  alice by pop3 from\n                  port 1 to another"},
		{"                   → nothing to do if it is not wanted", 40, "                   → nothing to do if it\n                   is not wanted"},
		{"a sentence whose end is that it takes (30 min)", 40, "a sentence whose end is that it takes\n(30 min)"},
		{"File:    /a/path/that/is/much/longer/than/the/whole/line/is", 40, "File:    /a/path/that/is/much/longer/than/the/whole/line/is"},
		{"File:    /a/path/that/is/much/longer/than/the/line and more", 40, "File:    /a/path/that/is/much/longer/than/the/line\n         and more"},
		{"Name:    名前が長いユーザー名前が長いユーザー 例え", 40, "Name:    名前が長いユーザー名前が長いユー\u200bザー"},
		{"\x1b[32mok\x1b[0m       port  a port on which nobody listens", 40, "\x1b[32mok\x1b[0m       port  a port on which nobody\n               listens"},
		{"\x1b[31mred\x1b[0m words are not counted for what they", 40, "\x1b[31mred\x1b[0m words are not counted for what they"},
		{"\x1b[31mred\x1b[0m words are not counted for what they are", 40, "\x1b[31mred\x1b[0m words are not counted for what they\nare"},
	} {
		got := fold(tt.line, tt.most)
		if strings.Contains(tt.want, "\u200b") { // no space fits: the first is taken
			tt.want = strings.Replace(tt.line, " 例え", "\n         例え", 1)
		}
		if got != tt.want {
			t.Errorf("%q: got\n%s\nwant\n%s", tt.line, got, tt.want)
		}
		if a, b := strings.Fields(got), strings.Fields(tt.line); fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%q lost words: %q", tt.line, got)
		}
	}
}

// Lines are folded where a person looks, and nowhere else.
func TestFoldedOnTerminals(t *testing.T) {
	text := strings.Repeat("words ", 20) + "end\n"
	for columns, lines := range map[int]int{0: 1, 20: 1, 50: 3, 200: 1} {
		e, out, _ := testEnv()
		e.OutWidth = columns
		w := folded(e).Stdout
		for b := range bytes.SplitSeq([]byte(text), []byte("d")) { // written in pieces
			if _, err := w.Write(append(b, 'd')[:len(b)+min(1, len(text)-len(b))]); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Count(out.String(), "\n"); got != lines {
			t.Errorf("%d columns: %d lines, want %d", columns, got, lines)
		}
	}
}

func TestColumns(t *testing.T) {
	for text, want := range map[string]int{"": 0, "abc": 3, "é": 1, "e\u0301": 1, "名前": 4, "👩": 2, "ｱ": 1, "ａ": 2, "→": 1, "\x1b[1mx\x1b[0m": 1} {
		if got := columns(text); got != want {
			t.Errorf("%q: %d columns, want %d", text, got, want)
		}
	}
	if got := pad("名前", 6) + "|" + pad("too long", 3) + "|"; got != "名前  |too long|" {
		t.Errorf("%q", got)
	}
}
