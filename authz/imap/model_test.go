package imap

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"strconv"
	"strings"

	"relaygate/authz/line/linetest"
)

// How a model treats a blank line, and a line with an illegal tag.
const (
	badUntagged = iota // "* BAD"
	badBare            // "BAD" without a tag (nginx)
	badPrevious        // "BAD" with the tag of the previous command (nginx)
	badSilent          // nothing (invented)
	badTaken           // takes the tag as it is (mailutils, Courier)
)

// How a model treats NUL in a line.
const (
	nulKeep = iota
	nulCut
	nulGlue
)

// What a model does with an over-long line.
const (
	longKeep = iota
	longSplit
	longRefuse
	longClose
)

// model is an IMAP server by its habits.
type model struct {
	name string

	crlfOnly, bareCR, nel bool
	nul                   int
	max, long             int
	tabs                  bool // TAB separates
	blank, tag            int

	anyLiteral  bool // literals also in unknown commands
	plus        bool // "{5+}" (LITERAL+)
	plusFirst   bool // "{+5}" too
	lax         bool // "{05}", "~{5}" and a literal in an unclosed quoted string too
	maxLiteral  int  // larger ones are refused, and the octets run as lines
	quotes      bool // an unclosed quoted string is an error; else it is an atom
	echo        bool // repeats what it refuses in the text
	ir, eatsIR  bool // initial responses; an initial response is not read (invented)
	loose       bool // skips what is not base64
	saslNoTag   bool // refuses a line that is not base64 without a tag (nginx)
	tlsReturns  bool // STARTTLS is accepted, fails, and returns to clear text
	dropAtTLS   bool // what was received with STARTTLS is lost
	dropAtLogin bool // what was received with the login is lost
	dropAtGreet bool // what was received before the greeting is lost (invented)
	unknownOK   bool // says OK to unknown commands (invented)
	reads       int  // reads so many octets at once, answers their first line, and loses the rest
	hasty       bool // refuses a line as soon as it can
	lossy       bool // of a line in pieces keeps the last one, and what came with the line before (invented)
	early       bool // refuses an unknown command where its name ends, loses what it has read behind it, and runs the rest (Stalwart)
	thrice      bool // refuses a login three times (Citadel)
	twice       bool // refuses all twice, the second time with the last word for the tag (invented)
	brackets    bool // takes the rest of a line behind a bracket for a word, and sees no literal there (go-imap 1)
	segments    bool // takes each segment for a line, whatever it holds (invented)
	remainder   bool // runs the end of what it refuses of an exchange (Courier)
	edge        bool // reads again only when more has come (epoll, EPOLLET)

	kept, lines          []byte // lossy: the beginning of a line; whole lines
	greeted, closed, tls bool
	in                   string
	previous             string
	buf                  string   // the command so far, literals as \x01
	literals             []string // their contents
	left                 int      // octets of the present literal to come
	glued                []byte
	sasl, saslTag, saslU string
	saslStep             int
	seen                 int // octets that had come and were left
}

var models = []model{
	{name: "dovecot", anyLiteral: true, plus: true, maxLiteral: 1 << 16, quotes: true, ir: true, max: 65536, long: longClose, tag: badUntagged},
	{name: "courier", tabs: true, tag: badTaken, maxLiteral: 1 << 13, quotes: true, tlsReturns: true, max: 16384, long: longClose, dropAtLogin: true, remainder: true},
	{name: "cyrus", nul: nulCut, tag: badUntagged, plus: true, maxLiteral: 8192, quotes: true, ir: true, tlsReturns: true, dropAtTLS: true, max: 131072, long: longClose},
	{name: "mailutils", tabs: true, tag: badTaken, anyLiteral: true, plus: true, plusFirst: true, lax: true, maxLiteral: 1 << 20, max: 65536, long: longRefuse},
	{name: "nginx", blank: badPrevious, tag: badBare, plus: true, maxLiteral: 4096, quotes: true, ir: true, saslNoTag: true, max: 4096, long: longClose},
	{name: "nginx before 1.21", blank: badUntagged, tag: badTaken, plus: true, maxLiteral: 4096, quotes: true, ir: true, max: 4096, long: longClose, reads: 4096, hasty: true, edge: true},
	{name: "citadel", tag: badTaken, maxLiteral: 1 << 13, thrice: true, max: 4096, long: longClose},
	{name: "stalwart", anyLiteral: true, plus: true, maxLiteral: 1 << 20, quotes: true, ir: true, early: true, max: 1 << 16},
	{name: "go-imap 1", anyLiteral: true, plus: true, brackets: true, maxLiteral: 1 << 16, quotes: true, ir: true, max: 1 << 16},
	{name: "greenmail", anyLiteral: true, plus: true, maxLiteral: 1 << 16, quotes: true, echo: true, ir: true, max: 1 << 16},
}

// randomModel mixes habits that no one server has.
func randomModel(r *rand.Rand) model {
	b := func(n int) bool { return r.IntN(n) == 0 }
	m := model{
		name:     "random",
		crlfOnly: b(4), bareCR: b(6), nel: b(8), nul: r.IntN(3),
		max: []int{1000, 1024, 4096, 65536}[r.IntN(4)], long: r.IntN(4),
		tabs: b(3), blank: r.IntN(5), tag: r.IntN(5),
		anyLiteral: b(2), plus: b(2), plusFirst: b(3), lax: b(3), maxLiteral: []int{16, 4096, 1 << 20}[r.IntN(3)],
		quotes: b(2), echo: b(3), ir: b(2), eatsIR: b(8), loose: b(4), saslNoTag: b(4),
		tlsReturns: b(2), dropAtTLS: b(3), dropAtLogin: b(4), dropAtGreet: b(8), unknownOK: b(6),
		lossy: b(6), reads: []int{0, 0, 0, 0, 1024, 4096}[r.IntN(6)], hasty: b(4), edge: b(2), thrice: b(4), twice: b(4),
		brackets: b(4), early: b(4), segments: b(8), remainder: b(4),
	}
	if m.segments {
		m.unknownOK = false // else the beginning of a word is a command
	}
	if m.lossy { // else the octets of a literal are lines, of which the first is lost, or anything is a command
		m.plus, m.brackets, m.maxLiteral, m.unknownOK = true, false, 1<<20, false
		m.blank, m.tag = badUntagged, badUntagged // else what is lost of one is never missed
	}
	return m
}

func (m *model) User() string { return m.in }
func (m *model) Closed() bool { return m.closed }

// Read takes a line or a piece of a literal.
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

func (m *model) read(in []byte) (int, []byte) {
	if !m.greeted {
		m.greeted = true
		taken := 0
		if m.dropAtGreet {
			taken = len(in)
		}
		return taken, []byte("* OK [CAPABILITY " + m.capabilities() + "] ready\r\n")
	}
	if m.left > 0 {
		n := min(m.left, len(in))
		m.left -= n
		m.literals[len(m.literals)-1] += string(in[:n])
		return n, nil
	}
	if m.reads > 0 {
		in = in[:min(len(in), m.reads)]
	}
	if m.early && m.sasl == "" && m.buf == "" && !m.tls {
		if found := unknownName.FindSubmatch(in); found != nil && !knownName.Match(found[2]) {
			return len(in), append(found[1], " BAD unrecognized command\r\n"...)
		}
	}
	if m.hasty && m.sasl == "" && m.buf == "" && !m.tls {
		if tag, bad := hastily(in); bad {
			return len(in), []byte(tag + " BAD invalid command\r\n")
		}
	}
	text, taken := m.cut(in)
	if m.segments {
		text, taken = bytes.TrimSpace(in), len(in)
	}
	if taken == 0 && m.reads > 0 && len(in) == m.reads {
		m.closed = true
		return len(in), []byte("* BAD invalid command\r\n")
	}
	if taken == 0 {
		return 0, nil
	}
	if m.tls {
		m.tls = false
		return taken, nil
	}
	out, drop := m.line(text)
	if drop || m.reads > 0 && out != "" && m.left == 0 {
		taken = len(in)
	}
	return taken, []byte(out)
}

// hastily reports whether what came of a line shows that it is none of the
// commands that a proxy knows, and its tag.
func hastily(in []byte) (tag string, bad bool) {
	first, rest, ok := bytes.Cut(in, []byte{' '})
	if !ok {
		return "*", bytes.IndexByte(first, '\n') >= 0
	}
	rest = bytes.TrimLeft(rest, " ")
	end := bytes.IndexFunc(rest, func(c rune) bool { return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') })
	if end < 0 {
		return "", false
	}
	switch strings.ToUpper(string(rest[:end])) {
	case "LOGIN", "LOGOUT", "NOOP", "CAPABILITY", "AUTHENTICATE", "STARTTLS":
		line, _, _ := bytes.Cut(rest[end:], []byte{'\n'})
		return string(first), len(bytes.Fields(line)) > 3
	}
	return string(first), true
}

func (m *model) capabilities() string {
	if m.plus && m.anyLiteral && m.maxLiteral > 255 {
		return "IMAP4rev1 LITERAL+"
	}
	return "IMAP4rev1"
}

// cut finds the end of the first line as this server sees it.
func (m *model) cut(in []byte) (text []byte, taken int) {
	ends := linetest.Ends{CRLFOnly: m.crlfOnly, BareCR: m.bareCR, NEL: m.nel}
	if m.long == longSplit {
		ends.Most = m.max
	}
	return ends.Cut(in)
}

var (
	strictLiteral = regexp.MustCompile(`(?:^|[ (])\{(0|[1-9][0-9]*)(\+?)\}$`)
	laxLiteral    = regexp.MustCompile(`~?\{([0-9]+)(\+?)\}$`)
	legalTag      = regexp.MustCompile(`^[^\x00-\x20(){%*"\\+\x7f-\xff]+$`)
	knowsLiterals = regexp.MustCompile(`^\S+\s+(?i:LOGIN|ID|AUTHENTICATE|NOOP)\b`)
	unknownName   = regexp.MustCompile(`^([^\s(){%*"\\+]+) ([^\s]+)[ \r\n]`)
	knownName     = regexp.MustCompile(`^(?i:LOGIN|LOGOUT|NOOP|CAPABILITY|AUTHENTICATE|STARTTLS|SELECT|ID|ENABLE)$`)
	refuses       = regexp.MustCompile(`^\S+ (NO|BAD)`)
	lastWord      = regexp.MustCompile(`[^ \x01]*$`)
	firstLiteral  = regexp.MustCompile(`\{(\+)([0-9]+)\}$`)
)

// line takes a line; drop is true if the rest of the input is lost.
func (m *model) line(text []byte) (out string, drop bool) {
	if len(text) > m.max && m.long != longKeep {
		m.closed = m.long == longClose
		m.reset()
		return "* BAD line too long\r\n", false
	}
	if i := bytes.IndexByte(text, 0); i >= 0 && m.nul != nulKeep {
		if m.nul == nulGlue {
			m.glued = append(m.glued, text[:i]...)
			return "", false
		}
		text = text[:i]
	}
	if m.glued != nil {
		text, m.glued = append(m.glued, text...), nil
	}
	if m.sasl != "" {
		return m.response(string(text)), false
	}
	m.buf += string(text)
	if size, sync, ok := m.literal(); ok {
		if size > m.maxLiteral {
			tag, _, _ := strings.Cut(m.buf, " ")
			m.reset()
			return tag + " NO [TOOBIG] no\r\n", false
		}
		m.literals = append(m.literals, "")
		m.left = size
		if sync {
			return "+ OK\r\n", false
		}
		return "", false
	}
	buf, literals := m.buf, m.literals
	m.reset()
	out, drop = m.command(buf, literals)
	if word := lastWord.FindString(buf); m.twice && word != "" && refuses.MatchString(out) {
		out += word + " BAD again\r\n"
	}
	return out, drop
}

func (m *model) reset() { m.buf, m.literals, m.left = "", nil, 0 }

// literal looks for one at the end of the command so far, and replaces it.
func (m *model) literal() (size int, sync, ok bool) {
	if !m.anyLiteral && !knowsLiterals.MatchString(m.buf) {
		return 0, false, false
	}
	if !m.lax && strings.Count(m.buf, `"`)%2 == 1 || m.brackets && strings.Contains(m.buf, "[") {
		return 0, false, false
	}
	pattern := strictLiteral
	if m.lax {
		pattern = laxLiteral
	}
	at := pattern.FindStringSubmatchIndex(m.buf)
	number, plus := 2, 4
	if at == nil && m.plusFirst {
		at = firstLiteral.FindStringSubmatchIndex(m.buf)
		number, plus = 4, 2
	}
	if at == nil {
		return 0, false, false
	}
	size, err := strconv.Atoi(m.buf[at[number]:at[number+1]])
	nonsync := at[plus+1] > at[plus]
	if err != nil || nonsync && !m.plus {
		return 0, false, false
	}
	m.buf = m.buf[:strings.LastIndexByte(m.buf, '{')] + "\x01"
	return size, !nonsync, true
}
