package daemon

import (
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/cmd/relaygate/internal/daemon/gate"
	"relaygate/nft"
)

// closing is for how long an element may be there still of a grant that ended: it is
// taken out behind what is queued before.
const closing = time.Minute

// intruded notes whom somebody else had put among the members. It runs in the owner's
// goroutine.
func (o *owner) intruded(now time.Time, members []netip.Prefix, change string) {
	for _, p := range members {
		ours := func(e authz.Event) bool {
			return (e.Kind == authz.EventRevoked || e.Kind == authz.EventExpired) && now.Sub(e.Last) < closing
		}
		if !slices.ContainsFunc(o.engine.Evidence().Story(p.Addr(), now), ours) {
			o.others(now, authz.EventSet, p, "was in the gate's sets, put there by somebody else, and was taken out: "+change)
		}
	}
}

// holding says whether the gate's sets let in an address that has no grant, "" if not:
// somebody else's element stays in sets of the administrator's, and among very many
// members until it runs out.
func (d *daemon) holding(a netip.Addr) string {
	if d.gate.Status().Missing != "" || d.gate.Queued() > 0 { // it may be among what is to be taken out
		return ""
	}
	s, err := nft.Look(gate.ConfigOf(d.config.Load(), nil), a)
	switch {
	case err != nil:
		return "whether the gate's sets hold it cannot be told: " + err.Error()
	case !s.Member:
		return ""
	case s.Left == 0:
		return "the gate's sets hold it for good: somebody else put it there"
	}
	return "the gate's sets hold it for " + authz.Span(s.Left) + " more: somebody else put it there"
}
