package linetest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"relaygate/authz"
)

// Server is a model of how one server reads.
type Server interface {
	// Read takes the octets that came and were not taken yet. It returns how
	// many it took and what it says. It is called with nothing before the
	// client's first octet, to greet. Taking nothing and saying nothing means
	// that it waits for more.
	Read(in []byte) (taken int, out []byte)
	// User is who is logged in, "" for nobody.
	User() string
	// Closed reports whether it closed the connection.
	Closed() bool
}

// Segment is what a client sends at once. If Wait is true it first waits until
// the server has nothing more to say. If Hold is, it first waits until the server
// has read all that came, and by its window takes Lines of what it said then.
type Segment struct {
	Bytes []byte
	Wait  bool
	Hold  bool
	Lines int
}

// talk lets a client talk to a server in a random order of events and gives the
// dialogue what a tap would see; segments that are acknowledged together can come as
// one chunk. It returns the verdicts, and an error if the dialogue believed more than
// happened.
func talk(r *rand.Rand, s Server, client []Segment, d Dialogue) ([]authz.Login, error) {
	p := player{r: r, server: s, client: client, dialogue: d}
	for p.err == nil && p.step() {
	}
	if p.err != nil {
		return p.verdicts, fmt.Errorf("%w\n%s", p.err, p.log.String())
	}
	return p.verdicts, nil
}

type player struct {
	r        *rand.Rand
	server   Server
	client   []Segment
	dialogue Dialogue

	in       []byte // in the server's kernel, not read
	acked    []byte // received and not yet seen acknowledged
	parts    int    // of which they came
	out      []byte // written by the server, not sent
	greeted  bool
	stuck    bool // the server waits for more than is in
	verdicts []authz.Login
	log      strings.Builder
	err      error
}

// step makes one thing happen; false if nothing more can.
func (p *player) step() bool {
	if len(p.client) > 0 && p.client[0].Hold {
		p.hold()
		return true
	}
	var can []func()
	idle := p.greeted && p.stuck && len(p.out) == 0
	if len(p.client) > 0 && (!p.client[0].Wait || idle) {
		can = append(can, p.send)
	}
	if !p.stuck && !p.server.Closed() {
		can = append(can, p.read, p.read)
	}
	if len(p.out) > 0 {
		can = append(can, p.answer)
	}
	if len(can) == 0 {
		return false
	}
	can[p.r.IntN(len(can))]()
	return true
}

// hold makes the client's next segment come.
func (p *player) hold() {
	if !p.greeted || !p.stuck && !p.server.Closed() {
		p.read()
		return
	}
	for range p.client[0].Lines {
		if end := bytes.IndexByte(p.out, '\n'); end >= 0 {
			p.say(end + 1)
		}
	}
	p.send()
}

// hold has a client let the answers come one by one, before most of his lines.
func hold(r *rand.Rand, client []Segment) {
	for i := range client {
		client[i].Hold = true
		if i == 0 || bytes.HasSuffix(client[i-1].Bytes, []byte{'\n'}) {
			client[i].Lines = []int{0, 1, 1, 1, 1, 1, 2}[r.IntN(7)]
		}
	}
}

// send sends the client's next segment.
func (p *player) send() {
	b := p.client[0].Bytes
	p.client = p.client[1:]
	p.in = append(p.in, b...)
	p.acked = append(p.acked, b...)
	p.parts++
	p.stuck = false
	if p.r.IntN(2) == 0 {
		p.release()
	}
}

// release shows what the server's kernel acknowledged.
func (p *player) release() {
	c := authz.Chunk{Dir: authz.FromClient, Bytes: p.acked, Whole: p.parts == 1}
	p.acked, p.parts = nil, 0
	p.feed(c)
}

// read lets the server read once.
func (p *player) read() {
	taken, out := p.server.Read(p.in)
	p.greeted = true
	p.in = p.in[taken:]
	p.out = append(p.out, out...)
	p.stuck = taken == 0 && len(out) == 0
}

// answer sends some of what the server wrote, which acknowledges what it has.
func (p *player) answer() {
	n := len(p.out)
	switch p.r.IntN(4) {
	case 0:
		n = 1 + p.r.IntN(n)
	case 1:
		if end := bytes.IndexByte(p.out, '\n'); end >= 0 {
			n = end + 1
		}
	}
	p.say(n)
}

// say sends n octets of what the server wrote.
func (p *player) say(n int) {
	b := p.out[:n]
	p.out = p.out[n:]
	p.release()
	p.feed(authz.Chunk{Dir: authz.FromServer, Bytes: b})
}

// feed gives the dialogue a chunk and checks what it says.
func (p *player) feed(c authz.Chunk) {
	if len(c.Bytes) == 0 || p.err != nil {
		return
	}
	fmt.Fprintf(&p.log, "%c: %q\n", "CS"[c.Dir], c.Bytes)
	c.Bytes = bytes.Clone(c.Bytes)
	done := p.dialogue.Done()
	for _, l := range p.dialogue.Feed(c) {
		fmt.Fprintf(&p.log, "> %s\n", String(l))
		p.verdicts = append(p.verdicts, l)
		switch {
		case done:
			p.err = fmt.Errorf("a verdict after the last one")
		case l.Result == authz.Success && p.server.User() == "":
			p.err = fmt.Errorf("success, but nobody is logged in")
		case l.Result == authz.Success && p.server.User() != l.User:
			p.err = fmt.Errorf("success of %q, but %q is logged in", l.User, p.server.User())
		}
		done = l.Result != authz.Failure
	}
	if p.err == nil && done != p.dialogue.Done() {
		p.err = fmt.Errorf("Done() is %v after these verdicts", p.dialogue.Done())
	}
}

// dialogues is the number of random dialogues a test plays: RELAYGATE_DIALOGUES
// if set, else few.
func dialogues(few int) int {
	if n, err := strconv.Atoi(os.Getenv("RELAYGATE_DIALOGUES")); err == nil && n > 0 {
		return n
	}
	return few
}
