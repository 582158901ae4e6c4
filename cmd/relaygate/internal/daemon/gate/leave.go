package gate

import (
	"context"
	"errors"
	"slices"
	"time"

	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/config"
)

// Leave writes what was decided when Run had ended, and then what is to
// stay. It says in words what that is.
func (g *Gate) Leave(t *grant.Table, exit config.OnExit, now time.Time) (words string, err error) {
	ctx := context.Background()
	g.owner.Snapshot = func(context.Context) (Projection, error) { return g.Project(t, now), nil }
	g.drain(ctx)
	g.mend(ctx)
	if g.broken {
		err = errors.New("the gate could not be written: " + g.Status().LastError)
	}
	switch exit {
	case config.ExitClose:
		return "stopped: the gate is closed", errors.Join(err, g.nft.CloseAll(g.Project(t, now).members...))
	case config.ExitKeep:
		for part := range slices.Chunk(g.elements(t.Project(now), t.Len(), now), 1000) {
			err = errors.Join(err, g.nft.Add(part...))
		}
		return "stopped: the gate holds all that was promised", err
	case config.ExitExpire:
	}
	return "stopped: what the gate holds runs out by itself", err
}
