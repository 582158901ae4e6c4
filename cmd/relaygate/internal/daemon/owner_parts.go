package daemon

import (
	"context"
	"net/netip"
	"time"

	"relaygate/authz/grant"
)

// partRows is how much of the table is read at a time: a millisecond or less. Logins
// have the owner for themselves for partPause in between.
const (
	partRows  = 2048
	partPause = time.Millisecond
)

// parts visits all grants, in no order, from another goroutine and in its own
// time. What changes meanwhile may be missing.
func (o *owner) parts(ctx context.Context, visit func(*grant.Grant)) error {
	return inParts(ctx, o, func(t *grant.Table, from uint32, add func(grant.Grant)) uint32 {
		return t.Part(from, partRows, func(g *grant.Grant) { add(*g) })
	}, visit)
}

// prefixes is parts for who needs no more than that.
func (o *owner) prefixes(ctx context.Context, visit func(*netip.Prefix)) error {
	return inParts(ctx, o, func(t *grant.Table, from uint32, add func(netip.Prefix)) uint32 {
		return t.PartPrefixes(from, partRows, add)
	}, visit)
}

// inParts visits what read adds, part by part.
func inParts[T any](ctx context.Context, o *owner, read func(t *grant.Table, from uint32, add func(T)) uint32, visit func(*T)) error {
	list := make([]T, 0, partRows)
	for from := uint32(0); ; {
		err := o.ask(ctx, func(time.Time) {
			from = read(o.grants(), from, func(v T) { list = append(list, v) })
		})
		if err != nil {
			return err
		}
		for i := range list {
			visit(&list[i])
		}
		list = list[:0]
		if from == 0 {
			break
		}
		select {
		case <-time.After(partPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
