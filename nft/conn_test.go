package nft

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"
)

// TestAnswersThatCannotBeRead: reading an answer fails, as it does without memory. What is
// left of it is no answer to what is asked later.
func TestAnswersThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	accepted := silent(t, w.server, 25)
	g, cutter := openGate(t, filter(w.server)), openCutter(t, w.server)
	rebuild(t, g, minute(member4, member6)...)
	ports := []uint16{25}
	failing := func(c conn, do func() error) {
		t.Helper()
		must(t, c.SetReadDeadline(time.Unix(1, 0)))
		if err := do(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want the end of the time to read in", err)
		}
	}
	cut := func() error {
		_, _, err := cutter.Cut(ports, netip.PrefixFrom(member4, 32))
		return err
	}
	read := func() error { _, err := g.Read(); return err }
	remove := func() error { return g.Remove(member6) }
	for range 3 {
		failing(g.conn, g.Check)
		failing(g.conn, remove)
		failing(g.conn, read)
		must(t, g.Check())
		failing(g.conn, read)
		if held, err := g.Read(); err != nil || len(held) != 2 {
			t.Errorf("the members are %v, %v", held, err)
		}

		client := w.hold(t, netip.AddrPortFrom(member4, 0), netip.AddrPortFrom(server4, 25))
		<-accepted
		failing(cutter.sockets, cut)
		failing(cutter.tracking, cut)
		must(t, cut())
		ends(t, client, 5*time.Second)
	}
}
