package imap

import (
	"relaygate/authz"
	"relaygate/authz/line"
	"relaygate/authz/proxy"
	"relaygate/authz/sasl"
)

// The bounds. Each hit taints with its own reason.
const (
	// maxLine is the longest line of a command in octets that no server is
	// known to cut (RFC 2683 §3.2.1.5 asks clients for about 1000). A login may
	// be longer, but LOGIN is then odd.
	maxLine = 1000
	// maxClientLine is room for AUTHENTICATE and an initial response.
	maxClientLine = sasl.MaxLine + 128
	// maxServerLine bounds a server line before the login.
	maxServerLine = 8192
	// maxTag is the longest tag.
	maxTag = 64
	// maxUser is the longest user name.
	maxUser = 255
	// maxLiteral is the longest literal before the login (RFC 7888 §5 has 4096
	// for LITERAL-).
	maxLiteral = 4096
	// maxPieces is the number of literals of one command.
	maxPieces = 32
	// maxWindow is the number of commands between two moments in which the
	// server owes nothing.
	maxWindow = 64
)

// phase says what the client's next octets are, and whose move it is.
type phase uint8

const (
	atCommand  phase = iota // a new command
	atLiteral               // the server's "+" or refusal comes before a literal
	inLiteral               // octets of a literal
	atText                  // the rest of the command behind a literal
	serverTurn              // SASL: the server's challenge or its answer
	clientTurn              // SASL: the client's response
)

// Dialogue reads one connection. Use New.
type Dialogue struct {
	client, server line.Reader
	out            []authz.Login
	single         [1]authz.Login // room for out

	// window holds the commands since the server last owed nothing, oldest
	// first; those before next are answered. Its first entry is the greeting
	// until that has come.
	window    []command
	arguments arguments
	exchange  sasl.Exchange

	// proved is a login that was answered positively and is believed once the
	// window closes.
	proved authz.Login

	answers line.Answers
	progress
}

// progress is how far the connection has come: what Reset sets back to zero.
type progress struct {
	done bool
	// next is the first command of the window that is not answered.
	next int
	// bareLF is true if a line of the window ended with LF alone.
	bareLF bool
	// lockStep is true if nothing was outstanding when the present command began.
	lockStep bool
	// pieces counts the client's complete lines and literals; linePiece is
	// pieces when the present server line began.
	pieces, linePiece uint64
	bye               bool
	// refusedHere is true if the server refused anything of the present window.
	refusedHere bool
	// refusedLast is true if the last tagged answer was a refusal.
	refusedLast bool
	// owing is true if the server may owe answers though each command had one: it
	// refused one of the window right behind a refusal.
	owing bool
	// greetingCut is true while the rest of a greeting that was cut may come.
	greetingCut bool

	phase    phase
	literal  literal
	literals int // of the present command

	framed multiplex // the server's octets, once it said so

	proxy.Peer // who may announce its client with ID
}

// New returns a Dialogue that stands before the greeting.
func New() *Dialogue {
	d := &Dialogue{
		client: line.Reader{Max: maxClientLine, Strict: true},
		server: line.Reader{Max: maxServerLine},
	}
	d.Reset()
	return d
}

// Reset makes d what New returns. Nothing of what it was is left, but empty
// buffers and the answers that it knows.
func (d *Dialogue) Reset() {
	d.forget()
	d.progress = progress{}
	d.single[0] = authz.Login{}
	d.out = d.single[:0]
	d.wait().verb = greeting
}

// forget drops what was kept of the connection.
func (d *Dialogue) forget() {
	d.client.Drop()
	d.server.Drop()
	d.exchange.Reset()
	d.arguments.begin(false)
	clear(d.window)
	d.window, d.next = d.window[:0], 0
	if d.proved.Result != 0 {
		d.proved = authz.Login{}
	}
}

// NewAfterTLS returns a Dialogue that stands behind STARTTLS: no greeting comes,
// and nothing that was said before counts (RFC 9051 §6.2.1).
func NewAfterTLS() *Dialogue {
	d := New()
	d.answered()
	return d
}

// Feed takes the next piece of the connection and returns what it decided. The
// slice is valid until the next call.
func (d *Dialogue) Feed(c authz.Chunk) []authz.Login {
	d.out = d.out[:0]
	if d.done {
		return nil
	}
	if c.Dir == authz.FromClient {
		d.greetingCut = false
		d.readClient(c.Bytes)
	} else {
		d.readServer(c.Bytes)
		if c.Cut > 0 {
			d.cut()
		}
	}
	return d.out
}

// Done reports whether a success, a taint or TLS ended the reading.
func (d *Dialogue) Done() bool { return d.done }

// awaitsGreeting reports whether the greeting has not come.
func (d *Dialogue) awaitsGreeting() bool {
	return d.next == 0 && len(d.window) > 0 && d.window[0].verb == greeting
}

// idle reports whether every command was answered completely, and no further server
// line has begun.
func (d *Dialogue) idle() bool {
	return d.next == len(d.window) && d.server.Empty()
}

// inStep reports whether the server owed nothing when the present command began.
func (d *Dialogue) inStep() bool { return d.lockStep && !d.owing }

// present is the command whose pieces the client is sending.
func (d *Dialogue) present() *command { return &d.window[len(d.window)-1] }

// report adds a verdict; the last one of a connection ends the reading and
// drops what was kept for it.
func (d *Dialogue) report(l *authz.Login) {
	d.out = append(d.out, *l)
	if l.Result == authz.Failure {
		return
	}
	d.done = true
	d.forget()
}

func (d *Dialogue) taint(reason string) {
	d.report(&authz.Login{Result: authz.Tainted, Reason: reason})
}

func (d *Dialogue) encrypted(reason string) {
	d.report(&authz.Login{Result: authz.Encrypted, Reason: reason})
}

// answered marks the oldest command without an answer as answered. If it was
// the last and nothing else is owed, the window is closed.
func (d *Dialogue) answered() {
	if d.next++; d.next < len(d.window) || d.owing {
		return
	}
	clear(d.window)
	d.window, d.next = d.window[:0], 0
	if d.proved.Result != 0 && d.client.Empty() {
		d.report(&d.proved)
	}
}
