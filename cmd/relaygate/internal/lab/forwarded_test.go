package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

// TestForwardedWords: a host that forwards for a container sends what that says with the
// host's address, and the kernel knows the connection: the server has heard nothing of
// the login.
func TestForwardedWords(t *testing.T) {
	container := netip.MustParseAddr("10.9.9.9")
	for _, way := range []struct {
		name    string
		from    netip.Addr
		prepare func() error // of the host
		tcx     string       // why nobody is believed by that at all
	}{
		{"own addresses are taken from outside", ghostServer.Addr(), func() error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/to-client6/accept_local", []byte("1"), 0)
		}, ""},
		{"translated, where the connection was forgotten", container, func() error {
			return errors.Join(translate(anotherSource(ghostServer.Addr())...), netlink.ConntrackTableFlush(netlink.ConntrackTable))
		}, "the firewall translates IPv4"},
	} {
		for _, tap := range []string{"afpacket", "tcx"} {
			t.Run(way.name+", "+tap, func(t *testing.T) {
				w, c := ghostly(t, "tap = \""+tap+"\"\ninterfaces = [\"to-stranger\", \"to-client4\"]\n")
				bpftest.Sysctl(t, w.Server, "1", "ipv4/ip_forward")
				inside := wire{ns: w.Client6.NS, iface: "eth0", to: bpftest.Interface(t, w.Server, "to-client6").HardwareAddr, port: c.port}
				forge(t, c, inside, func() netip.Addr {
					bpftest.Do(t, w.Server, way.prepare)
					return way.from
				})
				refused := "this host forwards IPv4"
				if tap == "tcx" {
					refused = way.tcx
				}
				if refused == "" {
					w.onlyClient4(t)
					return
				}
				must(t, w.says(t, "status", "logins over IPv4 are not believed: "+refused)())
				login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
				settles(t, 2*time.Second, w.says(t, "why "+lab.Client4.String(), refused))
				w.grantedTo(t, 0)
			})
		}
	}
}

// anotherSource gives a packet this one.
func anotherSource(source netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: source.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
}

// translate has a rule of the current namespace translate the sources of what leaves.
func translate(rule ...expr.Any) error {
	return firewall(nftables.TableFamilyIPv4, &nftables.Chain{
		Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	}, rule...)
}

// firewall gives the current namespace a rule, in a table and a chain of its own.
func firewall(family nftables.TableFamily, chain *nftables.Chain, rule ...expr.Any) error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	chain.Name, chain.Table = "chain", c.AddTable(&nftables.Table{Name: "firewall", Family: family})
	c.AddRule(&nftables.Rule{Table: chain.Table, Chain: c.AddChain(chain), Exprs: rule})
	return c.Flush()
}

// TestForwardedWordsOfATrustedNamespace: those of a server in a trusted namespace are all
// forwarded, as those of its neighbour are. By cgroup its sockets show them.
func TestForwardedWordsOfATrustedNamespace(t *testing.T) {
	bpftest.RequireLinux(t, 6, 6, "tcx")
	const port = 1143
	w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute, Mode: `mode = "observe"`}, "")
	must(t, w.daemon.Stop())
	path := filepath.Join(t.TempDir(), "mail")
	must(t, os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), w.Server.FD()), path))
	w.opts.Exe = weak(t, "grep cgroup2 /proc/self/mounts | cut -d' ' -f2 | xargs umount -l")
	w.opts.Config = fmt.Sprintf("[watch]\nimap = [143, 1143]\ntrusted_netns = [%q]\ninterfaces = [\"to-stranger\", \"to-client4\"]\n", path)
	w.start(t)
	must(t, w.says(t, "status", "mail servers in trusted network namespaces are not believed")())
	ghostServes(t, w.Server, "eth0", 24, port)
	w.station(t, "to-stranger", ghostClient)
	end := w.wireTo(t, "to-stranger", w.Stranger.NS)
	end.port = port
	forge(t, newRawClient(t, end, 20001), wire{ns: w.gateway.Neighbour.NS, iface: "eth0", to: bpftest.Interface(t, w.gateway.Router, "dmz").HardwareAddr, port: port}, nil)
	settles(t, 2*time.Second, w.says(t, "why "+ghostClient.String(), "no socket of this host sent what the server says"))
	w.grantedTo(t, 0)
}

// forge has a client say a login that its server does not hear, and another say that
// this was good. prepare is called in between.
func forge(t *testing.T, c *rawClient, by wire, prepare func() netip.Addr) {
	t.Helper()
	c.say(1000, 0, "S", "")
	first := c.hears(func(tcp *layers.TCP) bool { return tcp.SYN }).Seq + 1
	c.say(1001, first, "A", "")
	greeting := c.hears(begins("* OK"))
	next := greeting.Seq + uint32(len(greeting.Payload))
	from := ghostServer.Addr()
	if prepare != nil {
		from = prepare()
	}
	said := segment{seq: 1001, ack: next, flags: "PA", payload: "a1 LOGIN ghost boo\r\n"}
	unheard := said.frame(t, c.wire, c.localPort)
	unheard[14+20+16]++ // its checksum
	c.send(t, unheard)
	words := segment{server: true, seq: next, ack: 1001 + uint32(len(said.payload)), flags: "PA", payload: "a1 OK done\r\n"}
	frame := words.frame(t, by, c.localPort)
	copy(frame[14+12:], from.AsSlice())
	by.send(t, checksummed(frame))
	c.hears(begins("a1 OK"))
}
