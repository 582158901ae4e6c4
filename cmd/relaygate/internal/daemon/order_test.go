package daemon

import (
	"context"
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/control"
)

// What an order is answered with holds: not that something is closed which an always
// rule leaves open, nor that it may open which another rule closes.
func TestAnswersToOrdersHold(t *testing.T) {
	for _, tt := range []struct {
		name, prefix string
		verb         string
		before       func(*grant.Table)
		want         string
	}{
		{name: "revoke a grant", prefix: "192.0.2.7/32", verb: control.VerbRevoke, want: "192.0.2.7 is closed; its grant ended"},
		{
			name: "deny one address of a wider grant", prefix: "198.18.0.7/32", verb: control.VerbDeny,
			before: func(t *grant.Table) {
				t.Manual(now, netip.MustParsePrefix("198.18.0.0/28"), testLifetime, "root", "")
			},
			want: "198.18.0.7 is closed and denied for good; its grant ended, that of all 198.18.0.0/28",
		},
		{
			name: "deny one address of what may always relay", prefix: "198.51.100.7/32", verb: control.VerbDeny,
			want: "198.51.100.7 is closed and denied for good.",
		},
		{name: "revoke nothing", prefix: "192.0.2.8/32", verb: control.VerbRevoke, want: "192.0.2.8 held no grant: nothing was open"},
		{
			name: "revoke what may always relay", prefix: "198.51.100.7/32", verb: control.VerbRevoke,
			want: "198.51.100.7 holds no grant now, but 198.51.100.0/24 may always relay, says the configuration: deny closes it",
		},
		{
			name: "revoke around what may always relay", prefix: "0.0.0.0/0", verb: control.VerbRevoke,
			want: "0.0.0.0/0 holds no grant now; its grant ended, but 198.51.100.0/24 may always relay, says the configuration: deny closes it",
		},
		{name: "deny what may always relay", prefix: "198.51.100.0/24", verb: control.VerbDeny, want: "198.51.100.0/24 is closed and denied for good"},
		{
			name: "undeny", prefix: "192.0.2.7/32", verb: control.VerbUndeny, before: deny("192.0.2.7/32"),
			want: "192.0.2.7 is denied no more: the next login may open it",
		},
		{
			name: "undeny within a wider denial", prefix: "192.0.2.7/32", verb: control.VerbUndeny, before: deny("192.0.2.7/32", "192.0.2.0/24"),
			want: "192.0.2.7 has no denial of its own any more, but it is denied (192.0.2.0/24) by root",
		},
		{
			name: "undeny what is never granted", prefix: "203.0.113.9/32", verb: control.VerbUndeny, before: deny("203.0.113.9/32"),
			want: "203.0.113.9 has no denial of its own any more, but it is never granted, says the configuration",
		},
		{
			name: "undeny what may always relay", prefix: "198.51.100.7/32", verb: control.VerbUndeny, before: deny("198.51.100.7/32"),
			want: "198.51.100.7 is denied no more, and 198.51.100.0/24 may always relay, says the configuration",
		},
	} {
		policy, err := authz.NewPolicy(authz.Host{}, authz.Rules{
			Never: []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")}, Always: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		})
		must(t, err)
		table := grant.New(grant.Config{})
		table.SetPolicy(now, policy)
		table.Manual(now, netip.MustParsePrefix("192.0.2.7/32"), testLifetime, "root", "")
		if tt.before != nil {
			tt.before(table)
		}
		o := control.Order{Verb: tt.verb, Prefix: netip.MustParsePrefix(tt.prefix)}
		n := table.Len()
		changes := obey(table, now, "root", &o, testLifetime)
		if got := result(&o, changes, aftermathOf(table, o.Prefix, n), now); !strings.HasPrefix(got+".", tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// hungUp is a client that leaves once it has asked.
type hungUp struct {
	context.Context
	left chan struct{}
}

func (h hungUp) Done() <-chan struct{} { return h.left }
func (h hungUp) Err() error            { return context.Canceled }

// An order is carried out as a whole though who gave it has left: connections of what
// was revoked end.
func TestOrderOutlivesItsClient(t *testing.T) {
	d := newPipeline(t)
	must(t, d.cutter.close())
	cut := &countCut{}
	d.cutter.kernel = cut
	p := &player{woken: make(chan struct{}, 1), done: func() {}}
	d.owner.tap = p
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	for _, run := range []func(context.Context, func()) error{atOnce(d.gate.Run), atOnce(d.gate.Watch), atOnce(d.keeper.Run), d.files.run, atOnce(d.cutter.run)} {
		g.Go(func() error { return run(ctx, func() {}) })
	}
	gone := hungUp{ctx, make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := d.Order(gone, "root", control.Order{Verb: control.VerbRevoke, Prefix: netip.MustParsePrefix("192.0.2.7/32")})
		done <- err
	}()
	for len(d.owner.asked) == 0 { // it is asked, and the owner busy
		runtime.Gosched()
	}
	close(gone.left)
	runtime.Gosched()
	g.Go(func() error { return d.owner.run(ctx) })
	if err := <-done; err != nil || cut.n.Load() != 1 {
		t.Errorf("%v; connections were cut %d times, want once", err, cut.n.Load())
	}
	cancel()
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, d.close())
}

// countCut counts what it is told to cut.
type countCut struct{ n atomic.Int32 }

func (c *countCut) Cut([]uint16, ...netip.Prefix) (sockets, entries int, err error) {
	c.n.Add(1)
	return 0, 0, nil
}
func (*countCut) Forget([]uint16, ...netip.Prefix) (int, error) { return 0, nil }
func (*countCut) Close() error                                  { return nil }

func deny(prefixes ...string) func(*grant.Table) {
	return func(table *grant.Table) {
		for _, p := range prefixes {
			table.Deny(now, netip.MustParsePrefix(p), 0, "root", "")
		}
	}
}

// Whom another grant lets in, or an always rule, loses no connection when his own runs
// out.
func TestOnlyWhatIsClosedIsCut(t *testing.T) {
	network := netip.MustParsePrefix("203.0.113.0/24")
	for name, tt := range map[string]struct {
		also func(o *owner, now time.Time)
		cut  int
	}{
		"nothing else": {func(*owner, time.Time) {}, 1},
		"a network": {func(o *owner, now time.Time) {
			o.grants().Manual(now, network, 24*time.Hour, "root", "")
		}, 0},
		"an always rule": {func(o *owner, now time.Time) {
			p, err := authz.NewPolicy(authz.Host{}, authz.Rules{Always: []netip.Prefix{network}})
			must(t, err)
			o.grants().SetPolicy(now, p)
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			o := newTestOwner(t, start)
			o.cutter.set.Store(&cutSettings{onExpiry: true})
			o.cutter.expired = make(chan netip.Prefix, 8)
			tt.also(o, start)
			now := start.Add(testLifetime + time.Second)
			for _, c := range o.engine.Expire(now) {
				o.change(now, c)
			}
			if len(o.cutter.expired) != tt.cut {
				t.Errorf("%d prefixes are cut, want %d", len(o.cutter.expired), tt.cut)
			}
		})
	}
}
