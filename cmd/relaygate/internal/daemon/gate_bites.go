//go:build linux

package daemon

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// bites is what the brakes had refused when they were read last: in all, and by
// the member. A table that is built anew counts from 0.
type bites struct {
	fast, many uint64
	members    map[netip.Addr]nft.Bitten
}

// maxBites bounds the members that are told of in one look.
const maxBites = 100

// since is how many more there are than before.
func since(now, before uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// readBites tells of what the brakes refused since it was called last.
func (g *gate) readBites(ctx context.Context) {
	fast, many, err := g.nft.Bites()
	if err != nil {
		g.noteError(err)
		return
	}
	tooFast, tooMany := since(fast, g.bites.fast), since(many, g.bites.many)
	g.bites.fast, g.bites.many = fast, many
	if tooFast+tooMany == 0 {
		return
	}
	g.note(func(s *control.Gate) {
		s.TooFast += tooFast
		s.TooMany += tooMany
		s.LastBite = control.Time{Time: time.Now()}
	})
	g.log.Warn("brakes refused connections of granted addresses", "too many in a minute", tooFast, "too many at a time", tooMany)
	list, err := g.nft.Bitten()
	if err != nil {
		g.noteError(err)
		return
	}
	fresh, members := g.bites.fresh(list)
	g.bites.members = members
	if len(fresh) > 0 {
		g.bitten(ctx, fresh)
	}
}

// fresh are those who were bitten again, the most often first and bounded.
func (b *bites) fresh(list []nft.Bitten) (fresh []nft.Bitten, members map[netip.Addr]nft.Bitten) {
	members = make(map[netip.Addr]nft.Bitten, len(list))
	for _, now := range list {
		members[now.Addr] = now
		before := b.members[now.Addr]
		now.TooFast, now.TooMany = since(now.TooFast, before.TooFast), since(now.TooMany, before.TooMany)
		if now.TooFast+now.TooMany > 0 {
			fresh = append(fresh, now)
		}
	}
	slices.SortFunc(fresh, func(a, b nft.Bitten) int {
		return cmp.Or(cmp.Compare(b.TooFast+b.TooMany, a.TooFast+a.TooMany), a.Addr.Compare(b.Addr))
	})
	return fresh[:min(len(fresh), maxBites)], members
}

// bitten notes in the journal, and tells watchers, whose connections a brake
// refused. It runs in the owner's goroutine.
func (o *owner) bitten(now time.Time, list []nft.Bitten) {
	for _, b := range list {
		p := netip.PrefixFrom(b.Addr, b.Addr.BitLen())
		if g, ok := o.grants().Get(b.Addr); ok {
			p = g.Prefix
		}
		o.bite(now, p, b.TooFast, reasonTooFast)
		o.bite(now, p, b.TooMany, reasonTooMany)
	}
}

// What is told of a connection that a brake refused.
const (
	reasonTooFast = "an SMTP connection was refused: too many new ones in a minute (gate.max_new_per_minute)"
	reasonTooMany = "an SMTP connection was refused: too many open at the same time (gate.max_concurrent)"
)

func (o *owner) bite(now time.Time, p netip.Prefix, n uint64, reason string) {
	if n == 0 {
		return
	}
	e := authz.Event{Kind: authz.EventBraked, Time: now, Last: now, Count: int(min(n, 1<<31)), Prefix: p, Reason: reason}
	o.engine.Note(e)
	o.keeper.noted(p)
	shape := control.NewEvent(&e)
	shape.Event = "brake"
	o.hub.Publish(now, shape)
	o.log.Warn("braked", "address", authz.PrefixString(p), "times", n, "reason", reason)
}
