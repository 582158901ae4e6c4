package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/hostinfo"
	"relaygate/nft"
)

// interfaces looks for those that are to be tapped.
func interfaces(cfg *config.Config) []Finding {
	var list []Finding
	for _, name := range cfg.Interfaces {
		needed := cfg.Tap != config.TapAuto || cfg.Inside()
		i, err := net.InterfaceByName(name)
		if op := (*net.OpError)(nil); errors.As(err, &op) {
			err = op.Err // without "route ip+net"
		}
		f := found("interface "+name, needed, "is there", err, "what passes there would not be seen: correct watch.interfaces, or make it")
		if err == nil && i.Flags&net.FlagUp == 0 {
			f.State, f.Words, f.Then = Advice, "is down", "nothing passes there"
		}
		if link, err := netlink.LinkByName(name); err == nil && hostinfo.PartOf(link) != "" {
			f.State, f.Words = Advice, "is a part of "+hostinfo.PartOf(link)
			f.Then = "name that one in watch.interfaces: this one does not show what is this host's"
		}
		list = append(list, f)
	}
	return list
}

// forwarding looks whether this host is a gateway at all, for the families of
// its mail servers.
func forwarding(cfg *config.Config) []Finding {
	var list []Finding
	for _, family := range []struct {
		name, file string
		is         func(netip.Addr) bool
	}{
		{"IPv4", "/proc/sys/net/ipv4/ip_forward", netip.Addr.Is4},
		{"IPv6", "/proc/sys/net/ipv6/conf/all/forwarding", netip.Addr.Is6},
	} {
		if !slices.ContainsFunc(cfg.Gate.Servers, func(p netip.Prefix) bool { return family.is(p.Addr()) }) {
			continue
		}
		on, err := os.ReadFile(family.file)
		if err == nil && strings.TrimSpace(string(on)) == "0" {
			err = errors.New("is off")
		}
		list = append(list, found("forwarding of "+family.name, true, "is on", err,
			fmt.Sprintf("nothing reaches the mail servers through this host: write 1 to %s (sysctl.d(5))", family.file)))
	}
	return list
}

// forwarded looks whether a packet socket would show what others say, too.
func forwarded(cfg *config.Config) (list []Finding) {
	if cfg.Tap != config.TapAFPacket {
		return nil
	}
	for _, six := range []bool{false, true} {
		name := map[bool]string{false: "IPv4", true: "IPv6"}[six]
		f := Finding{Subject: "forwarding of " + name, State: OK, Words: "is off"}
		if hostinfo.Forwards(six) {
			f.State, f.Words = Advice, "is on"
			f.Then = "logins over it are not believed, as a packet socket does not show whose packets leave: turn it off, or use another tap"
		}
		list = append(list, f)
	}
	return list
}

// translated looks whether the firewall makes ways to the mail server that a tap on
// interfaces does not show.
func translated(cfg *config.Config) []Finding {
	if cfg.Tap != config.TapTCX && cfg.Tap != config.TapAFPacket {
		return nil
	}
	return ofRules("translation", func(rules *nft.Translations) (list []Finding) {
		for _, six := range []bool{false, true} {
			name := map[bool]string{false: "IPv4", true: "IPv6"}[six]
			table, err := rules.Of(six)
			f := found("translation of "+name, true, "no rule does", err, rulesUnknown)
			if table != "" {
				f.State, f.Words = Advice, "by rules of the table "+table
				f.Then = "logins over it are not believed, as a tap on interfaces does not show what comes by another address or port: use tap cgroup, or do without them"
			}
			list = append(list, f)
		}
		return list
	})
}

// offloaded looks whether the firewall forwards past interfaces of a gateway that are made
// of others.
func offloaded(cfg *config.Config) []Finding {
	stacked := func(name string) bool {
		l, err := netlink.LinkByName(name)
		return err == nil && !hostinfo.Plain(l)
	}
	if !slices.ContainsFunc(cfg.Interfaces, stacked) {
		return nil
	}
	return ofRules("flow tables", func(rules *nft.Translations) []Finding {
		table, err := rules.Offloads()
		f := found("flow tables", true, "no rule adds to one", err, rulesUnknown)
		if table != "" {
			f.State, f.Words = Advice, "are added to by rules of the table "+table
			f.Then = "logins are not believed, as they forward past a bridge or VLAN that is tapped: do without them, or let an interface of its own lead to the mail servers"
		}
		return []Finding{f}
	})
}

const rulesUnknown = "logins are not believed while it is not known"

// ofRules asks the firewall's rules about a subject.
func ofRules(subject string, ask func(*nft.Translations) []Finding) []Finding {
	rules, err := nft.OpenTranslations(0)
	if err != nil {
		return []Finding{found(subject, true, "", err, rulesUnknown)}
	}
	defer func() { _ = rules.Close() }() // they were only looked at
	return ask(rules)
}
