//go:build linux

package live

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"

	"relaygate/nft"
)

// dropGate removes the gate's table from the current namespace.
func dropGate() error { return dropTable(nft.Table) }

// dropTable removes a table from the current namespace.
func dropTable(name string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	c.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove the table %s: %w", name, err)
	}
	return nil
}

// makeSet makes a table in the current namespace, with a set of IPv4 addresses.
func makeSet(table, set string) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: table})
	if err := c.AddSet(&nftables.Set{Table: t, Name: set, KeyType: nftables.TypeIPAddr}, nil); err != nil {
		return fmt.Errorf("make the set %s: %w", set, err)
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make the table %s: %w", table, err)
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

// makeChains makes the gate's table in the current namespace, with its two base
// chains and no rule.
func makeChains() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open netfilter socket: %w", err)
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: nft.Table})
	for name, hook := range map[string]*nftables.ChainHook{"pre": nftables.ChainHookPrerouting, "in": nftables.ChainHookInput} {
		c.AddChain(&nftables.Chain{Name: name, Table: t, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityMangle})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("make empty chains: %w", err)
	}
	return nil
}
