package engine

import (
	"net/netip"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// What the tap is told: plaintext from the handshake on, nothing after the
// verdict.
func TestTheTapIsSteered(t *testing.T) {
	k := newTLS(t)
	k.open(client, imap4, 7, nil)
	k.say("S: * OK ready", "C: a STARTTLS", "S: a OK begin")
	if got := k.steering(); got != "" {
		t.Errorf("at STARTTLS %q, want nothing before TLS begins", got)
	}
	k.hello()
	if got := k.steering(); got != "7:plaintext" {
		t.Errorf("at the handshake %q, want 7:plaintext", got)
	}
	k.inside(imapLogin[1])
	if got := k.steering(); got != "" {
		t.Errorf("before the verdict %q, want nothing", got)
	}
	k.inside(imapLogin[2])
	if got := k.steering(); got != "7:done" {
		t.Errorf("at the verdict %q, want 7:done", got)
	}
	k.open(client, server, 8, nil)
	k.say(pop3Login...)
	if got := k.steering(); got != "8:done" {
		t.Errorf("at a verdict in clear text %q, want 8:done", got)
	}
	k.open(client, server, 9, nil)
	k.feed(capture.Event{Kind: capture.Lost, Conn: k.conn})
	if got := k.steering(); got != "9:done" {
		t.Errorf("at a loss %q, want 9:done", got)
	}
}

// What is not followed leaves its place in the tap to others: no address can take more
// than its share there either.
func TestTheTapForgetsWhatIsNotFollowed(t *testing.T) {
	k := &talk{Engine: newEngine(nil)}
	const share = 1024
	opens := func(cookie uint64, want string) {
		t.Helper()
		k.open(client, server, cookie, nil)
		if got := k.steering(); got != want {
			t.Fatalf("connection %d: steered %q, want %q", cookie, got, want)
		}
	}
	for cookie := range uint64(share) {
		opens(cookie+1, "")
	}
	opens(share+1, "1025:forget")
	k.feed(capture.Event{Kind: capture.Closed, Conn: authz.Conn{Cookie: 1}})
	opens(share+2, "")
	proxies := newTLS(t, "192.0.2.0/24")
	for cookie := range uint64(share + 1) { // a proxy's clients have no share together
		proxies.open(netip.MustParseAddrPort("192.0.2.1:50000"), server, cookie+1, nil)
		if got := proxies.steering(); got != "" {
			t.Fatalf("connection %d of a proxy: steered %q", cookie, got)
		}
	}
	k.open(imap4, server, share+3, func(ev *capture.Event) { ev.Trusted, ev.Reason = false, "of a forwarder" })
	if got := k.steering(); got != "1027:forget" {
		t.Errorf("not believed: steered %q", got)
	}
	k.open(imap4, server, 0, func(ev *capture.Event) { ev.Trusted, ev.Reason = false, "of another tap" })
	if got := k.steering(); got != "" {
		t.Errorf("without a cookie: steered %q", got)
	}
}

// Without a tap of TLS libraries TLS ends the reading.
func TestTLSWithoutATapEndsTheReading(t *testing.T) {
	k := &talk{Engine: newEngine(nil)}
	knowHost(t, k.Engine)
	k.open(client, pop3s, 7, nil)
	k.hello()
	k.inside(pop3Login...)
	if got := k.results(); got != "encrypted" || k.verdicts[0].Reason != "TLS from the first byte" {
		t.Errorf("%q, %+v", got, k.verdicts)
	}
	if c := k.Counts().TLS; c.Handshakes != 0 || c.Seen != 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestUnseenPlaintextIsToldInTime(t *testing.T) {
	k := newTLS(t)
	k.open(client, imaps, 7, nil)
	k.hello()
	k.later(patience - 1)
	if len(k.verdicts) != 0 {
		t.Fatalf("told too early: %+v", k.verdicts)
	}
	k.later(patience)
	if k.results() != "encrypted" || k.Counts().TLS != (TLSCounts{Handshakes: 1, Unseen: 1}) {
		t.Fatalf("%+v, counts %+v", k.verdicts, k.Counts().TLS)
	}
	k.later(time.Hour)
	if len(k.verdicts) != 1 {
		t.Errorf("told twice: %+v", k.verdicts)
	}
	// The client was slow: what comes after is believed all the same.
	k.inside(imapLogin...)
	if k.results() != "encrypted success granted" || k.Counts().TLS != (TLSCounts{Handshakes: 1, Seen: 1}) {
		t.Errorf("%q, counts %+v", k.results(), k.Counts().TLS)
	}
	k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
	if len(k.verdicts) != 2 || len(k.tls.byCookie) != 0 {
		t.Errorf("after the close %+v, %d followed", k.verdicts, len(k.tls.byCookie))
	}
}

func TestSeenPlaintextIsNotAwaited(t *testing.T) {
	k := newTLS(t)
	for cookie := range uint64(20) {
		k.open(netip.AddrPortFrom(client.Addr(), uint16(cookie+1)), imaps, cookie+1, nil)
		k.hello()
		switch cookie % 3 {
		case 0:
			k.inside("S: * OK ready")
		case 1:
			k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
		}
	}
	before := len(k.verdicts)
	k.later(patience)
	if got := len(k.verdicts) - before; got != 6 || len(k.tls.awaited) != 0 {
		t.Errorf("%d told, want 6; %d still awaited", got, len(k.tls.awaited))
	}
	if c := k.Counts().TLS; c != (TLSCounts{Handshakes: 20, Seen: 7, Unseen: 13}) {
		t.Errorf("counts %+v", c)
	}
}

func TestSessionsInTLSAreHeldUntilTheyClose(t *testing.T) {
	k := newTLS(t)
	k.open(client, imaps, 7, nil)
	k.hello()
	k.inside(imapLogin...)
	if h := k.Holds(); len(h) != 1 || !h[0].Open || h[0].Conn.Cookie != 7 || h[0].Conn.Client != client {
		t.Fatalf("holds %+v, want one that opened", h)
	}
	k.inside("C: b NOOP")
	if h := k.Holds(); len(h) != 0 {
		t.Errorf("holds %+v, want none", h)
	}
	k.feed(capture.Event{Kind: capture.Closed, Conn: authz.Conn{Cookie: 7}})
	if h := k.Holds(); len(h) != 1 || h[0].Open || h[0].Conn.Cookie != 7 || h[0].Conn.Client != client {
		t.Errorf("holds %+v, want one that closed", h)
	}
}
