//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"relaygate/cmd/relaygate/internal/lab"
)

// rounds is how often each honest dialogue is played per family.
const rounds = 3

// TestHonestClients: what Dovecot lets in, relaygate finds.
func TestHonestClients(t *testing.T) {
	w := newWorld(t)
	var all []dialogue
	for range rounds {
		for _, account := range [][2]string{{alice, alicePassword}, {bob, bobPassword}, {alice, "wrong1"}, {bob, "wrong2"}} {
			ds := slices.Concat(
				imapLogins(account[0], account[1]), imapSASL(account[0], account[1]),
				pop3Logins(account[0], account[1]), pop3SASL(account[0], account[1]))
			for i := range ds {
				ds[i].want = login
				if strings.HasPrefix(account[1], "wrong") {
					ds[i].want = refusal
				}
				ds[i].name += fmt.Sprintf(" (%s, %s)", account[0], account[1])
			}
			all = append(all, ds...)
		}
		all = append(all, others()...)
	}
	w.judge(t, w.playAll(all))
}

// quote makes a quoted string (RFC 9051 §4.3).
func quote(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }

// atom makes an atom where that is possible.
func atom(s string) string {
	if strings.ContainsAny(s, " \"\\") {
		return quote(s)
	}
	return s
}

// imap makes a dialogue that awaits the greeting and, in the end, the answer to
// the tag a1.
func imap(name string, steps ...step) dialogue {
	return dialogue{
		name: "IMAP " + name, port: lab.IMAPPort,
		steps: slices.Concat([]step{await("* OK")}, steps, []step{await("a1 "), send("a9 LOGOUT\r\n"), drain}),
	}
}

// imapLogins are the forms of the LOGIN command.
func imapLogins(user, password string) []dialogue {
	line := "a1 LOGIN " + user + " " + atom(password) + "\r\n"
	quoted := "a1 LOGIN " + quote(user) + " " + quote(password) + "\r\n"
	sync := fmt.Sprintf("%s {%d}\r\n", user, len(password))
	nonSync := imap("LOGIN, non-synchronising literals",
		send(fmt.Sprintf("a1 LOGIN {%d+}\r\n%s {%d+}\r\n%s\r\n", len(user), user, len(password), password)))
	nonSync.odd = true
	lines := imap("LOGIN, non-synchronising literals, a segment per line",
		send(fmt.Sprintf("a1 LOGIN {%d+}\r\n", len(user))), send(fmt.Sprintf("%s {%d+}\r\n", user, len(password))), send(password+"\r\n"))
	lines.odd = true
	eager := imap("LOGIN before the greeting")
	eager.steps = []step{send(line), await("a1 "), send("a9 LOGOUT\r\n"), drain}
	half := imap("LOGIN and half-close")
	half.steps = []step{await("* OK"), send(line), halfClose, await("a1 "), drain}
	abrupt := imap("LOGIN and close")
	abrupt.steps = []step{await("* OK"), send(line), await("a1 ")}
	return []dialogue{
		imap("LOGIN", send(line)),
		imap("login", send(strings.Replace(line, "LOGIN", "login", 1))),
		imap("LOGIN quoted", send(quoted)),
		imap("LOGIN octet by octet", trickle(quoted)),
		imap("LOGIN in two segments", send(line[:9]), send(line[9:])),
		imap("LOGIN, bare LF", send(strings.Replace(line, "\r", "", 1))),
		imap("LOGIN, synchronising literals",
			send(fmt.Sprintf("a1 LOGIN {%d}\r\n", len(user))), await("+"), send(sync), await("+"), send(password+"\r\n")),
		imap("LOGIN, one synchronising literal", send("a1 LOGIN "+sync), await("+"), send(password+"\r\n")),
		imap("LOGIN, two forms",
			send(fmt.Sprintf("a1 LOGIN {%d}\r\n", len(user))), await("+"), send(user+" "+quote(password)+"\r\n")),
		nonSync, lines, eager, half, abrupt,
		imap("CAPABILITY, then LOGIN", send("a0 CAPABILITY\r\n"), await("a0 OK"), send(line)),
		imap("CAPABILITY and LOGIN in one segment", send("a0 CAPABILITY\r\n"+line)),
		imap("CAPABILITY, LOGIN, NOOP in one segment", send("a0 CAPABILITY\r\n"+line+"a2 NOOP\r\n")),
		imap("LOGIN and SELECT in one segment", send(line+"a2 SELECT INBOX\r\n")),
		imap("ID, then LOGIN", send("a0 ID (\"name\" \"e2e {3+}\")\r\n"), await("a0 OK"), send(line)),
		imap("a tag again", send("a1 NOOP\r\n"), await("a1 OK"), send(line)),
		imap("a refused login before",
			send("a0 LOGIN alice wrong0\r\n"), await("a0 NO"), send(line)),
		imap("an unknown command before", send("a0 XYZZY\r\n"), await("a0 BAD"), send(line)),
	}
}

// imapSASL are the mechanisms (RFC 9051 §6.2.2).
func imapSASL(user, password string) []dialogue {
	message := plain("", user, password)
	scrammed := imap("AUTHENTICATE SCRAM-SHA-1")
	scrammed.steps = slices.Concat([]step{await("* OK"), send("a1 AUTHENTICATE SCRAM-SHA-1\r\n")}, scram(user, password),
		[]step{send("a9 LOGOUT\r\n"), drain})
	return []dialogue{
		imap("AUTHENTICATE PLAIN", send("a1 AUTHENTICATE PLAIN\r\n"), await("+"), send(message+"\r\n")),
		imap("AUTHENTICATE PLAIN, initial response", send("a1 AUTHENTICATE PLAIN "+message+"\r\n")),
		imap("CAPABILITY and AUTHENTICATE in one segment", send("a0 CAPABILITY\r\na1 AUTHENTICATE PLAIN "+message+"\r\n")),
		imap("AUTHENTICATE PLAIN, authorisation identity",
			send("a1 AUTHENTICATE PLAIN\r\n"), await("+"), send(plain(user, user, password)+"\r\n")),
		imap("AUTHENTICATE LOGIN", send("a1 AUTHENTICATE LOGIN\r\n"),
			await("+"), send(b64(user)+"\r\n"), await("+"), send(b64(password)+"\r\n")),
		imap("AUTHENTICATE LOGIN, initial response", send("a1 AUTHENTICATE LOGIN "+b64(user)+"\r\n"),
			await("+"), send(b64(password)+"\r\n")),
		imap("AUTHENTICATE CRAM-MD5", send("a1 authenticate cram-md5\r\n"), await("+"), cramMD5(user, password)),
		imap("a cancelled exchange before", send("a0 AUTHENTICATE PLAIN\r\n"), await("+"), send("*\r\n"), await("a0 "),
			send("a1 AUTHENTICATE PLAIN\r\n"), await("+"), send(message+"\r\n")),
		scrammed,
	}
}

// pop3 makes a dialogue that awaits the greeting and, in the end, an answer.
func pop3(name string, steps ...step) dialogue {
	return dialogue{
		name: "POP3 " + name, port: lab.POP3Port,
		steps: slices.Concat([]step{await("+OK")}, steps, []step{await(""), send("QUIT\r\n"), drain}),
	}
}

// pop3Logins are USER, PASS and APOP (RFC 1939 §7).
func pop3Logins(user, password string) []dialogue {
	name, pass := "USER "+user+"\r\n", "PASS "+password+"\r\n"
	eager := pop3("USER, PASS before the greeting")
	eager.steps = []step{send(name + pass + "QUIT\r\n"), drain}
	quit := pop3("USER, PASS, QUIT in one segment")
	quit.steps = []step{await("+OK"), send(name + pass + "QUIT\r\n"), drain}
	half := pop3("USER, PASS and half-close")
	half.steps = []step{await("+OK"), send(name), await("+OK"), send(pass), halfClose, await(""), drain}
	abrupt := pop3("USER, PASS and close")
	abrupt.steps = []step{await("+OK"), send(name), await("+OK"), send(pass), await("")}
	return []dialogue{
		pop3("USER, PASS", send(name), await("+OK"), send(pass)),
		pop3("user, pass", send("user "+user+"\r\n"), await("+OK"), send("pass "+password+"\r\n")),
		pop3("USER, PASS octet by octet", trickle(name), await("+OK"), trickle(pass)),
		pop3("USER, PASS, bare LF", send("USER "+user+"\n"), await("+OK"), send("PASS "+password+"\n")),
		pop3("USER, PASS in one segment", send(name+pass), await("+OK")),
		pop3("USER, PASS, STAT in one segment", send(name+pass+"STAT\r\n"), await("+OK")),
		pop3("CAPA, USER, PASS in one segment", send("CAPA\r\n"+name+pass), await("."), await("+OK")),
		pop3("CAPA, then USER, PASS", send("CAPA\r\n"), await("."), send(name), await("+OK"), send(pass)),
		pop3("AUTH, then USER, PASS", send("AUTH\r\n"), await("."), send(name), await("+OK"), send(pass)),
		pop3("two users", send("USER carol\r\n"), await("+OK"), send(name), await("+OK"), send(pass)),
		pop3("a refused login before",
			send("USER alice\r\n"), await("+OK"), send("PASS wrong0\r\n"), await("-ERR"), send(name), await("+OK"), send(pass)),
		pop3("an unknown command before", send("XYZZY\r\n"), await("-ERR"), send(name), await("+OK"), send(pass)),
		{
			name: "POP3 APOP", port: lab.POP3Port,
			steps: []step{await("+OK"), apop(user, password), await(""), send("QUIT\r\n"), drain},
		},
		eager, quit, half, abrupt,
	}
}

// pop3SASL are the mechanisms (RFC 5034).
func pop3SASL(user, password string) []dialogue {
	message := plain("", user, password)
	scrammed := pop3("AUTH SCRAM-SHA-1")
	scrammed.steps = slices.Concat([]step{await("+OK"), send("AUTH SCRAM-SHA-1\r\n")}, scram(user, password),
		[]step{send("QUIT\r\n"), drain})
	return []dialogue{
		pop3("AUTH PLAIN", send("AUTH PLAIN\r\n"), await("+"), send(message+"\r\n")),
		pop3("AUTH PLAIN, initial response", send("AUTH PLAIN "+message+"\r\n")),
		pop3("AUTH LOGIN", send("AUTH LOGIN\r\n"), await("+"), send(b64(user)+"\r\n"), await("+"), send(b64(password)+"\r\n")),
		pop3("AUTH CRAM-MD5", send("auth cram-md5\r\n"), await("+"), cramMD5(user, password)),
		pop3("a cancelled exchange before", send("AUTH PLAIN\r\n"), await("+"), send("*\r\n"), await("-ERR"),
			send("AUTH PLAIN "+message+"\r\n")),
		scrammed,
	}
}

// others have their outcome without an account.
func others() []dialogue {
	ds := []dialogue{
		imap("AUTHENTICATE ANONYMOUS", send("a1 AUTHENTICATE ANONYMOUS\r\n"), await("+"), send(b64("guest")+"\r\n")),
		pop3("AUTH ANONYMOUS", send("AUTH ANONYMOUS "+b64("guest")+"\r\n")),
	}
	for i := range ds {
		ds[i].want = login
	}
	return ds
}
