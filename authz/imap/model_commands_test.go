package imap

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
)

// lose reads all that came, and forgets what has no end yet where a command begins.
func (m *model) lose(in []byte) (int, []byte) {
	inside := m.left > 0 || m.buf != "" || m.sasl != ""
	if end := bytes.LastIndexByte(in, '\n') + 1; inside || end > 0 {
		if inside {
			end = len(in)
		}
		m.lines = append(append(m.lines, m.kept...), in[:end]...)
		m.kept = bytes.Clone(in[end:])
	}
	if len(m.lines) == 0 {
		return len(in), nil
	}
	taken, out := m.read(m.lines)
	m.lines = m.lines[taken:]
	return len(in), out
}

// words splits a command: strings, atoms, literals.
func (m *model) words(s string, literals []string) (words []string, ok bool) {
	for s != "" {
		switch s[0] {
		case ' ':
			s = s[1:]
		case '\x01':
			if len(literals) == 0 {
				return nil, false
			}
			words, literals, s = append(words, literals[0]), literals[1:], s[1:]
		case '"':
			end := strings.IndexByte(s[1:], '"')
			if end < 0 {
				if m.quotes {
					return nil, false
				}
				end = len(s) - 1
			}
			words = append(words, s[1:end+1])
			s = s[min(end+2, len(s)):]
		default:
			end := strings.IndexAny(s, " \x01")
			if end < 0 || m.brackets && strings.Contains(s[:end], "[") {
				end = len(s)
			}
			words, s = append(words, s[:end]), s[end:]
		}
	}
	return words, true
}

func (m *model) command(text string, literals []string) (out string, drop bool) {
	if m.tabs {
		text = strings.ReplaceAll(text, "\t", " ")
	}
	if strings.TrimSpace(text) == "" {
		return m.bad(m.blank), false
	}
	if text[0] == ' ' && m.tag != badTaken {
		return m.bad(m.tag), false
	}
	words, ok := m.words(text, literals)
	tag := strings.TrimLeft(text, " ")
	tag = tag[:strings.IndexAny(tag+" ", " \x01")]
	if !legalTag.MatchString(tag) && m.tag != badTaken {
		return m.bad(m.tag), false
	}
	m.previous = tag
	if !ok || len(words) < 2 {
		return tag + " BAD cannot parse\r\n", false
	}
	return m.execute(tag, strings.ToUpper(words[1]), words[2:])
}

func (m *model) bad(how int) string {
	switch how {
	case badBare:
		return "BAD invalid command\r\n"
	case badPrevious:
		return m.previous + " BAD invalid command\r\n"
	case badSilent:
		return ""
	}
	return "* BAD invalid command\r\n"
}

func (m *model) execute(tag, verb string, args []string) (out string, drop bool) {
	switch verb {
	case "CAPABILITY":
		return "* CAPABILITY " + m.capabilities() + "\r\n" + tag + " OK done\r\n", false
	case "NOOP", "ENABLE":
		return tag + " OK done\r\n", false
	case "ID":
		return "* ID NIL\r\n" + tag + " OK done\r\n", false
	case "LOGOUT":
		m.closed = true
		return "* BYE bye\r\n" + tag + " OK done\r\n", false
	case "LOGIN":
		if len(args) != 2 {
			return tag + " BAD wrong arguments\r\n", false
		}
		return m.login(tag, args[0], args[1])
	case "AUTHENTICATE":
		return m.andRemainder(m.authenticate(tag, args), args), false
	case "STARTTLS":
		if m.tlsReturns && m.in == "" {
			m.tls = true
			return tag + " OK begin\r\n", m.dropAtTLS
		}
	case "SELECT":
		if m.in != "" {
			return "* 0 EXISTS\r\n" + tag + " OK done\r\n", false
		}
	default:
		if m.unknownOK {
			return tag + " OK whatever\r\n", false
		}
	}
	return tag + " BAD unknown " + m.repeat(verb) + "\r\n", false
}

// repeat is what an echoing server adds to a refusal.
func (m *model) repeat(s string) string {
	if m.echo {
		return s
	}
	return ""
}

// login checks a password: everybody's is "secret".
func (m *model) login(tag, user, password string) (out string, drop bool) {
	if password == "secret" && user != "" && m.in == "" {
		m.in = user
		return tag + " OK logged in\r\n", m.dropAtLogin
	}
	out = fmt.Sprintf("%s NO no such user %s\r\n", tag, m.repeat(user))
	if m.thrice {
		out += strings.Repeat(tag+" BAD incorrect number of parameters\r\n", 2)
	}
	return out, false
}

func (m *model) authenticate(tag string, args []string) string {
	if len(args) == 0 || len(args) > 2 {
		return tag + " BAD wrong arguments\r\n"
	}
	name := strings.ToUpper(args[0])
	if name != "PLAIN" && name != "LOGIN" {
		return tag + " NO no such mechanism\r\n"
	}
	if len(args) == 2 && !m.ir && !m.eatsIR {
		return tag + " BAD no initial response\r\n"
	}
	m.sasl, m.saslTag, m.saslStep = name, tag, 0
	if len(args) == 2 && m.ir {
		return m.response(args[1])
	}
	return "+ \r\n"
}

func (m *model) response(text string) string {
	mechanism, tag := m.sasl, m.saslTag
	if text == "*" {
		m.sasl = ""
		return tag + " BAD cancelled\r\n"
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil && !m.loose {
		m.sasl = ""
		if m.saslNoTag {
			return "BAD invalid command\r\n"
		}
		return m.andRemainder(tag+" NO not base64\r\n", strings.Fields(text))
	}
	if m.saslStep++; mechanism == "LOGIN" && m.saslStep == 1 {
		m.saslU = string(b)
		return "+ UGFzc3dvcmQ6\r\n"
	}
	m.sasl = ""
	user, password := m.saslU, string(b)
	if mechanism == "PLAIN" {
		_, rest, _ := strings.Cut(string(b), "\x00")
		user, password, _ = strings.Cut(rest, "\x00")
	}
	out, _ := m.login(tag, user, password)
	return out
}

// andRemainder adds what a server says that runs the last two words of an exchange, too,
// where it refuses it.
func (m *model) andRemainder(out string, words []string) string {
	if n := len(words); m.remainder && n > 2 && refuses.MatchString(out) {
		more, _ := m.execute(words[n-2], strings.ToUpper(words[n-1]), nil)
		return out + more
	}
	return out
}
