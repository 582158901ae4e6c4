package doctor

import (
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
)

// A packet socket does not tell this host's words from those that it forwards.
func TestForwardingIsTold(t *testing.T) {
	bpftest.RequireRoot(t)
	for _, on := range []string{"0", "1"} {
		bpftest.In(t, bpftest.Namespace(t), func() {
			must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte(on), 0))
			for tap, want := range map[config.Tap]bool{config.TapAFPacket: on == "1", config.TapTCX: false} {
				told := slices.ContainsFunc(forwarded(&config.Config{Tap: tap}), func(f Finding) bool {
					return f.Subject == "forwarding of IPv4" && f.State == Advice
				})
				if told != want {
					t.Errorf("tap %d, forwarding %s: told %v, want %v", tap, on, told, want)
				}
			}
		})
	}
}

// The taps on interfaces do not show what the firewall translates.
func TestTranslationIsTold(t *testing.T) {
	bpftest.In(t, bpftest.Namespace(t), func() {
		c, err := nftables.New()
		must(t, err)
		for _, rule := range []bool{false, true} {
			if rule {
				table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: "nat"})
				chain := c.AddChain(&nftables.Chain{Name: "out", Table: table})
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
					&expr.Immediate{Register: 1, Data: netip.IPv6Loopback().AsSlice()},
					&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16},
				}})
				must(t, c.Flush())
			}
			for tap, want := range map[config.Tap]bool{config.TapCgroup: false, config.TapTCX: rule, config.TapAFPacket: rule} {
				var told []string
				for _, f := range translated(&config.Config{Tap: tap}) {
					if f.State != OK {
						told = append(told, f.Subject)
					}
				}
				if want != slices.Equal(told, []string{"translation of IPv6"}) || !want && len(told) > 0 {
					t.Errorf("tap %d, a rule %v: told %q", tap, rule, told)
				}
			}
		}
	})
}

// Flow tables forward past interfaces that are made of others.
func TestFlowTablesAreLookedFor(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.Do(t, bpftest.Namespace(t), func() error {
		for _, l := range []netlink.Link{&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "plain"}, PeerName: "peer"}, &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}} {
			if err := netlink.LinkAdd(l); err != nil {
				return err
			}
		}
		for name, want := range map[string]int{"plain": 0, "absent": 0, "lan": 1} {
			got := offloaded(&config.Config{Interfaces: []string{name}})
			if len(got) != want || want > 0 && got[0].State != OK {
				t.Errorf("%s: %+v", name, got)
			}
		}
		return nil
	})
}
