package sasl

import (
	"bytes"
	"strings"

	"relaygate/authz/line"
)

// mechanism is what is known about one.
type mechanism struct {
	name string
	// separators are the control characters that its messages hold by their grammar.
	separators string
	// opaque messages are not text: only what a server could echo as a
	// positive answer is refused.
	opaque bool
	// read takes one decoded message.
	read func(*Exchange, []byte)
}

var known = [...]mechanism{
	{name: "PLAIN", separators: "\x00", read: (*Exchange).plain},
	{name: "LOGIN", read: (*Exchange).login},
	{name: "CRAM-MD5", read: (*Exchange).cramMD5},
	{name: "DIGEST-MD5", read: (*Exchange).digestMD5},
	{name: "XOAUTH2", separators: "\x01", read: (*Exchange).xoauth2},
	{name: "OAUTHBEARER", separators: "\x01", read: (*Exchange).oauthBearer},
	{name: "ANONYMOUS", read: (*Exchange).anonymous},
	{name: "EXTERNAL", read: (*Exchange).external},
}

var (
	scram  = mechanism{read: (*Exchange).scram}
	opaque = mechanism{opaque: true, read: (*Exchange).opaque}
)

// lookup returns the mechanism and its name in capitals.
func lookup(name []byte) (*mechanism, string) {
	for i := range known {
		if m := &known[i]; line.Is(name, m.name) {
			return m, m.name
		}
	}
	upper := strings.ToUpper(string(name))
	if strings.HasPrefix(upper, "SCRAM-") {
		return &scram, upper
	}
	return &opaque, upper
}

// check returns a reason to believe nothing further, else "".
func (m *mechanism) check(message []byte) string {
	switch {
	case m.opaque && echoable(message):
		return reasonInjection
	case !m.opaque && bytes.ContainsAny(message, "\r\n"):
		return reasonBreak
	}
	return ""
}

// clean reports whether a message holds no control characters but separators.
func (m *mechanism) clean(message []byte) bool {
	for i := line.Printable(message); i < len(message) && !m.opaque; i += 1 + line.Printable(message[i+1:]) {
		if c := message[i]; (c < ' ' || c == 0x7f) && strings.IndexByte(m.separators, c) < 0 {
			return false
		}
	}
	return true
}

// echoable reports whether some line of the message but the first would read
// as a positive answer of POP3 ("+OK") or IMAP (a word, then "OK").
func echoable(message []byte) bool {
	for {
		end := bytes.IndexAny(message, "\r\n")
		if end < 0 {
			return false
		}
		message = message[end+1:]
		if len(message) >= 3 && bytes.EqualFold(message[:3], []byte("+OK")) {
			return true
		}
		_, rest := line.Field(message)
		if len(rest) >= 2 && bytes.EqualFold(rest[:2], []byte("OK")) {
			return true
		}
	}
}

// plain is RFC 4616 §2: [authzid] NUL authcid NUL passwd.
func (x *Exchange) plain(message []byte) {
	if x.messages == 1 && len(message) == 0 {
		return // an empty initial response: the message follows a challenge
	}
	x.once()
	authzid, rest, _ := bytes.Cut(message, []byte{0})
	user, password, ok := bytes.Cut(rest, []byte{0})
	if !ok || len(password) == 0 || bytes.IndexByte(password, 0) >= 0 {
		x.malformed = true
		return
	}
	x.name(user)
	if len(authzid) > 0 {
		x.authorize(authzid)
	}
}

// once marks the one message of a mechanism that has no second.
func (x *Exchange) once() {
	if x.ready {
		x.malformed = true
	}
	x.ready = true
}

// login is draft-murchison-sasl-login: the user name, then the password.
func (x *Exchange) login(message []byte) {
	switch {
	case x.messages == 1 && len(message) == 0:
		x.messages = 0 // an empty initial response
	case x.messages == 1:
		x.name(message)
	default:
		x.once()
	}
}

// cramMD5 is RFC 2195 §2: the user name, a blank, 32 hexadecimal digits.
func (x *Exchange) cramMD5(message []byte) {
	x.once()
	at := bytes.LastIndexByte(message, ' ')
	if at < 0 || !HexDigest(message[at+1:]) {
		x.malformed = true
		return
	}
	x.name(message[:at])
}

// HexDigest reports whether b is an MD5 digest in hexadecimal digits.
func HexDigest(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return len(b) == 32
}

// xoauth2 is Google's and Microsoft's mechanism:
// "user=" name ^A "auth=Bearer " token ^A ^A.
// After an error the client answers the challenge with an empty message.
func (x *Exchange) xoauth2(message []byte) {
	x.once()
	rest, ok := bytes.CutPrefix(message, []byte("user="))
	user, rest, sep := bytes.Cut(rest, []byte{1})
	if !ok || !sep || !bytes.HasPrefix(rest, []byte("auth=")) {
		x.malformed = true
		return
	}
	x.name(user)
}

// anonymous is RFC 4505 §2: optional trace information.
func (x *Exchange) anonymous([]byte) {
	x.once()
	x.id.Anonymous = true
	x.id.User = "anonymous"
}

// external is RFC 4422 appendix A: the authorization identity, or nothing. The
// authentication identity was proved elsewhere.
func (x *Exchange) external(message []byte) {
	x.once()
	x.authorize(message)
}

// opaque is any other mechanism.
func (x *Exchange) opaque([]byte) { x.ready = true }
