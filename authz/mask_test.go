package authz

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// The canary: typed anywhere by somebody who did not get in, it stays nowhere.
func TestNoSecretIsKept(t *testing.T) {
	const canary = "Canary-7f3a"
	e := NewEvidence(EvidenceConfig{Users: 1})
	recorded(e, seen("203.0.113.7", "alice", Success, 0))
	for i, r := range []Result{Failure, Tainted, Encrypted, 0, 77} {
		for _, p := range []Protocol{POP3, IMAP, 0} {
			for _, answer := range []string{canary + " NO [" + canary + "] " + canary, "-ERR " + canary, "a BAD " + canary, canary} {
				v := seen(fmt.Sprintf("198.51.100.%d", i), canary, r, 0)
				v.AuthzID, v.Mechanism, v.Answer, v.Reason = canary, canary, answer, ""
				v.Conn.Service.Protocol = p
				if m := fmt.Sprintf("%+v", recorded(e, v)); strings.Contains(strings.ToLower(m), strings.ToLower(canary)) {
					t.Errorf("the mask lets it through: %s", m)
				}
			}
		}
	}
	for i := range 5 {
		s := fmt.Sprintf("%+v", e.Story(netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", i)), start))
		if strings.Contains(strings.ToLower(s), strings.ToLower(canary)) || !strings.Contains(s, Masked) {
			t.Errorf("the story has it: %s", s)
		}
	}
	// A success shows its names; its tag and its mechanism could be the canary.
	v := seen("203.0.113.7", "bob", Success, 0)
	v.Conn.Service.Protocol, v.Answer, v.Mechanism = IMAP, canary+" OK done", canary+" x"
	if m := recorded(e, v); m.User != "bob" || m.Answer != "OK done" || m.Mechanism != "" {
		t.Errorf("Mask of a success = %+v", m)
	}
	v.Mechanism = "xfoo-1"
	if m := recorded(e, recorded(e, v)); m.Answer != "OK done" || m.Mechanism != "XFOO-1" {
		t.Errorf("Mask of a success, twice = %+v", m)
	}
	// The set of names is full.
	if d := e.Dropped(); e.users.n != 1 || d.Users != 3 {
		t.Errorf("%d names are known; %+v", e.users.n, d)
	}
	story(t, e, "203.0.113.7", 0, "login alice, login bob, login×2 bob")
	recorded(e, seen("198.51.100.9", "bob", Failure, 0))
	story(t, e, "198.51.100.9", 0, "failure (masked)")
}

// TestNamesOnly: what keeps names alone masks by them, and lets no answer through.
func TestNamesOnly(t *testing.T) {
	e := NewEvidence(EvidenceConfig{NamesOnly: true})
	for i, tt := range []struct {
		user   string
		result Result
		want   string
	}{
		{"alice", Failure, Masked},
		{"alice", Success, "alice"},
		{"Alice", Failure, "alice"},
		{"hunter2", Failure, Masked},
	} {
		v := recorded(e, seen("192.0.2.7", tt.user, tt.result, time.Duration(i)))
		if v.User != tt.want || v.Answer != "" {
			t.Errorf("%v of %s is told as %q, %q", tt.result, tt.user, v.User, v.Answer)
		}
	}
	unknown := seen("192.0.2.7", "bob", Success, 0)
	unknown.Conn.Client = netip.AddrPort{}
	e.Record(&unknown)
	if v := recorded(e, seen("192.0.2.7", "bob", Failure, 0)); v.User != Masked {
		t.Errorf("a login of no address taught the name %q", v.User)
	}
	story(t, e, "192.0.2.7", time.Minute, "")
}

func TestUnbelievedSuccessTeachesNoName(t *testing.T) {
	e := NewEvidence(EvidenceConfig{})
	v := seen("203.0.113.7", "mallory", Success, 0)
	v.Origin = Unauthenticated
	recorded(e, v)
	recorded(e, seen("203.0.113.8", "mallory", Failure, 0))
	story(t, e, "203.0.113.8", 0, "failure (masked)")
	e.users.settle()
	if n := held(e); e.users.n != 0 || n != [2]int{0, 2} {
		t.Errorf("%d names are known; %d granted and others are held", e.users.n, n)
	}
}
