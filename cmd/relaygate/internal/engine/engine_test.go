package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture"
)

var (
	client = netip.MustParseAddrPort("192.0.2.7:51234")
	server = netip.MustParseAddrPort("198.51.100.2:110")
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// knowHost lets an engine grant: it knows the host's own addresses.
func knowHost(t *testing.T, e *Engine) {
	t.Helper()
	_, err := e.SetHost(start, authz.Host{Addresses: []authz.LinkPrefix{{Prefix: netip.MustParsePrefix("198.51.100.2/24"), Link: "eth0"}}})
	if err != nil {
		t.Fatal(err)
	}
}

var pop3Login = []string{"S: +OK ready", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK logged in"}

func TestWhatGrants(t *testing.T) {
	pop3 := func(k *talk) { k.open(client, server, 7, nil); k.say(pop3Login...) }
	for _, tt := range []struct {
		name    string
		blind   bool // the host's addresses are not known yet
		confirm Confirm
		play    func(*talk)
		want    string // verdicts, then changes
	}{
		{name: "login", play: pop3, want: "success granted"},
		{name: "before the host is known", blind: true, play: pop3, want: "success refused"},
		{name: "listener not believed", want: "", play: func(k *talk) {
			k.open(client, server, 7, func(ev *capture.Event) { ev.Trusted, ev.Reason = false, "it is another's" })
			k.say(pop3Login...)
		}},
		{name: "never announced", want: "", play: func(k *talk) {
			k.conn = authz.Conn{Client: client, Server: server, Cookie: 9}
			k.say(pop3Login...)
		}},
		{name: "wrong password", want: "failure", play: func(k *talk) {
			k.open(client, server, 7, nil)
			k.say("S: +OK ready", "C: USER alice", "S: +OK", "C: PASS secret", "S: -ERR no")
		}},
		{name: "record lost", want: "tainted", play: func(k *talk) {
			k.open(client, server, 7, nil)
			k.say(pop3Login[:3]...)
			k.feed(capture.Event{Kind: capture.Lost, Conn: k.conn})
			k.say(pop3Login[3:]...)
		}},
		{name: "own address", want: "success refused", play: func(k *talk) {
			k.open(netip.MustParseAddrPort("198.51.100.2:5000"), server, 7, nil)
			k.say(pop3Login...)
		}},
		{name: "loopback", want: "success refused", play: func(k *talk) {
			k.open(netip.MustParseAddrPort("127.0.0.1:5000"), netip.MustParseAddrPort("127.0.0.2:110"), 7, nil)
			k.say(pop3Login...)
		}},
		{
			name: "not in the socket tables", want: "tainted", play: pop3,
			confirm: answers(authz.Undecided),
		},
		{
			name: "in the socket tables", want: "success granted", play: pop3,
			confirm: answers(authz.Believed),
		},
		{
			name: "decided with the last answer", want: "success granted", play: pop3,
			confirm: answers(authz.Undecided, authz.Undecided, authz.Undecided, authz.Undecided, authz.Believed),
		},
		{name: "a forwarder was there", want: "tainted", play: pop3, confirm: answers(authz.Undecided, authz.Disbelieved, authz.Believed)},
		{name: "a forwarder came later", want: "success granted", play: pop3, confirm: answers(authz.Believed, authz.Disbelieved)},
		{name: "twice", want: "success success granted renewed", play: func(k *talk) {
			pop3(k)
			k.open(netip.MustParseAddrPort("192.0.2.7:51235"), server, 8, nil)
			k.say(pop3Login...)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &talk{Engine: newEngine(tt.confirm)}
			if !tt.blind {
				knowHost(t, k.Engine)
			}
			tt.play(k)
			if got := k.results(); got != tt.want {
				t.Errorf("verdicts and changes %q, want %q", got, tt.want)
			}
			if strings.Contains(fmt.Sprintf("%+v %+v %+v", k.verdicts, k.changes, k.Evidence().Story(client.Addr(), start)), "secret") {
				t.Error("the password came out")
			}
			if granted := strings.Contains(tt.want, "granted"); granted != (k.Grants().Len() == 1) {
				t.Errorf("%d grants", k.Grants().Len())
			}
		})
	}
}

// TestOpening: who is asked about a connection hears when it began, and for which listener.
func TestOpening(t *testing.T) {
	var got []Opening
	k := &talk{Engine: newEngine(func(_ authz.Conn, o Opening) (authz.Belief, string) {
		got = append(got, o)
		return authz.Believed, ""
	})}
	for i, listener := range []uint64{11, 12} {
		k.open(client, server, uint64(7+i), func(ev *capture.Event) { ev.Listener = listener })
	}
	for _, cookie := range []uint64{7, 8} {
		k.conn.Cookie, k.seq, k.ack = cookie, 1000, 9000
		k.say(pop3Login...)
	}
	if want := []Opening{{start, 11}, {start, 12}}; !slices.Equal(got, want) {
		t.Errorf("asked about %v, want %v", got, want)
	}
}

// TestLateDoubt: what the tap misses behind the confirmation of a connection counts too.
func TestLateDoubt(t *testing.T) {
	for _, missed := range []bool{false, true} {
		doubt := false
		k := &talk{Engine: New(Config{
			Services: map[uint16]authz.Service{110: {Protocol: authz.POP3}},
			Confirm:  answers(authz.Believed),
			Whole:    func(authz.Conn) (bool, string) { return !doubt, "it was not seen" },
		})}
		knowHost(t, k.Engine)
		k.open(client, server, 7, nil)
		k.say(pop3Login[:3]...)
		doubt = missed
		k.say(pop3Login[3:]...)
		want := map[bool]string{false: "success granted", true: "tainted"}[missed]
		if got := k.results(); got != want {
			t.Errorf("missed %v: verdicts and changes %q, want %q", missed, got, want)
		}
	}
}

// A file that does not show who sent what is read and never feeds a grant.
func TestUnauthenticatedNeverGrants(t *testing.T) {
	k := &talk{Engine: newEngine(nil)}
	knowHost(t, k.Engine)
	raw := func(src, dst netip.AddrPort, flags capture.Flags, seq, ack uint32, payload string) {
		k.feed(capture.Event{Kind: capture.Packet, Segment: capture.Segment{
			Src: src, Dst: dst, Flags: flags, Seq: seq, Ack: ack, Payload: []byte(payload),
		}})
	}
	raw(client, server, capture.SYN, 999, 0, "")
	raw(server, client, capture.SYN|capture.ACK, 8999, 1000, "")
	raw(client, server, capture.ACK, 1000, 9000, "")
	seq, ack := uint32(1000), uint32(9000)
	for _, line := range pop3Login {
		text := line[3:] + "\r\n"
		if line[0] == 'C' {
			raw(client, server, capture.ACK, seq, ack, text)
			seq += uint32(len(text))
			continue
		}
		raw(server, client, capture.ACK, ack, seq, text)
		ack += uint32(len(text))
	}
	if len(k.verdicts) != 1 || k.verdicts[0].Result != authz.Success || k.verdicts[0].Origin != authz.Unauthenticated {
		t.Errorf("verdicts %+v, want one unauthenticated success", k.verdicts)
	}
	if k.Grants().Len() != 0 {
		t.Error("it granted")
	}
}

func TestNamesOfFailedLoginsAreMasked(t *testing.T) {
	k := &talk{Engine: newEngine(nil)}
	knowHost(t, k.Engine)
	fail := func(cookie uint64, name string) string {
		k.open(netip.AddrPortFrom(client.Addr(), uint16(cookie)), server, cookie, nil)
		k.say("S: +OK ready", "C: USER "+name, "S: +OK", "C: PASS x", "S: -ERR no")
		return k.verdicts[len(k.verdicts)-1].User
	}
	if got := fail(1, "alice"); got != authz.Masked {
		t.Errorf("a name that never succeeded is shown: %q", got)
	}
	k.open(client, server, 2, nil)
	k.say(pop3Login...)
	if got := fail(3, "alice"); got != "alice" {
		t.Errorf("a name that has succeeded is shown as %q", got)
	}
	if got := fail(4, "Tr0ub4dor"); got != authz.Masked {
		t.Errorf("a password typed as name is shown: %q", got)
	}
}

func TestImplicitTLS(t *testing.T) {
	type chunk struct {
		dir  authz.Dir
		text string
	}
	for _, tt := range []struct {
		name   string
		chunks []chunk
		want   authz.Result // 0: nothing yet
	}{
		{"client hello", []chunk{{authz.FromClient, "\x16\x03\x01\x02\x00"}}, authz.Encrypted},
		{"byte by byte", []chunk{{authz.FromClient, "\x16"}, {authz.FromClient, "\x03"}}, authz.Encrypted},
		{"half", []chunk{{authz.FromClient, "\x16"}}, 0},
		{"nothing", []chunk{{authz.FromClient, ""}}, 0},
		{"greeting in clear", []chunk{{authz.FromServer, "+OK ready\r\n"}}, authz.Tainted},
		{"clear text", []chunk{{authz.FromClient, "USER alice\r\n"}}, authz.Tainted},
		{"another version", []chunk{{authz.FromClient, "\x16\x02"}}, authz.Tainted},
		{"TLS from the server first", []chunk{{authz.FromServer, "\x16\x03"}}, authz.Tainted},
		{"split clear text", []chunk{{authz.FromClient, "\x16"}, {authz.FromClient, "\x16"}}, authz.Tainted},
	} {
		d := &tlsDialogue{}
		var got authz.Result
		for _, c := range tt.chunks {
			for _, l := range d.Feed(authz.Chunk{Dir: c.dir, Bytes: []byte(c.text)}) {
				got = l.Result
			}
		}
		if got != tt.want || d.Done() != (tt.want != 0) {
			t.Errorf("%s: result %v, done %v, want %v", tt.name, got, d.Done(), tt.want)
		}
	}
}

func TestGrantsRunOut(t *testing.T) {
	k := &talk{Engine: newEngine(nil)}
	knowHost(t, k.Engine)
	k.open(client, server, 7, nil)
	k.say(pop3Login...)
	end := start.Add(30 * time.Minute)
	if next, ok := k.Grants().Next(); !ok || next.After(end) {
		t.Fatalf("next deadline %v, %v", next, ok)
	}
	if c := k.Expire(end.Add(-time.Second)); len(c) != 0 {
		t.Errorf("expired early: %+v", c)
	}
	if c := k.Expire(end); len(c) != 1 || c[0].Kind != grant.Expired {
		t.Errorf("changes %+v, want one expiry", c)
	}
	var last authz.Event
	for _, ev := range k.Evidence().Story(client.Addr(), end) {
		last = ev
	}
	if last.Kind != authz.EventExpired {
		t.Errorf("the story ends with %v", last.Kind)
	}
}

func TestSessionsAreToldClosedOnce(t *testing.T) {
	k := &talk{Engine: newEngine(nil)}
	knowHost(t, k.Engine)
	var conns []authz.Conn
	for i := range uint16(2) {
		k.open(netip.AddrPortFrom(client.Addr(), 5+i), server, uint64(7+i), nil)
		k.say(pop3Login...)
		conns = append(conns, k.conn)
	}
	if n := len(k.held.conns); n != 2 {
		t.Errorf("%d sessions are open, want 2", n)
	}
	for i, c := range append(conns, conns...) {
		k.feed(capture.Event{Kind: capture.Closed, Conn: c})
		if h := k.Holds(); i < 2 && (len(h) != 1 || h[0].Open || h[0].Conn.Cookie != c.Cookie) || i >= 2 && len(h) != 0 {
			t.Errorf("close %d of connection %d: %+v", i/2+1, c.Cookie, h)
		}
	}
	if n := len(k.held.conns); n != 0 {
		t.Errorf("%d sessions are open at the end", n)
	}
}
