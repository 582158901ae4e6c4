//go:build linux

package live

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"

	"relaygate/nft"
)

// dropGate removes the gate's table from the current namespace.
func dropGate() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: nft.Table})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove the gate: %w", err)
	}
	return nil
}

// members lists who may relay, as the kernel has it.
func (w *world) members() (members map[netip.Addr]bool, err error) {
	members = make(map[netip.Addr]bool)
	err = w.serverNS.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return fmt.Errorf("open netfilter socket: %w", err)
		}
		table := &nftables.Table{Family: nftables.TableFamilyINet, Name: nft.Table}
		elements, err := c.GetSetElements(&nftables.Set{Table: table, Name: "allow4"})
		if err != nil {
			return fmt.Errorf("list the gate's members: %w", err)
		}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				members[a] = true
			}
		}
		return nil
	})
	return members, err
}
