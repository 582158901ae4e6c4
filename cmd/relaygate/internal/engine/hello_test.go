package engine

import (
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/capture"
)

func TestServerHello(t *testing.T) {
	long := helloRecord(strings.Repeat("r", 32))
	long = "\x16\x03\x03\x01\x2a" + long[5:] + strings.Repeat("x", 256)
	for _, tt := range []struct {
		name, said      string
		found, possible bool
	}{
		{"nothing yet", "", false, true},
		{"well", serverHelloRecord, true, true},
		{"with more in the record", long, true, true},
		{"with more behind it", serverHelloRecord + cipherRecord + "\x17\x03\x03", true, true},
		{"not whole", serverHelloRecord[:42], false, true},
		{"behind warnings", warningRecord + warningRecord + serverHelloRecord, true, true},
		{"behind a HelloRetryRequest", retryRecord + serverHelloRecord, true, true},
		{"behind one and its change of ciphers", retryRecord + cipherRecord + serverHelloRecord, true, true},
		{"HelloRetryRequest alone", retryRecord + cipherRecord, false, true},
		{"HelloRetryRequest, and it failed", retryRecord + cipherRecord + fatalRecord, false, false},
		{"two of them", retryRecord + retryRecord, false, false},
		{"change of ciphers first", cipherRecord + serverHelloRecord, false, false},
		{"failed", fatalRecord + "a NO TLS failed\r\nb OK begin\r\n" + serverHelloRecord, false, false},
		{"clear text", "a NO TLS failed\r\n" + serverHelloRecord, false, false},
		{"clear text behind a warning", warningRecord + "a NO TLS failed\r\n", false, false},
		{"a warning without a number", "\x15\x03\x03\x00\x01\x01" + serverHelloRecord, false, false},
		{"data", "\x17\x03\x03\x00\x2a" + serverHelloRecord[5:], false, false},
		{"SSL 2", "\x16\x02\x00\x00\x2a" + serverHelloRecord[5:], false, false},
		{"HelloRequest", "\x16\x03\x03\x00\x04\x00\x00\x00\x00", false, false},
		{"ClientHello", strings.Replace(serverHelloRecord, "\x02\x00\x00\x26", "\x01\x00\x00\x26", 1), false, false},
	} {
		for _, piece := range []int{1, 7, len(tt.said) + 1} {
			h := &serverHello{}
			found, possible := false, true
			for rest := []byte(tt.said); len(rest) > 0 && !found && possible; {
				n := min(piece, len(rest))
				found, possible = h.read(rest[:n])
				rest = rest[n:]
			}
			if found != tt.found || possible != tt.possible {
				t.Errorf("%s, in pieces of %d: %v, %v, want %v, %v", tt.name, piece, found, possible, tt.found, tt.possible)
			}
		}
	}
}

// TestBackToClearText: what a server says in clear text instead of shaking hands is
// the end of it. The tap is told so, and if something is told all the same, it is not
// believed.
func TestBackToClearText(t *testing.T) {
	for name, instead := range map[string]string{
		"at once": "a NO TLS failed", "behind an alert": fatalRecord + "a NO TLS failed",
		"behind a HelloRetryRequest": retryRecord + fatalRecord + "a NO TLS failed",
	} {
		k := newTLS(t)
		k.open(client, imap4, 7, nil)
		k.say("S: * OK ready", "C: a STARTTLS", "S: a OK begin", "C: \x16\x03\x01 no hello", "S: "+instead)
		if got := k.steering(); got != "7:false" {
			t.Errorf("%s: steered %q, want 7:false", name, got)
		}
		k.say("C: b STARTTLS\r\nc NOOP {22+}", "S: b OK begin")
		k.hello()
		k.inside("C: c LOGIN alice secret", "S: c OK done")
		if got := k.results(); got != "tainted" {
			t.Errorf("%s: %q, want tainted", name, got)
		}
	}
}

// TestHandshakeUnseen: a ServerHello that the kernel did not take for one leaves room
// for a later one, which nobody told of here.
func TestHandshakeUnseen(t *testing.T) {
	k := newTLS(t)
	k.open(client, imap4, 7, nil)
	k.say("S: * OK ready", "C: a STARTTLS", "S: a OK begin", "C: \x16\x03\x01 client hello", "S: "+serverHelloRecord)
	k.feed(capture.Event{Kind: capture.Handshake, Conn: authz.Conn{Cookie: 7}})
	k.inside(imapLogin[1:]...)
	if got := k.results(); got != "tainted" {
		t.Errorf("%q, want tainted", got)
	}
}
