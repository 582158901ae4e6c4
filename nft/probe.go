package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// probeTable is made and removed to learn what the kernel can.
var probeTable = tableID{unix.NFPROTO_INET, Table + "_probe"}

// probeUpdates learns whether adding an element that is there already gives it
// the new timeout and expiration. Linux before 6.12 or so answers "ok" and
// changes nothing.
func probeUpdates(c conn) (updates bool, err error) {
	probe := member{set: allow4, key: netip.AddrFrom4([4]byte{192, 0, 2, 1})}
	add := func(batch []netlink.Message, life time.Duration) []netlink.Message {
		probe.timeout, probe.remaining = life, life
		return memberMessages(batch, unix.NFT_MSG_NEWSETELEM, probeTable, []member{probe})
	}
	set := ruleset{sets: []set{{name: allow4, key: ipv4Addr, flags: unix.NFT_SET_TIMEOUT, comment: "probe"}}}
	batch, err := set.messages(tableMessages(probeTable), probeTable)
	if err != nil {
		return false, err
	}
	if _, err := c.commit(add(batch, time.Minute)); err != nil {
		return false, fmt.Errorf("make %s: %w", probeTable, err)
	}
	defer func() { err = errors.Join(err, removeTable(c, probeTable)) }()

	// A transaction of its own: within one, it is another path in the kernel.
	if _, err := c.commit(add(nil, 2*time.Minute)); err != nil {
		return false, fmt.Errorf("add an element again: %w", err)
	}
	left, err := c.remaining(probeTable, []member{probe})
	if err != nil {
		return false, err
	}
	return left[0] > time.Minute, nil
}

func removeTable(c conn, table tableID) error {
	_, err := c.commit([]netlink.Message{message(unix.NFT_MSG_DELTABLE, 0, table.body())})
	if err != nil {
		return fmt.Errorf("remove %s: %w", table, err)
	}
	return nil
}

// able returns what of cfg this kernel can do. lacks says what was left out.
func (c conn) able(cfg Config) (able Config, lacks, err error) {
	if cfg.Mode == UserSets || cfg.Mode == Observe {
		cfg.Brakes = Brakes{}
	}
	var left []error
	if cfg.Brakes.Concurrent > 0 {
		ok, err := c.try(declareProbe(brakeSets(Brakes{Concurrent: 1}, 1), brakeChains(Brakes{Concurrent: 1}, accept())), 0)
		if err != nil {
			return cfg, nil, err
		}
		if !ok {
			cfg.Brakes.Concurrent = 0
			left = append(left, fmt.Errorf("limit of connections at a time (nft_connlimit): %w", ErrUnsupported))
		}
	}
	if cfg.Own && cfg.Mode != UserSets {
		ok, err := c.try(ruleset{}, tableOwner|tablePersist)
		if err != nil {
			return cfg, nil, err
		}
		if !ok {
			left = append(left, fmt.Errorf("owned table that persists (Linux 6.9): %w", ErrUnsupported))
		}
		cfg.Own = ok
	}
	return cfg, errors.Join(left...), nil
}

// declareProbe is a ruleset of these and what their rules look members up in.
func declareProbe(sets []set, chains []chain) ruleset {
	r := declare(Config{Mode: Observe}, 1)
	return ruleset{append(r.sets, sets...), chains}
}

// try makes and removes r in one transaction, and says whether the kernel knows
// all that is in it.
func (c conn) try(r ruleset, flags uint32) (bool, error) {
	batch := tableMessages(probeTable)
	body := probeTable.body()
	body.uint32(unix.NFTA_TABLE_FLAGS, flags)
	batch[2].Data = body
	batch, err := r.messages(batch, probeTable)
	if err != nil {
		return false, err
	}
	_, err = c.commit(append(batch, message(unix.NFT_MSG_DELTABLE, 0, probeTable.body())))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return false, nil
	}
	return false, fmt.Errorf("make %s: %w", probeTable, err)
}
