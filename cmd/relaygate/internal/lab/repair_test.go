package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

// Whatever another program does to the gate is mended within a second, but what is
// hidden from the watch, which takes the next comparison; it is counted, and told
// with the name of who did it.
func TestEveryDamageIsMended(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	four, six := w.Client4.At(lab.Server4), w.Client6.At(lab.Server6)
	login(t, w.Client4, lab.POP3Login(lab.Server4, lab.Password))
	login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
	settles(t, time.Second, open(t.Context(), four))
	settles(t, time.Second, open(t.Context(), six))
	events := w.watch(t)
	name, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	who := fmt.Sprintf("%q (process ", strings.TrimSpace(string(name)))
	gate := &victim{w.Server, "filter"}
	for _, h := range harms {
		before := w.status(t).Gate
		must(t, gate.inflict(h))
		limit := time.Second
		if h.slow {
			limit += slowLook
		}
		settles(t, limit, func() error {
			now := w.status(t).Gate
			if now.Losses == before.Losses || !now.Up {
				return fmt.Errorf("%s: no loss is counted: %+v", h.what, now)
			}
			if now.Rebuilds == before.Rebuilds {
				return fmt.Errorf("%s: no repair is counted: %+v", h.what, now)
			}
			if !strings.Contains(now.LastLoss, who) {
				return fmt.Errorf("%s: the last loss is told as %q, not as %s…", h.what, now.LastLoss, who)
			}
			return nil
		})
		for _, target := range w.Everybody() {
			if target == four || target == six {
				must(t, open(t.Context(), target)())
			} else {
				must(t, target.Refused(t.Context()))
			}
		}
		told(t, events, h.what, who)
	}
	for _, stranger := range []netip.Addr{lab.Stranger4, lab.Stranger6} {
		const words = "it was in the gate's sets, put there by somebody else, and was taken out: "
		must(t, w.says(t, "why "+stranger.String(), words+who)())
	}
	if out := w.verb(t, "why", lab.Client4.String()); strings.Contains(out, "somebody else") {
		t.Errorf("a member is told to be another's:\n%s", out)
	}
}

// told waits for a watcher to be told of the gate in these words.
func told(t *testing.T, events <-chan control.Event, what, words string) {
	t.Helper()
	for deadline := time.After(long); ; {
		select {
		case ev := <-events:
			if ev.Event == "gate" && strings.Contains(ev.Reason, words) {
				return
			}
		case <-deadline:
			t.Fatalf("%s: no watcher is told of %q", what, words)
		}
	}
}

// A login that finds the table gone before the watch tells of it is granted all
// the same, and who took the table away is told afterwards.
func TestLoginFindsTheTableGone(t *testing.T) {
	w := newWorld(t, time.Minute, "")
	four := w.Client4.At(lab.Server4)
	for range 20 {
		done := make(chan error, 1)
		go func() {
			_, ok, err := w.Client4.Login(t.Context(), lab.POP3Login(lab.Server4, lab.Password))
			if err == nil && !ok {
				err = errors.New("the login was refused")
			}
			done <- err
		}()
		c, err := nftables.New(nftables.WithNetNSFd(w.Server.FD()))
		must(t, err)
		c.DelTable(table)
		must(t, c.Flush())
		must(t, <-done)
		settles(t, time.Second, open(t.Context(), four))
		settles(t, time.Second, refused(t.Context(), w.Stranger.At(lab.Server4)))
		settles(t, time.Second, func() error {
			if now := w.status(t).Gate; !strings.Contains(now.LastLoss, "changed a ruleset") {
				return fmt.Errorf("the last loss is told as %q", now.LastLoss)
			}
			return nil
		})
		w.verb(t, "revoke", lab.Client4.String())
	}
}
