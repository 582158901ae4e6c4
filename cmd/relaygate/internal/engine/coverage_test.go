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
	if got := k.steering(); got != "7:true" {
		t.Errorf("at the handshake %q, want 7:true", got)
	}
	k.inside(imapLogin[1])
	if got := k.steering(); got != "" {
		t.Errorf("before the verdict %q, want nothing", got)
	}
	k.inside(imapLogin[2])
	if got := k.steering(); got != "7:false" {
		t.Errorf("at the verdict %q, want 7:false", got)
	}
	k.open(client, server, 8, nil)
	k.say(pop3Login...)
	if got := k.steering(); got != "8:false" {
		t.Errorf("at a verdict in clear text %q, want 8:false", got)
	}
	k.open(client, server, 9, nil)
	k.feed(capture.Event{Kind: capture.Lost, Conn: k.conn})
	if got := k.steering(); got != "9:false" {
		t.Errorf("at a loss %q, want 9:false", got)
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
