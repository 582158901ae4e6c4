package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

var table = &nftables.Table{Family: nftables.TableFamilyINet, Name: "relaygate"}

// other is another program's.
var other = &nftables.Table{Family: nftables.TableFamilyINet, Name: "other"}

// victim is the gate in a namespace.
type victim struct {
	ns   *netns.Namespace
	mode string
}

// guard is the chain that decides about strangers.
func (v *victim) guard() *nftables.Chain {
	if v.mode == "redirect" {
		return &nftables.Chain{Table: table, Name: "guard"}
	}
	return &nftables.Chain{Table: table, Name: "gate"}
}

func (v *victim) dial() (*netlink.Conn, error) {
	return netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: v.ns.FD()})
}

func allowSet(addr netip.Addr) *nftables.Set {
	if addr.Is4() {
		return &nftables.Set{Table: table, Name: "allow4", KeyType: nftables.TypeIPAddr, HasTimeout: true}
	}
	return &nftables.Set{Table: table, Name: "allow6", KeyType: nftables.TypeIP6Addr, HasTimeout: true}
}

func element(addr netip.Addr, timeout time.Duration) []nftables.SetElement {
	return []nftables.SetElement{{Key: addr.AsSlice(), Timeout: timeout}}
}

// harm is what another program does to the gate, in one transaction.
type harm struct {
	what string
	do   func(c *nftables.Conn, v *victim) error
	// slow: it is hidden from the watch, and found by a comparison of all members,
	// two seconds after the one before at the latest.
	slow bool
}

var acceptAll = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}

var harms = []harm{
	{what: "a flush of all rulesets", do: func(c *nftables.Conn, _ *victim) error { c.FlushRuleset(); return nil }},
	{what: "another ruleset in its place", do: func(c *nftables.Conn, _ *victim) error {
		c.FlushRuleset()
		c.AddTable(other)
		c.AddChain(&nftables.Chain{
			Table: other, Name: "in", Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
		})
		return nil
	}},
	{what: "a deletion of the table", do: func(c *nftables.Conn, _ *victim) error { c.DelTable(table); return nil }},
	{what: "a deletion of every rule", do: func(c *nftables.Conn, _ *victim) error { c.FlushTable(table); return nil }},
	{what: "a deletion of the rules of a chain", do: func(c *nftables.Conn, v *victim) error { c.FlushChain(v.guard()); return nil }},
	{what: "a deletion of one rule", do: func(c *nftables.Conn, v *victim) error {
		raw, err := v.dial()
		if err != nil {
			return err
		}
		rules, err := listRules(raw, v.guard().Name)
		if err == nil && len(rules) > 0 { // the last is that of strangers
			err = c.DelRule(&nftables.Rule{Table: table, Chain: v.guard(), Handle: rules[len(rules)-1]})
		}
		return errors.Join(err, raw.Close())
	}},
	{what: "a deletion of a chain", do: func(c *nftables.Conn, _ *victim) error {
		pre := &nftables.Chain{Table: table, Name: "pre"}
		c.FlushChain(pre)
		c.DelChain(pre)
		return nil
	}},
	{what: "a deletion of a set", do: func(c *nftables.Conn, _ *victim) error {
		c.FlushTable(table) // or it would be in use
		c.DelSet(allowSet(lab.Client4))
		return nil
	}},
	{what: "a rule that lets everybody in", do: func(c *nftables.Conn, v *victim) error {
		c.InsertRule(&nftables.Rule{Table: table, Chain: v.guard(), Exprs: acceptAll})
		return nil
	}},
	{what: "a flush of the members", do: func(c *nftables.Conn, _ *victim) error {
		c.FlushSet(allowSet(lab.Client4))
		c.FlushSet(allowSet(lab.Client6))
		return nil
	}},
	{what: "a deletion of one member", do: func(c *nftables.Conn, _ *victim) error {
		return c.SetDeleteElements(allowSet(lab.Client4), element(lab.Client4, 0))
	}},
	{what: "a stranger as a member", do: func(c *nftables.Conn, _ *victim) error {
		return c.SetAddElements(allowSet(lab.Stranger4), element(lab.Stranger4, time.Hour))
	}},
	{what: "a stranger as a member for ever", do: func(c *nftables.Conn, _ *victim) error {
		return c.SetAddElements(allowSet(lab.Stranger6), element(lab.Stranger6, 0))
	}},
	{what: "a stranger hidden behind another table's elements", slow: true, do: func(c *nftables.Conn, _ *victim) error {
		c.AddTable(other)
		s := &nftables.Set{Table: other, Name: "theirs", KeyType: nftables.TypeIPAddr}
		if err := c.AddSet(s, element(lab.Stranger4, 0)); err != nil {
			return err
		}
		return c.SetAddElements(allowSet(lab.Stranger4), element(lab.Stranger4, time.Hour))
	}},
}

// inflict does a harm. What is not there at this moment cannot be
// harmed.
func (v *victim) inflict(h harm) error {
	c, err := nftables.New(nftables.WithNetNSFd(v.ns.FD()))
	if err == nil {
		err = h.do(c, v)
	}
	if err == nil {
		err = c.Flush()
	}
	if err != nil && !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("%s: %w", h.what, err)
	}
	return nil
}
