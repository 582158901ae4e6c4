package gate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/nft"
)

// suspicion is what the gate knows about others who write rulesets.
type suspicion struct {
	// doubted says who wrote what was not seen as a whole, "" if nobody did:
	// members may have been among it. They are compared, but not before rest.
	doubted string
	rest    time.Time
	// unexplained is when the gate was found damaged before it was told by whom.
	unexplained time.Time
}

const (
	// explainedWithin: the kernel tells of a transaction at once.
	explainedWithin = 2 * time.Second
	// compareShare is how many times longer than comparing the members took it
	// is not done again: others may write all day. What took less than
	// compareShort may have waited for a processor most of that time, and rests
	// no longer than until the next regular look.
	compareShare = 100
	compareShort = 100 * time.Millisecond
	// maxIntruders bounds the members of which it is told that somebody else had
	// put them in, of one comparison.
	maxIntruders = 64
)

// inspect looks at the table and mends it. change is what another program did,
// nil for the regular look.
func (g *Gate) inspect(ctx context.Context, change *nft.Change) {
	err := g.nft.Check()
	switch {
	case errors.Is(err, nft.ErrTableGone), errors.Is(err, nft.ErrChanged), errors.Is(err, nft.ErrSets):
		reason := err.Error()
		if change != nil {
			reason = change.String() + ": " + reason
		}
		g.repair(ctx, reason, change != nil)
	case err != nil:
		g.noteError(err)
		g.log.Error("the gate could not be checked", "error", err)
		// What was told is not told again.
		g.broken = g.broken || change != nil && change.Members
		if change != nil {
			g.doubted = change.String()
			if later := time.Now().Add(checkEvery); g.rest.Before(later) {
				g.rest = later
			}
		}
		g.mend(ctx)
	case change != nil && change.Members:
		g.compare(ctx, change.String())
	case change != nil:
		g.suspect(change)
		g.mend(ctx)
	default:
		g.mend(ctx)
	}
}

// rested yields when members that are in doubt may be compared; nil if none are. Very
// many are not: a login would wait for it.
func (g *Gate) rested() <-chan time.Time {
	if g.doubted == "" || g.grants.Load() >= loadFrom {
		return nil
	}
	return time.After(time.Until(g.rest))
}

// suspect takes note of who wrote something while the gate is as it was built.
func (g *Gate) suspect(change *nft.Change) {
	g.doubted = change.String()
	if change.PID == 0 || time.Since(g.unexplained) > explainedWithin {
		return
	}
	g.unexplained = time.Time{}
	g.note(func(s *control.Gate) { s.LastLoss += "; just before, " + change.String() })
	g.log.Warn("the gate was lost: this came just before", "change", change.String())
	g.publish("just before it was lost, " + change.String())
}

// compare puts members back that somebody took out, and takes out what somebody
// put in.
func (g *Gate) compare(ctx context.Context, reason string) {
	start := time.Now()
	want, err := g.owner.Snapshot(ctx)
	var added, renewed int
	var removed []netip.Prefix
	if err == nil {
		added, renewed, removed, err = g.nft.Sync(want.members)
	}
	g.doubted, g.rest = "", start.Add(restAfter(time.Since(start)))
	switch {
	case err != nil && !errors.Is(err, nft.ErrElement):
		g.broken = true
		g.noteError(err)
		g.log.Error("the gate's members could not be compared", "error", err)
	case added+renewed+len(removed) > 0:
		words := fmt.Sprintf("%d members put back, %d mended, %d taken out", added, renewed, len(removed))
		g.note(func(s *control.Gate) {
			s.Losses++
			s.Rebuilds++
			s.LastLoss, s.LastLossAt = reason, control.Time{Time: time.Now()}
		})
		g.log.Warn("the gate's members were changed", "reason", reason, "mended", words)
		g.publish(words + ": " + reason)
		if len(removed) > 0 {
			g.owner.Intruded(ctx, removed[:min(len(removed), maxIntruders)], reason)
		}
	}
}

// restAfter is for how long members are not compared again, if that took so long.
func restAfter(took time.Duration) time.Duration {
	if took < compareShort {
		return min(compareShare*took, checkEvery)
	}
	return compareShare * took
}
