package main

import (
	"encoding/json"
	"io"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
)

// jsonLines prints one object per line: what encoding/json makes of a
// control.Verdict, without its reflection and garbage. The parts that most lines
// share with one before are kept as text.
type jsonLines struct {
	w      io.Writer
	lines  []byte // not yet written
	second secondText
	logins [64]loginText // each where login looks for it
	ends   [8]endText    // by result
}

// secondText is the beginning of a line of that second, in Unix time.
type secondText struct {
	unix int64
	text []byte
}

// loginText is what a line tells of where a login was, and how.
type loginText struct {
	server    netip.AddrPort
	protocol  authz.Protocol
	mechanism string
	text      []byte
}

// endText is how a line ends after the names.
type endText struct {
	result         authz.Result
	tls, anonymous bool
	origin         authz.Origin
	proxy          netip.Addr
	reason         string
	text           []byte
}

// linesSize is how many bytes are written at one time.
const linesSize = 1 << 16

func newJSONLines(w io.Writer) *jsonLines {
	return &jsonLines{w: w, lines: make([]byte, 0, linesSize+1<<10)}
}

func (j *jsonLines) print(v *authz.Verdict) error {
	b := j.appendTime(j.lines, v.Time)
	b = appendAddr(append(b, `,"client":"`...), v.Conn.Client.Addr())
	b = appendPort(append(b, `","client_port":`...), v.Conn.Client.Port())
	b = appendWire(append(b, j.login(v)...), control.Name(v, v.User))
	if name := control.Name(v, v.AuthzID); name != "" {
		b = appendWire(append(b, `,"authzid":`...), name)
	}
	j.lines = append(b, j.end(v)...)
	if len(j.lines) < linesSize {
		return nil
	}
	return j.flush()
}

// flush writes what is left.
func (j *jsonLines) flush() error {
	if len(j.lines) == 0 {
		return nil
	}
	_, err := j.w.Write(j.lines)
	j.lines = j.lines[:0]
	return err
}

// appendTime begins a line with what control.Time prints.
func (j *jsonLines) appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return append(b, `{"time":null`...)
	}
	s := &j.second
	if unix := t.Unix(); s.unix != unix || s.text == nil {
		s.unix, s.text = unix, t.UTC().AppendFormat(s.text[:0], `{"time":"2006-01-02T15:04:05.`)
	}
	b = appendMicros(append(b, s.text...), uint32(t.Nanosecond())/uint32(time.Microsecond))
	return append(b, `Z"`...)
}

// login is the text for a verdict. Two that share a place push each other out.
func (j *jsonLines) login(v *authz.Verdict) []byte {
	server := &v.Conn.Server
	place := uint(server.Addr().As16()[15]) + uint(server.Port())
	if v.Mechanism != "" {
		place += uint(v.Mechanism[0])
	}
	l := &j.logins[place%uint(len(j.logins))]
	if l.server != *server || l.protocol != v.Conn.Service.Protocol || l.mechanism != v.Mechanism || l.text == nil {
		l.set(v)
	}
	return l.text
}

func (l *loginText) set(v *authz.Verdict) {
	l.server, l.protocol, l.mechanism = v.Conn.Server, v.Conn.Service.Protocol, v.Mechanism
	b := appendAddr(append(l.text[:0], `,"server":"`...), l.server.Addr())
	b = appendPort(append(b, `","server_port":`...), l.server.Port())
	b = append(append(b, `,"protocol":"`...), l.protocol.String()...)
	b = appendWire(append(b, `","mechanism":`...), control.Text(l.mechanism))
	l.text = append(b, `,"user":`...)
}

// end is the text for a verdict.
func (j *jsonLines) end(v *authz.Verdict) []byte {
	e := &j.ends[uint(v.Result)%uint(len(j.ends))]
	if e.result != v.Result || e.tls != v.TLS || e.anonymous != v.Anonymous ||
		e.origin != v.Origin || e.proxy != v.Proxy || e.reason != v.Reason || e.text == nil {
		e.set(v)
	}
	return e.text
}

func (e *endText) set(v *authz.Verdict) {
	e.result, e.tls, e.anonymous, e.origin, e.proxy, e.reason = v.Result, v.TLS, v.Anonymous, v.Origin, v.Proxy, v.Reason
	shape := control.NewVerdict(v)
	b := append(append(e.text[:0], `,"result":"`...), shape.Result...)
	b = strconv.AppendBool(append(b, `","tls":`...), shape.TLS)
	if shape.Origin != "" {
		b = append(append(append(b, `,"origin":"`...), shape.Origin...), '"')
	}
	if shape.Anonymous {
		b = append(b, `,"anonymous":true`...)
	}
	if shape.Proxy != nil {
		b = append(appendAddr(append(b, `,"proxy":"`...), *shape.Proxy), '"')
	}
	b = appendText(append(b, `,"reason":`...), shape.Reason)
	e.text = append(b, "}\n"...)
}

// appendText appends words of the program's own as JSON.
func appendText(b []byte, s string) []byte {
	if ordinary(s) {
		return append(append(append(b, '"'), s...), '"')
	}
	text, err := json.Marshal(s)
	if err != nil {
		return append(b, `""`...) // no string is an error
	}
	return append(b, text...)
}

// appendWire appends text from the wire as JSON. What may not be shown as it is
// escapes control.Text.
func appendWire(b []byte, s control.Text) []byte {
	if s == "" || ordinary(string(s)) && leads[s[0]] {
		return append(append(append(b, '"'), s...), '"')
	}
	text, err := s.MarshalJSON()
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, text...)
}

// ordinary tells whether s is ASCII text that no notation escapes. Eight octets in
// one step take half the instructions.
func ordinary(s string) bool {
	var escaped byte
	for ; len(s) >= 8; s = s[8:] {
		escaped |= isEscaped[s[0]] | isEscaped[s[1]] | isEscaped[s[2]] | isEscaped[s[3]] |
			isEscaped[s[4]] | isEscaped[s[5]] | isEscaped[s[6]] | isEscaped[s[7]]
	}
	for i := range len(s) {
		escaped |= isEscaped[s[i]]
	}
	return escaped == 0
}

// isEscaped is not 0 for the octets that some notation escapes.
var isEscaped = func() (is [256]byte) {
	for c := range is {
		if c >= utf8.RuneSelf || !authz.Shown(rune(c), false) {
			is[c] = 1
		}
	}
	return is
}()

// leads tells which characters may begin a text.
var leads = func() (may [256]bool) {
	for c := range may {
		may[c] = authz.Shown(rune(c), true)
	}
	return may
}()
