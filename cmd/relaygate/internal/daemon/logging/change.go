package logging

import (
	"io"
	"log/slog"
	"strconv"
	"time"
	"unicode"
	"unicode/utf8"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// changeLog writes what happens to grants into the log, as slog.TextHandler writes a
// record, which takes three times as long for a line: in a storm each login has one.
type changeLog struct {
	w          io.Writer
	line       []byte
	now, until moment
}

// moment is the text of a time. Neighbours in the log often have the same.
type moment struct {
	unix int64 // in units of the layout's last digit
	text []byte
}

// appendTime appends t, of which unix is different if its text is. All times are
// local ones.
func (m *moment) appendTime(b []byte, t time.Time, unix int64, layout string) []byte {
	if m.unix != unix || m.text == nil {
		m.unix, m.text = unix, t.AppendFormat(m.text[:0], layout)
	}
	return append(b, m.text...)
}

// tell writes a change's line.
func (l *changeLog) tell(now time.Time, c *grant.Change) {
	b := l.now.appendTime(append(l.line[:0], "time="...), now, now.UnixMilli(), "2006-01-02T15:04:05.000Z07:00")
	b = appendAttr(append(b, " level=INFO"...), "msg", c.Kind.String())
	if c.Grant.Prefix.IsValid() {
		b = appendAttr(b, addressKey, authz.PrefixString(c.Grant.Prefix))
	}
	if len(c.Grant.Users) > 0 && c.Grant.Users[0].Name != "" {
		b = appendAttr(b, userKey, authz.Quote(c.Grant.Users[0].Name))
	}
	if !c.Grant.Expires.IsZero() {
		b = l.until.appendTime(append(b, " until="...), c.Grant.Expires, c.Grant.Expires.Unix(), time.RFC3339)
	}
	b = appendAttr(b, "reason", c.Reason)
	l.line = append(b, '\n')
	_, _ = l.w.Write(l.line) // there is no other place to say that the log cannot be written
}

// record is a change's line for a slog.Handler.
func record(now time.Time, c *grant.Change) slog.Record {
	r := slog.NewRecord(now, slog.LevelInfo, c.Kind.String(), 0)
	if c.Grant.Prefix.IsValid() {
		r.AddAttrs(slog.String(addressKey, authz.PrefixString(c.Grant.Prefix)))
	}
	if len(c.Grant.Users) > 0 && c.Grant.Users[0].Name != "" {
		r.AddAttrs(slog.String(userKey, authz.Quote(c.Grant.Users[0].Name)))
	}
	if !c.Grant.Expires.IsZero() {
		r.AddAttrs(slog.String("until", c.Grant.Expires.Format(time.RFC3339)))
	}
	r.AddAttrs(slog.String("reason", c.Reason))
	return r
}

func appendAttr(b []byte, key, value string) []byte {
	b = append(append(append(b, ' '), key...), '=')
	if bare(value) {
		return append(b, value...)
	}
	return strconv.AppendQuote(b, value)
}

// bare says whether slog.TextHandler writes a value without quotation marks; DEL,
// which it lets through, gets them too.
func bare(value string) bool {
	for i := 0; i < len(value); {
		if c := value[i]; c < utf8.RuneSelf {
			if c <= ' ' || c == '"' || c == '=' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(value[i:])
		if r == utf8.RuneError || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return false
		}
		i += size
	}
	return value != ""
}
