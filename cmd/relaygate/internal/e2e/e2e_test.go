//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// program is the real binary, built once.
var program string

func TestMain(m *testing.M) { os.Exit(labtest.Run(m, &program)) }

var must = bpftest.Must

// world is the lab's network with Dovecot in the place of its mail server.
type world struct {
	*lab.Network
	dovecot *dovecot
	daemon  *lab.Daemon

	mu    sync.Mutex
	next  int // source address of the next dialogue
	used  map[key]bool
	watch verdicts
}

// sources is the number of client addresses per family. There are many, so that
// no bound on one address has a say.
const sources = 200

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Network: labtest.Network(t), used: make(map[key]bool)}
	for h, first := range map[*lab.Host]netip.Addr{w.Client4: lab.Client4, w.Client6: lab.Client6} {
		must(t, h.NS.Do(func() error {
			var more []netip.Prefix
			for a := first; len(more) < sources-1; {
				a = a.Next()
				more = append(more, netip.PrefixFrom(a, a.BitLen()))
			}
			return netns.AddAddresses("eth0", more...)
		}))
	}
	w.dovecot = startDovecot(t, w.Server)
	w.dovecot.up(t, w.Stranger, lab.Server4)
	w.dovecot.up(t, w.Stranger, lab.Server6)

	w.daemon = labtest.Daemon(t, w.Server, lab.Options{Exe: program, Dir: t.TempDir(), Lifetime: time.Minute})
	w.startWatch(t)
	return w
}

// verdict is what watch says of a connection, as far as the log knows it too.
type verdict struct {
	Event, Protocol, User, Mechanism, Result, Reason string

	Client netip.Addr
	Port   uint16 `json:"client_port"`
}

// verdicts are gathered from what watchers are told.
type verdicts struct {
	mu   sync.Mutex
	of   map[key][]verdict
	lost []string // events that say that events were lost
}

// note takes an event.
func (v *verdicts) note(line []byte) error {
	// A grant's client is an address or a prefix; only logins matter.
	var kind struct{ Event, Reason string }
	if err := json.Unmarshal(line, &kind); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch kind.Event {
	case "drop":
		v.lost = append(v.lost, kind.Reason)
	case "login":
		var one verdict
		if err := json.Unmarshal(line, &one); err != nil {
			return err
		}
		k := key{one.Protocol, netip.AddrPortFrom(one.Client, one.Port)}
		v.of[k] = append(v.of[k], one)
	}
	return nil
}

// result says whether a connection has a verdict with this result, and the last.
func (v *verdicts) result(k key, result string) (verdict, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, one := range slices.Backward(v.of[k]) {
		if one.Result == result {
			return one, true
		}
	}
	return verdict{}, false
}

// all are a connection's verdicts.
func (v *verdicts) all(k key) []verdict {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.of[k])
}

// startWatch gathers the verdicts until the end of the test.
func (w *world) startWatch(t *testing.T) {
	t.Helper()
	w.watch.of = make(map[key][]verdict)
	ended, err := w.daemon.Watch(t.Context(), w.watch.note)
	must(t, err)
	t.Cleanup(func() { must(t, <-ended) })
}

// sentinel is nil if an honest login just now is seen at once: what happened
// before it has then been seen as well.
func (w *world) sentinel(t *testing.T) error {
	p := w.playOne(imapLogins(bob, bobPassword)[0], w.Client4)
	if p.err != nil {
		return p.err
	}
	return lab.Poll(t.Context(), 500*time.Millisecond, 10*time.Millisecond, func() error {
		if _, ok := w.watch.result(p.key, "success"); !ok {
			return fmt.Errorf("watch does not show the login of %v", p.key)
		}
		return nil
	})
}
