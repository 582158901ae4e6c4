package authz

import (
	"net/netip"
	"time"
)

// Result is what a connection proved.
type Result uint8

const (
	// Success: the server's complete positive answer to exactly one login
	// command was seen, and nothing about the connection is in doubt.
	Success Result = iota + 1
	// Failure: the server refused a login command.
	Failure
	// Tainted: something about the connection is in doubt. It is counted and
	// explained, and never believed again.
	Tainted
	// Encrypted: the connection went on in TLS, where packets show nothing.
	Encrypted
)

var resultWords = []string{Success: "success", Failure: "failure", Tainted: "tainted", Encrypted: "encrypted"}

func (r Result) String() string { return Word(resultWords, r) }

// Login is what a dialogue says about one login attempt, or about the
// connection as a whole (Tainted, Encrypted).
type Login struct {
	Result Result
	// Mechanism is "USER", "APOP", "LOGIN" (the IMAP command) or the SASL
	// mechanism's registered name in capitals; empty where there is none.
	Mechanism string
	// User is the authentication identity, as the client sent it (raw text
	// from the wire: print it through Quote). Empty where the mechanism does
	// not show it.
	User string
	// AuthzID is the authorization identity where it was given and differs
	// from User (RFC 4422 §3.4.1). It is raw text too.
	AuthzID string
	// Anonymous is true for the SASL mechanism ANONYMOUS (RFC 4505): a
	// success that never grants.
	Anonymous bool
	// Reason says in words why the result is not a success, else "".
	Reason string
	// Answer is the server's deciding line without its line end and tag, cut to
	// AnswerLimit bytes (raw text too). Of a refusal it is the status and the
	// response code only, as servers may repeat what the client sent.
	Answer string
}

// AnswerLimit bounds Login.Answer, and UserLimit a user name wherever it is kept, in
// bytes: longer than any address (RFC 5321 §4.5.3.1 allows 64 + 1 + 255, of which 254 can
// be used).
const (
	AnswerLimit = 120
	UserLimit   = 320
)

// Origin says why the server's bytes are believed to be the server's.
type Origin uint8

const (
	// Unauthenticated: nothing shows who sent them (raw IP files). Such a
	// verdict is reported and never feeds a grant.
	Unauthenticated Origin = iota
	// FromHost: the tap saw this host send them (cgroup egress, the packet
	// direction of a cooked or AF_PACKET capture).
	FromHost
	// FromHandshake: a file's hardware addresses agree with those of the
	// handshake.
	FromHandshake
	// FromInside: on a gateway, they came in on an interface that leads to its
	// mail servers, where this host sends what is for that server.
	FromInside
)

// Shown says that the tap or the file shows which packets this host sent, or the mail
// server's network: no other station can have sent them in its place.
func (o Origin) Shown() bool { return o == FromHost || o == FromInside }

// Verdict is a Login with the connection that it belongs to.
type Verdict struct {
	Time time.Time
	Conn Conn
	Login
	TLS    bool
	Origin Origin
	// Proxy is the trusted proxy that announced Conn.Client; it is not valid
	// where the client connected itself.
	Proxy netip.Addr
}
