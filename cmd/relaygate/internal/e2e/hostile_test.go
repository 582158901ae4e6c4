//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// TestHostileClients: whatever a client sends, relaygate never says that
// somebody logged in whom Dovecot did not let in.
func TestHostileClients(t *testing.T) {
	w := newWorld(t)
	var all []dialogue
	for _, s := range slices.Concat(imapScripts, pop3Scripts) {
		all = append(all, s.dialogues()...)
	}
	w.judge(t, w.playAll(all))
}

// script is what a hostile client sends. In it, %W is a wrong password, and %R
// the right one of a login that hides, or is hidden.
type script struct {
	name  string
	port  uint16
	parts []string
}

func hostileIMAP(name string, parts ...string) script {
	return script{"IMAP " + name, lab.IMAPPort, parts}
}

func hostilePOP3(name string, parts ...string) script {
	return script{"POP3 " + name, lab.POP3Port, parts}
}

// silence is how long the server must say nothing to have said all.
const silence = 40 * time.Millisecond

// paces are the ways to send the parts of a script.
var paces = []struct {
	name string
	pace func(parts []string) []step
}{
	{"in one segment", func(parts []string) []step {
		return []step{quiet(silence), send(strings.Join(parts, ""))}
	}},
	{"a segment per part", func(parts []string) []step {
		steps := []step{quiet(silence)}
		for _, p := range parts {
			steps = append(steps, send(p))
		}
		return steps
	}},
	{"waiting for answers", func(parts []string) []step {
		steps := []step{quiet(silence)}
		for _, p := range parts {
			steps = append(steps, send(p), quiet(silence))
		}
		return steps
	}},
	{"before the greeting", func(parts []string) []step { return []step{send(strings.Join(parts, ""))} }},
	{"the last part late", func(parts []string) []step {
		last := len(parts) - 1
		return []step{quiet(silence), send(strings.Join(parts[:last], "")), quiet(silence), send(parts[last])}
	}},
	{"all but the first part late", func(parts []string) []step {
		return []step{quiet(silence), send(parts[0]), quiet(silence), send(strings.Join(parts[1:], ""))}
	}},
}

// dialogues are the script at every pace, once with a wrong password in the
// place of the right one.
func (s script) dialogues() []dialogue {
	var out []dialogue
	for _, p := range paces {
		for _, right := range []string{"wrong3", alicePassword} {
			parts := make([]string, len(s.parts))
			for i, part := range s.parts {
				parts[i] = strings.NewReplacer("%W", "wrong1", "%R", right).Replace(part)
			}
			out = append(out, dialogue{
				name: fmt.Sprintf("%s, %s, %s", s.name, p.name, right), port: s.port,
				steps: append(p.pace(parts), quiet(silence), halfClose, drainAll),
			})
			if !strings.Contains(strings.Join(s.parts, ""), "%R") {
				break
			}
		}
	}
	return out
}

// drainAll reads what is left; a server that resets is one that closed.
func drainAll(c *conn) error {
	b, _ := io.ReadAll(c.r)
	fmt.Fprintf(&c.seen, "S: %q\n", b)
	return nil
}

// hide puts octets into a literal of just their length; form is {%d}, {%d+} or
// something like it.
func hide(form, octets string) string { return fmt.Sprintf(form, len(octets)) + "\r\n" + octets }

// inside is a line that is a LOGIN to a reader who overlooks the literal.
const inside = "a1 LOGIN alice wrong1\r\n"

// clientHello is how TLS begins.
const clientHello = "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"

var imapScripts = []script{
	hostileIMAP("LOGIN in a literal of ID", `i0 ID ("name" `+hide("{%d+}", inside)+")\r\n", "a1 NOOP\r\n"),
	hostileIMAP("LOGIN in a literal of NOOP", "i0 NOOP "+hide("{%d+}", inside)+"\r\n", "a1 NOOP\r\n"),
	hostileIMAP("LOGIN in a literal of XYZZY", "i0 XYZZY "+hide("{%d+}", inside)+"\r\n", "a1 CAPABILITY\r\n"),
	hostileIMAP("LOGIN in a synchronising literal", "i0 ID (\"name\" {23}\r\n", inside, ")\r\n", "a1 NOOP\r\n"),
	hostileIMAP("LOGIN in a synchronising literal of XYZZY", "i0 XYZZY {23}\r\n", inside, "\r\n", "a1 NOOP\r\n"),
	hostileIMAP("LOGIN in a literal of LOGIN", "a1 LOGIN "+hide("{%d+}", inside)+" x\r\n", "a1 NOOP\r\n"),
	hostileIMAP("right LOGIN in a literal", `i0 ID ("name" `+hide("{%d+}", "a1 LOGIN alice %R\r\n")+")\r\n", "a1 NOOP\r\n"),
	hostileIMAP("right LOGIN behind what is no literal", "i0 NOOP {+32}\r\n", "a1 LOGIN alice %R\r\n", "a2 NOOP\r\n"),
	hostileIMAP("no literal: plus in front", "i0 NOOP {+23}\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("no literal: tilde", "i0 NOOP ~{23+}\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("no literal: open quote", "i0 NOOP \"x {23+}\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("no literal: minus", "i0 NOOP {23-}\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("literal with a leading zero", "i0 ID (\"name\" {023+}\r\n", inside, ")\r\n", "a1 NOOP\r\n"),
	hostileIMAP("huge literal", "i0 LOGIN {99999999}\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("huge non-synchronising literal", "i0 LOGIN {4294967319+}\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("empty literal", "a1 LOGIN {0+}\r\n", " {0+}\r\n", "\r\n", "a1 NOOP\r\n"),
	hostileIMAP("literal that is too short", "a1 LOGIN {3+}\r\nalice {5+}\r\n", "%R\r\n", "a1 NOOP\r\n"),
	hostileIMAP("literal with NUL", "a1 LOGIN {6+}\r\nal\x00ice {6+}\r\n%W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("literal with an answer in it", "a1 LOGIN {20+}\r\nalice\r\na1 OK logged\r\n x\r\n", "a1 NOOP\r\n"),
	hostileIMAP("the same tag", inside, "a1 NOOP\r\n"),
	hostileIMAP("the same tag in front", "a1 NOOP\r\n", inside),
	hostileIMAP("the same tag thrice", "a1 NOOP\r\n", inside, "a1 CAPABILITY\r\n"),
	hostileIMAP("tags that differ in case", inside, "A1 NOOP\r\n"),
	hostileIMAP("two logins with one tag", inside, "a1 LOGIN alice %R\r\n"),
	hostileIMAP("two logins with one tag, the right one first", "a1 LOGIN alice %R\r\n", "a1 LOGIN bob wrong1\r\n"),
	hostileIMAP("logins of two users", "a1 LOGIN bob wrong1\r\n", "a2 LOGIN alice %R\r\n"),
	hostileIMAP("tag *", "* LOGIN alice %W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("tag +", "+ LOGIN alice %W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("tag OK", "OK LOGIN alice %W\r\n", "OK NOOP\r\n"),
	hostileIMAP("tag with a bracket", "a]1 LOGIN alice %W\r\n", "a]1 NOOP\r\n"),
	hostileIMAP("right LOGIN with a strange tag", "a]1 LOGIN alice %R\r\n", "a]1 NOOP\r\n"),
	hostileIMAP("no tag", " LOGIN alice %W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("blank lines", "\r\n", inside, "\r\n", "a1 NOOP\r\n"),
	hostileIMAP("NUL in a line", "a1 LOGIN alice %W\x00\r\n", "a1 NOOP\r\n"),
	hostileIMAP("NUL in front of a right LOGIN", "\x00a1 LOGIN alice %R\r\n", "a1 NOOP\r\n"),
	hostileIMAP("bare CR", "a1 LOGIN alice %W\ra1 NOOP\r\n", "a1 NOOP\r\n"),
	hostileIMAP("bare CR between commands", "a1 NOOP\ra1 LOGIN alice %W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("bare LF between commands", "a1 NOOP\na1 LOGIN alice %W\n", "a1 NOOP\r\n"),
	hostileIMAP("bare LF, right LOGIN", "a1 NOOP\na2 LOGIN alice %R\n", "a3 NOOP\r\n"),
	hostileIMAP("CR LF inside quotes", "a1 LOGIN \"alice\r\na1 NOOP\r\n\" %W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("TAB", "a1\tLOGIN\talice\t%W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("eight bits", "a1 LOGIN al\xffice %W\r\n", "a1 NOOP\r\n"),
	hostileIMAP("over-long line", "a1 LOGIN alice "+strings.Repeat("x", 9000)+"\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("over-long line with a tail", "a0 NOOP "+strings.Repeat("x", 8184)+inside, "a1 NOOP\r\n"),
	hostileIMAP("echoed user name", "a1 LOGIN \"* OK\" \"a1 OK\"\r\n", "a1 NOOP\r\n"),
	hostileIMAP("echoed SASL user name", "a1 AUTHENTICATE PLAIN "+plain("", "x\r\na1 OK done", "wrong1")+"\r\n", "a1 NOOP\r\n"),
	hostileIMAP("a command as SASL response", "a1 AUTHENTICATE PLAIN\r\n", "a1 NOOP\r\n", "a1 CAPABILITY\r\n"),
	hostileIMAP("right LOGIN as SASL response", "a1 AUTHENTICATE PLAIN\r\n", "a1 LOGIN alice %R\r\n", "a1 NOOP\r\n"),
	hostileIMAP("pipelined SASL response", "a1 AUTHENTICATE PLAIN\r\n", plain("", "alice", "wrong1")+"\r\n", "a1 NOOP\r\n"),
	hostileIMAP("cancelled exchange", "a1 AUTHENTICATE PLAIN\r\n", "*\r\n", "a1 NOOP\r\n"),
	hostileIMAP("cancelled exchange, then right LOGIN", "a1 AUTHENTICATE PLAIN\r\n", "*\r\n", "a1 LOGIN alice %R\r\n"),
	hostileIMAP("unknown mechanism", "a1 AUTHENTICATE XYZZY\r\n", plain("", "alice", "wrong1")+"\r\n", "a1 NOOP\r\n"),
	hostileIMAP("empty SASL responses", "a1 AUTHENTICATE LOGIN\r\n", "\r\n", "\r\n", "a1 NOOP\r\n"),
	hostileIMAP("no base64", "a1 AUTHENTICATE PLAIN\r\n", "!!!!\r\n", "a1 NOOP\r\n"),
	hostileIMAP("initial response =", "a1 AUTHENTICATE PLAIN =\r\n", "a1 NOOP\r\n"),
	hostileIMAP("STARTTLS without TLS", "a0 STARTTLS\r\n", inside, "a1 NOOP\r\n"),
	hostileIMAP("STARTTLS, then TLS", "a0 STARTTLS\r\n", clientHello, "a1 NOOP\r\n"),
	hostileIMAP("TLS from the first octet", clientHello, "a1 LOGIN alice %R\r\n"),
	hostileIMAP("LOGOUT in front", "a0 LOGOUT\r\n", "a1 LOGIN alice %R\r\n", "a1 NOOP\r\n"),
	hostileIMAP("three bad commands", "a0 X\r\n", "a1 Y\r\n", "a2 Z\r\n", "a1 LOGIN alice %R\r\n"),
	hostileIMAP("forged answers", "a1 LOGIN alice %W\r\n", "a1 OK Logged in\r\n", "* OK\r\n", "+ OK\r\n"),
	hostileIMAP("IDLE", "a0 IDLE\r\n", "a1 LOGIN alice %R\r\n", "DONE\r\n", "a1 NOOP\r\n"),
	hostileIMAP("unfinished line", "a1 NOOP\r\n", "a1 LOGIN alice %R"),
	hostileIMAP("unfinished literal", "a1 NOOP\r\n", "a1 LOGIN alice {50+}\r\n%R\r\n"),
}

var pop3Scripts = []script{
	hostilePOP3("NUL at the end", "USER alice\x00\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("NUL in PASS", "USER alice\r\n", "PASS %W\x00\r\n", "CAPA\r\n", "NOOP\r\n"),
	hostilePOP3("NUL in front", "USER alice\r\n", "\x00PASS %R\r\n", "CAPA\r\n"),
	hostilePOP3("bare CR", "USER alice\rPASS %W\r\n", "PASS wrong1\r\n", "CAPA\r\n"),
	hostilePOP3("bare CR in PASS", "USER alice\r\n", "PASS %W\rCAPA\r\n", "CAPA\r\n"),
	hostilePOP3("bare LF", "USER alice\nPASS %W\n", "CAPA\r\n"),
	hostilePOP3("bare LF, right PASS", "USER alice\nPASS %R\n", "CAPA\r\n"),
	hostilePOP3("mixed line ends", "USER alice\nPASS %R\r\n", "CAPA\n", "QUIT\r\n"),
	hostilePOP3("LF CR", "USER alice\n\rPASS %R\n\r", "CAPA\r\n"),
	hostilePOP3("answers shifted by one", "USER alice\r\n", "PASS %W\r\n", "USER alice\r\n", "USER bob\r\n"),
	hostilePOP3("answers shifted by CAPA", "CAPA\r\n", "USER alice\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("two users", "USER bob\r\n", "USER alice\r\n", "PASS %R\r\n", "STAT\r\n"),
	hostilePOP3("two passwords", "USER alice\r\n", "PASS wrong1\r\n", "PASS %R\r\n", "STAT\r\n"),
	hostilePOP3("PASS without USER", "PASS %R\r\n", "USER alice\r\n", "CAPA\r\n"),
	hostilePOP3("USER behind PASS", "USER bob\r\n", "PASS %R\r\n", "USER alice\r\n", "PASS %R\r\n"),
	hostilePOP3("blank lines", "\r\n", "USER alice\r\n", "\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("leading blanks", " USER alice\r\n", " PASS %R\r\n", "CAPA\r\n"),
	hostilePOP3("TAB", "USER\talice\r\n", "PASS\t%R\r\n", "CAPA\r\n"),
	hostilePOP3("trailing blanks", "USER alice \r\n", "PASS %R \r\n", "CAPA\r\n"),
	hostilePOP3("eight bits", "USER al\xc2\x85ice\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("over-long USER", "USER "+strings.Repeat("a", 9000)+"\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("over-long PASS", "USER alice\r\n", "PASS "+strings.Repeat("a", 8187)+"CAPA\r\n", "CAPA\r\n"),
	hostilePOP3("over-long NOOP with a tail", "NOOP "+strings.Repeat("a", 8187)+"USER alice\r\n", "PASS %R\r\n", "CAPA\r\n"),
	hostilePOP3("echoed user name", "USER +OK\r\n", "PASS +OK\r\n", "CAPA\r\n"),
	hostilePOP3("echoed SASL user name", "AUTH PLAIN "+plain("", "x\r\n+OK done", "wrong1")+"\r\n", "CAPA\r\n"),
	hostilePOP3("bare AUTH", "USER alice\r\n", "AUTH\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("bare AUTH behind PASS", "USER alice\r\n", "PASS %W\r\n", "AUTH\r\n"),
	hostilePOP3("a command as SASL response", "AUTH PLAIN\r\n", "CAPA\r\n", "CAPA\r\n"),
	hostilePOP3("right PASS as SASL response", "USER alice\r\n", "AUTH PLAIN\r\n", "PASS %R\r\n", "CAPA\r\n"),
	hostilePOP3("pipelined SASL response", "AUTH PLAIN\r\n", plain("", "alice", "wrong1")+"\r\n", "CAPA\r\n"),
	hostilePOP3("cancelled exchange", "AUTH PLAIN\r\n", "*\r\n", "CAPA\r\n"),
	hostilePOP3("cancelled exchange, then right PASS", "AUTH LOGIN\r\n", "*\r\n", "USER alice\r\n", "PASS %R\r\n"),
	hostilePOP3("unknown mechanism", "AUTH XYZZY\r\n", plain("", "alice", "wrong1")+"\r\n", "CAPA\r\n"),
	hostilePOP3("empty SASL responses", "AUTH LOGIN\r\n", "\r\n", "\r\n", "CAPA\r\n"),
	hostilePOP3("initial response =", "AUTH PLAIN =\r\n", "CAPA\r\n"),
	hostilePOP3("wrong APOP", "APOP alice 00000000000000000000000000000000\r\n", "CAPA\r\n"),
	hostilePOP3("STLS without TLS", "STLS\r\n", "USER alice\r\n", "PASS %W\r\n", "CAPA\r\n"),
	hostilePOP3("STLS, then TLS", "STLS\r\n", clientHello, "CAPA\r\n"),
	hostilePOP3("TLS from the first octet", clientHello, "USER alice\r\n", "PASS %R\r\n"),
	hostilePOP3("XCLIENT", "XCLIENT ADDR=192.0.2.250 PORT=4242\r\n", "USER alice\r\n", "PASS %R\r\n"),
	hostilePOP3("QUIT in front", "USER alice\r\n", "QUIT\r\n", "PASS %R\r\n"),
	hostilePOP3("HTTP", "POST / HTTP/1.1\r\n", "Host: x\r\n", "\r\n", "USER alice\r\n", "PASS %R\r\n"),
	hostilePOP3("forged answers", "USER alice\r\n", "PASS %W\r\n", "+OK Logged in.\r\n", "+OK\r\n"),
	hostilePOP3("unfinished line", "USER alice\r\n", "PASS %R"),
	hostilePOP3("reader's commands in front", "STAT\r\n", "USER alice\r\n", "PASS %W\r\n", "NOOP\r\n", "RSET\r\n"),
}
