package engine

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/capture"
)

// Each bound of the dialogues is counted under the name that was promised.
func TestBoundsOfDialoguesAreNamed(t *testing.T) {
	many := func(n int, format string) (lines []string) {
		for i := range n {
			lines = append(lines, "C: "+strings.ReplaceAll(format, "#", fmt.Sprint(i)))
		}
		return lines
	}
	long := strings.Repeat("x", 300)
	imapServer := netip.MustParseAddrPort("198.51.100.2:143")
	for _, tt := range []struct {
		reason string
		server netip.AddrPort
		lines  []string
	}{
		{"client line is too long", server, []string{"S: +OK ready", "C: AUTH PLAIN " + strings.Repeat("A", 13000)}},
		{"client line is too long", imapServer, []string{"S: * OK ready", "C: a LOGIN b " + strings.Repeat("A", 13000)}},
		{"over-long command line", server, []string{"S: +OK ready", "C: USER " + long}},
		{"server line is too long", server, []string{"S: +OK " + strings.Repeat("x", 9000)}},
		{"server line is too long", imapServer, []string{"S: * OK " + strings.Repeat("x", 9000)}},
		{
			"multi-line answer is too long", server,
			append([]string{"S: +OK ready", "C: CAPA", "S: +OK"}, strings.Split(strings.Repeat("S: X\n", 1100)+"S: .", "\n")...),
		},
		{"too many commands without an answer", server, append([]string{"S: +OK ready"}, many(70, "NOOP")...)},
		{"too many commands without an answer", imapServer, append([]string{"S: * OK ready"}, many(70, "a# NOOP")...)},
		{"literal is too long", imapServer, []string{"S: * OK ready", "C: a LOGIN {5000}"}},
		{"user name is too long", imapServer, []string{"S: * OK ready", "C: a LOGIN " + long + " x"}},
	} {
		k := &talk{Engine: newEngine(nil)}
		knowHost(t, k.Engine)
		k.open(client, tt.server, 7, nil)
		k.say(tt.lines...)
		// What a server refuses in time is no doubt: let it accept.
		k.say("S: a OK done")
		if got := k.Doubts(); got[tt.reason] != 1 {
			t.Errorf("%s at %v: %v, verdicts %+v", tt.reason, tt.server, hit(got), k.verdicts)
		}
	}
}

func hit(counts map[string]uint64) []string {
	var out []string
	for name, n := range counts {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, name))
		}
	}
	return out
}

func TestReasonsOfDoubtAreBounded(t *testing.T) {
	d := newDoubts()
	for i := range 1000 {
		d.add(fmt.Sprint("reason ", i))
		d.add("client line is too long")
	}
	own := maxReasons - len(newDoubts())
	if len(d) != maxReasons || d[otherDoubt] != uint64(1000-own) || d["client line is too long"] != 1000 {
		t.Errorf("%d reasons, %d others, %d long lines", len(d), d[otherDoubt], d["client line is too long"])
	}
	sum := uint64(0)
	for _, n := range d {
		sum += n
	}
	if sum != 2000 {
		t.Errorf("%d doubts counted, want 2000", sum)
	}
}

func TestDoubtsAndChangesAreCounted(t *testing.T) {
	k := &talk{Engine: newEngine(func(c authz.Conn, _ Opening) (authz.Belief, string) {
		if c.Cookie == 9 {
			return authz.Undecided, "nobody listens on 198.51.100.2:110"
		}
		return authz.Believed, ""
	})}
	knowHost(t, k.Engine)
	k.open(client, server, 7, nil)
	k.say(pop3Login...)
	k.open(netip.AddrPortFrom(client.Addr(), 5), server, 8, nil)
	k.say(pop3Login...)
	k.open(netip.AddrPortFrom(client.Addr(), 6), server, 9, nil)
	k.say(pop3Login...)
	k.open(netip.AddrPortFrom(client.Addr(), 7), server, 10, nil)
	k.feed(capture.Event{Kind: capture.Lost, Conn: k.conn, Reason: "a record was lost"})
	k.Expire(start.Add(30 * time.Minute))
	for kind, want := range map[grant.Kind]uint64{grant.Granted: 1, grant.Renewed: 1, grant.Expired: 1, grant.Revoked: 0, grant.Refused: 0} {
		if got, ok := k.Changes()[kind.String()]; got != want || !ok {
			t.Errorf("%v: %d, want %d", kind, got, want)
		}
	}
	doubts := k.Doubts()
	if doubts[unconfirmed] != 1 || uint64(2) != k.Counts().Tainted || len(hit(doubts)) != 2 {
		t.Errorf("doubts %v", hit(doubts))
	}
	k.Changes()["granted"], k.Doubts()[unconfirmed] = 99, 99
	if k.Changes()["granted"] != 1 || k.Doubts()[unconfirmed] != 1 {
		t.Error("the counters can be changed from outside")
	}
}

// An order about a network that was refused is in no address's story, one about the
// address itself is.
func TestRefusedOrdersAboutNetworksAreNoStory(t *testing.T) {
	e := newEngine(nil)
	knowHost(t, e)
	order := func(text string) {
		t.Helper()
		p := netip.MustParsePrefix(text)
		c, _ := e.Grants().Manual(start, p, time.Hour, "root (uid 0)", "")
		if e.Record([]grant.Change{c}); c.Kind != grant.Refused {
			t.Errorf("%s: %v, want it refused", text, c.Kind)
		}
	}
	order("0.0.0.0/0")
	if story := e.Evidence().Story(client.Addr(), start); len(story) != 0 {
		t.Errorf("a story: %+v", story)
	}
	own := netip.PrefixFrom(server.Addr(), server.Addr().BitLen())
	order(own.String())
	if story := e.Evidence().Story(server.Addr(), start); len(story) != 1 {
		t.Errorf("%d events, want the refused order", len(story))
	}
}
