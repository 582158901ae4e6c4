package nft

import (
	"errors"
	"sync"
	"testing"

	"relaygate/bpf/bpftest"
)

// Whatever others do to nf_tables meanwhile, of what Add says is done all is held.
// Others change tables of their own in long transactions, and delete the gate's.
func TestSilenceIsSuccessInAStorm(t *testing.T) {
	ns := bpftest.Namespace(t)
	g := openGate(t, filter(ns))
	rebuild(t, g)
	stop := make(chan struct{})
	var others sync.WaitGroup
	otherGate := openGate(t, g.cfg)
	otherGate.table.name, otherGate.ruleset = "another", declare(otherGate.cfg, MaxElements)
	many := make([]Element, 0, 500)
	for i := range cap(many) {
		many = append(many, minute(nth4(i))...)
	}
	others.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			must(t, otherGate.Rebuild(many))
		}
	})
	defer func() {
		close(stop)
		others.Wait()
	}()
	gone := another(t, ns)
	refused := 0
	for i := range 200 {
		var list []Element
		for j := range 1 + i%quickMost {
			list = append(list, minute(nth4(1<<20+i*quickMost+j))...)
		}
		switch i % 50 {
		case 10:
			if _, err := gone.commit(tableMessages(own)[:2]); err != nil {
				t.Fatal(err)
			}
		case 11:
			rebuild(t, g)
		case 20: // one of them is held already
			must(t, g.Add(list[0]))
		}
		if err := g.Add(list...); err != nil {
			refused++
			if i%50 != 10 || !errors.Is(err, ErrTableGone) {
				t.Errorf("%d: %v", i, err)
			}
			continue
		}
		if n := holds(t, g, list); n != len(list) {
			t.Fatalf("%d: %d of %d are held, and no error", i, n, len(list))
		}
	}
	t.Logf("%d of 200 were refused", refused)
}
