package nft

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// Sets that are made anew while they are written to: nothing gets into one of ranges,
// where a single element would open all addresses behind it.
func TestUserSetsMadeAnewMeanwhile(t *testing.T) {
	for name, tt := range map[string]struct {
		held  []setElement // by the set where it is good
		write func(*Gate) error
	}{
		"add": {nil, func(g *Gate) error { return g.Add(minute(strange4)...) }},
		"renew": {[]setElement{{key: strange4.AsSlice(), timeout: 10 * time.Second}}, func(g *Gate) error {
			_, _, _, err := g.project(minute(strange4))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) { testUserSetsMadeAnew(t, tt.held, tt.write) })
	}
}

func testUserSetsMadeAnew(t *testing.T, held []setElement, write func(*Gate) error) {
	ns := bpftest.Namespace(t)
	other := another(t, ns)
	good := set{name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT, elements: held}
	ranges := good
	ranges.flags, ranges.elements = ranges.flags|unix.NFT_SET_INTERVAL, nil
	addTable(t, other, "mine", ruleset{sets: []set{good}})
	g := openGate(t, Config{Mode: UserSets, Sets: Sets{"inet", "mine", allow4, "", ""}, Netns: ns.FD()})
	rebuild(t, g)
	rounds := 2000
	if testing.Short() {
		rounds = 200
	}
	written, ended := make(chan int), make(chan struct{})
	go func() {
		n := 0
		defer func() { written <- n }()
		for {
			select {
			case <-ended:
				return
			default:
			}
			err := write(g)
			if err == nil {
				n++
			} else if !errors.Is(err, ErrSets) && !errors.Is(err, unix.ERESTART) {
				t.Error(err)
			}
		}
	}()
	in := 0
	for range rounds {
		addTable(t, other, "mine", ruleset{sets: []set{ranges}})
		for range 5 { // what is under way comes in between
			in += count(t, &Gate{conn: other, table: mine}, allow4)
		}
		addTable(t, other, "mine", ruleset{sets: []set{good}})
	}
	close(ended)
	t.Logf("%d times written, in %d rounds", <-written, rounds)
	if in > 0 {
		t.Errorf("%d elements were in a set of ranges", in)
	}
}
