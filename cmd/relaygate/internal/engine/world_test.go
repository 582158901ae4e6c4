package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture"
)

// talk plays live connections into an engine.
type talk struct {
	*Engine
	conn     authz.Conn
	seq, ack uint32
	verdicts []authz.Verdict
	changes  []grant.Change
}

func newEngine(confirm Confirm) *Engine {
	return New(Config{
		Services: map[uint16]authz.Service{
			110: {Protocol: authz.POP3}, 143: {Protocol: authz.IMAP}, 995: {Protocol: authz.POP3, ImplicitTLS: true},
		},
		Confirm: confirm,
	})
}

// answers gives these in turn, and then the last one.
func answers(list ...authz.Belief) Confirm {
	return func(authz.Conn, Opening) (b authz.Belief, reason string) {
		if b = list[0]; len(list) > 1 {
			list = list[1:]
		}
		if b != authz.Believed {
			reason = "nobody has this connection"
		}
		return b, reason
	}
}

func (k *talk) feed(ev capture.Event) {
	ev.Time = start
	for _, v := range k.Feed(&ev) {
		k.verdicts = append(k.verdicts, v)
		var a grant.Admission
		if k.Admit(start, &v, &a) {
			k.changes = append(k.changes, k.Explain(&a))
		}
	}
}

// open announces a connection; change may alter the announcement.
func (k *talk) open(c, s netip.AddrPort, cookie uint64, change func(*capture.Event)) {
	k.conn, k.seq, k.ack = authz.Conn{Client: c, Server: s, Cookie: cookie}, 1000, 9000
	ev := capture.Event{Kind: capture.Opened, Conn: k.conn, ClientISN: k.seq, ServerISN: k.ack, Trusted: true}
	if change != nil {
		change(&ev)
	}
	k.feed(ev)
}

// say plays lines in lock step: "C: …" and "S: …".
func (k *talk) say(lines ...string) {
	for _, line := range lines {
		text := line[3:] + "\r\n"
		seg := capture.Segment{Cookie: k.conn.Cookie, Flags: capture.ACK | capture.PSH, Payload: []byte(text)}
		if strings.HasPrefix(line, "C: ") {
			seg.Src, seg.Dst, seg.Sent = k.conn.Client, k.conn.Server, capture.SenderOutside
			seg.Seq, seg.Ack = k.seq, k.ack
			k.seq += uint32(len(text))
		} else {
			seg.Src, seg.Dst, seg.Sent = k.conn.Server, k.conn.Client, capture.SenderHost
			seg.Seq, seg.Ack = k.ack, k.seq
			k.ack += uint32(len(text))
		}
		k.feed(capture.Event{Kind: capture.Packet, Segment: seg})
	}
}

func (k *talk) results() string {
	var out []string
	for _, v := range k.verdicts {
		out = append(out, v.Result.String())
	}
	for _, c := range k.changes {
		out = append(out, c.Kind.String())
	}
	return strings.Join(out, " ")
}

var (
	pop3s = netip.MustParseAddrPort("198.51.100.2:995")
	imaps = netip.MustParseAddrPort("198.51.100.2:993")
	imap4 = netip.MustParseAddrPort("198.51.100.2:143")
)

// newTLS makes a talk with an engine that follows TLS.
func newTLS(t *testing.T, proxies ...string) *talk {
	t.Helper()
	cfg := Config{
		Services: map[uint16]authz.Service{
			110: {Protocol: authz.POP3}, 143: {Protocol: authz.IMAP},
			995: {Protocol: authz.POP3, ImplicitTLS: true}, 993: {Protocol: authz.IMAP, ImplicitTLS: true},
		},
	}
	for _, p := range proxies {
		cfg.Rules.Proxies = append(cfg.Rules.Proxies, netip.MustParsePrefix(p))
	}
	k := &talk{Engine: New(cfg)}
	k.FollowTLS(func(authz.Conn) string { return "maild (pid 12): no TLS library found" })
	knowHost(t, k.Engine)
	return k
}

// hello begins TLS: both sides' first records, and the tap's word about the server's.
func (k *talk) hello() { k.shake(serverHelloRecord) }

// shake is hello of a server that says something else first.
func (k *talk) shake(records ...string) {
	k.say("C: " + clientHelloRecord(false))
	k.feed(capture.Event{Kind: capture.Handshake, Conn: authz.Conn{Cookie: k.conn.Cookie}})
	k.say("S: " + strings.Join(records, ""))
}

func helloRecord(random string) string {
	return "\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03" + random + "\x00\x13\x01\x00"
}

// inside plays lines through TLS.
func (k *talk) inside(lines ...string) {
	for _, line := range lines {
		k.call(line, nil)
	}
}

// call is one call of the TLS library; change may alter what the tap says.
func (k *talk) call(line string, change func(*capture.Event)) {
	ev := capture.Event{Kind: capture.Plain, Trusted: true, Conn: authz.Conn{Cookie: k.conn.Cookie}}
	ev.Plain.Bytes = []byte(line[3:] + "\r\n")
	if line[0] == 'S' {
		ev.Plain.Dir = authz.FromServer
	}
	if change != nil {
		change(&ev)
	}
	k.feed(ev)
}

// steering is what the tap was told with the last event.
func (k *talk) steering() string {
	var out []string
	for _, s := range k.Steer() {
		out = append(out, fmt.Sprintf("%d:%s", s.Conn.Cookie, [...]string{Done: "done", Plaintext: "plaintext", Forget: "forget"}[s.Course]))
	}
	return strings.Join(out, " ")
}

// later lets time pass.
func (k *talk) later(d time.Duration) {
	for _, at := range []time.Time{start, start.Add(d)} {
		k.verdicts = append(k.verdicts, k.Unread(at)...)
	}
}
