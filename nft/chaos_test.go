package nft

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// promises are who should get through, and when that or the table was last
// changed.
type promises struct {
	sync.Mutex
	until   map[netip.Addr]time.Time
	changed map[netip.Addr]time.Time
	damaged time.Time
}

// settled says whether addr should get through, and whether nothing that counts
// happened in the time before, or will soon.
func (p *promises) settled(addr netip.Addr, before time.Duration) (member, settled bool) {
	p.Lock()
	defer p.Unlock()
	left := time.Until(p.until[addr])
	quiet := time.Since(p.damaged) > before && time.Since(p.changed[addr]) > before && (left > before || left < -before)
	return left > 0, quiet
}

func (p *promises) elements() (list []Element) {
	p.Lock()
	defer p.Unlock()
	for addr, until := range p.until {
		list = append(list, Element{addr, time.Hour, time.Until(until)})
	}
	return list
}

// keeper is what an agent does with a Gate.
type keeper struct {
	t        *testing.T
	cfg      Config
	promises *promises
	gate     *Gate
	watch    *Watch
	end      func()
	repairs  int
}

func (k *keeper) start() {
	var err error
	if k.gate, err = Open(k.cfg); err != nil {
		k.t.Error(err)
		return
	}
	if k.watch, err = k.gate.Watch(); err != nil {
		k.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- k.watch.Run(ctx) }()
	k.end = func() {
		cancel()
		if err := errors.Join(<-done, k.watch.Close(), k.gate.Close()); err != nil {
			k.t.Error(err)
		}
	}
	k.must(k.gate.Rebuild(k.promises.elements()))
}

// must repairs where it can.
func (k *keeper) must(err error) {
	if errors.Is(err, ErrTableGone) || errors.Is(err, ErrChanged) {
		k.repairs++
		err = k.gate.Repair(slices.Values(k.promises.elements()), nil)
	}
	if err != nil && !errors.Is(err, ErrTableGone) { // gone again meanwhile
		k.t.Error(err)
	}
}

func (k *keeper) run(stop <-chan struct{}, changes <-chan netip.Addr, restarts <-chan time.Time) {
	k.start()
	defer func() { k.end() }()
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case <-stop:
			return
		case addr := <-changes:
			k.promises.Lock()
			left := time.Until(k.promises.until[addr])
			k.promises.Unlock()
			if left > 0 {
				k.must(k.gate.Add(Element{addr, time.Hour, left}))
			} else {
				k.must(k.gate.Remove(addr))
			}
		case c := <-k.watch.Changes():
			err := k.gate.Check()
			if err == nil && (c.Members || c.Lost) {
				_, _, _, err = k.gate.Sync(k.promises.elements())
			}
			k.must(err)
		case <-look.C:
			k.must(k.gate.Check())
		case <-restarts:
			k.end()
			k.start()
		}
	}
}

// harm is what other programs do to the table of a filter.
var harm = [][]netlink.Message{
	{flushRuleset()},
	{named(unix.NFT_MSG_DELTABLE, 0, Table, nil)},
	{onChain(unix.NFT_MSG_DELRULE, 0, "gate", nil)},
	{onChain(unix.NFT_MSG_DELRULE, 0, "pre", nil), onChain(unix.NFT_MSG_DELCHAIN, 0, "pre", nil)},
	{onChain(unix.NFT_MSG_NEWRULE, netlink.Create, "gate", acceptAll)},
	{named(unix.NFT_MSG_DELSETELEM, 0, Table, func(a *attributes) { a.string(unix.NFTA_SET_ELEM_LIST_SET, allow4) })},
	{named(unix.NFT_MSG_DELSETELEM, 0, Table, func(a *attributes) { a.string(unix.NFTA_SET_ELEM_LIST_SET, allow6) })},
	memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own, []member{{allow4, strange4, time.Hour, time.Hour}}),
	memberMessages(nil, unix.NFT_MSG_NEWSETELEM, own, []member{{allow6, strange6, time.Hour, time.Hour}}),
	{named(unix.NFT_MSG_NEWTABLE, 0, Table, func(a *attributes) { a.uint32(unix.NFTA_TABLE_FLAGS, unix.NFT_TABLE_F_DORMANT) })},
}

// For some seconds everything happens at random: grants, revocations, expiries,
// damage and restarts. Real connections judge: whenever nothing happened for half
// a second, exactly those get through who were promised.
func TestChaos(t *testing.T) {
	const lasts, settle = 8 * time.Second, 500 * time.Millisecond
	w := newWorld(t)
	serve(t, w.server, 25)
	cfg := inMode(Filter, w.server)
	cfg.Static = nil
	p := &promises{until: make(map[netip.Addr]time.Time), changed: make(map[netip.Addr]time.Time)}
	k := &keeper{t: t, cfg: cfg, promises: p}
	stop := make(chan struct{})
	changes := make(chan netip.Addr)
	restarts := time.NewTicker(1700 * time.Millisecond)
	defer restarts.Stop()
	var running sync.WaitGroup
	running.Go(func() { k.run(stop, changes, restarts.C) })

	// every calls do again and again, at random distances around pace.
	every := func(pace time.Duration, do func()) {
		running.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(pace/2 + rand.N(pace)):
					do()
				}
			}
		})
	}
	other := another(t, w.server)
	every(900*time.Millisecond, func() {
		p.Lock()
		p.damaged = time.Now()
		p.Unlock()
		// It may hit nothing, as the damage before was not yet repaired.
		_, _ = other.commit(slices.Clone(harm[rand.N(len(harm))]))
		p.Lock()
		p.damaged = time.Now()
		p.Unlock()
	})
	running.Go(func() { // a machine that stands still keeps the keeper from its work
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-stop:
				return
			case <-time.After(settle / 50):
			}
			if time.Since(last) > settle/4 {
				p.Lock()
				p.damaged = time.Now()
				p.Unlock()
			}
		}
	})
	clients := map[netip.Addr]netip.Addr{
		member4: server4, static4A: server4, member6: server6, static6A: server6, memberNet6: serverNet6,
	}
	members := slices.Collect(maps.Keys(clients))
	every(150*time.Millisecond, func() {
		addr := members[rand.N(len(members))]
		p.Lock()
		p.changed[addr] = time.Now()
		until := time.Now().Add(rand.N(3 * time.Second))
		if rand.N(3) == 0 {
			p.until[addr] = time.Time{}
		} else if until.After(p.until[addr]) { // a grant shortens none
			p.until[addr] = until
		}
		p.Unlock()
		select {
		case changes <- addr:
		case <-stop:
		}
	})
	clients[strange4], clients[strange6] = server4, server6 // never granted
	var mu sync.Mutex
	var judged, through int
	for from, to := range clients {
		every(30*time.Millisecond, func() {
			want, before := p.settled(from, settle)
			err := dialFrom(w.clients, from, to, 25)
			_, after := p.settled(from, settle)
			switch {
			case !before || !after:
				return
			case want && err != nil, !want && !errors.Is(err, unix.ECONNREFUSED):
				t.Errorf("%s: got %v, promised: %v", from, err, want)
			}
			mu.Lock()
			defer mu.Unlock()
			judged++
			if err == nil {
				through++
			}
		})
	}
	<-time.After(lasts)
	close(stop)
	running.Wait()
	t.Logf("%d connections judged, of which %d were let in; %d repairs", judged, through, k.repairs)
	if through == 0 || through == judged || k.repairs == 0 {
		t.Error("not much happened")
	}
}
