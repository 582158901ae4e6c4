package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"relaygate/authz"
	"relaygate/capture"
)

// balancer is a trusted proxy in these tests, client one that is not.
var balancer = netip.MustParseAddrPort("10.0.0.5:40000")

const (
	header1  = "PROXY TCP4 203.0.113.9 198.51.100.2 55000 143"
	header2  = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc6\x33\x64\x02\xd6\xd8\x00\x8f" // the same
	idClient = `i ID ("name" "proxy" "x-originating-ip" "203.0.113.9" "x-originating-port" "55000")`
)

// raw plays bytes of the client without a line end.
func (k *talk) raw(text string) {
	seg := capture.Segment{
		Cookie: k.conn.Cookie, Flags: capture.ACK | capture.PSH, Payload: []byte(text),
		Src: k.conn.Client, Dst: k.conn.Server, Sent: capture.SenderOutside, Seq: k.seq, Ack: k.ack,
	}
	k.seq += uint32(len(text))
	k.feed(capture.Event{Kind: capture.Packet, Segment: seg})
}

// cut plays what the server says, of whose end missing bytes were not captured.
func (k *talk) cut(text string, missing int) {
	k.feed(capture.Event{Kind: capture.Packet, Segment: capture.Segment{
		Cookie: k.conn.Cookie, Flags: capture.ACK | capture.PSH, Payload: []byte(text), Missing: missing,
		Src: k.conn.Server, Dst: k.conn.Client, Sent: capture.SenderHost, Seq: k.ack, Ack: k.seq,
	}})
	k.ack += uint32(len(text) + missing)
}

func TestAnnouncedClients(t *testing.T) {
	login := imapLogin[1:]
	at := func(peer, server netip.AddrPort) func(*talk, ...string) {
		return func(k *talk, lines ...string) {
			k.open(peer, server, 7, nil)
			k.say(lines...)
		}
	}
	imap, pop3, stranger := at(balancer, imap4), at(balancer, server), at(client, imap4)
	for _, tt := range []struct {
		name   string
		play   func(*talk)
		want   string // verdicts, then changes
		client string // of the last verdict; "" is the peer itself
		why    string // in the last verdict's reason
	}{
		{name: "nobody", want: "success refused", play: func(k *talk) { imap(k, imapLogin...) }},
		{name: "header of a stranger", want: "tainted", why: reasonNoProxy, play: func(k *talk) {
			stranger(k, "C: "+header1, "S: * OK ready", "S: PROXY BAD no", "C: b LOGIN alice secret", "S: b OK done")
		}},
		{name: "header of a stranger, version 2", want: "tainted", why: reasonNoProxy, play: func(k *talk) {
			k.open(client, imap4, 7, nil)
			k.raw(header2)
			k.say(imapLogin...)
		}},
		{name: "a tag like a header", want: "success granted", play: func(k *talk) {
			stranger(k, "S: * OK ready", "C: PROXY NOOP", "S: PROXY OK done", "C: b LOGIN alice secret", "S: b OK done")
		}},
		{name: "header, version 1", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			imap(k, "C: "+header1, "S: * OK ready", "C: a CAPABILITY", "S: a OK done", "C: b LOGIN alice secret", "S: b OK done")
		}},
		{name: "header, version 2", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			k.open(balancer, imap4, 7, nil)
			k.raw(header2)
			k.say(imapLogin...)
		}},
		{name: "header in pieces", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			k.open(balancer, server, 7, nil)
			for _, c := range []byte(header1 + "\r\n") {
				k.raw(string(c))
			}
			k.say(pop3Login...)
		}},
		{name: "header and TLS", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			k.open(balancer, imaps, 7, nil)
			k.raw(header1 + "\r\n")
			k.hello()
			k.inside(imapLogin...)
		}},
		{name: "header and STARTTLS", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			imap(k, "C: "+header1, "S: * OK ready", "C: a STARTTLS", "S: a OK begin")
			k.hello()
			k.inside(login...)
		}},
		{name: "header of the proxy itself", want: "success refused", play: func(k *talk) {
			imap(k, append([]string{"C: PROXY UNKNOWN"}, imapLogin...)...)
		}},
		{name: "malformed header", want: "tainted", why: "malformed PROXY header", play: func(k *talk) {
			imap(k, "C: PROXY TCP4 203.0.113.9", "S: * OK ready")
		}},
		{name: "header that names an own address", want: "success refused", client: "198.51.100.2:1", play: func(k *talk) {
			imap(k, append([]string{"C: PROXY TCP4 198.51.100.2 198.51.100.2 1 143"}, imapLogin...)...)
		}},
		{name: "header that names the proxy", want: "success refused", client: "10.0.0.5:1", play: func(k *talk) {
			imap(k, append([]string{"C: PROXY TCP4 10.0.0.5 198.51.100.2 1 143"}, imapLogin...)...)
		}},
		{name: "header of a stranger", want: "tainted", play: func(k *talk) {
			stranger(k, append([]string{"C: " + header1}, imapLogin...)...)
		}},
		{name: "header of a stranger before TLS", want: "tainted", play: func(k *talk) {
			k.open(client, imaps, 7, nil)
			k.raw(header1 + "\r\n")
			k.hello()
			k.inside(imapLogin...)
		}},
		{name: "header behind the greeting", want: "", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+header1, "S: PROXY BAD what")
		}},
		{name: "half a header, then the greeting", want: "tainted", why: "before the PROXY header", play: func(k *talk) {
			k.open(balancer, imap4, 7, nil)
			k.raw("PROXY TCP4 203.")
			k.say(imapLogin...)
		}},
		{name: "no header, though it begins alike", want: "success refused", play: func(k *talk) {
			k.open(balancer, imap4, 7, nil)
			k.raw("PR")
			k.raw("X LOGIN alice secret\r\n")
			k.say("S: * OK ready", "S: PRX OK done")
		}},

		// A server that takes the header for a command answers once more than
		// the dialogue knows of.
		{name: "IMAP server that does not know the header", want: "tainted", why: "for a command", play: func(k *talk) {
			imap(k, "C: "+header1+"\r\nPROXY NOOP\r\nPROXY LOGIN alice wrong", "S: * OK ready", "S: PROXY BAD what", "S: PROXY OK", "S: PROXY NO wrong")
		}},
		{name: "refusal of the header behind a cut", want: "tainted", why: "for a command", play: func(k *talk) {
			imap(k, "C: "+header1)
			k.cut("* OK [CAPABILITY", 40)
			k.say("S: PROXY BAD what", "C: a NOOP", "S: a OK", "C: b LOGIN alice secret", "S: b OK done")
		}},
		{name: "cut behind the receipt", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			imap(k, "C: "+header1, "S: * OK ready", "C: a NOOP", "S: a OK", "C: b LOGIN alice secret")
			k.cut("b OK [CAPABILITY", 40)
		}},
		{name: "POP3 server that does not know the header", want: "tainted", why: "for a command", play: func(k *talk) {
			pop3(k, "C: "+header1+"\r\nNOOP\r\nUSER a\r\nPASS wrong\r\nNOOP", "S: +OK ready", "S: -ERR what", "S: +OK", "S: +OK", "S: -ERR no")
		}},
		{name: "version 2 with commands inside", want: "tainted", why: "for a command", play: func(k *talk) {
			k.open(balancer, imap4, 7, nil)
			k.raw("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x19\xcb\x00\x71\x09\xc6\x33\x64\x02\xd6\xd8\x00\x8f\x01\x00\x0a\r\na NOOP\r\n")
			k.say("S: * OK ready", "C: a LOGIN alice wrong", "S: * BAD what", "S: QUIT BAD what", "S: a OK NOOP done")
		}},

		{name: "ID", want: "success granted", client: "203.0.113.9:0", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+idClient, "S: * ID NIL", "S: i OK done", login[0], login[1])
		}},
		{name: "ID in a pipeline", want: "success granted", client: "203.0.113.9:0", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+idClient+"\r\na LOGIN alice secret", "S: i OK done\r\na OK done")
		}},
		{name: "ID in TLS", want: "success granted", client: "203.0.113.9:0", play: func(k *talk) {
			k.open(balancer, imaps, 7, nil)
			k.hello()
			k.inside("S: * OK ready", "C: "+idClient, "S: i OK done", login[0], login[1])
		}},
		{name: "ID of IPv6", want: "success granted", client: "[2001:db8:9::1]:0", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i id ("X-Originating-IP" "2001:db8:9::1")`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID refused", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+idClient, "S: i NO no", login[0], login[1])
		}},
		{name: "ID before STARTTLS is forgotten", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+idClient, "S: i OK done", "C: s STARTTLS", "S: s OK begin")
			k.hello()
			k.inside(login...)
		}},
		{name: "ID without a client", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID ("name" "x" "x-connected-ip" "203.0.113.9" "x-originating-ip" NIL)`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID without parameters", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID NIL`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID with the name as a value", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID ("name" "x-originating-ip" "203.0.113.9" "x")`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID with a quote in a value", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID ("name" "a\" \"x-originating-ip\" \"203.0.113.9")`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID with no address", want: "tainted", why: "no address", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID ("x-originating-ip" "localhost")`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID with a zone", want: "tainted", why: "no address", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID ("x-originating-ip" "fe80::1%eth0")`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID with two clients", want: "tainted", why: "no address", play: func(k *talk) {
			imap(k, "S: * OK ready", `C: i ID ("x-originating-ip" "203.0.113.9" "x-originating-ip" "203.0.113.8")`, "S: i OK done", login[0], login[1])
		}},
		{name: "two IDs", want: "tainted", why: "two different clients", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+idClient, "S: i OK done", `C: j ID ("x-originating-ip" "203.0.113.8")`, "S: j OK done", login[0], login[1])
		}},
		{name: "the same ID twice", want: "success granted", client: "203.0.113.9:0", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: "+idClient, "S: i OK done", "C: "+idClient, "S: i OK done", login[0], login[1])
		}},
		{name: "ID with the tag of another command", want: "tainted", why: "used twice", play: func(k *talk) {
			imap(k, "S: * OK ready", "C: i NOOP\r\n"+idClient, "S: i OK done", "S: i OK done", login[0], login[1])
		}},
		{name: "header and another ID", want: "tainted", why: "two different clients", play: func(k *talk) {
			imap(k, "C: "+header1, "S: * OK ready", `C: j ID ("x-originating-ip" "203.0.113.8")`, "S: j OK done", login[0], login[1])
		}},
		{name: "header that names nobody, and an ID", want: "tainted", why: "names none", play: func(k *talk) {
			imap(k, "C: PROXY UNKNOWN", "S: * OK ready", "C: "+idClient, "S: i OK done", login[0], login[1])
		}},
		{name: "header that names nobody, and an ID in TLS", want: "tainted", why: "names none", play: func(k *talk) {
			k.open(balancer, imaps, 7, nil)
			k.raw("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
			k.hello()
			k.inside("S: * OK ready", "C: "+idClient, "S: i OK done", login[0], login[1])
		}},
		{name: "header that names nobody, and XCLIENT", want: "tainted", why: "names none", play: func(k *talk) {
			pop3(k, "C: PROXY UNKNOWN", "S: +OK ready", "C: XCLIENT ADDR=203.0.113.9", "S: +OK", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK")
		}},
		{name: "header and the same ID", want: "success granted", client: "203.0.113.9:55000", play: func(k *talk) {
			imap(k, "C: "+header1, "S: * OK ready", "C: "+idClient, "S: i OK done", login[0], login[1])
		}},
		{name: "ID of a proxy that is not trusted", want: "tainted", why: "x-originating-ip", play: func(k *talk) {
			stranger(k, "S: * OK ready", "C: "+idClient, "S: i OK done", login[0], login[1])
		}},
		{name: "ID of a stranger, refused", want: "success granted", play: func(k *talk) {
			stranger(k, "S: * OK ready", "C: "+idClient, "S: i NO no", login[0], login[1])
		}},
		{name: "ID of a stranger who names nobody", want: "success granted", play: func(k *talk) {
			stranger(k, "S: * OK ready", `C: i ID ("name" "x" "x-originating-ip" NIL)`, "S: i OK done", login[0], login[1])
		}},
		{name: "ID behind the login", want: "success refused", play: func(k *talk) {
			imap(k, "S: * OK ready", login[0], login[1], "C: "+idClient, "S: i OK done")
		}},

		{name: "XCLIENT", want: "success granted", client: "203.0.113.9:0", play: func(k *talk) {
			pop3(k, "S: +OK ready", "C: XCLIENT ADDR=203.0.113.9 PORT=55000", "S: +OK Updated", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK")
		}},
		{name: "XCLIENT in a pipeline", want: "success granted", client: "203.0.113.9:0", play: func(k *talk) {
			pop3(k, "S: +OK ready", "C: XCLIENT ADDR=203.0.113.9 PORT=55000\r\nUSER alice", "S: +OK Updated\r\n+OK", "C: PASS secret", "S: +OK")
		}},
		{name: "XCLIENT of IPv6", want: "success granted", client: "[2001:db8:9::1]:0", play: func(k *talk) {
			pop3(k, "S: +OK ready", "C: XCLIENT ADDR=IPV6:2001:db8:9::1", "S: +OK Updated", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK")
		}},
		{name: "XCLIENT refused", want: "success refused", play: func(k *talk) {
			pop3(k, "S: +OK ready", "C: XCLIENT ADDR=203.0.113.9", "S: -ERR no", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK")
		}},
		{name: "XCLIENT with no address", want: "tainted", why: "no address", play: func(k *talk) {
			pop3(k, "S: +OK ready", "C: XCLIENT ADDR=[UNAVAILABLE]", "S: +OK")
		}},
		{name: "two XCLIENTs", want: "tainted", why: "two different clients", play: func(k *talk) {
			pop3(k, "S: +OK ready", "C: XCLIENT ADDR=203.0.113.9", "S: +OK", "C: XCLIENT ADDR=203.0.113.8", "S: +OK")
		}},
		{name: "XCLIENT of a stranger", want: "tainted", why: "XCLIENT", play: func(k *talk) {
			at(client, server)(k, "S: +OK ready", "C: XCLIENT ADDR=203.0.113.9", "S: +OK", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newTLS(t, "10.0.0.0/24")
			tt.play(k)
			if got := k.results(); got != tt.want {
				t.Fatalf("verdicts and changes %q, want %q; %+v", got, tt.want, k.verdicts)
			}
			for i, v := range k.verdicts {
				want, proxy := k.conn.Client.String(), "invalid IP"
				if tt.client != "" {
					want, proxy = tt.client, "10.0.0.5"
				}
				if v.Result == authz.Success && (v.Conn.Client.String() != want || v.Proxy.String() != proxy) {
					t.Errorf("client %v by %v, want %v by %v", v.Conn.Client, v.Proxy, want, proxy)
				}
				if i == len(k.verdicts)-1 && !strings.Contains(v.Reason, tt.why) {
					t.Errorf("reason %q, want it to hold %q", v.Reason, tt.why)
				}
			}
		})
	}
}

func TestTheStoryNamesTheProxy(t *testing.T) {
	k := newTLS(t, "10.0.0.0/24")
	k.open(balancer, imap4, 7, nil)
	k.say(append([]string{"C: " + header1}, imapLogin...)...)
	story := fmt.Sprintf("%+v", k.Evidence().Story(netip.MustParseAddr("203.0.113.9"), start))
	if !strings.Contains(story, "announced by proxy 10.0.0.5") {
		t.Errorf("the story does not name the proxy: %s", story)
	}
	if h := k.Holds(); len(h) != 1 || h[0].Conn.Client.String() != "203.0.113.9:55000" {
		t.Errorf("holds %+v, want the announced client's", h)
	}
	k.feed(capture.Event{Kind: capture.Closed, Conn: authz.Conn{Cookie: 7}})
	if h := k.Holds(); len(h) != 1 || h[0].Open || h[0].Conn.Client.String() != "203.0.113.9:55000" {
		t.Errorf("holds %+v after the close, want the announced client's", h)
	}
}
