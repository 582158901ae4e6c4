package lab_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/lab"
)

// chaosTime is how long chaos reigns in each mode; RELAYGATE_CHAOS says
// otherwise, as `make chaos` does.
func chaosTime(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("RELAYGATE_CHAOS")
	if s == "" {
		return 12 * time.Second
	}
	d, err := time.ParseDuration(s)
	must(t, err)
	return d
}

// TestChaos flushes, deletes, replaces, kills, restarts, reloads and orders at
// random, while members log in, stay, and run out. At every settled moment those
// get through who were promised, within a second, and no stranger ever but while
// a witness that is not the agent found the table gone or changed.
func TestChaos(t *testing.T) {
	for _, tt := range []struct{ name, mode, gate string }{
		{"filter", "filter", ""},
		{"redirect", "redirect", ""},
		{"filter with an owned table", "filter", "own = true\n"},
	} {
		if tt.gate != "" && os.Getenv("RELAYGATE_CHAOS") == "" {
			continue // `make chaos` has the time for it
		}
		t.Run(tt.name, func(t *testing.T) { reign(t, tt.mode, tt.gate) })
	}
}

const (
	// chaosLifetime is so long that what an agent renews, when an eighth of the time is
	// left, may take it as long as all else.
	chaosLifetime = 8 * settle
	relayPort     = 925
	// slowLook is how long what is hidden from the watch may stay.
	slowLook = 2500 * time.Millisecond
)

func reign(t *testing.T, mode, gate string) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	o := lab.Options{
		Lifetime: chaosLifetime, Config: "[watch]\ntls = \"off\"\n",
		Mode: fmt.Sprintf("mode = %q\nmax_new_per_minute = 0\n%s", mode, gate),
	}
	c := &chaos{world: newWorldWith(t, o), t: t, mode: mode, random: rand.New(rand.NewPCG(seed, 6)), calm: time.Now()}
	bpftest.Do(t, c.Server, func() error { return c.mail.ListenRelay(relayPort) })
	c.populate(t)
	c.witness = newWitness(t, &victim{c.Server, mode})
	ctx, cancel := context.WithCancel(t.Context())
	witnessed := make(chan error, 1)
	go func() { witnessed <- c.witness.run(ctx) }()
	stop := probe(t, c.all)
	t.Cleanup(stop) // also if the test ends early

	for end := time.Now().Add(chaosTime(t)); time.Now().Before(end) && !t.Failed(); {
		c.act()
		c.judge()
	}
	c.settleDown()
	c.sessions.Wait()
	stop()
	cancel()
	must(t, <-witnessed)
	c.report()
}

// chaos is what happens at random.
type chaos struct {
	*world
	t       *testing.T
	mode    string
	random  *rand.Rand
	all     []*prober
	members []*prober
	witness *witness
	calm    time.Time // since when nothing was disturbed that concerns all
	last    string
	acts    map[string]int
	paused  bool
	logins  int         // number of the last one
	down    atomic.Bool // the agent is
	starts  atomic.Int32

	sessions sync.WaitGroup
}

// populate makes members, each with an address of its own, and strangers.
func (c *chaos) populate(t *testing.T) {
	t.Helper()
	c.acts = make(map[string]int)
	greeting, shut := lab.MXGreeting, refused_
	if c.mode == "redirect" {
		greeting, shut = lab.RelayGreeting, outside
	}
	add := func(h *lab.Host, from, to netip.Addr, port uint16, script *lab.Script) {
		p := &prober{
			from: &lab.Host{Name: h.Name, NS: h.NS, From: from}, to: netip.AddrPortFrom(to, port),
			inside: greeting, shut: shut, count: make(map[outcome]int),
		}
		if port != lab.SMTPPort {
			p.shut = refused_
		}
		if script != nil {
			p.member, p.script = true, *script
			c.members = append(c.members, p)
		}
		c.all = append(c.all, p)
	}
	four, six := lab.POP3Login(lab.Server4, lab.Password), lab.IMAPLogin(lab.Server6, lab.Password)
	for i, a, b := 0, lab.Client4, lab.Client6; i < 3; i, a, b = i+1, a.Next(), b.Next() {
		if i > 0 {
			bpftest.Do(t, c.Client4.NS, func() error { return netns.AddAddresses("eth0", netip.PrefixFrom(a, 24)) })
			bpftest.Do(t, c.Client6.NS, func() error { return netns.AddAddresses("eth0", netip.PrefixFrom(b, 64)) })
		}
		add(c.Client4, a, lab.Server4, lab.SMTPPort, &four)
		add(c.Client6, b, lab.Server6, lab.SMTPPort, &six)
	}
	add(c.Stranger, lab.Stranger4, lab.Server4, lab.SMTPPort, nil)
	add(c.Stranger, lab.Stranger6, lab.Server6, lab.SMTPPort, nil)
	if c.mode == "redirect" {
		add(c.Stranger, lab.Stranger4, lab.Server4, relayPort, nil)
		add(c.Stranger, lab.Stranger6, lab.Server6, relayPort, nil)
	}
	for _, p := range c.all { // until its neighbours know it
		settles(t, long, func() error {
			conn, err := p.from.Dial(t.Context(), netip.AddrPortFrom(p.to.Addr(), lab.POP3Port))
			if err == nil {
				err = conn.Close()
			}
			return err
		})
	}
}

// judge looks at what all see, for some time.
func (c *chaos) judge() {
	c.t.Helper()
	calm := time.Duration(c.random.IntN(600)) * time.Millisecond
	if c.random.IntN(4) == 0 {
		calm += time.Duration(c.random.IntN(2500)) * time.Millisecond
	}
	for until := time.Now().Add(calm); time.Now().Before(until); {
		for _, p := range c.all {
			if err := p.verdict(later(c.calm, c.witness.stalled())); err != nil {
				c.t.Fatalf("%v\nafter %s\n%s\n%s", err, c.last, c.verb(c.t, "why", p.from.From.String()), c.listing())
			}
		}
		<-time.After(20 * time.Millisecond)
	}
}

// listing is the table as nft shows it, if it is installed.
func (c *chaos) listing() (text string) {
	bpftest.Do(c.t, c.Server, func() error {
		out, err := exec.Command("nft", "list", "table", "inet", table.Name).CombinedOutput()
		text = fmt.Sprint(string(out), err)
		return nil
	})
	return text
}

// settleDown judges once more when all is quiet.
func (c *chaos) settleDown() {
	c.t.Helper()
	c.last = "the end"
	for until := time.Now().Add(3 * settle); time.Now().Before(until); {
		c.judge()
	}
}

// act does one thing.
func (c *chaos) act() {
	c.t.Helper()
	p := c.members[c.random.IntN(len(c.members))]
	h := harms[c.random.IntN(len(harms))]
	acts := []struct {
		weight int
		do     func()
	}{
		{30, func() { c.harm(h) }},
		{5, func() { c.restart("a kill and a restart", nil) }},
		{4, func() { c.restart("a kill, "+h.what+" and a restart", &h) }},
		{3, c.hang},
		{5, c.reload},
		{2, func() { c.lose("state file", filepath.Join(c.dir, "state.db")) }},
		{2, func() { c.lose("control socket", c.daemon.Socket) }},
		{2, c.starve},
		{22, func() { c.login(p, false) }},
		{12, func() { c.login(p, true) }},
		{5, func() { c.order(control.VerbGrant, p) }},
		{5, func() { c.order(control.VerbRevoke, p) }},
		{3, func() { c.order(control.VerbDeny, p) }},
		{4, func() { c.order(control.VerbUndeny, p) }},
		{2, func() { c.order(control.VerbPause, nil) }},
		{4, func() { c.order(control.VerbResume, nil) }},
	}
	total := 0
	for _, a := range acts {
		total += a.weight
	}
	n := c.random.IntN(total)
	for _, a := range acts {
		if n -= a.weight; n < 0 {
			a.do()
			return
		}
	}
}

func (c *chaos) note(what string) { c.last, c.acts[what] = what, c.acts[what]+1 }

// harm lets another program do something to the table. An owned one is safe.
func (c *chaos) harm(h harm) {
	c.t.Helper()
	c.note(h.what)
	err := c.witness.around(h, func() error { return c.witness.inflict(h) })
	if errors.Is(err, syscall.EPERM) && strings.Contains(c.opts.Mode, "own = true") {
		err = nil
	}
	must(c.t, err)
	c.calm = time.Now()
	if h.slow {
		c.calm = c.calm.Add(slowLook)
	}
}

// restart kills the agent, at a quiet moment or at any, and starts it again, with
// a harm between the two if there is one.
func (c *chaos) restart(what string, h *harm) {
	c.t.Helper()
	c.note(what)
	written := c.random.IntN(2) == 0
	if written {
		<-time.After(settle) // the last login may still be in the ring
		c.saved(c.t)
	}
	c.witness.excuse(func() {
		at := time.Now()
		c.down.Store(true)
		must(c.t, c.daemon.Kill())
		for _, p := range c.members {
			p.change(func(pr *promise) { pr.killed(at, written) })
		}
		if h != nil {
			c.harm(*h)
		}
		c.start(c.t)
		c.down.Store(false)
		c.starts.Add(1)
	})
	c.calm = time.Now()
}

// hang stops the agent for longer than the slack of its elements.
func (c *chaos) hang() {
	c.t.Helper()
	c.note("a hang")
	c.witness.excuse(func() {
		must(c.t, c.daemon.Freeze(c.t.Context()))
		<-time.After(chaosLifetime / 4)
		must(c.t, c.daemon.Thaw())
	})
	c.calm = time.Now()
}

// reload changes something that leaves the rules as they are, and who is always
// let in.
func (c *chaos) reload() {
	c.t.Helper()
	c.note("a reload")
	last := c.members[len(c.members)-1]
	always := c.random.IntN(2) == 0
	c.opts.Grant = ""
	if always {
		c.opts.Grant = fmt.Sprintf("always = [%q]", last.from.From)
	}
	o := c.opts
	o.Mode += fmt.Sprintf("ports = [25, 587]\ncut_on_expiry = %v\n", always)
	must(c.t, c.daemon.Reconfigure(o))
	last.change(func(pr *promise) { pr.always = always })
	c.calm = time.Now()
}

// lose takes a file away, and waits until it is there again: a crash must forget nothing,
// and the next order is obeyed.
func (c *chaos) lose(what, path string) {
	c.t.Helper()
	c.note("a loss of the " + what)
	must(c.t, os.Remove(path))
	settles(c.t, long, func() error { _, err := os.Stat(path); return err })
}

// starve lets the agent open nothing for a while.
func (c *chaos) starve() {
	c.t.Helper()
	c.note("a want of descriptors")
	enough := c.scarce(c.t)
	<-time.After(time.Duration(c.random.IntN(1500)) * time.Millisecond)
	enough()
	// It says when it knows again who listens: before that it believes nobody.
	settles(c.t, long, func() error {
		for _, problem := range c.status(c.t).Problems {
			if strings.Contains(problem, "not known who listens") {
				return errors.New(problem)
			}
		}
		return nil
	})
	c.calm = time.Now()
}

// login logs a member in, who may stay for some time.
func (c *chaos) login(p *prober, stay bool) {
	c.t.Helper()
	c.note(map[bool]string{false: "a login", true: "a session"}[stay])
	conn, answer, ok, err := p.from.Session(c.t.Context(), p.script)
	if err != nil || !ok {
		c.t.Fatalf("%s: login: %q, %v", p, answer, err)
	}
	c.logins++
	number, era := c.logins, 0
	p.change(func(pr *promise) {
		if c.paused || pr.denied || pr.always {
			return
		}
		pr.extend(chaosLifetime)
		pr.last, era = 0, pr.era
		if stay {
			pr.held, pr.last = pr.held+1, number
		}
	})
	if !stay {
		must(c.t, conn.Close())
		return
	}
	c.stay(p, conn, number, era, time.Duration(c.random.IntN(9000))*time.Millisecond)
}

// stay keeps a session open for a while. How it ends is seen by the client.
func (c *chaos) stay(p *prober, conn net.Conn, number, era int, lasts time.Duration) {
	starts := c.starts.Load()
	must(c.t, conn.SetReadDeadline(time.Now().Add(lasts)))
	c.sessions.Go(func() {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.Close()
		p.change(func(pr *promise) {
			if era == 0 || pr.era != era {
				return // it held nothing any more
			}
			pr.released(number, chaosLifetime, c.down.Load(), c.starts.Load() != starts)
		})
	})
}

// order gives an order, if it makes sense.
func (c *chaos) order(verb string, p *prober) {
	c.t.Helper()
	o := control.Order{Verb: verb, Note: "chaos"}
	targets := c.members
	if p != nil {
		o.Prefix, targets = one(p.from.From), []*prober{p}
	}
	var now promise
	if p != nil {
		p.change(func(pr *promise) { now = *pr })
	}
	switch {
	case verb == control.VerbPause && c.paused, verb == control.VerbResume && !c.paused,
		verb == control.VerbUndeny && !now.denied,
		verb == control.VerbGrant && (c.paused || now.denied || now.always):
		return
	case verb == control.VerbGrant:
		o.For.Duration = 3 * time.Second
	}
	c.note("an order: " + verb)
	c.world.order(c.t, o)
	c.paused = c.paused && verb != control.VerbResume || verb == control.VerbPause
	for _, p := range targets {
		p.change(func(pr *promise) {
			switch verb {
			case control.VerbGrant:
				until := time.Now().Add(o.For.Duration)
				pr.must, pr.may = later(pr.must, until), later(pr.may, until)
			case control.VerbRevoke, control.VerbPause:
				pr.end()
			case control.VerbDeny:
				pr.end()
				pr.denied = true
			case control.VerbUndeny:
				pr.denied = false
			}
		})
	}
}

// report tells what happened, and explains how strangers got in.
func (c *chaos) report() {
	c.t.Helper()
	for _, what := range slices.Sorted(maps.Keys(c.acts)) {
		c.t.Logf("%3d × %s", c.acts[what], what)
	}
	total, longest := c.witness.measure(c.t)
	c.t.Logf("%d times the table was not whole, or not yet seen to be again: %v in all, %v at the longest",
		len(c.witness.gaps), total.Round(time.Millisecond), longest.Round(time.Millisecond))
	judged := make(map[bool]int)
	for _, p := range c.all {
		c.t.Logf("%s: %v; judged %d times", p, p.count, p.judged)
		judged[p.member] += p.judged
		passed := 0
		for _, s := range p.passes {
			if passed++; !c.witness.explains(s) {
				c.t.Errorf("%s got inside between %v and %v, when the table was whole", p, s.begin, s.end)
			}
		}
		if !p.member {
			c.t.Logf("%s got inside %d times, each while the table was not whole", p, passed)
		}
	}
	if judged[true] < 50 || judged[false] < 50 {
		c.t.Errorf("members were judged %d times and strangers %d times: not much was seen", judged[true], judged[false])
	}
}
