package nft

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// Each mode with brakes lets a member open so many connections, and no more; and
// hinders nobody else.
func TestBrakes(t *testing.T) {
	for _, mode := range []Mode{Filter, Redirect, Mark} {
		t.Run(mode.String(), func(t *testing.T) {
			w := newWorld(t)
			open := silent(t, w.server, 25)
			if mode == Redirect {
				open = silent(t, w.server, 925)
			}
			if mode == Mark {
				addTable(t, another(t, w.server), "own", onlyMarked())
			}
			cfg := inMode(mode, w.server)
			cfg.Brakes = Brakes{NewPerMinute: 3}
			g := openGate(t, cfg)
			rebuild(t, g, minute(member4, member6)...)
			for _, c := range []struct {
				from, to netip.Addr
				allowed  int
			}{{member4, server4, 3}, {member6, server6, 3}, {static4A, server4, 6}, {static6A, server6, 6}} {
				if got := w.connects(t, c.from, c.to, open); got != c.allowed {
					t.Errorf("%s: got %d connections of 6, want %d", c.from, got, c.allowed)
				}
			}
			rate, concurrent, err := g.Bites()
			if err != nil || rate != 6 || concurrent != 0 {
				t.Errorf("got %d, %d bites, %v, want 6 of the first", rate, concurrent, err)
			}
			w.bitten(t, g, Bitten{TooFast: 3})

			// The minute begins anew with a new table; one at a time does not end.
			cfg.Brakes = Brakes{Concurrent: 2}
			must(t, g.Reconfigure(cfg, nil))
			must(t, g.Lacks())
			for _, c := range []struct{ from, to netip.Addr }{{member4, server4}, {member6, server6}} {
				if got := w.connects(t, c.from, c.to, open); got != 2 {
					t.Errorf("%s: got %d connections at a time, want 2", c.from, got)
				}
			}
			rate, concurrent, err = g.Bites()
			if err != nil || rate != 0 || concurrent != 8 {
				t.Errorf("got %d, %d bites, %v, want 8 of the second", rate, concurrent, err)
			}
			w.bitten(t, g, Bitten{TooMany: 4})
			must(t, g.Check())
		})
	}
}

// bitten expects that both members were bitten so often, and nobody else.
func (w world) bitten(t *testing.T, g *Gate, each Bitten) {
	t.Helper()
	got, err := g.Bitten()
	must(t, err)
	slices.SortFunc(got, func(a, b Bitten) int { return a.Addr.Compare(b.Addr) })
	want := []Bitten{{member4, each.TooFast, each.TooMany}, {member6, each.TooFast, each.TooMany}}
	if !slices.Equal(got, want) {
		t.Errorf("bitten are %+v, want %+v", got, want)
	}
}

// Where there is no room to note who was bitten, the brake bites all the same.
func TestBrakeWithoutRoomForNotes(t *testing.T) {
	w := newWorld(t)
	open := silent(t, w.server, 25)
	cfg := inMode(Filter, w.server)
	cfg.Brakes = Brakes{NewPerMinute: 2}
	g := openGate(t, cfg)
	for i, s := range g.ruleset.sets {
		if s.name == tooFast.set4 || s.name == tooFast.set6 {
			g.ruleset.sets[i].size = 1
			g.ruleset.sets[i].flags = unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
			key := member4.Next().Next().AsSlice()
			if s.name == tooFast.set6 {
				key = member6.Next().Next().AsSlice()
			}
			g.ruleset.sets[i].elements = []setElement{{key: key, timeout: time.Hour, remaining: time.Hour}}
		}
	}
	rebuild(t, g, minute(member4, member6)...)
	for _, c := range []struct{ from, to netip.Addr }{{member4, server4}, {member6, server6}} {
		if got := w.connects(t, c.from, c.to, open); got != 2 {
			t.Errorf("%s: got %d connections of 6, want 2", c.from, got)
		}
	}
	if rate, _, err := g.Bites(); err != nil || rate != 8 {
		t.Errorf("got %d bites, %v, want 8", rate, err)
	}
}

// connects opens 6 connections and holds them; it returns how many were let in.
func (w world) connects(t *testing.T, from, to netip.Addr, accepted <-chan net.Conn) (n int) {
	t.Helper()
	var held []net.Conn
	for range 6 {
		var c net.Conn
		err := w.clients.Do(func() (err error) {
			d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
			c, err = d.Dial("tcp", netip.AddrPortFrom(to, 25).String())
			return err
		})
		if err != nil {
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v", from, err)
			}
			continue
		}
		held = append(held, c, <-accepted)
		n++
	}
	for _, c := range held {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	return n
}

// onlyMarked is what an administrator does with marks.
func onlyMarked() ruleset {
	return ruleset{
		chains: []chain{{
			name: "in", hook: &hook{"filter", unix.NF_INET_LOCAL_IN, 0},
			rules: []rule{{expressions: all(toPorts([]uint16{25}), match{
				&expr.Meta{Key: expr.MetaKeyMARK, Register: register}, and(0, 0, 0x10, 0), equals(0, 0, 0, 0),
			}, reset())}},
		}},
	}
}

// Where the kernel cannot count connections, the gate is built without.
func TestBrakeThatTheKernelLacks(t *testing.T) {
	g := openGate(t, filter(bpftest.Namespace(t)))
	unknown := declareProbe(brakeSets(Brakes{Concurrent: 1}, 1), []chain{{name: brakes, rules: memberRules(
		dynamic(unix.NFT_DYNSET_OP_ADD, "nowhere", &expr.Connlimit{Count: 1}), accept(), tooMany.words)}})
	if ok, err := g.conn.try(unknown, 0); ok || err != nil {
		t.Errorf("got %v, %v, want that it cannot be made", ok, err)
	}
	if _, err := g.conn.get(message(unix.NFT_MSG_GETTABLE, 0, probeTable.body())); !errors.Is(err, unix.ENOENT) {
		t.Errorf("got %v, want no table to be left", err)
	}
}
