package nft

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// TestAnswersThatCannotBeRead: reading an answer fails, as it does without memory. What is
// left of it is no answer to what is asked later.
func TestAnswersThatCannotBeRead(t *testing.T) {
	w := newWorld(t)
	accepted := silent(t, w.server, 25)
	g, cutter := openGate(t, filter(w.server)), openCutter(t, w.server)
	rebuild(t, g, minute(member4, member6)...)
	ports := []uint16{25}
	failing := func(c *conn, do func() error) {
		t.Helper()
		c.within = -1
		if err := do(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v, want the end of the time to read in", err)
		}
		c.within = answerWithin
	}
	cut := func() error {
		_, _, err := cutter.Cut(ports, netip.PrefixFrom(member4, 32))
		return err
	}
	read := func() error { _, err := g.Read(); return err }
	remove := func() error { return g.Remove(member6) }
	for range 3 {
		failing(&g.conn, g.Check)
		failing(&g.conn, remove)
		failing(&g.conn, read)
		must(t, g.Check())
		failing(&g.conn, read)
		if held, err := g.Read(); err != nil || len(held) != 2 {
			t.Errorf("the members are %v, %v", held, err)
		}

		client := w.hold(t, netip.AddrPortFrom(member4, 0), netip.AddrPortFrom(server4, 25))
		<-accepted
		failing(&cutter.sockets, cut)
		failing(&cutter.tracking, cut)
		must(t, cut())
		ends(t, client)
	}
}

// TestAnswersWithoutRoom: the kernel tells of the first answer for which the socket has no
// room, and of no other until all that is there is read. None of them is waited for.
func TestAnswersWithoutRoom(t *testing.T) {
	w := newWorld(t)
	g := openGate(t, filter(w.server))
	rebuild(t, g, minute(member4)...)
	must(t, g.conn.SetReadBuffer(1))
	quickest := time.Hour
	for range 3 {
		begin := time.Now()
		if err := g.Rebuild(minute(member4)); !errors.Is(err, unix.ENOBUFS) {
			t.Errorf("got %v, want that there is no room for the answer", err)
		}
		must(t, g.Add(minute(member6)...))
		quickest = min(quickest, time.Since(begin))
	}
	if quickest > answerWithin {
		t.Errorf("it took %v", quickest)
	}
	must(t, g.conn.SetReadBuffer(answerSize))
	rebuild(t, g, minute(member4)...)
	must(t, g.Check())
}

// TestRequestsThatCannotBeSent: where sending is refused for the moment, as a filter of
// system calls does, that is an error and no wait without end; later requests are sent.
func TestRequestsThatCannotBeSent(t *testing.T) {
	w := newWorld(t)
	for _, refusal := range []unix.Errno{unix.EINTR, unix.EAGAIN, unix.ENOMEM} {
		g := openGate(t, filter(w.server))
		rebuild(t, g, minute(member4)...)
		g.conn.within = 100 * time.Millisecond
		for name, do := range map[string]func() error{
			"transaction": func() error { return g.Rebuild(minute(member6)) },
			"request":     g.conn.settle,
			"list":        func() error { _, err := g.Read(); return err },
			"requests":    func() error { _, err := g.conn.remaining(own, []member{{set: allow4, key: member4}}); return err },
		} {
			err := bpftest.Unsent(t, refusal, do)
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, refusal) {
				t.Errorf("%s, %v: got %v, want that it cannot be sent", name, refusal, err)
			}
		}
		g.conn.within = answerWithin
		if held, err := g.Read(); err != nil || len(held) != 1 || held[0].Addr != member4 {
			t.Errorf("%v: the members are %v, %v", refusal, held, err)
		}
		must(t, g.Check())
	}
}
