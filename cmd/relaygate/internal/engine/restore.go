package engine

import (
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// Remember takes over what the journal knew before the start.
func (e *Engine) Remember(now time.Time, kept []authz.Kept) {
	e.evidence.Import(now, slices.Values(kept))
}

// Kept tells into k what the journal knows about exactly this prefix.
func (e *Engine) Kept(p netip.Prefix, k *authz.Kept) bool { return e.evidence.Kept(p, k) }

// SetRules puts other rules in force, and says what that closes and opens. On an
// error the former ones stay. The proxies that may announce clients stay as they
// are.
func (e *Engine) SetRules(now time.Time, r authz.Rules) ([]grant.Change, error) {
	former := e.rules
	e.rules = r
	e.rules.Proxies = former.Proxies
	changes, err := e.SetHost(now, e.host)
	if err != nil {
		e.rules = former
	}
	return changes, err
}

// MayAnnounce says whether a peer is a proxy that may announce its clients.
func (e *Engine) MayAnnounce(peer netip.Addr) bool { return e.mayAnnounce(peer) }
