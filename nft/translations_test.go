package nft

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

func TestTranslations(t *testing.T) {
	requireNft(t)
	const nat, snat = "type nat hook prerouting priority -100;", "type nat hook postrouting priority 100;"
	for _, tt := range []struct {
		name, four, six string // the tables that translate
		commands        []string
	}{
		{"no rules", "", "", nil},
		{"filters and marks", "", "", []string{
			"add table ip t", "add chain ip t in { type filter hook input priority 0; }", "add rule ip t in tcp dport 110 accept",
			"add chain ip t post { type nat hook postrouting priority 100; }", "add rule ip t post accept",
			"add chain ip t pre { " + nat + " }",
			"add rule ip t in ip dscp set cs1", "add rule ip t in ip ttl set 3", "add rule ip t in tcp option maxseg size set 1200", "add rule ip t in meta mark set 1",
			"add table ip6 t", "add chain ip6 t in { type filter hook input priority 0; }", "add rule ip6 t in ip6 dscp set cs1", "add rule ip6 t in ip6 hoplimit set 3",
		}},
		{"masquerading", "t", "", []string{"add table ip t", "add chain ip t post { " + snat + " }", "add rule ip t post masquerade"}},
		{"another source", "", "t", []string{"add table ip6 t", "add chain ip6 t post { " + snat + " }", "add rule ip6 t post snat to 2001:db8::1"}},
		{"another port", "t", "", []string{"add table ip t", "add chain ip t pre { " + nat + " }", "add rule ip t pre tcp dport 1110 redirect to :110"}},
		{"another address", "", "t", []string{"add table ip6 t", "add chain ip6 t pre { " + nat + " }", "add rule ip6 t pre tcp dport 110 dnat to 2001:db8::1"}},
		{"both families", "t", "t", []string{"add table inet t", "add chain inet t pre { " + nat + " }", "add rule inet t pre tcp dport 1110 dnat to :110"}},
		{"an address by a map", "t", "", []string{
			"add table ip t", "add chain ip t pre { " + nat + " }", "add rule ip t pre dnat to tcp dport map { 1110 : 192.0.2.1 }",
		}},
		{"a port as it comes in, of either family", "t", "t", []string{
			"add table netdev t", "add chain netdev t in { type filter hook ingress device lo priority 0; }", "add rule netdev t in tcp dport 1110 tcp dport set 110",
		}},
		{"one of many rules", "t", "", []string{
			"add table ip t", "add chain ip t x", "add rule ip t x tcp dport 1110 redirect to :110", "add rule ip t x accept",
			"add table ip u", "add chain ip u x", "add rule ip u x accept",
		}},
		{"a port without connection tracking", "t", "", []string{
			"add table ip t", "add chain ip t pre { type filter hook prerouting priority -300; }", "add rule ip t pre tcp dport 1110 tcp dport set 110",
		}},
		{"a port by its place behind the IP header", "t", "", []string{
			"add table ip t", "add chain ip t pre { type filter hook prerouting priority -300; }", "add rule ip t pre @nh,176,16 set 110",
		}},
		{"an address without connection tracking", "", "t", []string{
			"add table ip6 t", "add chain ip6 t pre { type filter hook prerouting priority -300; }", "add rule ip6 t pre ip6 daddr set 2001:db8::1",
		}},
		{"the beginning of an address", "", "t", []string{
			"add table ip6 t", "add chain ip6 t pre { type filter hook prerouting priority -300; }", "add rule ip6 t pre @nh,64,16 set 0x2001",
		}},
		{"taken away again", "", "", []string{
			"add table ip t", "add chain ip t pre { " + nat + " }", "add rule ip t pre tcp dport 1110 redirect to :110", "delete table ip t",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			g := openGate(t, inMode(Redirect, ns)) // our own rules count for nothing
			rebuild(t, g)
			var asked *Translations
			bpftest.Do(t, ns, func() (err error) {
				asked, err = OpenTranslations(0)
				return err
			})
			t.Cleanup(func() { bpftest.Close(t, asked) })
			for i := 0; i <= len(tt.commands); i++ {
				bpftest.Do(t, ns, func() (err error) {
					if i > 0 {
						if out, err := exec.Command("nft", strings.Fields(tt.commands[i-1])...).CombinedOutput(); err != nil {
							return fmt.Errorf("%s: %s", tt.commands[i-1], out)
						}
					}
					_, err = asked.Of(false) // each look but the last is of rules of before
					time.Sleep(time.Until(asked.rest))
					return err
				})
			}
			for six, want := range map[bool]string{false: tt.four, true: tt.six} {
				var got string
				bpftest.Do(t, ns, func() (err error) {
					got, err = asked.Of(six)
					return err
				})
				if name, _, _ := strings.Cut(got, " "); name != want {
					t.Errorf("IPv6 %v: %q translates, want %q", six, got, want)
				}
			}
		})
	}
}

// TestOffloads: a rule that adds to a flow table is known by that, whether this kernel has
// such tables or not.
func TestOffloads(t *testing.T) {
	for _, tt := range []struct {
		table string
		rule  match
		want  string
	}{
		{"fast", all(tcp(), match{&expr.FlowOffload{Name: "f"}}), "fast of nf_tables"},
		{"fast", all(tcp(), accept()), ""},
		{Table, match{&expr.FlowOffload{Name: "f"}}, ""}, // our own
	} {
		var told Translations
		table := tableID{unix.NFPROTO_INET, tt.table}
		batch, err := ruleset{chains: []chain{{name: "on", rules: []rule{{expressions: tt.rule}}}}}.messages(nil, table)
		must(t, err)
		for _, m := range batch {
			if m.Header.Type == unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE {
				must(t, told.note(m))
			}
		}
		if told.offloads != tt.want || told.four+told.six != "" {
			t.Errorf("%s: %q offloads, %q and %q translate, want %q and none", tt.table, told.offloads, told.four, told.six, tt.want)
		}
	}
}

// TestTranslationsOfXTables: the rules of iptables are known by their targets, those of
// the legacy one by its table alone.
func TestTranslationsOfXTables(t *testing.T) {
	for command, want := range map[string]bool{
		"iptables-nft -t nat -A PREROUTING -p tcp --dport 1110 -j REDIRECT --to-ports 110":    true,
		"iptables-nft -t nat -A PREROUTING -p tcp --dport 1110 -j DNAT --to-destination :110": true,
		"iptables-nft -t nat -A POSTROUTING -j MASQUERADE":                                    true,
		"iptables-nft -t nat -A POSTROUTING -j SNAT --to-source 192.0.2.1":                    true,
		"iptables-nft -A INPUT -p tcp --dport 110 -j ACCEPT":                                  false,
		"iptables-legacy -t nat -A POSTROUTING -j MASQUERADE":                                 true,
		"iptables-legacy -A INPUT -p tcp --dport 110 -j ACCEPT":                               false,
	} {
		t.Run(command, func(t *testing.T) {
			ns := bpftest.Namespace(t)
			args := strings.Fields(command)
			requireTool(t, args[0])
			var out []byte
			if ns.Do(func() (err error) {
				out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
				return err
			}) != nil {
				t.Skipf("this kernel cannot: %s", out)
			}
			var got, six string
			bpftest.Do(t, ns, func() error {
				asked, err := OpenTranslations(0)
				if err != nil {
					return err
				}
				defer asked.Close()
				if got, err = asked.Of(false); err != nil {
					return err
				}
				six, err = asked.Of(true)
				return err
			})
			if (got != "") != want || six != "" {
				t.Errorf("IPv4 %q, IPv6 %q translate, want %v and none", got, six, want)
			}
		})
	}
}

// TestTranslationsRest: behind a look the next one waits.
func TestTranslationsRest(t *testing.T) {
	asked := Translations{looked: true, rest: time.Now().Add(time.Hour), generation: 1<<32 - 1, four: "t"}
	bpftest.Do(t, bpftest.Namespace(t), func() error {
		var err error
		if asked.conn, err = dial(0); err != nil {
			return err
		}
		defer asked.Close()
		if got, err := asked.Of(false); got != "t" || err != nil {
			t.Errorf("while it rests: %q, %v", got, err)
		}
		asked.rest = time.Now()
		if got, err := asked.Of(false); got != "" || err != nil {
			t.Errorf("behind that: %q, %v", got, err)
		}
		return nil
	})
}
