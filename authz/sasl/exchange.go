package sasl

import (
	"bytes"
	"encoding/base64"
)

const (
	// MaxLine is the longest encoded message, in octets without its line end
	// (RFC 4954 §4 names this number for base64 lines of AUTH).
	MaxLine = 12288
	// maxMechanism is the longest mechanism name (RFC 4422 §3.1).
	maxMechanism = 20
	// maxIdentity bounds a user name. RFC 4616 §2 has 255 octets.
	maxIdentity = 255
	// maxKept bounds the buffer that is kept for the next exchange.
	maxKept = 512
	// maxMessages bounds the client's messages of one exchange.
	maxMessages = 16
)

// Reasons to believe nothing further, and doubts about a positive answer.
const (
	ReasonBase64     = "a line of the SASL exchange is not base64"
	reasonBreak      = "line break in a SASL message"
	reasonInjection  = "a SASL message holds what could be echoed as a positive answer"
	reasonIdentity   = "user name in a SASL message is too long"
	reasonMessages   = "SASL exchange with too many messages"
	doubtCancelled   = "positive answer to a cancelled SASL exchange"
	doubtMalformed   = "positive answer to a malformed SASL message"
	doubtUnfinished  = "positive answer to a SASL exchange that is not finished"
	doubtNoMechanism = "positive answer to an unknown SASL mechanism"
)

// Bounds are the reasons that say of a bound that it was hit.
var Bounds = []string{reasonIdentity, reasonMessages}

// Identity is who the exchange is about. Its fields mean what those of
// authz.Login mean.
type Identity struct {
	Mechanism string
	User      string
	AuthzID   string
	Anonymous bool
}

// Exchange is one SASL exchange. The zero value is ready for Begin.
type Exchange struct {
	mechanism *mechanism
	id        Identity
	messages  int  // decoded client messages so far
	ready     bool // enough of them for a positive answer
	malformed bool
	cancelled bool
	asked     bool   // a message came that the server had asked for
	scratch   []byte // empty; its room is wiped after each message
}

// Begin starts an exchange and reports whether the name is that of a mechanism
// (RFC 4422 §3.1). Letters may be of either case.
func (x *Exchange) Begin(name []byte) bool {
	*x = Exchange{scratch: x.scratch}
	if len(name) == 0 || len(name) > maxMechanism {
		return false
	}
	for _, c := range name {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	x.mechanism, x.id.Mechanism = lookup(name)
	return true
}

// Cancelled reports whether the client gave up with "*".
func (x *Exchange) Cancelled() bool { return x.cancelled }

// Identity is what the messages so far showed.
func (x *Exchange) Identity() Identity { return x.id }

// Doubt says why a positive answer at this point proves no login, else "".
func (x *Exchange) Doubt() string {
	switch {
	case x.id.Mechanism == "":
		return doubtNoMechanism
	case x.cancelled:
		return doubtCancelled
	case x.malformed:
		return doubtMalformed
	case !x.ready:
		return doubtUnfinished
	}
	return ""
}

// Unsaid reports whether nothing was said, in a mechanism of which nothing is known.
func (x *Exchange) Unsaid() bool { return x.mechanism == &opaque && x.messages == 0 }

// Unasked reports whether nothing but an initial response was said, in a mechanism
// of which nothing is known.
func (x *Exchange) Unasked() bool { return x.mechanism == &opaque && x.ready && !x.asked }

// Challenged reports whether all that a server answers now, but for a refusal, is a
// challenge or lets in who has a secret. Of a mechanism that is not known, it may be an
// invitation that reads like a positive answer.
func (x *Exchange) Challenged() bool { return x.mechanism != &opaque && !x.id.Anonymous }

// Spent reports whether a refusal now is the server's last word: it asked for something
// before, or the client has said all without being asked. Of other mechanisms than PLAIN
// with an initial response, a server may ask for more.
func (x *Exchange) Spent() bool {
	return x.asked || x.id.Mechanism == "PLAIN" && x.Doubt() == ""
}

// Message takes one line of the client without its line end; initial is true
// for the response that came with the command (RFC 4959, RFC 5034 §4), where
// "=" is the empty message. It returns a reason to believe nothing further of
// the connection, else "".
func (x *Exchange) Message(line []byte, initial bool) (reason string) {
	x.asked = x.asked || !initial
	if !initial && len(line) == 1 && line[0] == '*' {
		x.cancelled = true
		return ""
	}
	if x.mechanism == nil {
		return doubtNoMechanism
	}
	if x.messages++; x.messages > maxMessages {
		return reasonMessages
	}
	if initial && len(line) == 1 && line[0] == '=' {
		line = nil
	}
	message, ok := x.decode(line)
	if !ok {
		return ReasonBase64
	}
	defer clear(x.scratch[:cap(x.scratch)])
	if reason = x.mechanism.check(message); reason != "" {
		return reason
	}
	if !x.mechanism.clean(message) {
		x.malformed = true
		return ""
	}
	x.mechanism.read(x, message)
	if len(x.id.User) > maxIdentity || len(x.id.AuthzID) > maxIdentity {
		return reasonIdentity
	}
	return ""
}

// Reset forgets the exchange.
func (x *Exchange) Reset() {
	if cap(x.scratch) > maxKept {
		x.scratch = nil
	}
	if x.mechanism != nil || x.cancelled { // else nothing began
		*x = Exchange{scratch: x.scratch}
	}
}

// decode decodes into the scratch buffer. The result is valid until the next
// call, and the caller wipes it.
func (x *Exchange) decode(line []byte) ([]byte, bool) {
	if len(line) > MaxLine {
		return nil, false
	}
	// The decoder of the standard library skips line ends: there are none in
	// a line, but the alphabet is checked here all the same.
	if bytes.IndexByte(line, '\r') >= 0 || bytes.IndexByte(line, '\n') >= 0 {
		return nil, false
	}
	need := base64.StdEncoding.DecodedLen(len(line))
	if need > cap(x.scratch) {
		x.scratch = make([]byte, 0, max(need, 128))
	}
	message := x.scratch[:need]
	n, err := base64.StdEncoding.Decode(message, line)
	if err != nil {
		clear(x.scratch[:cap(x.scratch)])
		return nil, false
	}
	return message[:n], true
}

// name sets the authentication identity; the text is copied.
func (x *Exchange) name(user []byte) {
	if len(user) == 0 {
		x.malformed = true
		return
	}
	x.id.User = string(user[:min(len(user), maxIdentity+1)])
}

// authorize sets the authorization identity if it differs from the user.
func (x *Exchange) authorize(id []byte) {
	if string(id) != x.id.User {
		x.id.AuthzID = string(id[:min(len(id), maxIdentity+1)])
	}
}
