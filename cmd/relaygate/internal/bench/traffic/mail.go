package traffic

import (
	"encoding/base64"
	"fmt"
)

// person is who logs in.
type person struct{ user, password string }

func (c *talk) person() person {
	return person{fmt.Sprintf("user%d@example.org", c.rng.IntN(90000)), fmt.Sprintf("pw%08x", c.rng.Uint32())}
}

// plain is the message of SASL PLAIN (RFC 4616), in base64.
func (p person) plain() string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + p.user + "\x00" + p.password))
}

// attempts draws how many logins fail, and whether one succeeds behind them.
func (c *talk) attempts() (failures int, success bool) {
	switch draw := c.rng.Float64(); {
	case draw < 0.06:
		return 1, true
	case draw < 0.10:
		return 1 + c.rng.IntN(3), false
	}
	return 0, true
}

// mailbox plays a protocol: greeting, login attempts, a session.
type mailbox interface {
	greet(c *talk)
	// startTLS asks for TLS and is granted it.
	startTLS(c *talk)
	// login tries once.
	login(c *talk, p person, success bool)
	// session fetches messages of the given sizes and leaves.
	session(c *talk, m *material, sizes []int)
	leave(c *talk)
}

// play makes a mail connection, and notes the truth about it.
func (g *generator) play(c *talk, box mailbox) {
	box.greet(c)
	if c.rng.Float64() < 0.02 {
		box.startTLS(c)
		c.tls(g.material)
		c.close()
		g.truth.Encrypted++
		return
	}
	failures, success := c.attempts()
	p := c.person()
	for range failures {
		g.truth.Failed++
		box.login(c, person{p.user, "wrong" + p.password}, false)
	}
	if !success {
		box.leave(c)
		return
	}
	g.truth.Succeeded++
	g.truth.Logins[c.client.Addr()]++
	box.login(c, p, true)
	sizes := make([]int, g.profile.MinMessages+c.rng.IntN(g.profile.MaxMessages-g.profile.MinMessages+1))
	for i := range sizes {
		sizes[i] = g.profile.size(c.rng)
	}
	box.session(c, g.material, sizes)
}

// refusal is how long a server thinks before it refuses, in microseconds.
const refusal = 2_000_000

type pop3 struct{}

func (pop3) greet(c *talk) {
	c.answer("+OK ready.\r\n")
	if c.rng.Float64() < 0.4 {
		c.command("CAPA\r\n")
		c.answer("+OK\r\nCAPA\r\nTOP\r\nUIDL\r\nRESP-CODES\r\nPIPELINING\r\nSTLS\r\nUSER\r\nSASL PLAIN\r\n.\r\n")
	}
}

func (pop3) startTLS(c *talk) {
	c.command("STLS\r\n")
	c.answer("+OK Begin TLS negotiation now.\r\n")
}

func (pop3) login(c *talk, p person, success bool) {
	before := ""
	switch draw := c.rng.Float64(); {
	case draw < 0.70:
		c.command("USER " + p.user + "\r\n")
		c.answer("+OK\r\n")
		c.command("PASS " + p.password + "\r\n")
	case draw < 0.76:
		c.command("USER " + p.user + "\r\nPASS " + p.password + "\r\n")
		before = "+OK\r\n"
	case draw < 0.90:
		c.command("AUTH PLAIN " + p.plain() + "\r\n")
	default:
		c.command("AUTH PLAIN\r\n")
		c.answer("+ \r\n")
		c.command(p.plain() + "\r\n")
	}
	if success {
		c.answer(before + "+OK Logged in.\r\n")
		return
	}
	c.now += refusal
	c.answer(before + "-ERR [AUTH] Authentication failed.\r\n")
}

func (b pop3) session(c *talk, m *material, sizes []int) {
	c.command("STAT\r\n")
	c.answer(fmt.Sprintf("+OK %d %d\r\n", len(sizes), 1000*len(sizes)))
	for i, size := range sizes {
		c.command(fmt.Sprintf("RETR %d\r\n", i+1))
		c.send(false, []byte("+OK message follows\r\nSubject: a message\r\n\r\n"), m.body(c.rng, size), []byte(".\r\n"))
		if c.rng.Float64() < 0.5 {
			c.command(fmt.Sprintf("DELE %d\r\n", i+1))
			c.answer("+OK Marked to be deleted.\r\n")
		}
	}
	b.leave(c)
}

func (pop3) leave(c *talk) {
	c.command("QUIT\r\n")
	c.answer("+OK Logging out.\r\n")
	c.close()
}

// imap counts its tags.
type imap struct {
	prefix string
	n      int
}

func (b *imap) tag() string {
	b.n++
	return fmt.Sprintf("%s%d", b.prefix, b.n)
}

func (b *imap) greet(c *talk) {
	c.answer("* OK [CAPABILITY IMAP4rev1 SASL-IR LOGIN-REFERRALS ID ENABLE IDLE LITERAL+ STARTTLS AUTH=PLAIN] ready.\r\n")
	if c.rng.Float64() < 0.4 {
		t := b.tag()
		c.command(t + " CAPABILITY\r\n")
		c.answer("* CAPABILITY IMAP4rev1 SASL-IR LITERAL+ STARTTLS AUTH=PLAIN\r\n" + t + " OK Capability completed.\r\n")
	}
}

func (b *imap) startTLS(c *talk) {
	t := b.tag()
	c.command(t + " STARTTLS\r\n")
	c.answer(t + " OK Begin TLS negotiation now.\r\n")
}

func (b *imap) login(c *talk, p person, success bool) {
	t := b.tag()
	switch draw := c.rng.Float64(); {
	case draw < 0.30:
		c.command(t + " LOGIN " + p.user + " " + p.password + "\r\n")
	case draw < 0.62:
		c.command(t + " LOGIN \"" + p.user + "\" \"" + p.password + "\"\r\n")
	case draw < 0.66:
		c.command(fmt.Sprintf("%s LOGIN {%d}\r\n", t, len(p.user)))
		c.answer("+ OK\r\n")
		c.command(fmt.Sprintf("%s {%d}\r\n", p.user, len(p.password)))
		c.answer("+ OK\r\n")
		c.command(p.password + "\r\n")
	case draw < 0.88:
		c.command(t + " AUTHENTICATE PLAIN " + p.plain() + "\r\n")
	default:
		c.command(t + " AUTHENTICATE PLAIN\r\n")
		c.answer("+ \r\n")
		c.command(p.plain() + "\r\n")
	}
	if success {
		c.answer(t + " OK [CAPABILITY IMAP4rev1 SASL-IR SORT MULTIAPPEND UNSELECT CHILDREN NAMESPACE UIDPLUS CONDSTORE ESEARCH] Logged in\r\n")
		return
	}
	c.now += refusal
	c.answer(t + " NO [AUTHENTICATIONFAILED] Authentication failed.\r\n")
}

func (b *imap) session(c *talk, m *material, sizes []int) {
	t := b.tag()
	c.command(t + " SELECT INBOX\r\n")
	c.answer(fmt.Sprintf("* FLAGS (\\Seen)\r\n* %d EXISTS\r\n* 0 RECENT\r\n%s OK [READ-WRITE] Select completed.\r\n", len(sizes), t))
	for i, size := range sizes {
		t = b.tag()
		c.command(fmt.Sprintf("%s UID FETCH %d (BODY.PEEK[])\r\n", t, i+1))
		body := m.body(c.rng, size)
		c.send(false, fmt.Appendf(nil, "* %d FETCH (UID %d BODY[] {%d}\r\n", i+1, i+1, len(body)), body, []byte(")\r\n"+t+" OK Fetch completed.\r\n"))
	}
	b.leave(c)
}

func (b *imap) leave(c *talk) {
	t := b.tag()
	c.command(t + " LOGOUT\r\n")
	c.answer("* BYE Logging out\r\n" + t + " OK Logout completed.\r\n")
	c.close()
}
