package gate

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

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
func (g *Gate) readBites(ctx context.Context) {
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
		g.owner.Bitten(ctx, fresh)
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
