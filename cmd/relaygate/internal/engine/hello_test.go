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

// clientHelloRecord is one as of TLS 1.3.
func clientHelloRecord(early bool) string {
	extensions := "\x00\x2b\x00\x03\x02\x03\x04" // supported versions
	if early {
		extensions += "\x00\x2a\x00\x00"
	}
	body := "\x03\x03" + strings.Repeat("c", 32) + "\x04sess" + "\x00\x02\x13\x01" + "\x01\x00" +
		string([]byte{0, byte(len(extensions))}) + extensions
	return handshakeRecord(string([]byte{1, 0, 0, byte(len(body))}) + body)
}

func handshakeRecord(content string) string {
	return "\x16\x03\x01" + string([]byte{0, byte(len(content))}) + content
}

func TestClientHello(t *testing.T) {
	good, early := clientHelloRecord(false), clientHelloRecord(true)
	message := good[5:]
	change := func(at int, to string) string { return handshakeRecord(message[:at] + to + message[at+len(to):]) }
	for _, tt := range []struct {
		name, said string
		early, ok  bool
	}{
		{"well", good, false, true},
		{"early data", early, true, true},
		{"and what it says early", early + "\x17\x03\x03\x00\x02hi", true, true},
		{"in two records", handshakeRecord(message[:7]) + handshakeRecord(message[7:]), false, true},
		{"early data in two records", handshakeRecord(early[5:60]) + handshakeRecord(early[60:]), true, true},
		{"its first byte by itself", good[1:], false, true},
		{"without extensions", handshakeRecord("\x01\x00\x00\x29\x03\x03" + strings.Repeat("c", 32) + "\x00\x00\x02\x13\x01\x01\x00"), false, true},
		{"a second one", good + early, false, true},
		{"nothing", "", false, false},
		{"not whole", good[:len(good)-1], false, false},
		{"an empty record between", handshakeRecord(message[:7]) + handshakeRecord("") + handshakeRecord(message[7:]), false, false},
		{"another record between", handshakeRecord(message[:7]) + "\x14\x03\x03\x00\x01\x01" + handshakeRecord(message[7:]), false, false},
		{"ServerHello", change(0, "\x02"), false, false},
		{"session longer than the message", change(38, "\xff"), false, false},
		{"extensions longer than the message", change(49, "\x01"), false, false},
		{"extensions shorter than the message", change(50, "\x06"), false, false},
		{"an extension longer than all", change(54, "\x04"), false, false},
		{"no TLS", "a1 LOGIN alice secret", false, false},
	} {
		h := &clientHello{}
		h.begin([]byte(tt.said)[:min(2, len(tt.said))])
		h.add([]byte(tt.said)[min(2, len(tt.said)):])
		if h.early != tt.early || h.whole != tt.ok {
			t.Errorf("%s: %v, %v, want %v, %v", tt.name, h.early, h.whole, tt.early, tt.ok)
		}
	}
}

// FuzzClientHello compares with a reader that has all of it before it.
func FuzzClientHello(f *testing.F) {
	for _, early := range []bool{false, true} {
		f.Add([]byte(clientHelloRecord(early)[5:]), uint16(7))
	}
	f.Fuzz(func(t *testing.T, message []byte, cut uint16) {
		first := min(int(cut), len(message))
		if first == 0 || first == len(message) || len(message) > 1<<15 {
			return
		}
		h := &clientHello{}
		for _, part := range [][]byte{message[:first], message[first:]} {
			h.add([]byte{recordHandshake, 3, 1, byte(len(part) >> 8), byte(len(part))})
			h.add(part)
		}
		early, whole := announces(message)
		if h.whole != whole || whole && h.early != early {
			t.Errorf("%x: %v, %v, want %v, %v", message, h.early, h.whole, early, whole)
		}
	})
}

// announces says whether a ClientHello at the beginning of a message announces early
// data; whole says that it is one.
func announces(b []byte) (early, whole bool) {
	take := func(from *[]byte, n int) []byte {
		if n > len(*from) {
			panic(from)
		}
		taken := (*from)[:n]
		*from = (*from)[n:]
		return taken
	}
	vector := func(from *[]byte, digits int) []byte {
		n := 0
		for _, c := range take(from, digits) {
			n = n<<8 | int(c)
		}
		return take(from, n)
	}
	defer func() {
		if recover() != nil {
			whole = false
		}
	}()
	if take(&b, 1)[0] != messageClientHello {
		return false, false
	}
	body := vector(&b, 3)
	take(&body, versionAndRandom)
	for _, digits := range []int{1, 2, 1} {
		vector(&body, digits)
	}
	if len(body) == 0 {
		return false, true
	}
	extensions := vector(&body, 2)
	for len(extensions) > 0 {
		kind := take(&extensions, 2)
		early = early || kind[0] == 0 && kind[1] == extensionEarlyData
		vector(&extensions, 2)
	}
	return early, len(body) == 0
}

// TestHiddenEarlyData: early data that nobody told of, because the ServerHello had not
// left the host when it was read.
func TestHiddenEarlyData(t *testing.T) {
	k := newTLS(t)
	k.open(client, imap4, 7, nil)
	k.say("S: * OK ready", "C: a STARTTLS", "S: a OK begin", "C: "+clientHelloRecord(true))
	k.feed(capture.Event{Kind: capture.Handshake, Conn: authz.Conn{Cookie: 7}})
	k.say("S: " + serverHelloRecord)
	k.inside(imapLogin[1:]...)
	if got := k.results(); got != "tainted" || !strings.Contains(k.verdicts[0].Reason, "early data") {
		t.Errorf("%q, %+v", got, k.verdicts)
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
		if got := k.steering(); got != "7:done" {
			t.Errorf("%s: steered %q, want 7:done", name, got)
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
	k.say("S: * OK ready", "C: a STARTTLS", "S: a OK begin", "C: "+clientHelloRecord(false), "S: "+serverHelloRecord)
	k.feed(capture.Event{Kind: capture.Handshake, Conn: authz.Conn{Cookie: 7}})
	k.inside(imapLogin[1:]...)
	if got := k.results(); got != "tainted" {
		t.Errorf("%q, want tainted", got)
	}
}
