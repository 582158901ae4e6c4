package imap

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"relaygate/authz"
)

// What a proxy and a server of Dovecot 2.4.1 said to each other.
const (
	proxyID     = `I ID ("x-multiplex" "0" "x-originating-ip" "192.0.2.150")` + "\r\n"
	proxyLogin  = `L LOGIN "zz" "right"` + "\r\n"
	announced   = "* ID (\"name\" \"Dovecot\")\r\n* MULTIPLEX 0\r\n"
	framedID    = "I OK Trusted ID completed.\r\n"
	framedLogin = "\x03\xfe\x00\x00L OK Logged in\r\n"
)

// framedTalk feeds a dialogue what a proxy and its server say, and returns the last
// verdict's result and reason.
func framedTalk(t *testing.T, trusted bool, client, server string, piece int) (d *Dialogue, last authz.Login) {
	t.Helper()
	d = New()
	if trusted {
		d.TrustPeer()
	}
	feed := func(c authz.Chunk) {
		for _, l := range d.Feed(c) {
			last = l
		}
	}
	feed(authz.Chunk{Dir: authz.FromServer, Bytes: []byte("* OK ready\r\n")})
	feed(authz.Chunk{Dir: authz.FromClient, Bytes: []byte(client)})
	for b := range slices.Chunk([]byte(server), piece) {
		feed(authz.Chunk{Dir: authz.FromServer, Bytes: bytes.Clone(b)})
	}
	return d, last
}

func TestMultiplex(t *testing.T) {
	for _, tt := range []struct {
		name           string
		stranger       bool
		client, server string
		want           string // "" is no verdict
	}{
		{name: "as Dovecot says it", server: announced + frameHeader + framedID + framedLogin, want: "success"},
		{name: "refused", server: announced + frameHeader + framedID + "\x03\xfe\x00\x00L NO no\r\n", want: "failure"},
		{name: "no mark where no other process goes on", server: announced + frameHeader + framedID + "L OK\r\n", want: "success"},
		{
			name:   "another channel between",
			server: announced + frameHeader + "I OK\x03\xfe\x00\x01L OK\r\n\x03\xfe\x00\x02\x03\xfe\x00\x00 done\r\nL OK\r\n", want: "success",
		},
		{name: "an answer in another channel", server: announced + frameHeader + framedID + "\x03\xfe\x00\x01L OK\r\n"},
		{name: "no header", server: announced + framedID + "L OK\r\n", want: "tainted"},
		{name: "half a header", server: announced + frameHeader[:5] + framedID + "L OK\r\n", want: "tainted"},
		{name: "another version", server: announced + "\xff\xff\xff\xff\xff\x01\x02\x03\xfe" + framedID + "L OK\r\n", want: "tainted"},
		{name: "a mark that says nothing known", server: announced + frameHeader + framedID + "\x03\xfe\x02\x00L OK\r\n", want: "tainted"},
		{name: "the mark's first octet in a line", server: announced + frameHeader + framedID + "\x03L OK\r\n", want: "tainted"},
		{name: "the same, told by a mark", server: announced + frameHeader + framedID + "\x03\xfe\x01L OK\r\n", want: "tainted"},
		{name: "a mark in the answer", server: announced + frameHeader + framedID + "L\x03\xfe\x00\x00 OK\r\n", want: "success"},
		{name: "frames that nobody announced", server: frameHeader + framedID + framedLogin, want: "tainted"},
		{name: "frames for a stranger", stranger: true, client: "I NOOP\r\n", server: announced + frameHeader + framedID + framedLogin, want: "tainted"},
		{name: "as an answer to another command", client: "I NOOP\r\n", server: announced + frameHeader + framedID + framedLogin, want: "tainted"},
		{name: "the continuation of a literal before the header", client: proxyID + "L LOGIN \"zz\" {5}\r\n", server: announced + "+ OK\r\n" + frameHeader + framedID, want: "tainted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := proxyID + proxyLogin
			switch {
			case strings.HasPrefix(tt.client, proxyID):
				client = tt.client
			case tt.client != "":
				client = tt.client + proxyLogin
			}
			for _, piece := range []int{1, 3, 1 << 10} {
				_, last := framedTalk(t, !tt.stranger, client, tt.server, piece)
				got := ""
				if last.Result != 0 {
					got = last.Result.String()
				}
				if got != tt.want {
					t.Errorf("in pieces of %d: %q (%s), want %q", piece, got, last.Reason, tt.want)
				}
			}
		})
	}
}

// A server can repeat a password where it refuses the login.
func TestMultiplexKeepsNothing(t *testing.T) {
	for _, behind := range []string{"\r\n", "\x03\xfe\x02"} { // what nobody knows
		d, _ := framedTalk(t, true, proxyID+proxyLogin, announced+frameHeader+framedID+"L NO canary"+behind, 1<<10)
		if b := d.framed.imap[:cap(d.framed.imap)]; bytes.Contains(b, []byte("canary")) {
			t.Errorf("%q is kept", b)
		}
	}
}

func TestMultiplexCopiesNothing(t *testing.T) {
	var m multiplex
	m.state = inMark // what it holds back comes out, too
	b := bytes.Repeat([]byte("x"), 1000)
	m.imap = make([]byte, 0, 8)
	first := m.imap[:8]
	if got, ok := m.next(b); !ok || len(got) != 1001 || !bytes.Equal(first, make([]byte, 8)) {
		t.Errorf("%v, %d octets, and %q in what was too small", ok, len(got), first)
	}
}
