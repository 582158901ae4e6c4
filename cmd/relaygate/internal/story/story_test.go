package story

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/nft"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestReasonTellsInWords(t *testing.T) {
	prefix := netip.MustParsePrefix("192.0.2.7/32")
	event := func(kind authz.EventKind, reason string) authz.Event {
		return authz.Event{Kind: kind, Time: now.Add(-time.Minute), Last: now.Add(-time.Minute), Count: 1, Prefix: prefix, Reason: reason}
	}
	user := []grant.User{{Name: "alice", Protocol: authz.POP3}}
	good := authz.Decision{Allow: true, Rule: authz.RuleDefault}
	for _, tt := range []struct {
		name    string
		grant   grant.Grant
		granted bool
		paused  grant.Pause
		rule    authz.Decision
		events  []authz.Event
		want    string
	}{
		{name: "never seen", rule: good, want: "may not relay: nothing has been seen from it"},
		{
			name: "own address", rule: authz.Decision{Rule: authz.RuleOwn, Reason: "is one of this host's own addresses (eth0)"},
			want: "holds no grant: it is one of this host's own addresses (eth0), and such an address is never granted; what this host itself sends needs none",
		},
		{
			name: "failures", rule: good, events: []authz.Event{event(authz.EventFailure, "refused"), event(authz.EventFailure, "refused again")},
			want: "no login from it succeeded (the server refused 2)",
		},
		{
			name: "tainted", rule: good, events: []authz.Event{event(authz.EventTainted, "conflicting copies")},
			want: "its connection was in doubt: conflicting copies",
		},
		{name: "encrypted", rule: good, events: []authz.Event{event(authz.EventEncrypted, "STLS was accepted")}, want: "went on in TLS, which was not read: STLS was accepted"},
		{
			name: "listener", rule: good, events: []authz.Event{event(authz.EventUntrusted, "docker-proxy holds it")},
			want: "a listener that is not believed: docker-proxy holds it",
		},
		{
			name: "refused", rule: good, events: []authz.Event{event(authz.EventLogin, ""), event(authz.EventRefused, "too many users")},
			want: "a login was seen 60 s ago and granted nothing: too many users",
		},
		{
			name: "ran out, then a failure", rule: good, events: []authz.Event{event(authz.EventExpired, ""), event(authz.EventFailure, "no")},
			want: "its grant ran out 60 s ago",
		},
		{
			name: "named by a file", rule: good, events: []authz.Event{event(authz.EventFile, "was in /etc/relayhosts")},
			want: "may not relay: no login from it is known; it was in /etc/relayhosts (60 s ago)\n",
		},
		{
			name: "put into a set", rule: good, events: []authz.Event{event(authz.EventSet, "was in the gate's sets")},
			want: "may not relay: no login from it is known; it was in the gate's sets (60 s ago)\n",
		},
		{
			name: "ran out, and named by a file", rule: good,
			events: []authz.Event{event(authz.EventExpired, ""), event(authz.EventFile, "was in /etc/relayhosts")},
			want:   "may not relay: its grant ran out 60 s ago; it was in /etc/relayhosts (60 s ago)\n",
		},
		{
			name: "revoked", rule: good, events: []authz.Event{event(authz.EventRevoked, "it became an own address")},
			want: "closed 60 s ago: it became an own address",
		},
		{
			name: "granted", granted: true, rule: good, want: "may relay: alice logged in from it by pop3; its time runs out in 10 min",
			grant: grant.Grant{Prefix: prefix, Expires: now.Add(10 * time.Minute), Source: grant.Login, Users: user},
		},
		{
			name: "granted, then an order was refused", granted: true, rule: good, want: "its time runs out in 10 min\n",
			grant:  grant.Grant{Prefix: prefix, Expires: now.Add(10 * time.Minute), Source: grant.Login, Users: user},
			events: []authz.Event{event(authz.EventGranted, ""), {Kind: authz.EventRefused, Last: now, By: "root (uid 0)", Reason: "is too wide"}},
		},
		{
			name: "granted with its network", granted: true, rule: good, want: "may relay: alice logged in from 2001:db8::/64 by pop3;",
			grant: grant.Grant{Prefix: netip.MustParsePrefix("2001:db8::/64"), Expires: now.Add(time.Minute), Source: grant.Login, Users: user},
		},
		{
			name: "held", granted: true, rule: good, want: "may relay: alice logged in from it; held by 1 open session, and its time runs out 30 min after",
			grant: grant.Grant{Prefix: prefix, Expires: now.Add(30 * time.Minute), Source: grant.Login, Users: user, Sessions: 1},
		},
		{
			name: "nameless", granted: true, rule: good, want: "somebody logged in from it",
			grant: grant.Grant{Prefix: prefix, Expires: now.Add(time.Minute), Source: grant.Login},
		},
		{
			name: "import", granted: true, rule: good, want: "the gate held it when relaygate started",
			grant: grant.Grant{Prefix: prefix, Expires: now.Add(time.Minute), Source: grant.Import},
		},
		{
			name: "always", granted: true, rule: authz.Decision{Allow: true, Rule: authz.RuleAlways, Reason: "is always allowed"},
			want: "may relay: it is always allowed", grant: grant.Grant{Prefix: prefix, Source: grant.Always},
		},
	} {
		if got := Live.reason(tt.grant, tt.granted, tt.paused, tt.rule, tt.events, now); !strings.Contains(got+"\n", tt.want) {
			t.Errorf("%s: %q, want it to hold %q", tt.name, got, tt.want)
		}
	}
}

// Where neither gate nor file opens anything, what is granted is no more than seen.
func TestObservingOpensNothing(t *testing.T) {
	for _, tt := range []struct {
		mode nft.Mode
		file string
		want bool
	}{
		{nft.Observe, "", true},
		{nft.Observe, "/etc/relayhosts", false},
		{nft.Filter, "", false},
	} {
		got := Observed(&config.Config{Gate: config.Gate{Mode: tt.mode}, Relayhosts: tt.file})
		if (got != "") != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// A file that relaygate does not write is told of by who asks about an address in it.
func TestForeign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "relayhosts")
	if err := os.WriteFile(path, []byte("192.0.2.7\n\"2001:db8::/64\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for text, named := range map[string]bool{"192.0.2.7": true, "192.0.2.8": false, "2001:db8::9": true} {
		words := Foreign(path, netip.MustParseAddr(text))
		if strings.HasPrefix(words, path+" names it, which relaygate does not write") != named || !named && words != "" {
			t.Errorf("%s: %q", text, words)
		}
	}
	if words := Foreign(path+"2", netip.MustParseAddr("192.0.2.7")); words != "" {
		t.Errorf("of no file it says %q", words)
	}
}
