package keeper

import (
	"errors"
	"net/netip"
	"time"

	"relaygate/authz"
	"relaygate/authz/grant"
	"relaygate/cmd/relaygate/internal/state"
)

// Restored is what a state file held, but for the grants.
type Restored struct {
	State    grant.State
	Sessions []Session
	Journal  []authz.Kept
	Counters map[string]uint64
	Run      Run
	// Bad counts the records that cannot be understood and are left out, by kind.
	Bad map[string]int
}

// records are those of a state file, or of a copy of one.
type records interface {
	Each(bucket string, visit func(key string, value []byte) error) error
	Kept() time.Time
}

// load reads a state file; of the journal, what it knows about prefixes that are wanted.
func load(from records, now time.Time, wanted func(netip.Prefix) bool) (r Restored, err error) {
	r.Counters, r.Bad, r.State.Kept = make(map[string]uint64), make(map[string]int), from.Kept()
	read := func(bucket string, take func(key string, data []byte) error) {
		err = errors.Join(err, each(from, bucket, r.Bad, take))
	}
	read(denialsBucket, func(key string, data []byte) error {
		err := decode(data, &r.State.Denials)
		if p, ok := netip.ParsePrefix(key); err != nil && ok == nil {
			r.State.Denials = append(r.State.Denials, grant.Denial{Prefix: p, Since: now, Note: "its record cannot be understood"})
		}
		return err
	})
	read(sessionsBucket, func(_ string, data []byte) error { return decode(data, &r.Sessions) })
	read(journalBucket, func(key string, data []byte) error {
		if passed(key, wanted) {
			return nil
		}
		kept, err := state.ParseKept(data)
		if err == nil {
			_, err = kept.Last()
		}
		if err == nil {
			r.Journal = append(r.Journal, kept)
		}
		return err
	})
	read(pauseBucket, func(_ string, data []byte) error {
		r.State.Paused = new(grant.Pause) // also if it cannot be understood
		return state.Decode(data, r.State.Paused)
	})
	read(countersBucket, func(key string, data []byte) error {
		var n uint64
		err := state.Decode(data, &n)
		r.Counters[key] = n
		return err
	})
	read(runBucket, func(_ string, data []byte) error { return state.Decode(data, &r.Run) })
	return r, err
}

func passed(key string, wanted func(netip.Prefix) bool) bool {
	p, err := netip.ParsePrefix(key)
	return err == nil && !wanted(p)
}

// grants visits the grants of a file that are wanted until visit says false, and counts
// those that cannot be understood.
func grants(from records, wanted func(netip.Prefix) bool, bad map[string]int, visit func(*grant.Saved) bool) error {
	enough := false
	return each(from, grantsBucket, bad, func(key string, data []byte) error {
		if enough || passed(key, wanted) {
			return nil
		}
		g, err := state.ParseGrant(data)
		if err == nil {
			enough = !visit(&g)
		}
		return err
	})
}

// each visits the records of a bucket, and counts those that take does not understand.
func each(from records, bucket string, bad map[string]int, take func(key string, data []byte) error) error {
	return from.Each(bucket, func(key string, data []byte) error {
		if take(key, data) != nil {
			bad[bucket]++
		}
		return nil
	})
}

// every prefix is wanted.
func every(netip.Prefix) bool { return true }

func decode[T any](data []byte, into *[]T) error {
	var v T
	if err := state.Decode(data, &v); err != nil {
		return err
	}
	*into = append(*into, v)
	return nil
}

// Peek reads the state file at path where no daemon answers, and changes nothing: what
// it held about the prefixes that are wanted, and visits their grants. Errors are those
// of state.Peek.
func Peek(path string, now time.Time, wanted func(netip.Prefix) bool, visit func(*grant.Saved)) (r Restored, err error) {
	from, err := state.Peek(path)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	if r, err = load(from, now, wanted); err != nil {
		return r, err
	}
	return r, grants(from, wanted, r.Bad, func(g *grant.Saved) bool { visit(g); return true })
}
