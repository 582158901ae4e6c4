package imap

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"relaygate/authz/line/linetest"
)

// TestHostileDialogues plays random clients against models of real servers and
// against mixtures of their habits.
func TestHostileDialogues(t *testing.T) {
	linetest.Hostile(t, func(r *rand.Rand) linetest.Server {
		m := models[r.IntN(len(models))]
		if r.IntN(2) == 0 {
			m = randomModel(r)
		}
		return &m
	}, hostileClient, attack, New)
}

func TestHonestDialogues(t *testing.T) {
	linetest.Honest(t, func(r *rand.Rand) (linetest.Server, []linetest.Segment) {
		m := models[r.IntN(len(models))]
		return &m, honestClient(r, &m)
	}, New)
}

var pick, plain = linetest.Pick, linetest.Plain

// honestClient logs in as alice, after up to two failures, in step or, where the
// server bears it, in one segment with other commands.
func honestClient(r *rand.Rand, m *model) []linetest.Segment {
	var b []string
	if r.IntN(8) == 0 {
		b = append(b, "m1 AUTHENTICATE CRAM-MD5\r\n", "m2 AUTHENTICATE XOAUTH2\r\n")
	}
	if r.IntN(2) == 0 {
		b = append(b, "c CAPABILITY\r\n")
	}
	if r.IntN(3) == 0 {
		b = append(b, "i ID (\"name\" \"x{5}\")\r\n")
	}
	failures := r.IntN(3)
	if m.thrice { // and what follows a failure is doubtful
		failures = 0
	}
	for i := range failures + 1 {
		password := "secret"
		if i < failures {
			password = "wrong"
		}
		tag := fmt.Sprintf("a%d", i)
		kind := r.IntN(7)
		for m.reads > 0 && 1 <= kind && kind <= 3 {
			kind = r.IntN(7)
		}
		switch kind {
		case 0:
			b = append(b, fmt.Sprintf("%s LOGIN {5}\r\n", tag), fmt.Sprintf("alice {%d}\r\n", len(password)), password+"\r\n")
		case 1:
			if m.plus && i == failures {
				b = append(b, fmt.Sprintf("%s LOGIN {5+}\r\nalice {%d+}\r\n%s\r\n", tag, len(password), password))
				break
			}
			fallthrough
		case 2:
			b = append(b, fmt.Sprintf("%s NOOP\r\n%[1]s LOGIN alice %s\r\n", tag, password))
		case 3:
			b = append(b, fmt.Sprintf("n%s NOOP\r\n%[1]s LOGIN \"alice\" \"%s\"\r\n", tag, password))
			if i == failures {
				b[len(b)-1] += "s SELECT INBOX\r\n"
			}
		case 4:
			if m.ir {
				b = append(b, fmt.Sprintf("%s AUTHENTICATE PLAIN %s\r\n", tag, plain("alice", password)))
				break
			}
			fallthrough
		case 5:
			b = append(b, tag+" AUTHENTICATE PLAIN\r\n", plain("alice", password)+"\r\n")
		default:
			b = append(b, fmt.Sprintf("%s LOGIN alice %s\r\n", tag, password))
		}
	}
	b = append(b, "z LOGOUT\r\n")
	var out []linetest.Segment
	for _, s := range b {
		cuts := 2
		if strings.Contains(s, " ID ") || strings.Contains(s, " SELECT ") {
			cuts = 0 // a server that refuses it may refuse each piece
		}
		out = append(out, linetest.Pieces(r, []string{s}, cuts, 100)...)
	}
	return out
}

func hostileClient(r *rand.Rand) []linetest.Segment {
	line := hostileLine
	if r.IntN(3) == 0 {
		line = pipelineLine
	}
	return linetest.Anything(r, line, "\"", "\\", "{", "}")
}

func randomTag(r *rand.Rand) string {
	if r.IntN(40) == 0 {
		return pick(r, "*", "+", "(a1)", "\"a1", "a\\1", "a]1", "OK", "", "{5+}", "a1 OK")
	}
	return pick(r, "a1", "a1", "a1", "b2", "c3")
}

// pipelineLine is a line that may stand in a pipeline.
func pipelineLine(r *rand.Rand, password string) string {
	return pick(r, "a1", "a1", "b2", "c3", "d4") + " " + pick(r,
		"NOOP", "NOOP", "CAPABILITY", "ID NIL", "ID (\"a\" \"b\")", "ID (\"x-originating-ip\" \"192.0.2.1\")", "LOGOUT", "SELECT INBOX", "ENABLE X",
		"LOGIN alice "+password, "LOGIN alice "+password, "LOGIN \"alice\" \""+password+"\"",
		"AUTHENTICATE PLAIN "+plain("alice", password))
}

func hostileLine(r *rand.Rand, password string) string {
	tag := randomTag(r)
	switch r.IntN(16) {
	case 0, 1, 2:
		return tag + " LOGIN alice " + password
	case 3:
		return fmt.Sprintf("%s %s %s", tag, pick(r, "LOGIN", "LOGIN", "ID", "NOOP", "XYZZY", "AUTHENTICATE"), hostileLiteral(r))
	case 4:
		return fmt.Sprintf("%s %s x %s", tag, pick(r, "LOGIN", "ID (\"a\"", "LOGIN \"a"), hostileLiteral(r))
	case 5:
		return tag + " AUTHENTICATE " + pick(r, "PLAIN", "LOGIN", "XFOO", "", "PLAIN =")
	case 6:
		return plain(pick(r, "alice", "alice", "x\r\na1 OK\r\n", "x\na1 OK done"), password)
	case 7:
		return pick(r, "*", "", " ", "AAAA", "alice", "alice {5+}", "alice "+hostileLiteral(r), password, "a1 NOOP", "a1 NOOP x")
	case 8:
		return tag + " " + pick(r, "STARTTLS", "XYZZY", "IDLE", "LOGIN", "LOGIN a", "LOGIN a b c", "", "UNAUTHENTICATE")
	case 9:
		return fmt.Sprintf("%s %s %s%s", tag, pick(r, "LOGIN alice", "NOOP", "XYZZY", "AUTHENTICATE PLAIN"),
			strings.Repeat("A", pickInt(r, 980, 985, 990, 1010, 4080)), pick(r, "a1 NOOP", " a1 NOOP", "\"a1 NOOP"))
	}
	return pipelineLine(r, password)
}

func pickInt(r *rand.Rand, n ...int) int { return n[r.IntN(len(n))] }

func hostileLiteral(r *rand.Rand) string {
	n := pickInt(r, 0, 1, 5, 7, 9, 23, 30, 5000)
	return fmt.Sprintf(pick(r, "{%d}", "{%d}", "{%d+}", "{%d+}", "{+%d}", "~{%d}", "{0%d}", "{%d-}", "\"{%d}", "\"{%d}\""), n)
}
