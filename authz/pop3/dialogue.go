package pop3

import (
	"relaygate/authz"
	"relaygate/authz/line"
	"relaygate/authz/proxy"
	"relaygate/authz/sasl"
)

// The bounds. Each hit taints with its own reason.
const (
	// maxLine is the longest command line in octets with its line end
	// (RFC 2449 §4). A login may be longer, but PASS and APOP are then odd.
	maxLine = 255
	// maxShort is that of commands that no name or password makes long, and of
	// all in a pipeline but those of a trusted proxy: nginx reads 128 octets at
	// once, and before 1.21 refuses what it does not know, or with too many
	// arguments, before it has read all of it, and then the rest.
	maxShort = 128
	// maxClientLine is room for AUTH, a mechanism and an initial response.
	maxClientLine = sasl.MaxLine + 64
	// maxServerLine is generous: RFC 2449 §4 allows 512 octets.
	maxServerLine = 4096
	// maxPipeline is the number of commands without an answer.
	maxPipeline = 64
	// maxListLines is the number of lines of a multi-line answer.
	maxListLines = 1000
)

// Dialogue reads one connection. Use New.
type Dialogue struct {
	client, server line.Reader
	out            []authz.Login
	single         [1]authz.Login // room for out

	// waiting holds the commands without a complete answer, oldest first. Its
	// first entry is the greeting until that has come.
	waiting  []command
	user     string // the name of the last USER that was answered positively
	exchange sasl.Exchange

	// proved is a login that was answered positively and is believed once the
	// window closes.
	proved authz.Login

	answers line.Answers
	progress
}

// progress is how far the connection has come: what Reset sets back to zero.
type progress struct {
	done bool
	turn turn
	// listLines counts the lines of the multi-line answer that waiting[0] is
	// getting, from 1; it is 0 outside of one.
	listLines int
	// bareLF is true if a line of the present window ended with LF alone.
	bareLF bool
	// inStep is true if the server owed nothing when the present client line
	// began.
	inStep bool
	// whole is true if it came at once, in one segment.
	whole bool
	// pieces and chunks count the client's complete lines and the chunks of
	// both directions; linePiece is pieces when the present server line began.
	pieces, chunks, linePiece uint64
	// windowChunk is the chunk that completed the first line of the window, and
	// basic is true if the window holds nothing but USER, PASS, commands that
	// need a maildrop, and QUIT.
	windowChunk uint64
	basic       bool
	// refused is true once the server refused anything: a server that then
	// ignores the next line would answer QUIT in the place of PASS. refusedHere
	// is true if it did so in the present window.
	refused, refusedHere bool
	// refusedLast is true if the last answer was a refusal, lastOwed that a list or a
	// goodbye may come late, askOwed that a challenge may, until anything but a list was
	// accepted.
	refusedLast, lastOwed, askOwed bool
	// owed is how many positive answers of one line may come late: one for each command
	// that was refused behind others and could have been accepted, and for each that stood
	// within a line. Behind a login it counts down.
	owed int
	// named is true from the positive answer to USER, or its refusal in a pipeline, to the
	// refusal of it alone or of PASS.
	named bool

	// more is true if the server's chunk goes on behind the present line.
	more bool
	// greetingCut is true while the rest of a greeting that was cut may come.
	greetingCut bool
	// stamp is true if the greeting had an APOP time stamp.
	stamp bool

	proxy.Peer // who may announce its client with XCLIENT
}

// turn says whose move it is in the SASL exchange.
type turn uint8

const (
	noExchange turn = iota
	serverTurn
	clientTurn
	invited // the client's, behind "+OK"
)

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
	clear(d.waiting)
	d.waiting, d.user = d.waiting[:0], ""
	if d.proved.Result != 0 {
		d.proved = authz.Login{}
	}
}

// NewAfterTLS returns a Dialogue that stands behind STLS: no greeting comes, and
// nothing that was said before counts (RFC 2595 §4). That goes for the APOP time
// stamp too.
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
	d.chunks++
	if c.Dir == authz.FromClient {
		d.greetingCut = false
		d.readClient(c.Bytes, c.Whole)
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
	return len(d.waiting) > 0 && d.waiting[0].verb == greeting
}

// owesNothing reports whether every command was answered completely, and no
// further answer has begun.
func (d *Dialogue) owesNothing() bool {
	return len(d.waiting) == 0 && d.server.Empty()
}

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

// answered takes the oldest command away: its answer is complete.
func (d *Dialogue) answered() {
	n := len(d.waiting) - 1
	d.owed += d.waiting[0].holds
	if n > 0 {
		copy(d.waiting, d.waiting[1:])
	}
	d.waiting[n] = command{}
	d.waiting = d.waiting[:n]
	if d.proved.Result != 0 && n == 0 && d.client.Empty() && !d.lastOwed && d.owed == 0 {
		d.report(&d.proved)
	}
}
