package pop3

import (
	"bytes"
	"net/netip"

	"relaygate/authz/line"
	"relaygate/authz/sasl"
)

// verb is a command, and the greeting as the answer to the connection itself.
type verb uint8

const (
	unknown verb = iota
	greeting
	user
	pass
	apop
	auth
	authList // AUTH without an argument
	stls
	xclient
	quit
	empty // an empty line
	other // any other command of the table
)

// shape is the form of a command's positive answer.
type shape uint8

const (
	single    shape = iota // one line
	multi                  // lines up to "." (RFC 1939 §3)
	multiBare              // the same if the command came without an argument
	dropList               // "+OK n n" (RFC 1939 §5, STAT)
)

// kind is what is known of a command by its name.
type kind struct {
	verb  verb
	shape shape
	// pipelined is true for commands that may stand in a pipeline.
	pipelined bool
	// transaction is true for commands that need a maildrop (RFC 1939 §5):
	// their positive answer cannot come before a login.
	transaction bool
}

// commands is the table of commands, the usual ones first.
var commands = [...]struct {
	name string
	kind kind
}{
	{"USER", kind{verb: user, pipelined: true}},
	{"PASS", kind{verb: pass, pipelined: true}},
	{"AUTH", kind{verb: auth}},
	{"CAPA", kind{verb: other, shape: multi, pipelined: true}}, // RFC 2449 §5
	{"APOP", kind{verb: apop, pipelined: true}},
	{"STLS", kind{verb: stls}}, // RFC 2595 §4
	{"QUIT", kind{verb: quit, pipelined: true}},
	{"NOOP", kind{verb: other, pipelined: true}},
	{"UTF8", kind{verb: other, pipelined: true}},                   // RFC 6856 §2.1
	{"LANG", kind{verb: other, shape: multiBare, pipelined: true}}, // RFC 6856 §3
	{"XCLIENT", kind{verb: xclient}},
	{"STAT", kind{verb: other, shape: dropList, pipelined: true, transaction: true}},
	{"LIST", kind{verb: other, shape: multiBare, pipelined: true, transaction: true}},
	{"UIDL", kind{verb: other, shape: multiBare, pipelined: true, transaction: true}},
	{"RETR", kind{verb: other, shape: multi, pipelined: true, transaction: true}},
	{"TOP", kind{verb: other, shape: multi, pipelined: true, transaction: true}},
	{"DELE", kind{verb: other, pipelined: true, transaction: true}},
	{"RSET", kind{verb: other, pipelined: true}},
	{"LAST", kind{verb: other, pipelined: true, transaction: true}}, // RFC 1460
}

// command is one command whose answer has not come yet.
type command struct {
	kind
	// user is the name in USER and APOP.
	user string
	// client is whom a proxy announces in XCLIENT.
	client netip.Addr
	// alone is true if nothing may be released behind it before its answer.
	alone bool
	// odd is true if servers are known to cut such a line differently: any
	// answer but a positive one ends the belief in what follows.
	odd bool
	// hidden is true of a login of which the end could be another command.
	hidden bool
	// holds is how many other commands stand within the line.
	holds int
	// malformed is true if a server that checks refuses it.
	malformed bool
	// piece is the number of the client's last line of this command, chunk
	// that of the chunk which completed it.
	piece, chunk uint64
}

// parse finds the command, and returns its argument, a part of text.
func (c *command) parse(text []byte) (argument []byte) {
	if len(text) == 0 {
		c.kind = kind{verb: empty, pipelined: true}
		return nil
	}
	word, argument := line.Word(text)
	for i := range commands {
		if line.Is(word, commands[i].name) {
			c.kind = commands[i].kind
			break
		}
	}
	if c.shape == multiBare {
		c.shape = single
		if len(bytes.TrimSpace(argument)) == 0 {
			c.shape = multi
		}
	}
	if c.verb == auth && len(argument) == 0 {
		c.verb, c.shape = authList, multi
	}
	return argument
}

// apopName is the name of "name digest" (RFC 1939 §7).
func apopName(argument []byte) (name []byte, ok bool) {
	at := bytes.LastIndexByte(argument, ' ')
	if at <= 0 || !sasl.HexDigest(argument[at+1:]) {
		return nil, false
	}
	return argument[:at], true
}
