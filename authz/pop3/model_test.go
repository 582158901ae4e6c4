package pop3

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"strings"
)

// How a model treats NUL in a line.
const (
	nulKeep   = iota // as any other octet
	nulCut           // as the end of the text
	nulGlue          // the line gets no answer and the next is appended (Courier)
	nulRefuse        // "-ERR NULL character" (solid-pop3d)
)

// What a model does with an over-long line.
const (
	longKeep  = iota // nothing: it has no limit
	longSplit        // the rest is a line of its own
	longDrop         // refuses, and throws the rest of the line away
	longClose
)

// model is a POP3 server by its habits.
type model struct {
	name string

	crlfOnly, bareCR, nel bool
	nul                   int
	max, long             int
	tabs, trim            bool // TAB separates; leading blanks are skipped
	noop                  bool // answers +OK to NOOP and RSET before a login
	bareOK                bool // answers without text
	auth, ir, list        bool // AUTH; initial responses; bare AUTH
	loose                 bool // skips what is not base64
	echo                  bool // repeats a decoded user name in its refusal
	stls                  bool // accepts STLS, fails, and returns to clear text
	dropAtSTLS            bool // what was received with STLS is lost
	secondUser            bool // accepts a second USER
	keepUser              bool // remembers the user after a failure
	dropAtLogin           bool // what was received with the login is lost
	dropAtUser            bool // what was received with USER is lost (invented)
	reads                 int  // reads so many octets at once, answers their first line, and loses the rest
	hasty                 bool // refuses a line as soon as it can
	edge                  bool // reads again only when more has come (epoll, EPOLLET)
	dropAtGreeting        bool // what was received before the greeting is lost (invented)
	closeAtFailure        bool
	lossy                 bool // of a line in pieces keeps the last one, and what came with the line before
	nextIsEaten           bool // AUTH without its mechanism eats the next line (invented)
	silent                bool // says nothing to an empty line, and to APOP of nobody (dbmail)
	curt                  bool // says goodbye to all but PASS where a name was given (email-oauth2-proxy)
	twice                 bool // refuses twice what it does not know or take (invented)
	patience              int  // says goodbye with "+OK" behind so many refusals (the poppers of UCB and Qualcomm)
	segments              bool // takes each segment for a line, whatever it holds (pop3-n3)
	guests                bool // lets in anybody with ANONYMOUS
	ntlm                  bool // invites to NTLM with "+OK" ([MS-POP3] §2.2.2), whatever stands behind it

	greeted, closed, tls bool
	user, in             string // USER's name; who is logged in
	glued                []byte
	sasl                 string
	saslStep             int
	saslUser             string
	eat                  bool
	seen, refusals       int    // octets that had come and were left; how often it refused
	kept, lines          []byte // lossy: the beginning of a line; whole lines
}

var models = []model{
	{name: "dovecot", auth: true, ir: true, list: true, secondUser: true, max: 8192, long: longClose},
	{name: "courier", bareOK: false, nul: nulGlue, auth: true, ir: true, stls: true, secondUser: true, dropAtLogin: true, max: 5000, long: longSplit},
	{name: "cyrus", nul: nulCut, auth: true, ir: true, stls: true, dropAtSTLS: true, secondUser: true, max: 4096, long: longSplit},
	{name: "mailutils", tabs: true, trim: true, secondUser: true, max: 512, long: longDrop, keepUser: true},
	{name: "popa3d", bareOK: true, nul: nulRefuse, closeAtFailure: true, secondUser: true, max: 1024, long: longClose},
	{name: "solid", nul: nulRefuse, closeAtFailure: true, dropAtLogin: true, max: 1024, long: longDrop},
	{name: "nginx", auth: true, ir: true, secondUser: true, max: 4096, long: longClose, noop: true},
	{name: "wildduck", auth: true, ir: true, list: true, secondUser: true, max: 4096, long: longKeep, lossy: true},
	{name: "nginx before 1.21", bareOK: true, auth: true, ir: true, list: true, max: 128, long: longClose, noop: true, reads: 128, hasty: true, edge: true},
	{name: "dbmail", secondUser: true, trim: true, silent: true, max: 1024, long: longClose},
	{name: "email-oauth2-proxy", crlfOnly: true, auth: true, ir: true, list: true, curt: true, max: 8192, long: longKeep},
	{name: "pop3-n3", auth: true, ir: true, segments: true, secondUser: true, max: 1 << 16},
	{name: "exchange", auth: true, list: true, ntlm: true, secondUser: true, max: 1024, long: longClose},
	{name: "qpopper", closeAtFailure: true, patience: 1, max: 1024, long: longDrop, auth: true, ir: true},
}

// randomModel mixes habits that no one server has.
func randomModel(r *rand.Rand) model {
	b := func(n int) bool { return r.IntN(n) == 0 }
	m := model{
		name:     "random",
		crlfOnly: b(4), bareCR: b(6), nel: b(8), nul: r.IntN(4),
		max: []int{64, 255, 512, 1024, 8192}[r.IntN(5)], long: r.IntN(4),
		tabs: b(3), trim: b(3), noop: b(3), bareOK: b(3), auth: b(2), ir: b(2), list: b(2), loose: b(4),
		echo: b(4), stls: b(2), dropAtSTLS: b(3), secondUser: b(2), keepUser: b(2),
		lossy: b(6), dropAtLogin: b(3), dropAtUser: b(8), dropAtGreeting: b(8), closeAtFailure: b(4), nextIsEaten: b(8),
		reads: []int{0, 0, 0, 0, 128, 200}[r.IntN(6)], hasty: b(4), edge: b(2), silent: b(4), ntlm: b(4), twice: b(4), guests: b(4),
		patience: max(0, r.IntN(8)-4),
		segments: b(8),
	}
	if m.segments { // else AUTH in two has a list for the first, of which the beginning is an acceptance
		m.list = false
	}
	return m
}

func (m *model) User() string { return m.in }
func (m *model) Closed() bool { return m.closed }

// line answers one line; drop is true if the rest of the input is lost.
func (m *model) line(text []byte) (out string, drop bool) {
	if len(text) > m.max && m.long != longKeep {
		m.closed = m.long == longClose
		return "-ERR too long\r\n", false
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		switch m.nul {
		case nulCut:
			text = text[:i]
		case nulGlue:
			m.glued = append(m.glued, text[:i]...)
			return "", false
		case nulRefuse:
			return "-ERR NULL character in command\r\n", false
		}
	}
	if m.glued != nil {
		text, m.glued = append(m.glued, text...), nil
	}
	switch {
	case m.silent && len(bytes.TrimSpace(text)) == 0:
		return "", false
	case m.eat:
		m.eat = false
		return "", false
	case m.sasl != "":
		return m.refused(m.response(string(text))), false
	}
	s := string(text)
	if m.trim {
		s = strings.TrimLeft(s, " \t")
	}
	if m.tabs {
		s = strings.ReplaceAll(s, "\t", " ")
	}
	word, argument, _ := strings.Cut(s, " ")
	if m.segments { // any octet but a letter ends the word
		end := strings.IndexFunc(s+" ", func(c rune) bool { return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') })
		word, argument = s[:end], strings.TrimSpace(s[min(end+1, len(s)):])
	}
	out, drop = m.command(strings.ToUpper(word), argument)
	return m.refused(out), drop
}

// refused is what follows if an answer is a refusal.
func (m *model) refused(out string) string {
	if !strings.HasPrefix(out, "-ERR") {
		return out
	}
	if m.twice {
		out += "-ERR again\r\n"
	}
	if m.refusals++; m.refusals == m.patience {
		m.closed = true
		out += "+OK signing off\r\n"
	}
	return out
}

func (m *model) ok(text string) string {
	if m.bareOK {
		return "+OK\r\n"
	}
	return "+OK " + text + "\r\n"
}

func (m *model) command(word, argument string) (out string, drop bool) {
	if m.curt && m.user != "" && m.in == "" && word != "PASS" {
		word = "QUIT"
	}
	switch word {
	case "USER":
		if m.user != "" && !m.secondUser || argument == "" || m.in != "" {
			return "-ERR no\r\n", false
		}
		m.user = argument
		return m.ok("password please"), m.dropAtUser
	case "PASS":
		if m.user == "" {
			return "-ERR USER first\r\n", false
		}
		return m.login(m.user, argument)
	case "APOP":
		if m.silent {
			return "", false
		}
	case "CAPA":
		return m.ok("list") + "USER\r\nUIDL\r\n.\r\n", false
	case "AUTH":
		return m.authenticate(argument), false
	case "STLS":
		if m.stls && m.in == "" {
			m.tls = true
			return m.ok("begin"), m.dropAtSTLS
		}
		return "-ERR no\r\n", false
	case "QUIT":
		m.closed = true
		return m.ok("bye"), false
	case "NOOP", "RSET":
		if m.noop || m.in != "" {
			return m.ok("done"), false
		}
	case "STAT":
		if m.in != "" {
			return "+OK 0 0\r\n", false
		}
	case "LIST", "UIDL":
		if m.in != "" && argument == "" {
			return m.ok("list") + ".\r\n", false
		}
	}
	return "-ERR unknown\r\n", false
}

// login checks a password: everybody's is "secret".
func (m *model) login(user, password string) (out string, drop bool) {
	if password == "secret" && user != "" && m.in == "" {
		m.in = user
		return m.ok("logged in"), m.dropAtLogin
	}
	if !m.keepUser {
		m.user = ""
	}
	m.closed = m.closeAtFailure
	return "-ERR [AUTH] no\r\n", false
}

func (m *model) authenticate(argument string) string {
	name, initial, has := strings.Cut(argument, " ")
	switch name = strings.ToUpper(name); {
	case !m.auth:
		return "-ERR no\r\n"
	case name == "" && m.list:
		return m.ok("list") + "PLAIN\r\nLOGIN\r\n.\r\n"
	case name == "NTLM" && m.ntlm:
		m.sasl, m.saslStep = name, 0
		return m.ok("")
	case name == "ANONYMOUS" && has && m.guests && m.in == "":
		m.in = "anonymous"
		return m.ok("welcome")
	case name != "PLAIN" && name != "LOGIN":
		m.eat = m.nextIsEaten
		return "-ERR no such mechanism\r\n"
	}
	m.sasl, m.saslStep = name, 0
	if has && m.ir {
		return m.response(initial)
	}
	return "+ \r\n"
}

func (m *model) response(text string) string {
	mechanism := m.sasl
	if text == "*" {
		m.sasl = ""
		return "-ERR cancelled\r\n"
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil && !m.loose {
		m.sasl = ""
		return "-ERR not base64\r\n"
	}
	if m.saslStep++; mechanism == "LOGIN" && m.saslStep == 1 {
		m.saslUser = string(b)
		return "+ UGFzc3dvcmQ6\r\n"
	}
	if mechanism == "NTLM" && m.saslStep == 1 {
		return "+ TlRMTVNTUAAC\r\n"
	}
	m.sasl = ""
	if mechanism == "NTLM" {
		return "-ERR [AUTH] no\r\n"
	}
	user, password := m.saslUser, string(b)
	if mechanism == "PLAIN" {
		_, rest, _ := strings.Cut(string(b), "\x00")
		user, password, _ = strings.Cut(rest, "\x00")
	}
	out, _ := m.login(user, password)
	if m.echo && strings.HasPrefix(out, "-ERR") {
		return "-ERR no such user " + user + "\r\n"
	}
	return out
}
