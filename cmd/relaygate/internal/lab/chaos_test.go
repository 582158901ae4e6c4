//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"relaygate/cmd/relaygate/internal/lab"
)

// prober tries port 25 from one host again and again, and knows what it last
// saw: it is the judge, not the agent's table.
type prober struct {
	lab.Target
	script lab.Script

	mu       sync.Mutex
	open     bool
	since    time.Time // of what it sees now
	promised time.Time // until when the host should get through
	passed   time.Duration
	last     time.Time
}

// probe looks once.
func (p *prober) probe(ctx context.Context) error {
	_, err := p.Open(ctx)
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if open := err == nil; open != p.open {
		p.open, p.since = open, now
	}
	if p.open && p.promised.IsZero() { // a stranger
		p.passed += now.Sub(p.last)
	}
	p.last = now
	return nil
}

// verdict says what is wrong, a second after anything should have changed.
func (p *prober) verdict(calm time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	const settle = time.Second
	now := p.last
	if now.Sub(calm) < settle || now.Sub(p.promised).Abs() < settle {
		return nil
	}
	if want := now.Before(p.promised); p.open != want {
		return fmt.Errorf("%s: open %v, and should be %v: promised until %v, seen since %v, calm since %v, now %v",
			p.Target, p.open, want, p.promised.Format("05.000"), p.since.Format("05.000"), calm.Format("05.000"), now.Format("05.000"))
	}
	return nil
}

// chaosTime is how long chaos reigns; RELAYGATE_CHAOS says otherwise.
func chaosTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("RELAYGATE_CHAOS")
	if s == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(s)
	must(t, err)
	return d
}

// TestChaos flushes, deletes, kills and restarts at random, while members log in
// and run out. At every settled moment those get through who were promised, and
// no stranger ever but while the table was gone.
func TestChaos(t *testing.T) {
	const lifetime = 5 * time.Second
	w := newWorld(t, lifetime, "[watch]\ntls = \"off\"\n")
	members := []*prober{
		{Target: w.Client4.At(lab.Server4), script: lab.POP3Login(lab.Server4, lab.Password)},
		{Target: w.Client6.At(lab.Server6), script: lab.IMAPLogin(lab.Server6, lab.Password)},
	}
	strangers := []*prober{{Target: w.Stranger.At(lab.Server4)}, {Target: w.Stranger.At(lab.Server6)}}
	all := append(append([]*prober{}, members...), strangers...)

	ctx, stop := context.WithCancel(t.Context())
	var probing sync.WaitGroup
	for _, p := range all {
		p.last = time.Now()
		probing.Go(func() {
			for ctx.Err() == nil {
				if err := p.probe(ctx); err != nil && ctx.Err() == nil {
					t.Errorf("%s: %v", p.Target, err)
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(probing.Wait)
	t.Cleanup(stop)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := &chaos{world: w, t: t, random: rand.New(rand.NewPCG(seed, 6)), members: members, calm: time.Now()}
	end := time.Now().Add(chaosTime(t))
	for time.Now().Before(end) {
		c.act()
		calmUntil := time.Now().Add(time.Duration(c.random.IntN(2500)) * time.Millisecond)
		for time.Now().Before(calmUntil) {
			for _, p := range all {
				if err := p.verdict(c.calm); err != nil {
					t.Fatalf("%v\nafter %s", err, c.last)
				}
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	stop()
	probing.Wait()
	for _, p := range strangers {
		t.Logf("%s passed for %v in all, while the table was gone (%d times it was taken away)", p.Target, p.passed.Round(time.Millisecond), c.gone)
		if limit := time.Duration(c.gone) * time.Second; p.passed > limit {
			t.Errorf("%s passed for %v, want less than a second for each time", p.Target, p.passed)
		}
	}
}

// chaos is what happens at random.
type chaos struct {
	*world
	t       *testing.T
	random  *rand.Rand
	members []*prober
	calm    time.Time // since when nothing was disturbed
	last    string
	gone    int // times that the gate was taken away
}

func (c *chaos) act() {
	c.t.Helper()
	switch c.random.IntN(8) {
	case 0:
		c.disturb("a flush of all rulesets", true, func(n *nftables.Conn) error { n.FlushRuleset(); return nil })
	case 1:
		c.disturb("a deletion of the table", true, func(n *nftables.Conn) error { n.DelTable(table); return nil })
	case 2:
		c.disturb("a deletion of rules", true, func(n *nftables.Conn) error {
			n.FlushTable(table)
			return nil
		})
	case 3:
		c.disturb("a flush of the members", false, func(n *nftables.Conn) error {
			for _, set := range []string{"allow4", "allow6"} {
				n.FlushSet(&nftables.Set{Table: table, Name: set})
			}
			return nil
		})
	case 4:
		c.last = "a kill and a restart"
		c.saved(c.t)
		must(c.t, c.daemon.Kill())
		c.start(c.t)
		c.calm = time.Now()
	default:
		p := c.members[c.random.IntN(len(c.members))]
		c.last = "a login from " + p.Name
		login(c.t, p.Host, p.script)
		p.mu.Lock()
		p.promised = time.Now().Add(5 * time.Second)
		p.mu.Unlock()
		c.calm = time.Now()
	}
}

var table = &nftables.Table{Family: nftables.TableFamilyINet, Name: "relaygate"}

func (c *chaos) disturb(what string, opens bool, do func(*nftables.Conn) error) {
	c.t.Helper()
	c.last = what
	n, err := nftables.New(nftables.WithNetNSFd(c.Server.FD()))
	must(c.t, err)
	must(c.t, do(n))
	if err := n.Flush(); err != nil && !errors.Is(err, syscall.ENOENT) { // it may be gone at this moment
		c.t.Fatalf("%s: %v", what, err)
	}
	if opens {
		c.gone++
	}
	c.calm = time.Now()
}
