package sasl

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"relaygate/authz/line/linetest"

	"github.com/google/go-cmp/cmp"
)

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

const digest = "0123456789abcdef0123456789ABCDEF"

func TestExchange(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, test := range []struct {
		mechanism string
		messages  []string // decoded; "*" is the cancel, "!..." a raw line
		want      Identity
		doubt     string
		reason    string // of the last message
	}{
		{mechanism: "plain", messages: []string{"\x00alice\x00pw"}, want: Identity{Mechanism: "PLAIN", User: "alice"}},
		{mechanism: "PLAIN", messages: []string{"bob\x00alice\x00pw"}, want: Identity{Mechanism: "PLAIN", User: "alice", AuthzID: "bob"}},
		{mechanism: "PLAIN", messages: []string{"", "\x00alice\x00pw"}, want: Identity{Mechanism: "PLAIN", User: "alice"}},
		{mechanism: "PLAIN", messages: nil, want: Identity{Mechanism: "PLAIN"}, doubt: doubtUnfinished},
		{mechanism: "PLAIN", messages: []string{""}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtUnfinished},
		{mechanism: "PLAIN", messages: []string{"alice\x00pw"}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtMalformed},
		{mechanism: "PLAIN", messages: []string{"\x00\x00pw"}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtMalformed},
		{mechanism: "PLAIN", messages: []string{"\x00alice\x00"}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtMalformed},
		{mechanism: "PLAIN", messages: []string{"\x00alice\x00p\x00w"}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtMalformed},
		{mechanism: "PLAIN", messages: []string{"\x00alice\x00pw", "\x00bob\x00pw"}, want: Identity{Mechanism: "PLAIN", User: "bob"}, doubt: doubtMalformed},
		{mechanism: "PLAIN", messages: []string{"\x00al\nice\x00pw"}, reason: reasonBreak},
		{mechanism: "PLAIN", messages: []string{"\x00alice\x00p\tw"}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtMalformed},
		{mechanism: "PLAIN", messages: []string{"\x00" + long + "\x00pw"}, reason: reasonIdentity},
		{mechanism: "PLAIN", messages: []string{"!AGFsaWNl AHB3"}, reason: ReasonBase64},
		{mechanism: "PLAIN", messages: []string{"!AGFsaWNlAHB3="}, reason: ReasonBase64},
		{mechanism: "PLAIN", messages: []string{"!" + strings.Repeat("A", MaxLine+4)}, reason: ReasonBase64},
		{mechanism: "PLAIN", messages: []string{"*"}, want: Identity{Mechanism: "PLAIN"}, doubt: doubtCancelled},
		{mechanism: "LOGIN", messages: []string{"alice", "pw"}, want: Identity{Mechanism: "LOGIN", User: "alice"}},
		{mechanism: "LOGIN", messages: []string{"", "alice", "pw"}, want: Identity{Mechanism: "LOGIN", User: "alice"}},
		{mechanism: "LOGIN", messages: []string{"alice"}, want: Identity{Mechanism: "LOGIN", User: "alice"}, doubt: doubtUnfinished},
		{mechanism: "LOGIN", messages: []string{"alice", "pw", "pw"}, want: Identity{Mechanism: "LOGIN", User: "alice"}, doubt: doubtMalformed},
		{mechanism: "LOGIN", messages: []string{"ali\x00ce", "pw"}, want: Identity{Mechanism: "LOGIN"}, doubt: doubtMalformed},
		{mechanism: "CRAM-MD5", messages: []string{"mary rose " + digest}, want: Identity{Mechanism: "CRAM-MD5", User: "mary rose"}},
		{mechanism: "CRAM-MD5", messages: []string{"mary"}, want: Identity{Mechanism: "CRAM-MD5"}, doubt: doubtMalformed},
		{mechanism: "CRAM-MD5", messages: []string{"mary " + digest + "0"}, want: Identity{Mechanism: "CRAM-MD5"}, doubt: doubtMalformed},
		{mechanism: "CRAM-MD5", messages: []string{"mary \x01\x02\xfe"}, want: Identity{Mechanism: "CRAM-MD5"}, doubt: doubtMalformed},
		{mechanism: "CRAM-MD5", messages: []string{"mary \x01\r\xfe"}, reason: reasonBreak},
		{mechanism: "CRAM-MD5", messages: []string{" " + digest}, want: Identity{Mechanism: "CRAM-MD5"}, doubt: doubtMalformed},
		{mechanism: "DIGEST-MD5", messages: []string{`username="a\"b", realm=x,response=` + digest, ""}, want: Identity{Mechanism: "DIGEST-MD5", User: `a"b`}},
		{mechanism: "DIGEST-MD5", messages: []string{`username="a",authzid="b",response=` + digest}, want: Identity{Mechanism: "DIGEST-MD5", User: "a", AuthzID: "b"}},
		{mechanism: "DIGEST-MD5", messages: []string{`realm="username=x",username="a",response=` + digest}, want: Identity{Mechanism: "DIGEST-MD5", User: "a"}},
		{mechanism: "DIGEST-MD5", messages: []string{`username="a",username="b",response=` + digest}, want: Identity{Mechanism: "DIGEST-MD5", User: "a"}, doubt: doubtMalformed},
		{mechanism: "DIGEST-MD5", messages: []string{`username="a"`}, want: Identity{Mechanism: "DIGEST-MD5", User: "a"}, doubt: doubtMalformed},
		{mechanism: "DIGEST-MD5", messages: []string{`username="a`}, want: Identity{Mechanism: "DIGEST-MD5"}, doubt: doubtMalformed},
		{mechanism: "DIGEST-MD5", messages: []string{`username="a"x,response=` + digest}, want: Identity{Mechanism: "DIGEST-MD5"}, doubt: doubtMalformed},
		{mechanism: "DIGEST-MD5", messages: []string{`response=` + digest}, want: Identity{Mechanism: "DIGEST-MD5"}, doubt: doubtMalformed},
		{mechanism: "scram-sha-256", messages: []string{"n,,n=alice,r=x", "c=biws,r=xy,p=AA==", ""}, want: Identity{Mechanism: "SCRAM-SHA-256", User: "alice"}},
		{mechanism: "SCRAM-SHA-1-PLUS", messages: []string{"p=tls-unique,a=b=3Dc,n=al=2Cice,r=x", "c=biws,r=xy,p=AA=="}, want: Identity{Mechanism: "SCRAM-SHA-1-PLUS", User: "al,ice", AuthzID: "b=c"}},
		{mechanism: "SCRAM-SHA-1", messages: []string{"n,,n=alice,r=x"}, want: Identity{Mechanism: "SCRAM-SHA-1", User: "alice"}, doubt: doubtUnfinished},
		{mechanism: "SCRAM-SHA-1", messages: []string{"n,,n=al=ice,r=x", "c=biws,r=xy,p=AA=="}, want: Identity{Mechanism: "SCRAM-SHA-1"}, doubt: doubtMalformed},
		{mechanism: "SCRAM-SHA-1", messages: []string{"n,,n=alice,r=x", "x"}, want: Identity{Mechanism: "SCRAM-SHA-1", User: "alice"}, doubt: doubtMalformed},
		{mechanism: "SCRAM-SHA-1", messages: []string{"n,,n=alice,r=x", "c=biws,r=xy,p=AA==", "", ""}, want: Identity{Mechanism: "SCRAM-SHA-1", User: "alice"}, doubt: doubtMalformed},
		{mechanism: "SCRAM-SHA-1", messages: []string{"x,,n=alice,r=x", "c=biws,r=xy,p=AA=="}, want: Identity{Mechanism: "SCRAM-SHA-1"}, doubt: doubtMalformed},
		{mechanism: "XOAUTH2", messages: []string{"user=a@b\x01auth=Bearer x\x01\x01"}, want: Identity{Mechanism: "XOAUTH2", User: "a@b"}},
		{mechanism: "XOAUTH2", messages: []string{"user=a@b\x01auth=Bearer x\x01\x01", ""}, want: Identity{Mechanism: "XOAUTH2", User: "a@b"}, doubt: doubtMalformed},
		{mechanism: "XOAUTH2", messages: []string{"a@b\x01auth=Bearer x\x01\x01"}, want: Identity{Mechanism: "XOAUTH2"}, doubt: doubtMalformed},
		{mechanism: "OAUTHBEARER", messages: []string{"n,a=a@b,\x01auth=Bearer x\x01\x01"}, want: Identity{Mechanism: "OAUTHBEARER", User: "a@b"}},
		{mechanism: "OAUTHBEARER", messages: []string{"n,,\x01auth=Bearer x\x01\x01"}, want: Identity{Mechanism: "OAUTHBEARER"}},
		{mechanism: "OAUTHBEARER", messages: []string{"n,,\x01host=x\x01\x01"}, want: Identity{Mechanism: "OAUTHBEARER"}, doubt: doubtMalformed},
		{mechanism: "OAUTHBEARER", messages: []string{"n,a=a@b,\x01auth=Bearer x\x01\x01", "\x01"}, want: Identity{Mechanism: "OAUTHBEARER", User: "a@b"}, doubt: doubtMalformed},
		{mechanism: "ANONYMOUS", messages: []string{"trace@example.org"}, want: Identity{Mechanism: "ANONYMOUS", User: "anonymous", Anonymous: true}},
		{mechanism: "ANONYMOUS", messages: []string{""}, want: Identity{Mechanism: "ANONYMOUS", User: "anonymous", Anonymous: true}},
		{mechanism: "ANONYMOUS", messages: []string{"x\r\n+OK"}, reason: reasonBreak},
		{mechanism: "EXTERNAL", messages: []string{"alice"}, want: Identity{Mechanism: "EXTERNAL", AuthzID: "alice"}},
		{mechanism: "EXTERNAL", messages: []string{""}, want: Identity{Mechanism: "EXTERNAL"}},
		{mechanism: "GSSAPI", messages: []string{"\x60\x00\x0a\x0d\x0a\xff"}, want: Identity{Mechanism: "GSSAPI"}},
		{mechanism: "GSSAPI", messages: []string{"x\x0a+ok"}, reason: reasonInjection},
		{mechanism: "NTLM", messages: []string{"x\x0da1  OK y"}, reason: reasonInjection},
		{mechanism: "NTLM", messages: nil, want: Identity{Mechanism: "NTLM"}, doubt: doubtUnfinished},
		{mechanism: "PLAIN!", want: Identity{}, doubt: doubtNoMechanism},
		{mechanism: "", want: Identity{}, doubt: doubtNoMechanism},
		{mechanism: strings.Repeat("X", 21), want: Identity{}, doubt: doubtNoMechanism},
	} {
		t.Run(fmt.Sprintf("%s %q", test.mechanism, test.messages), func(t *testing.T) {
			var x Exchange
			x.Begin([]byte(test.mechanism))
			reason := ""
			for _, m := range test.messages {
				line := encode(m)
				switch {
				case m == "*":
					line = m
				case strings.HasPrefix(m, "!"):
					line = m[1:]
				}
				reason = x.Message([]byte(line), false)
			}
			if reason != test.reason {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
			if test.reason != "" {
				return
			}
			if diff := cmp.Diff(test.want, x.Identity()); diff != "" {
				t.Errorf("identity (-want +got)\n%s", diff)
			}
			if got := x.Doubt(); got != test.doubt {
				t.Errorf("doubt %q, want %q", got, test.doubt)
			}
		})
	}
}

func TestInitialResponse(t *testing.T) {
	var x Exchange
	x.Begin([]byte("EXTERNAL"))
	if reason := x.Message([]byte("="), true); reason != "" || x.Doubt() != "" {
		t.Errorf("empty initial response: reason %q, doubt %q, want none", reason, x.Doubt())
	}
	x.Begin([]byte("EXTERNAL"))
	if reason := x.Message([]byte("="), false); reason != ReasonBase64 {
		t.Errorf("= as a later response: reason %q, want %q", reason, ReasonBase64)
	}
	x.Begin([]byte("EXTERNAL"))
	if reason := x.Message([]byte("*"), true); reason != ReasonBase64 || x.Cancelled() {
		t.Errorf("* as an initial response: reason %q, cancelled %v, want %q, false", reason, x.Cancelled(), ReasonBase64)
	}
}

func TestSpent(t *testing.T) {
	plain := encode("\x00alice\x00pw")
	for _, test := range []struct {
		mechanism, initial string
		answers            []string
		want               bool
	}{
		{"PLAIN", "", nil, false},
		{"PLAIN", "=", nil, false},
		{"PLAIN", encode("alice"), nil, false},
		{"PLAIN", plain, nil, true},
		{"PLAIN", "", []string{plain}, true},
		{"LOGIN", encode("alice"), nil, false},
		{"LOGIN", "", []string{encode("alice")}, true},
		{"XOAUTH2", encode("user=alice\x01auth=Bearer x\x01\x01"), nil, false},
		{"GSSAPI", encode("x"), nil, false},
		{"GSSAPI", "", []string{"*"}, true},
	} {
		var x Exchange
		x.Begin([]byte(test.mechanism))
		if test.initial != "" {
			x.Message([]byte(test.initial), true)
		}
		for _, m := range test.answers {
			x.Message([]byte(m), false)
		}
		if got := x.Spent(); got != test.want {
			t.Errorf("%s %q %q: spent is %v, want %v", test.mechanism, test.initial, test.answers, got, test.want)
		}
	}
}

func TestMessageBound(t *testing.T) {
	var x Exchange
	x.Begin([]byte("GSSAPI"))
	for i := range maxMessages {
		if reason := x.Message([]byte("AAAA"), false); reason != "" {
			t.Fatalf("message %d: reason %q, want none", i, reason)
		}
	}
	if reason := x.Message([]byte("AAAA"), false); reason != reasonMessages {
		t.Errorf("one message too many: reason %q, want %q", reason, reasonMessages)
	}
}

// TestCanary: nothing of a password stays in the exchange.
func TestCanary(t *testing.T) {
	const canary = linetest.Canary
	for mechanism, messages := range map[string][]string{
		"PLAIN":       {"\x00alice\x00" + canary},
		"LOGIN":       {"alice", canary},
		"XOAUTH2":     {"user=alice\x01auth=Bearer " + canary + "\x01\x01"},
		"OAUTHBEARER": {"n,a=alice,\x01auth=Bearer " + canary + "\x01\x01"},
		"NTLM":        {canary, canary},
	} {
		var x Exchange
		x.Begin([]byte(mechanism))
		for _, m := range messages {
			x.Message([]byte(encode(m)), false)
		}
		if linetest.Holds(x) || linetest.Holds(x.scratch[:cap(x.scratch)]) {
			t.Errorf("%s: the password is still in %#v", mechanism, x)
		}
	}
}

func FuzzExchange(f *testing.F) {
	for _, m := range known {
		f.Add(m.name, []byte("n,a=x,\x01auth=y\x01\x01"), []byte("alice "+digest))
	}
	f.Add("SCRAM-SHA-1", []byte("n,a=b,n=alice,r=x"), []byte("c=biws,r=xy,p=AA=="))
	f.Add("GSSAPI", []byte("x\n+OK"), []byte(`username="a\"b",response=`+digest))
	f.Fuzz(func(t *testing.T, mechanism string, first, second []byte) {
		var x Exchange
		if !x.Begin([]byte(mechanism)) && x.Doubt() == "" {
			t.Errorf("%q is no mechanism and raises no doubt", mechanism)
		}
		for _, m := range [][]byte{first, second} {
			reason := x.Message([]byte(base64.StdEncoding.EncodeToString(m)), false)
			if id := x.Identity(); reason == "" && (len(id.User) > maxIdentity || len(id.AuthzID) > maxIdentity) {
				t.Errorf("identity of %d and %d octets", len(id.User), len(id.AuthzID))
			}
			if buf := x.scratch[:cap(x.scratch)]; strings.Trim(string(buf), "\x00") != "" {
				t.Errorf("scratch buffer holds %q", buf)
			}
		}
	})
}
