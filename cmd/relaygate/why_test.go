package main

import (
	"net/netip"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/control"
)

// What concerns more than the address says so, and a refused order is told apart from
// a refused login.
func TestWhyTellsWhatEachLineIsAbout(t *testing.T) {
	e, out, _ := testEnv()
	at := control.Time{Time: e.Now().Add(-5 * time.Second)}
	until := control.Time{Time: e.Now().Add(time.Hour)}
	wide := netip.MustParsePrefix("192.0.2.0/24")
	err := printStory(e, &control.Story{
		Address: netip.MustParseAddr("192.0.2.7"), Granted: true, Reason: "may relay: it is a test",
		Grant: &control.Grant{Prefix: &wide, Since: at, Expires: until},
		Events: []control.Event{
			{Event: "refused", Time: at, Client: "192.0.0.0/16", By: "root (uid 0)", Reason: "is too wide"},
			{Event: "granted", Time: at, Client: "192.0.2.0/24", By: "root (uid 0)", Reason: "granted by root (uid 0)"},
			{Event: "granted", Time: at, Client: "192.0.2.9", Reason: "login of alice"},
			{Event: "denied", Time: at, Client: "192.0.2.7", Until: &until, By: "root (uid 0)", Reason: "denied by root (uid 0), until 2026-01-02T04:04:05Z"},
			{Event: "failure", Time: at, Client: "192.0.2.7", Reason: "the server refused the login"},
		},
	})
	want := `192.0.2.7 may relay: it is a test.
Granted with all of 192.0.2.0/24 5 s ago; runs out in 60 min.
  5 s ago  refused  192.0.0.0/16 ordered by root (uid 0): is too wide
  5 s ago  granted  192.0.2.0/24: granted by root (uid 0)
  5 s ago  granted  192.0.2.9: login of alice
  5 s ago  denied   until ` + clock(until.Time, e.Now()) + ` (in 60 min): denied by root (uid 0)
  5 s ago  failure  the server refused the login
`
	if err != nil || out.String() != want {
		t.Errorf("%v\n%swant\n%s", err, out, want)
	}
}
