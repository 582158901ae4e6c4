package pop3

import (
	"math/rand/v2"
	"strings"

	"relaygate/authz/line/linetest"
)

// attack is a client with a plan: he makes reader and server disagree on the
// number of commands, and then lets the server say +OK to USER and the like,
// until one of them falls to PASS.
func attack(r *rand.Rand) []linetest.Segment {
	var lines []string
	for range 1 + r.IntN(6) {
		lines = append(lines, pick(r, "USER alice", "USER alice", "USER bob", "PASS wrong", "PASS wrong", "NOOP", "CAPA", "QUIT")+"\r\n")
	}
	at := r.IntN(len(lines) + 1)
	lines = append(lines[:at:at], append(twist(r), lines[at:]...)...)
	switch r.IntN(7) {
	case 0:
		lines = behead(r)
	case 1:
		lines = refusedTwice(r)
	case 2:
		lines = cutExchange(r)
	}
	wait := []int{0, 50, 90, 100}[r.IntN(4)]
	return linetest.Pieces(r, lines, 1, wait)
}

// twist is what servers count differently.
func twist(r *rand.Rand) []string {
	good := pick(r, "USER alice", "NOOP", "QUIT", "CAPA")
	any := pick(r, "USER alice", "PASS wrong", "NOOP", "XYZZY", "")
	switch r.IntN(14) {
	case 10: // a piece that is a command
		return []string{pick(r, "USER a", "PASS w", "X"), pick(r, "NOOP", "CAPA", "QUIT", "AUTH"), pick(r, "", "x") + "\r\n"}
	case 11, 12: // several, of which some have an argument
		lines := []string{pick(r, "USER a", "USER ", "PASS x", "X", " ", "AUTH PLAIN eHh4", "NOOP")}
		for range 1 + r.IntN(3) {
			lines = append(lines, pick(r, "USER=a", "user12", "NOOP", "QUIT", "CAPA", "RSET"))
		}
		return append(lines, pick(r, "\r\n", "z\r\n"))
	case 9: // another login where PASS is due
		return []string{"USER alice\r\n", pick(r, "AUTH PLAIN "+plain("alice", "wrong"), "APOP alice "+strings.Repeat("0", 32)) + "\r\n"}
	case 0: // an octet that ends a line or a text for some
		return []string{any + pick(r, "\x00", "\r", "\n", "\x85", "\xe2\x80\xa8", "\t", "\r\r") + pick(r, "", good) + "\r\n"}
	case 1: // a line of which some make two
		begin := pick(r, "USER ", "PASS ", "NOOP ", "XYZZY ", "AUTH PLAIN ")
		limit := []int{255, 512, 1024, 4096}[r.IntN(4)] + r.IntN(3) - 1
		return []string{begin + strings.Repeat("A", limit-len(begin)) + good + "\r\n"}
	case 2: // commands where the server may expect a response
		return []string{
			pick(r, "AUTH PLAIN", "AUTH LOGIN", "AUTH XFOO", "AUTH PLAIN =", "AUTH PLAIN "+plain("alice", "wrong")) + "\r\n",
			pick(r, good, "*", plain("alice", "wrong"), "", "PASS wrong") + "\r\n",
		}
	case 3: // one line, or a list
		return []string{pick(r, "AUTH", "AUTH ", "LIST", "LANG", "CAPA x", "UIDL", "AUTH  PLAIN") + "\r\n"}
	case 4:
		return []string{"STLS\r\n", good + "\r\n"}
	case 5:
		return []string{pick(r, "", " ", "  ", " "+good) + "\r\n"}
	case 6:
		return []string{any + "\n", good + "\r\n"}
	case 8: // a line in pieces, of which some may be lost
		return []string{good + "\r\nAUTH", " PLAIN " + plain("alice", "wrong"), "\r\n"}
	case 7: // an answer repeated by the server
		return []string{"AUTH PLAIN " + plain(pick(r, "x\r\n+OK", "x\n+OK\n+OK"), "wrong") + "\r\n"}
	}
	return []string{any + "\r\n"}
}

// refusedTwice is for servers that refuse a line twice: what the next commands are
// answered then comes late.
func refusedTwice(r *rand.Rand) []string {
	lines := []string{"USER alice\r\n", pick(r, "XYZZY", "PASS wrong", "PASS wr\xc3\xb6ng", "AUTH PLAIN "+plain("alice", "wrong")) + "\r\n"}
	switch r.IntN(8) {
	case 0, 1: // the server waits for a message, which the second line is
		lines = append(lines, pick(r, "AUTH LOGIN", "AUTH LOGIN YWxpY2U=", "AUTH PLAIN")+"\r\n", pick(r, "AUTH LOGIN", "AUTH PLAIN", "CAPA")+"\r\n", pick(r, "NOOP", "CAPA")+"\r\n")
		return append(lines, pick(r, "USER alice", "PASS wrong", "NOOP")+"\r\n", "PASS wrong\r\n")
	case 2, 3: // one mechanism after the other
		for range 1 + r.IntN(5) {
			lines = append(lines, pick(r, "AUTH LOGIN", "AUTH PLAIN", "AUTH NTLM", "AUTH ANONYMOUS eA==", "CAPA", "NOOP", "LIST", "STAT", "USER alice")+"\r\n")
		}
		return append(lines, "USER alice\r\n", "PASS wrong\r\n")
	}
	for range 1 + r.IntN(4) {
		lines = append(lines, pick(r, "NOOP", "NOOP", "CAPA", "AUTH", "USER alice", "USER alice", "LIST", "", "PASS wrong", "QUIT")+"\r\n")
	}
	return append(lines, pick(r, "PASS wrong", "PASS wrong", "AUTH PLAIN "+plain("alice", "wrong"))+"\r\n")
}

// cutExchange is for servers that make two lines of a long one in a SASL exchange: the
// second can be a command, or a message in the place of that which the client sends next.
func cutExchange(r *rand.Rand) []string {
	good := pick(r, "NOOP", "NOOP", "CAPA", "eHh4")
	limit := []int{255, 512, 1024}[r.IntN(3)]
	lines := []string{"AUTH LOGIN\r\n", "eHh4\r\n", strings.Repeat("eHh4", limit/4) + good + "\r\n"}
	if r.IntN(2) == 0 {
		lines = []string{"AUTH LOGIN " + strings.Repeat("eHh4", (255-len("AUTH LOGIN "))/4) + "eHh4\r\n", good + "\r\n"}
	}
	for range r.IntN(3) {
		lines = append(lines, pick(r, "NOOP", "USER alice", "PASS wrong", "AUTH LOGIN", "CAPA")+"\r\n")
	}
	return append(lines, "USER alice\r\n", "PASS wrong\r\n")
}

// behead is for servers that throw away what they read behind a line: each piece
// may be a line of its own to them, and what follows 128 octets.
func behead(r *rand.Rand) (pieces []string) {
	pieces = append(pieces, "USER alice\r\n")
	long := func(begin string, n int) string {
		return begin + " " + strings.Repeat("x", n-len(begin)-len(" \r\n")) + "\r\n"
	}
	switch r.IntN(8) {
	case 0: // two lines that are read in three parts
		line := long(pick(r, "RSET", "XYZZY1", "APOP a b c", "AUTH a b c", "PASS"), 192)
		return append(pieces, line, line, "NOOP\r\n", "PASS wrong\r\n")
	case 1: // three lines of a pipeline that are read in five
		word := pick(r, "USER", "USER", "PASS", "RSET")
		pieces[0] = long("NOOP", 127) + long(word, 255) + long(word, 255) + long(word, 131) + long("USER", 128) + long("NOOP", 128)
		return append(pieces, "N", "O", "O", "P", "\r", "\n", "USER alice\r\n", "PASS wrong\r\n")
	case 3: // a login of which the end is another command, and what would prove it
		line := pick(r, "PASS ", "APOP ", "AUTH PLAIN ") + pick(r, "wrong", "a b ")
		pieces = append(pieces, line, pick(r, "NOOP", "USER bob", "QUIT", "CAPA", "AUTH", "RSET", "APOP a b")+"\r\n")
		for range 1 + r.IntN(3) {
			pieces = append(pieces, pick(r, "STAT", "DELE 1", "LIST 1", "NOOP", "USER bob", "PASS wrong", "PASS secret", "QUIT")+"\r\n")
		}
		return pieces
	case 2: // a line that is refused twice, where the second refusal is taken for the answer to NOOP
		return append(pieces, pick(r, "1", "UTF8", "STAT ", "\r", "XY\r"), pick(r, "Z\r\n", "\n"), "NOOP\r\n", "PASS wrong\r\n")
	}
	for range 1 + r.IntN(6) {
		line := pick(r, "PASS wrong", "PASS wrong", "NOOP", "NOOP", "CAPA", "RSET", "DELE 1", "STAT", "NOOP a b c d", "APOP a b c d", "XYZZY 1", "USER bob", "QUIT", "")
		last := &pieces[len(pieces)-1]
		switch r.IntN(5) {
		case 0:
			pieces = append(pieces, line, pick(r, "NOOP", "zz", "QUIT", "USER a", "", " zz")+"\r\n")
		case 1:
			pieces = append(pieces, line+"\r", "\n")
		case 2:
			*last += line + "\r\n"
		case 3:
			fill := 128 - (len(*last)+len(line)+len(" \r\n"))%128
			*last += line + " " + strings.Repeat("x", fill) + pick(r, "\r\n", "") + pick(r, "NOOP\r\n", "QUIT\r\n")
		default:
			pieces = append(pieces, line+"\r\n")
		}
	}
	return pieces
}
