package linetest

import (
	"encoding/base64"
	"math/rand/v2"
	"strings"
)

// Pick is one of several words.
func Pick(r *rand.Rand, words ...string) string { return words[r.IntN(len(words))] }

// Plain is the message of the SASL mechanism PLAIN (RFC 4616 §2), encoded.
func Plain(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password))
}

// cut cuts octets into segments at random places. With probability wait (of a
// hundred) a segment waits for the server.
func cut(r *rand.Rand, b []byte, cuts, wait int) []Segment {
	var out []Segment
	for len(b) > 0 {
		n := len(b)
		if cuts > 0 {
			cuts--
			n = 1 + r.IntN(n)
		}
		out = append(out, Segment{Bytes: b[:n], Wait: r.IntN(100) < wait})
		b = b[n:]
	}
	return out
}

// Pieces cuts each of several texts at up to so many places. With probability wait
// (of a hundred) the first segment of a text waits for the server.
func Pieces(r *rand.Rand, texts []string, cuts, wait int) (out []Segment) {
	for _, text := range texts {
		for i, piece := range cut(r, []byte(text), r.IntN(cuts+1), 0) {
			piece.Wait = i == 0 && r.IntN(100) < wait
			out = append(out, piece)
		}
	}
	return out
}

// Anything is a client that sends lines, with octets that servers disagree on in
// them and at their ends. He knows the password of one account at most.
func Anything(r *rand.Rand, line func(r *rand.Rand, password string) string, octets ...string) []Segment {
	dirt := []int{0, 0, 0, 2, 10, 40}[r.IntN(6)]
	wait := []int{0, 30, 70, 95, 100}[r.IntN(5)]
	knows := r.IntN(8) == 0
	var out []Segment
	var b strings.Builder
	for range 2 + r.IntN(10) {
		password := "wrong"
		if knows && r.IntN(3) == 0 {
			password = "secret"
		}
		b.WriteString(dirty(r, line(r, password), dirt, octets))
		b.WriteString(lineEnd(r, dirt))
		if r.IntN(100) < max(wait, 30) {
			pieces := cut(r, []byte(b.String()), r.IntN(3)/2, wait/4)
			pieces[0].Wait = r.IntN(100) < wait
			out = append(out, pieces...)
			b.Reset()
		}
	}
	return append(out, cut(r, []byte(b.String()), 1, wait)...)
}

// dirty puts an octet that servers disagree on, or another, into a line.
func dirty(r *rand.Rand, s string, percent int, others []string) string {
	if r.IntN(100) >= percent {
		return s
	}
	at := r.IntN(len(s) + 1)
	all := append([]string{"\x00", "\r", "\t", "\x85", "\x1b", "\xff", "\n", "\r\r", "\xc3\xa4", " "}, others...)
	return s[:at] + Pick(r, all...) + s[at:]
}

func lineEnd(r *rand.Rand, dirt int) string {
	if r.IntN(100) >= dirt+2 {
		return "\r\n"
	}
	return Pick(r, "\n", "\n", "\r", "\r\r\n", "\x00\r\n", "\n\n")
}
