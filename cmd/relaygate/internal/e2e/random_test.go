//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"relaygate/cmd/relaygate/internal/lab"
)

var (
	seed   = flag.Uint64("seed", 1, "seed of the random dialogues")
	number = flag.Int("number", 600, "number of random dialogues, per address family")
)

// TestRandomClients plays mixtures of what has fooled readers: pipelines,
// literals, tags used again, line ends, SASL, wrong and right passwords.
func TestRandomClients(t *testing.T) {
	w := newWorld(t)
	t.Logf("seed %d", *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	var all []dialogue
	for i := range *number {
		m := mixer{r}
		d := dialogue{name: fmt.Sprintf("random IMAP %d", i), port: lab.IMAPPort}
		part := m.imap
		if r.IntN(2) == 0 {
			d.name, d.port, part = fmt.Sprintf("random POP3 %d", i), lab.POP3Port, m.pop3
		}
		d.steps = m.steps(part)
		all = append(all, d)
	}
	w.judge(t, w.playAll(all))
}

// mixer makes parts at random.
type mixer struct{ *rand.Rand }

func (m mixer) pick(from ...string) string { return from[m.IntN(len(from))] }

// steps sends two to eight parts, and waits now and then.
func (m mixer) steps(part func() string) []step {
	var out []step
	if m.IntN(4) > 0 {
		out = append(out, quiet(silence))
	}
	waits := m.IntN(3) // never, often, always
	queued := ""
	for range 2 + m.IntN(7) {
		p := part()
		if m.IntN(12) == 0 {
			p = p[m.IntN(len(p)):] // a tail alone
		}
		queued += p
		if m.IntN(2) == 0 {
			out = append(out, send(queued))
			queued = ""
		}
		if queued == "" && m.IntN(2) < waits {
			out = append(out, quiet(silence))
		}
	}
	out = append(out, send(queued), quiet(silence))
	if m.IntN(4) > 0 {
		out = append(out, halfClose, drainAll)
	}
	return out
}

func (m mixer) account() (user, password string) {
	user, password = m.pick(alice, alice, bob), m.pick("wrong1", "wrong1", "", "+OK", "OK")
	if m.IntN(3) == 0 {
		password = map[string]string{alice: alicePassword, bob: bobPassword}[user]
	}
	return user, password
}

func (m mixer) end() string {
	if m.IntN(10) > 0 {
		return "\r\n"
	}
	return m.pick("\n", "\r", "\n\r", "\r\n\r\n", "\x00\r\n", " \r\n", "\r\r\n")
}

func (m mixer) sasl() string {
	user, password := m.account()
	return m.pick(plain("", user, password), plain("", user, password), b64(user), b64(password), "*", "=", "", "!",
		plain("", "x\r\n+OK\r\na1 OK done\r\n", password))
}

// literal writes octets as a literal of some form, at times of another length.
func (m mixer) literal(octets string) string {
	n := len(octets)
	if m.IntN(8) == 0 {
		n += m.IntN(5) - 2
	}
	form := m.pick("{%d+}", "{%d+}", "{%d+}", "{%d}", "{%d}", "{+%d}", "~{%d+}", "{%d-}", "{0%d+}", "\"x {%d+}")
	return fmt.Sprintf(form, n) + "\r\n" + octets
}

func (m mixer) imap() string {
	tag := m.pick("a1", "a1", "a1", "a2", "A1", "OK", "*", "+", "a]1")
	user, password := m.account()
	switch m.IntN(11) {
	case 0, 1:
		return tag + m.pick(" LOGIN ", " LOGIN ", " login ", "\tLOGIN ") + user + " " + atom(password) + m.end()
	case 2:
		return tag + " LOGIN " + m.literal(user) + " " + m.literal(password) + m.end()
	case 3:
		return tag + " " + m.pick("ID (\"name\" ", "NOOP ", "XYZZY ", "LOGIN ") + m.literal(m.imapLine()) + m.pick(")", "", " x") + m.end()
	case 4:
		return tag + " AUTHENTICATE " + m.pick("PLAIN", "LOGIN", "XYZZY", "ANONYMOUS") + m.end()
	case 5:
		return tag + " AUTHENTICATE PLAIN " + m.sasl() + m.end()
	case 6:
		return m.sasl() + m.end()
	case 7:
		return m.pick("\r\n", tag+" OK Logged in\r\n", "* OK\r\n", "+ OK\r\n", tag+" STARTTLS\r\n", tag+" LOGOUT\r\n", clientHello,
			tag+" NOOP "+strings.Repeat("x", 8180+m.IntN(20)), tag+" IDLE\r\n", "DONE\r\n")
	default:
		return m.imapLine()
	}
}

// imapLine is a line that is plain in itself.
func (m mixer) imapLine() string {
	user, password := m.account()
	return m.pick("a1", "a1", "a2", "a3") + m.pick(" NOOP", " CAPABILITY", " LOGIN "+user+" "+atom(password)) + m.end()
}

func (m mixer) pop3() string {
	user, password := m.account()
	switch m.IntN(9) {
	case 0, 1:
		return "USER " + user + m.end()
	case 2, 3:
		return "PASS " + password + m.end()
	case 4:
		return "USER " + user + m.end() + "PASS " + password + m.end() + m.pick("", "STAT\r\n", "QUIT\r\n", "CAPA\r\n")
	case 5:
		return "AUTH" + m.pick("", " PLAIN", " LOGIN", " XYZZY", " ANONYMOUS", " PLAIN "+m.sasl()) + m.end()
	case 6:
		return m.sasl() + m.end()
	case 7:
		return m.pick("\r\n", "+OK\r\n", "STLS\r\n", "QUIT\r\n", clientHello, "XCLIENT ADDR=192.0.2.250\r\n", "XYZZY\r\n",
			"USER "+strings.Repeat("x", 8180+m.IntN(20)), "APOP alice 00000000000000000000000000000000\r\n", "\x00")
	default:
		return m.pick("CAPA", "NOOP", "STAT", "LIST", "RSET", "AUTH", "UIDL") + m.end()
	}
}
