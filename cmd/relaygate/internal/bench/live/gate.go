package live

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"

	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/nft"
)

// change sends one transaction, in the current namespace.
func change(what string, do func(*nftables.Conn) error) error {
	c, err := nftables.New()
	if err == nil {
		err = do(c)
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func table(name string) *nftables.Table {
	return &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
}

// dropGate removes the gate's table from the current namespace.
func dropGate() error { return dropTable(nft.Table) }

// dropTable removes a table from the current namespace.
func dropTable(name string) error {
	return change("remove the table "+name, func(c *nftables.Conn) error {
		c.DelTable(table(name))
		return nil
	})
}

// makeSet makes a table in the current namespace, with a set of IPv4 addresses.
func makeSet(name, set string) error {
	return change("make the table "+name, func(c *nftables.Conn) error {
		return c.AddSet(&nftables.Set{Table: c.AddTable(table(name)), Name: set, KeyType: nftables.TypeIPAddr}, nil)
	})
}

// members lists who may relay, as the kernel has it.
func (w *world) members() map[netip.Addr]bool {
	members := make(map[netip.Addr]bool)
	must.Do(w.serverNS.Do(func() error {
		return change("list the gate's members", func(c *nftables.Conn) error {
			elements, err := c.GetSetElements(&nftables.Set{Table: table(nft.Table), Name: "allow4"})
			for _, e := range elements {
				if a, ok := netip.AddrFromSlice(e.Key); ok {
					members[a] = true
				}
			}
			return err
		})
	}))
	return members
}
