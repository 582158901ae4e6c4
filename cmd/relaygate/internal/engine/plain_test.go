package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/capture"
)

// Records of a server.
var (
	serverHelloRecord = helloRecord(strings.Repeat("r", 32))
	retryRecord       = helloRecord(retryRandom + strings.Repeat("r", 24))
)

const (
	cipherRecord  = "\x14\x03\x03\x00\x01\x01"
	warningRecord = "\x15\x03\x03\x00\x02\x01\x70"
	fatalRecord   = "\x15\x03\x03\x00\x02\x02\x28"
)

var imapLogin = []string{"S: * OK ready", "C: a LOGIN alice secret", "S: a OK done"}

func TestTLSSessions(t *testing.T) {
	imapTLS := func(k *talk) { k.open(client, imaps, 7, nil); k.hello() }
	stls := func(k *talk) {
		k.open(client, server, 7, nil)
		k.say("S: +OK ready", "C: STLS", "S: +OK begin")
	}
	startTLS := func(k *talk) {
		k.open(client, imap4, 7, nil)
		k.say("S: * OK ready", "C: a STARTTLS", "S: a OK begin")
	}
	for _, tt := range []struct {
		name string
		play func(*talk)
		want string // verdicts, then changes
		why  string // in the last verdict's reason
	}{
		{name: "IMAPS", want: "success granted", play: func(k *talk) { imapTLS(k); k.inside(imapLogin...) }},
		{name: "POP3S", want: "success granted", play: func(k *talk) {
			k.open(client, pop3s, 7, nil)
			k.hello()
			k.inside(pop3Login...)
		}},
		{name: "wrong password, then the right one", want: "failure success granted", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready", "C: a LOGIN alice wrong", "S: a NO no", "C: b LOGIN alice secret", "S: b OK done")
		}},
		{name: "STARTTLS", want: "success granted", play: func(k *talk) { startTLS(k); k.hello(); k.inside(imapLogin[1:]...) }},
		{name: "STLS", want: "success granted", play: func(k *talk) { stls(k); k.hello(); k.inside(pop3Login[1:]...) }},
		{name: "a warning before the ServerHello", want: "success granted", play: func(k *talk) {
			k.open(client, imaps, 7, nil)
			k.shake(warningRecord, serverHelloRecord)
			k.inside(imapLogin...)
		}},
		{name: "HelloRetryRequest", want: "success granted", play: func(k *talk) {
			startTLS(k)
			k.shake(retryRecord, cipherRecord, serverHelloRecord)
			k.inside(imapLogin[1:]...)
		}},
		{name: "TLS at once on the clear port", want: "success granted", play: func(k *talk) {
			k.open(client, imap4, 7, nil)
			k.hello()
			k.inside(imapLogin...)
		}},
		{name: "USER before STLS does not count", want: "tainted", why: "no user name was", play: func(k *talk) {
			k.open(client, server, 7, nil)
			k.say("S: +OK ready", "C: USER mallory", "S: +OK", "C: STLS", "S: +OK begin")
			k.hello()
			k.inside("C: PASS secret", "S: +OK logged in")
		}},
		{name: "a command behind STARTTLS", want: "tainted", why: "before the answer to STARTTLS", play: func(k *talk) {
			k.open(client, imap4, 7, nil)
			k.say("S: * OK ready", "C: a STARTTLS\r\nb LOGIN mallory x", "S: a OK begin")
			k.hello()
			k.inside("S: b OK done")
		}},
		{name: "a command between STARTTLS and TLS", want: "tainted", why: "clear text", play: func(k *talk) {
			startTLS(k)
			k.say("C: b LOGIN mallory x")
			k.hello()
			k.inside("C: b LOGIN alice wrong", "S: b OK done")
		}},
		{name: "back to clear text after STLS", want: "tainted", why: "the server spoke first", play: func(k *talk) {
			stls(k)
			k.say("S: -ERR STLS failed", "C: USER alice", "S: +OK", "C: PASS secret", "S: +OK")
		}},
		{name: "clear text after the handshake", want: "encrypted", why: "maild (pid 12)", play: func(k *talk) {
			imapTLS(k)
			k.say(imapLogin...)
			k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
		}},
		{name: "greeting behind STARTTLS", want: "success granted", why: "", play: func(k *talk) {
			startTLS(k)
			k.hello()
			k.inside("S: * OK hello again")
			k.inside(imapLogin[1:]...)
		}},
		{name: "POP3 greeting behind STLS", want: "tainted", why: "belongs to no command", play: func(k *talk) {
			stls(k)
			k.hello()
			k.inside(pop3Login...)
		}},
		{name: "no greeting in IMAPS", want: "tainted", why: "greeting", play: func(k *talk) { imapTLS(k); k.inside(imapLogin[1:]...) }},
		{name: "answer without a command", want: "tainted", play: func(k *talk) { imapTLS(k); k.inside(imapLogin[0], imapLogin[2]) }},
		{name: "TLS inside of TLS", want: "tainted", why: "TLS inside of TLS", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready", "C: a STARTTLS", "S: a OK begin")
		}},
		{name: "a process that may not speak", want: "failure", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready", "C: a LOGIN alice wrong")
			k.call("S: a OK done", func(ev *capture.Event) { ev.Trusted, ev.Plain.Stranger = false, true })
			k.inside("S: a NO no")
		}},
		{name: "it cannot suppress a login either", want: "success granted", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.call("S: x BAD nonsense", func(ev *capture.Event) { ev.Trusted, ev.Plain.Stranger = false, true })
			k.inside(imapLogin[2])
		}},
		{name: "a process that may have spoken", want: "tainted", why: "not looked at", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready")
			k.call(`C: a ID ("name" {23+}`, func(ev *capture.Event) { ev.Trusted, ev.Reason = false, "the listeners were not looked at" })
			k.inside("C: a LOGIN alice {1+}\r\n)", "S: a OK done")
		}},
		{name: "a stranger who was believed", want: "tainted", why: "it let go", play: func(k *talk) {
			by := func(ev *capture.Event) { ev.Plain.Process = 12 }
			imapTLS(k)
			k.call("S: * OK ready", by)
			k.call(`C: a ID ("name" {23+}`, func(ev *capture.Event) {
				by(ev)
				ev.Trusted, ev.Plain.Stranger, ev.Reason = false, true, "it let go of the listener"
			})
			k.call("C: a LOGIN alice {1+}\r\n)", by)
			k.call("S: a OK done", by)
		}},
		{name: "a stranger who is believed then", want: "tainted", why: "not believed", play: func(k *talk) {
			by := func(ev *capture.Event) { ev.Plain.Process = 12 }
			startTLS(k)
			k.hello()
			k.call(`C: a ID ("name" {23+}`, func(ev *capture.Event) {
				by(ev)
				ev.Trusted, ev.Plain.Stranger = false, true
			})
			k.call("C: a LOGIN alice {1+}\r\n)", by)
			k.call("S: a OK done", by)
		}},
		{name: "early data", want: "tainted", why: "early data", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready")
			k.call("C: a LOGIN alice secret", func(ev *capture.Event) { ev.Plain.Early = true })
			k.inside("S: a OK done")
		}},
		{name: "an early greeting", want: "success granted", play: func(k *talk) {
			imapTLS(k)
			k.call(imapLogin[0], func(ev *capture.Event) { ev.Plain.Early = true })
			k.inside(imapLogin[1:]...)
		}},
		{name: "a read that was cut", want: "tainted", why: "not captured whole", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready")
			k.call("C: a LOGIN alice secret", func(ev *capture.Event) { ev.Plain.Missing = 1 })
			k.inside("S: a OK done")
		}},
		{name: "a write that was cut behind the answer", want: "success granted", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.call("S: a OK done", func(ev *capture.Event) {
				ev.Plain.Bytes, ev.Plain.Missing = []byte("a OK [CAPABILITY IMAP4rev1"), 500
			})
		}},
		{name: "a write that was cut before the answer", want: "tainted", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.call("S: * CAPABILITY IMAP4rev1", func(ev *capture.Event) { ev.Plain.Missing = 500 })
			k.inside(imapLogin[2])
		}},
		{name: "a write of which nothing was captured", want: "tainted", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.call("S: a OK", func(ev *capture.Event) { ev.Plain.Bytes, ev.Plain.Missing = nil, 40 })
			k.inside(imapLogin[2])
		}},
		{name: "a lost record", want: "tainted", why: "lost", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.feed(capture.Event{Kind: capture.Lost, Conn: authz.Conn{Cookie: 7}})
			k.inside(imapLogin[2])
		}},
		{name: "a lost record of anybody", want: "tainted", why: "lost", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.feed(capture.Event{Kind: capture.Lost})
			k.inside(imapLogin[2])
		}},
		{name: "a lost record of another", want: "success granted", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin[:2]...)
			k.feed(capture.Event{Kind: capture.Lost, Conn: authz.Conn{Cookie: 8}})
			k.inside(imapLogin[2])
		}},
		{name: "plaintext before TLS", want: "tainted", why: "before TLS began", play: func(k *talk) {
			k.open(client, imap4, 7, nil)
			k.say("S: * OK ready")
			k.inside("C: a LOGIN alice secret", "S: a OK done")
		}},
		{name: "plaintext of an unknown connection", want: "", play: func(k *talk) {
			k.conn.Cookie = 9
			k.inside(imapLogin...)
		}},
		{name: "plaintext of a listener that is not believed", want: "", play: func(k *talk) {
			k.open(client, imaps, 7, func(ev *capture.Event) { ev.Trusted = false })
			k.hello()
			k.inside(imapLogin...)
		}},
		{name: "nothing behind the verdict", want: "success granted", play: func(k *talk) {
			imapTLS(k)
			k.inside(imapLogin...)
			k.inside("C: b LOGIN bob x", "S: b OK done", "S: nonsense")
		}},
		{name: "plaintext behind the close", want: "encrypted", play: func(k *talk) {
			imapTLS(k)
			k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
			k.inside(imapLogin...)
		}},
		{name: "closed without a login", want: "", play: func(k *talk) {
			imapTLS(k)
			k.inside("S: * OK ready", "C: a LOGOUT", "S: * BYE", "S: a OK bye")
			k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
		}},
		{name: "clear text on a TLS port", want: "tainted", play: func(k *talk) {
			k.open(client, imaps, 7, nil)
			k.say("C: a LOGIN alice secret", "S: a OK done")
		}},
		{name: "STARTTLS and no TLS", want: "encrypted", why: "TLS never began", play: func(k *talk) {
			startTLS(k)
			k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
		}},
		{name: "no handshake", want: "encrypted", why: "no handshake", play: func(k *talk) {
			k.open(client, imaps, 7, nil)
			k.say("C: \x16\x03\x01 client hello", "S: \x15\x03\x03 alert")
			k.later(time.Minute)
			k.feed(capture.Event{Kind: capture.Closed, Conn: k.conn})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := newTLS(t)
			tt.play(k)
			if got := k.results(); got != tt.want {
				t.Errorf("verdicts and changes %q, want %q; %+v", got, tt.want, k.verdicts)
			}
			for i, v := range k.verdicts {
				if v.Result == authz.Success && !v.TLS {
					t.Errorf("a login in TLS is told as one in clear text")
				}
				if i == len(k.verdicts)-1 && !strings.Contains(v.Reason, tt.why) {
					t.Errorf("reason %q, want it to hold %q", v.Reason, tt.why)
				}
			}
			if strings.Contains(fmt.Sprintf("%+v %+v", k.verdicts, k.Evidence().Story(client.Addr(), start)), "secret") {
				t.Error("the password came out")
			}
			if n := len(k.tls.byCookie); n > 1 {
				t.Errorf("%d connections are followed", n)
			}
		})
	}
}
