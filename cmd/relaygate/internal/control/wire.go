// Package control is the daemon's control socket: HTTP with JSON over a unix
// socket, its server, its client, and the shapes that every --json prints.
package control

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"relaygate/authz"
)

// Time is printed as RFC 3339 in UTC with microseconds.
type Time struct{ time.Time }

const timeFormat = "2006-01-02T15:04:05.000000Z07:00"

// MarshalJSON prints null for the zero time.
func (t Time) MarshalJSON() ([]byte, error) {
	if t.IsZero() {
		return []byte("null"), nil
	}
	return t.UTC().AppendFormat(make([]byte, 0, len(timeFormat)+2), `"`+timeFormat+`"`), nil
}

// Text is text from the wire. Its JSON is exact, and everything that could act
// on its reader is escaped: what authz.Quote escapes.
type Text string

// MarshalJSON escapes as RFC 8259 §7 allows.
func (t Text) MarshalJSON() ([]byte, error) {
	out := append(make([]byte, 0, len(t)+2), '"')
	for i, r := range string(t) {
		if authz.Shown(r, i == 0) {
			out = utf8.AppendRune(out, r)
		} else {
			out = appendEscaped(out, r)
		}
	}
	return append(out, '"'), nil
}

func appendEscaped(out []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	if r > 0xffff { // a surrogate pair
		r -= 0x10000
		out = appendEscaped(out, 0xd800+r>>10)
		r = 0xdc00 + r&0x3ff
	}
	return append(out, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
}

// Verdict is one verdict, as replay and watch print it.
type Verdict struct {
	Event      string     `json:"event,omitempty"`
	Time       Time       `json:"time"`
	Client     netip.Addr `json:"client"`
	ClientPort uint16     `json:"client_port"`
	Server     netip.Addr `json:"server"`
	ServerPort uint16     `json:"server_port"`
	Protocol   string     `json:"protocol"`
	Mechanism  Text       `json:"mechanism"`
	User       Text       `json:"user"`
	AuthzID    Text       `json:"authzid,omitempty"`
	Result     string     `json:"result"`
	TLS        bool       `json:"tls"`
	Origin     string     `json:"origin,omitempty"`
	Anonymous  bool       `json:"anonymous,omitempty"`
	// Proxy announced the client.
	Proxy  *netip.Addr `json:"proxy,omitempty"`
	Reason string      `json:"reason"`
}

// NewVerdict is v's shape.
func NewVerdict(v *authz.Verdict) Verdict {
	out := Verdict{
		Time:   Time{v.Time},
		Client: v.Conn.Client.Addr(), ClientPort: v.Conn.Client.Port(),
		Server: v.Conn.Server.Addr(), ServerPort: v.Conn.Server.Port(),
		Protocol: v.Conn.Service.Protocol.String(), Mechanism: Text(v.Mechanism),
		User: Name(v, v.User), AuthzID: Name(v, v.AuthzID),
		Result: v.Result.String(), TLS: v.TLS, Anonymous: v.Anonymous, Reason: v.Reason,
	}
	if v.Proxy.IsValid() {
		p := v.Proxy // v is overwritten
		out.Proxy = &p
	}
	if v.Origin == authz.Unauthenticated {
		out.Origin = "unauthenticated"
	}
	return out
}

// Name is one of v's names. It leaves a masked one out: an object has no place for
// words about it.
func Name(v *authz.Verdict, s string) Text {
	if v.Result != authz.Success && s == authz.Masked {
		return ""
	}
	return Text(s)
}

// UserText shows a verdict's user to a person.
func UserText(v *authz.Verdict) string {
	s := authz.Quote(v.User)
	switch {
	case v.Anonymous:
		return "(anonymous)"
	case s == "":
		return "-"
	case v.AuthzID != "":
		s += " as " + authz.Quote(v.AuthzID)
	}
	return s
}

// ReasonText shows a verdict's reason, the doubt about its origin, and who announced
// the client.
func ReasonText(v *authz.Verdict) string {
	words := v.Reason
	if v.Origin == authz.Unauthenticated && v.Result == authz.Success {
		words = "unauthenticated: the file does not show who sent the server's bytes"
	}
	if v.Proxy.IsValid() {
		words = strings.TrimPrefix(words+"; announced by proxy "+v.Proxy.String(), "; ")
	}
	return words
}

// NoteText shows an administrator's note behind other words, "" if there is none.
func NoteText(note string) string {
	if note == "" {
		return ""
	}
	return " (" + authz.QuoteWords(note) + ")"
}

// Duration is printed in seconds.
type Duration struct{ time.Duration }

// MarshalJSON prints seconds with microseconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, d.Seconds(), 'f', 6, 64), nil
}

// maxSeconds is what a Duration holds.
const maxSeconds = float64(math.MaxInt64) / float64(time.Second)

// UnmarshalJSON reads seconds.
func (d *Duration) UnmarshalJSON(b []byte) error {
	s, err := strconv.ParseFloat(string(b), 64)
	if err == nil && !(math.Abs(s) < maxSeconds) {
		err = fmt.Errorf("%s is no number of seconds", b)
	}
	if err != nil {
		return err
	}
	d.Duration = time.Duration(s * float64(time.Second))
	return nil
}
