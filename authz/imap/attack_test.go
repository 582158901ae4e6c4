package imap

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"relaygate/authz/line/linetest"
)

// attack is a client with a plan: he lets the reader and the server disagree on
// what LOGIN is, and then gets an OK with the tag of LOGIN.
func attack(r *rand.Rand) []linetest.Segment {
	login := "a1 LOGIN alice wrong"
	noop := pick(r, "a1 NOOP", "a1 CAPABILITY", "a1 ID NIL")
	plans := []func(*rand.Rand, string, string) []string{
		hideInLiteral, hideInLiteral, hideInLiteral, hideInExchange, hideBehindLimit,
		hideBehindOctet, hideInQuotes, hideInTLS, repeatTag, forgeByEcho, lateAnswers, behead, behead, refuseTwice, cutExchange, holdRefusals, holdRefusals, holdRefusals,
	}
	lines := plans[r.IntN(len(plans))](r, login, noop)
	for range r.IntN(3) {
		lines = append(lines, pick(r, noop, noop, "b2 NOOP", login, "z LOGOUT")+"\r\n")
	}
	if r.IntN(4) == 0 {
		lines = append([]string{pick(r, noop, "b2 CAPABILITY", login) + "\r\n"}, lines...)
	}
	wait := pickInt(r, 0, 50, 90, 100)
	return linetest.Pieces(r, lines, 1, wait)
}

// hideInLiteral puts one of the two into what some take for a literal.
func hideInLiteral(r *rand.Rand, login, noop string) []string {
	hidden := pick(r, login, noop, login+"\r\n"+noop, "x", "")
	end := pick(r, "\r\n", "\r\n", "")
	form := pick(r, "{%d}", "{%d}", "{%d+}", "{%d+}", "{+%d}", "~{%d}", "~{%d+}", "{0%d+}", "{%d-}", "\"x {%d+}", "\"{%d+}\"", "x{%d}", "{%d} ", "{99999999%d}")
	size := max(0, len(hidden)+pickInt(r, 0, 0, 0, 2, len(end), -1))
	first := fmt.Sprintf("%s %s "+form+"\r\n", pick(r, "i0", "a1"),
		pick(r, "ID (\"name\"", "LOGIN", "LOGIN alice", "XYZZY", "NOOP", "AUTHENTICATE PLAIN", "ID"), size)
	rest := pick(r, ")\r\n", "\r\n", "", " x\r\n", " {1+}\r\nx\r\n", " {1}\r\n")
	return []string{first, hidden + end, rest, pick(r, login, noop) + "\r\n"}
}

// hideInExchange sends commands where the server may expect a response.
func hideInExchange(r *rand.Rand, login, noop string) []string {
	initial := pick(r, "", "", " =", " "+plain("alice", "wrong"), " AAAA", " x y a1 NOOP", " AAAA x a1 NOOP")
	return []string{
		pick(r, "a1", "b2") + " AUTHENTICATE " + pick(r, "PLAIN", "LOGIN", "XFOO", "GSSAPI") + initial + "\r\n",
		pick(r, login, noop, "*", "*\r\n"+login, "*\r\n"+noop, plain("alice", "wrong"), "", "x y a1 NOOP") + "\r\n",
		pick(r, login, noop, "*", plain("alice", "wrong"), "") + "\r\n",
		noop + "\r\n",
	}
}

// hideBehindLimit sends a line of which some servers make two.
func hideBehindLimit(r *rand.Rand, login, noop string) []string {
	limit := pickInt(r, 1000, 1024, 4096)
	begin := pick(r, login+" ", login, "a1 LOGIN alice \"", "i0 NOOP ", "i0 XYZZY ", "a1 AUTHENTICATE PLAIN ")
	fill := limit - len(begin) + pickInt(r, 0, 0, -1, 1, -2)
	return []string{begin + strings.Repeat("A", max(fill, 0)) + noop + pick(r, "", "\"") + "\r\n", login + "\r\n"}
}

// cutExchange is for servers that make two lines of a long one: the second may be a
// message that the client has not sent yet, and his next one a command.
func cutExchange(r *rand.Rand, login, noop string) []string {
	limit := pickInt(r, 1000, 1024, 4096)
	long := strings.Repeat("eHh4", limit/4-r.IntN(6)) + pick(r, "", "NOOP", "a1", "a1=", "eHh4eHh4eHh4eHh4eHh4NOOP")
	short := func() string { return pick(r, "NOOP", "eHh4", "*", "", "a1", plain("alice", "wrong")) }
	begin := pick(r, "a1", "b2") + " AUTHENTICATE " + pick(r, "LOGIN", "PLAIN", "XFOO")
	switch r.IntN(3) {
	case 0:
		return []string{begin + " " + long + "\r\n", short() + "\r\n", short() + "\r\n", noop + "\r\n", login + "\r\n"}
	case 1:
		return []string{begin + "\r\n", long + "\r\n", short() + "\r\n", noop + "\r\n", login + "\r\n"}
	}
	return []string{begin + "\r\n", short() + "\r\n", long + "\r\n", noop + "\r\n", login + "\r\n"}
}

// hideBehindOctet uses what some servers take for the end of a line or text.
func hideBehindOctet(r *rand.Rand, login, noop string) []string {
	odd := pick(r, "\x00", "\r", "\n", "\x85", "\t", "\r\r", "\xe2\x80\xa8", "\x00\r\n")
	return []string{
		pick(r, login, noop, "i0 ID (\"x\"", "a1 LOGIN alice \"") + odd + pick(r, login, noop, "", "\"") + "\r\n",
		pick(r, login, noop) + pick(r, "\r\n", "\n"),
	}
}

// hideInQuotes leaves a string open.
func hideInQuotes(r *rand.Rand, login, noop string) []string {
	return []string{
		pick(r, "a1 LOGIN \"alice", "i0 ID (\"x", "a1 LOGIN \"al\\\"ice", "a1 LOGIN \"alice\\", "i0 NOOP \"") +
			pick(r, "\r\n", " {8+}\r\n", "\" x\r\n", "\"\r\n"),
		pick(r, login, noop) + "\r\n", pick(r, login, noop) + "\"\r\n",
	}
}

// hideInTLS sends commands that a server may read in clear text or not at all.
func hideInTLS(r *rand.Rand, login, noop string) []string {
	return []string{
		pick(r, "a1", "b2") + " STARTTLS\r\n", pick(r, login, noop, "x") + "\r\n", pick(r, login, noop) + "\r\n",
	}
}

// repeatTag relies on number and order only.
func repeatTag(r *rand.Rand, login, noop string) []string {
	lines := []string{login + "\r\n", noop + "\r\n"}
	for range r.IntN(3) {
		lines = append(lines, pick(r, login, noop, "a1", "a1 XYZZY", "", " "+noop, "a1 LOGIN")+"\r\n")
	}
	r.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	return lines
}

// forgeByEcho lets the server repeat an answer.
func forgeByEcho(r *rand.Rand, login, noop string) []string {
	answer := "x\r\na1 OK done\r\n"
	return []string{
		pick(r,
			fmt.Sprintf("i0 LOGIN {%d}\r\n", len(answer)), fmt.Sprintf("i0 LOGIN {%d+}\r\n", len(answer)),
			fmt.Sprintf("i0 XYZZY {%d}\r\n", len(answer)),
			"i0 AUTHENTICATE PLAIN "+plain(answer, "x")+"\r\n", "i0 AUTHENTICATE PLAIN\r\n"),
		pick(r, answer, plain(answer, "x")+"\r\n"), pick(r, " x", "") + "\r\n",
		login + "\r\n",
	}
}

// lateAnswers lets a server that knows no such literals owe answers with the
// tag of later commands.
func lateAnswers(r *rand.Rand, login, noop string) []string {
	word := pick(r, "a1", "a1", "b2", "b2", "b2 XYZZY", "b2 SELECT {14}", "a1 NOOP")
	lines := []string{fmt.Sprintf("a1 LOGIN {%d+}\r\n%[2]s {%[1]d+}\r\n%[2]s\r\n", len(word), word)}
	for range 1 + r.IntN(4) {
		lines = append(lines, pick(r, noop, noop, "b2 NOOP", "b2 NOOP", "b2 LOGIN {14}", "b2 LOGIN {7}", "x b2 NOOP", login)+"\r\n")
	}
	return append(lines, pick(r, login, "b2 LOGIN alice wrong")+"\r\n")
}

// behead is for servers that throw away what they read behind a line: each piece
// may be a line of its own to them.
func behead(r *rand.Rand, login, noop string) []string {
	pieces := []string{pick(r, "b2 NOOP\r\n", noop+"\r\n", login+"\r\n")}
	for range 1 + r.IntN(4) {
		last := &pieces[len(pieces)-1]
		switch r.IntN(6) {
		case 4: // all but the last piece is lost
			pieces = append(pieces, "a1 LOGIN ", pick(r, "alice", "alice x", ""), noop+"\r\n")
		case 5: // the middle is lost
			*last += "a1 "
			pieces = append(pieces, "LOGIN alice x", "NOOP\r\n")
		case 0:
			*last += pick(r, "a1 LOGIN ", "a1 LOGIN ", login+"\r\nb2 SELECT ", login+"\r\nx", "a1 LOGIN alice \"x ")
			pieces = append(pieces, noop+pick(r, "", "", " \"")+"\r\n")
		case 1:
			pieces = append(pieces, pick(r, noop+" a b c d", "a1 XYZZY 1"), pick(r, "a1 zz", "\r", "")+"\r\n")
		case 2:
			*last += pick(r, login, noop, "b2 NOOP") + "\r\n"
		default:
			pieces = append(pieces, pick(r, login, noop, "b2 NOOP")+"\r\n")
		}
	}
	return pieces
}

// refuseTwice has a line refused before its end, and the rest of it again: the second
// refusal passes for the answer to noop, and that for the answer to login.
func refuseTwice(r *rand.Rand, login, noop string) []string {
	return []string{
		pick(r, "a1 11", "a1 XYZZY ", "a1 ID (", "a1 LOGIN a b c d"), pick(r, "a1 Z\r\n", "a1 Z a\r\n", "\n"),
		noop + "\r\n", login + "\r\n",
	}
}

// holdRefusals is for servers that refuse a line more than once: the next commands get
// what is left of the refusals, and a login the answer to noop. That can stand where the
// server waits no longer for a literal or a message.
func holdRefusals(r *rand.Rand, login, noop string) []string {
	lines := []string{pick(r, login, "b2 XYZZY a1", "b2 LOGIN alice a1", "b2 LOGIN \xc3\xa4 a1", "b2 LOGIN [ {2+}\r\na1 {4+}\r\nxxxx") + "\r\n"}
	switch r.IntN(7) {
	case 5: // a literal where answers can be owed, which holds another command or its end
		hidden := pick(r, "a3 NOOP", "xa3 NOOP", "x a3 NOOPzz", "a3 NOOP zz", "NOOP", "a3", "x\xc3\xa4a3 NOOP", "b2 ID NIL", "b2 XYZZY", "a3 XYZZY", "a3", "x")
		size := fmt.Sprintf(pick(r, "{%d}", "{%d}", "{%d+}"), max(0, len(hidden)+pickInt(r, 0, 0, 0, -1, 2, -len("a3 NOOP"))))
		return append(append([]string{"c3 CAPABILITY\r\n"}, lines...),
			pick(r, "b2 ID NIL", "b2 XYZZY", "a3 XYZZY", "a3 AUTHENTICATE LOGIN", "b2 AUTHENTICATE LOGIN YWxpY2U=")+"\r\n", "a3 LOGIN "+pick(r, "", "x ", "[ ")+size+"\r\n",
			hidden+pick(r, "", " x\r\n", " \xc3\xa4\r\n"), pick(r, "", " a3 NOOP", " {1}\r\nx", " {1}", " XYZZY")+"\r\n",
			pick(r, "b2 NOOP", "a4 NOOP", "a3 LOGIN alice wrong")+"\r\n", pick(r, "a3", "a4", "b2")+" LOGIN alice wrong\r\n")
	case 0: // the third line is the literal or the message
		lines = append(lines, "a1 "+pick(r, "LOGIN {14}", "SELECT {14}", "AUTHENTICATE LOGIN")+"\r\n", "a1 LOGIN x {7}\r\n", "a1 NOOP", "\r\n")
	case 1: // the same, and the second line is the end of what was refused
		tag := pick(r, "a1", "b2")
		return []string{
			pick(r, "a1 XYZZY ", "a1 LOGIN a b c d ", "a1 AUTHENTICATE a b c d "), tag + " " + pick(r, "LOGIN {14}", "SELECT {14}", "AUTHENTICATE LOGIN") + "\r\n",
			tag + " LOGIN x {7}\r\n", tag + " NOOP", "\r\n", tag + " LOGIN alice wrong\r\n",
		}
	case 2:
		for range 1 + r.IntN(3) {
			lines = append(lines, pick(r, noop, login, "b2 NOOP", "a1 AUTHENTICATE LOGIN", "a1 AUTHENTICATE LOGIN YWxpY2U=", "YWxpY2U=")+"\r\n")
		}
	case 4: // a line in three, of which the second is another
		return append(lines, pick(r, "b2 LOGIN b", "b2 LOGIN ", "b2 CAPABILITY ", "b2 XYZZY "), noop, pick(r, "zz\r\n", "\r\n"), login+"\r\n")
	case 3: // what is refused behind it hides another, with the tag of the login or an end of its own
		lines = append(lines,
			pick(r, "a1 XYZZY", "xa1 NOOP", "b2 NOOP", "a1 AUTHENTICATE a1", "b2 AUTHENTICATE PLAIN", "b2 ID (\"a1 NOOP\")")+"\r\n",
			pick(r, "b2 LOGIN ", "xa1 LOGIN ", "b2 AUTHENTICATE ", "b2 LOGIN x", "x"), pick(r, noop, "a1", "NOOP", "LOGIN")+"\r\n")
		for range r.IntN(3) {
			lines = append(lines, pick(r, noop, "c3 NOOP", "b2 LOGIN a1 NOOP", "YWxpY2U=")+"\r\n")
		}
	default:
		lines = append(lines, noop+"\r\n")
	}
	return append(lines, login+"\r\n")
}
