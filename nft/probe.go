package nft

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// probeTable is made and removed by probeUpdates.
const probeTable = Table + "_probe"

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
	batch, err := set.messages(tableMessages(nil, probeTable), probeTable)
	if err != nil {
		return false, err
	}
	if _, err := c.commit(add(batch, time.Minute)); err != nil {
		return false, fmt.Errorf("make table inet %s: %w", probeTable, err)
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

func removeTable(c conn, table string) error {
	name := inet()
	name.string(unix.NFTA_TABLE_NAME, table)
	_, err := c.commit([]netlink.Message{message(unix.NFT_MSG_DELTABLE, 0, name)})
	if err != nil {
		return fmt.Errorf("remove table inet %s: %w", table, err)
	}
	return nil
}
