package livetap

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/capture/sockdiag"
	"relaygate/cmd/relaygate/internal/engine"
)

// TestForwardedIsNotOwn: where the tap cannot tell whose packets leave, a login is
// believed only while this host forwards none of its family.
func TestForwardedIsNotOwn(t *testing.T) {
	bpftest.RequireRoot(t)
	tables, err := sockdiag.New(sockdiag.Options{Ports: []uint16{143}})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, tables) })
	v4 := authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:50000"), Server: netip.MustParseAddrPort("192.0.2.1:143")}
	v6 := authz.Conn{Client: netip.MustParseAddrPort("[2001:db8::7]:50000"), Server: netip.MustParseAddrPort("[2001:db8::1]:143")}
	for _, tt := range []struct {
		on      string // below /proc/sys/net
		unsure  bool
		refused string // the families
	}{
		{"", true, ""},
		{"ipv4/ip_forward", true, "IPv4"},
		{"ipv4/conf/lo/forwarding", true, "IPv4"},
		{"ipv4/conf/lo/forwarding", false, ""},
		{"ipv4/conf/lo/accept_local", true, ""},
		{"ipv6/conf/all/forwarding", true, "IPv6"},
		{"ipv6/conf/all/forwarding", false, ""},
		{"ipv6/conf/lo/force_forwarding", true, "IPv6"},
	} {
		bpftest.In(t, bpftest.Namespace(t), func() {
			// It has what the first namespace has.
			must(t, os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0))
			if tt.on != "" {
				err := os.WriteFile("/proc/sys/net/"+tt.on, []byte("1"), 0)
				if errors.Is(err, fs.ErrNotExist) && strings.Contains(tt.on, "force_forwarding") {
					return // before Linux 6.17
				}
				must(t, err)
			}
			trust := &Trust{tables: tables, unsure: tt.unsure}
			for family, conn := range map[string]authz.Conn{"IPv4": v4, "IPv6": v6} {
				// Without a namespace in the tables each is refused at last.
				belief, reason := trust.Confirm(conn, engine.Opening{Time: time.Now()})
				if got := strings.Contains(reason, "forwards "+family); belief == authz.Believed || got != (tt.refused == family) {
					t.Errorf("%+v, %s: %v because %q", tt, family, belief, reason)
				}
			}
			if got := trust.problems(); len(got) != min(len(tt.refused), 1) || len(got) > 0 && !strings.Contains(got[0], tt.refused) {
				t.Errorf("%+v: problems are %q", tt, got)
			}
		})
	}
}

// TestTranslatedIsNotSeen: nobody is believed by a tap on interfaces while a rule of the
// firewall gives what comes in another address or port, behind the tap.
func TestTranslatedIsNotSeen(t *testing.T) {
	bpftest.RequireRoot(t)
	tables, err := sockdiag.New(sockdiag.Options{Ports: []uint16{143}})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, tables) })
	v4 := authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:50000"), Server: netip.MustParseAddrPort("192.0.2.1:143")}
	v6 := authz.Conn{Client: netip.MustParseAddrPort("[2001:db8::7]:50000"), Server: netip.MustParseAddrPort("[2001:db8::1]:143")}
	bpftest.In(t, bpftest.Namespace(t), func() {
		trust := &Trust{tables: tables}
		must(t, trust.onInterfaces())
		defer bpftest.Close(t, trust.firewall)
		want := func(when, refused string) {
			t.Helper()
			said := func(six bool) (words string) {
				conn := v4
				if six {
					conn = v6
				}
				// Without a namespace in the tables each is refused at last.
				belief, reason := trust.Confirm(conn, engine.Opening{Time: time.Now()})
				if belief == authz.Believed {
					t.Errorf("%s: %v is believed", when, conn)
				}
				return reason
			}
			agrees := func() bool {
				return strings.Contains(said(false), "firewall translates IPv4") == (refused == "IPv4") &&
					strings.Contains(said(true), "firewall translates IPv6") == (refused == "IPv6")
			}
			// The rules are not read for each login.
			for until := time.Now().Add(5 * time.Second); !agrees() && time.Now().Before(until); time.Sleep(time.Millisecond) {
			}
			if !agrees() {
				t.Errorf("%s: refused because %q and %q", when, said(false), said(true))
			}
			if got := trust.problems(); len(got) != min(len(refused), 1) || len(got) > 0 && !strings.Contains(got[0], refused) {
				t.Errorf("%s: problems are %q", when, got)
			}
		}
		want("no rules", "")
		c, err := nftables.New()
		must(t, err)
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv6, Name: "nat"})
		chain := c.AddChain(&nftables.Chain{
			Name: "in", Table: table, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Redir{}}})
		must(t, c.Flush())
		want("one that redirects", "IPv6")
		c.DelTable(table)
		must(t, c.Flush())
		want("without it again", "")
	})
}

// TestOffloadedIsNotSeen: on a gateway nobody is believed by a tap on an interface that is
// made of others while the firewall has a flow table, which forwards past it. A kernel that
// has none believes; that the rule is known is shown on all of them by TestOffloads of nft.
func TestOffloadedIsNotSeen(t *testing.T) {
	bpftest.RequireRoot(t)
	conn := authz.Conn{Client: netip.MustParseAddrPort("192.0.2.7:50000"), Server: netip.MustParseAddrPort("192.0.2.1:143")}
	bpftest.In(t, bpftest.Namespace(t), func() {
		c, err := nftables.New()
		must(t, err)
		table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "fast"})
		chain := c.AddChain(&nftables.Chain{
			Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter,
		})
		must(t, c.Flush())
		flows := c.AddFlowtable(&nftables.Flowtable{
			Table: table, Name: "f", Hooknum: nftables.FlowtableHookIngress, Priority: nftables.FlowtablePriorityFilter, Devices: []string{"lo"},
		})
		err = c.Flush()
		without := errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP)
		if !without {
			must(t, err)
		}
		for _, tt := range []struct{ rule, stacked bool }{{false, true}, {true, false}, {true, true}} {
			if tt.rule = tt.rule && !without; tt.rule {
				c.FlushChain(chain)
				c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.FlowOffload{Name: flows.Name}}})
				must(t, c.Flush())
			}
			trust := &Trust{}
			trust.inside.Store(&[]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
			trust.stacked.Store(tt.stacked)
			must(t, trust.onInterfaces())
			want := tt.rule && tt.stacked
			if ok, reason := trust.Whole(conn); ok == want || want != strings.Contains(reason, "flow table (table fast") {
				t.Errorf("%+v: %v because %q", tt, ok, reason)
			}
			must(t, trust.firewall.Close())
		}
	})
}
