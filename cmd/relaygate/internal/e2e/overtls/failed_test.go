//go:build e2e

package overtls

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestBehindFailure: some servers go on in clear text when TLS has failed (Courier,
// Cyrus), and take another STARTTLS then. What is said in between is seen by nobody:
// it can be the beginning of what is read behind it, so that no login is believed.
func TestBehindFailure(t *testing.T) {
	w := newWorld(t)
	w.startAll(t)
	a := w.startAgent(t)
	w.attached(t, a)
	var all []*attempt
	var playing sync.WaitGroup
	var again atomic.Int32
	for _, s := range w.services {
		if s.implicit || s.protocol != imap {
			continue
		}
		w.next++
		one := &attempt{
			service: s, user: user(w.next), client: nth(clients4, w.next+1), password: []string{right},
			config: &tls.Config{InsecureSkipVerify: true},
		}
		all = append(all, one)
		playing.Go(func() {
			if one.err = w.failFirst(one); one.err == nil {
				again.Add(1)
			}
		})
	}
	playing.Wait()
	a.settle(t, w.load(40)) // what these say comes behind it
	for _, one := range all {
		t.Logf("%s: %v\n%s", one.server, one.err, one.seen)
		if a.has(one.client, func(v verdict) bool { return v.Result == "success" }) {
			t.Errorf("%s: a login behind clear text that was not seen is believed", one.server)
		}
	}
	t.Logf("%d of %d clients logged in behind a failure", again.Load(), len(all))
	if again.Load() == 0 {
		t.Error("no server goes on: the test proves nothing")
	}
}

// failFirst plays an IMAP client whose first handshake is none.
func (w *world) failFirst(a *attempt) error {
	tcp, err := w.dial(a.client, a.at.v4, a.port)
	if err != nil {
		return err
	}
	defer tcp.Close()
	d := &dialogue{Conn: tcp, r: bufio.NewReader(tcp)}
	defer func() { a.seen = d.seen.String() }()
	if _, err := d.answer("* OK"); err != nil {
		return err
	}
	begin := func(tag string) error {
		_, err := d.ask(tag+" STARTTLS", tag+" OK")
		return err
	}
	// Courier gives up with what comes next, and loses the beginning of that.
	if err := begin("s1"); err != nil {
		return err
	}
	for _, s := range []struct {
		say  string
		wait time.Duration
	}{{"\x16\x03\x01\x00\x05nope!", 2 * time.Second}, {"x\r\nx\r\n", time.Second}} {
		if _, err := io.WriteString(tcp, s.say); err != nil {
			return err
		}
		if err := tcp.SetReadDeadline(time.Now().Add(s.wait)); err != nil {
			return err
		}
		said, err := io.ReadAll(d.r)
		d.seen.WriteString("S: " + strings.ToValidUTF8(string(said), "?") + "\n")
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.Join(err, errors.New("the server hung up"))
		}
	}
	if err := tcp.SetReadDeadline(time.Now().Add(playLimit)); err != nil {
		return err
	}
	if err := begin("s2"); err != nil {
		return err
	}
	c := tls.Client(tcp, a.config)
	if err := c.Handshake(); err != nil {
		return err
	}
	d.Conn, d.r = c, bufio.NewReader(c)
	return d.imap(a)
}
