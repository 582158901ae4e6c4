package pop3

import (
	"bytes"
	"strings"

	"relaygate/authz/line/linetest"
)

// Read takes at most one line.
func (m *model) Read(in []byte) (int, []byte) {
	if m.edge && m.seen > 0 && len(in) <= m.seen {
		return 0, nil
	}
	if m.greeted && m.lossy {
		return m.lose(in)
	}
	greeted := m.greeted
	taken, out := m.read(in)
	if m.seen = 0; greeted && len(out) > 0 {
		m.seen = len(in) - taken
	}
	return taken, out
}

// lose reads all that came, answers one line, and forgets what has no end yet.
func (m *model) lose(in []byte) (int, []byte) {
	if end := bytes.LastIndexByte(in, '\n') + 1; end > 0 {
		m.lines = append(append(m.lines, m.kept...), in[:end]...)
		m.kept = bytes.Clone(in[end:])
	} else if m.sasl != "" { // the end of a response is a login of another name
		m.kept = append(m.kept, in...)
	}
	if len(m.lines) == 0 {
		return len(in), nil
	}
	taken, out := m.read(m.lines)
	m.lines = m.lines[taken:]
	return len(in), out
}

func (m *model) read(in []byte) (int, []byte) {
	if !m.greeted {
		m.greeted = true
		if m.dropAtGreeting {
			return len(in), []byte("+OK ready <1@example.org>\r\n")
		}
		return 0, []byte("+OK ready <1@example.org>\r\n")
	}
	if m.reads > 0 {
		in = in[:min(len(in), m.reads)]
	}
	text, taken := m.cut(in)
	if m.segments {
		text, taken = bytes.TrimSpace(in), len(in)
	}
	if m.hasty && m.sasl == "" && m.in == "" && !m.tls && bad(in) {
		return len(in), []byte("-ERR invalid command\r\n")
	}
	if taken == 0 {
		if m.reads > 0 && len(in) == m.reads {
			m.closed = true
			return len(in), []byte("-ERR invalid command\r\n")
		}
		return 0, nil
	}
	if m.reads > 0 {
		taken = len(in)
	}
	if m.tls { // garbage to the TLS library: it fails, clear text goes on
		m.tls = false
		return taken, nil
	}
	out, drop := m.line(text)
	if drop {
		taken = len(in)
	}
	return taken, []byte(out)
}

// bad reports whether what came of a line shows that it is none of the commands
// that a proxy knows.
func bad(in []byte) bool {
	end := bytes.IndexFunc(in, func(c rune) bool { return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') })
	if end < 0 {
		return false
	}
	switch strings.ToUpper(string(in[:end])) {
	case "USER", "PASS":
		return false
	case "APOP", "QUIT", "CAPA", "AUTH", "NOOP", "STLS":
		line, _, _ := bytes.Cut(in[end:], []byte{'\n'})
		return len(bytes.Fields(line)) > 3
	}
	return true
}

// cut finds the end of the first line as this server sees it.
func (m *model) cut(in []byte) (text []byte, taken int) {
	ends := linetest.Ends{CRLFOnly: m.crlfOnly, BareCR: m.bareCR, NEL: m.nel}
	if m.long == longSplit {
		ends.Most = m.max
	}
	return ends.Cut(in)
}
