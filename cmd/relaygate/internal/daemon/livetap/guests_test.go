package livetap

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
)

var must = bpftest.Must

// TestGuests: what leaves an interface can be anybody's who reaches it by a bridge
// above it or a macvlan on it.
func TestGuests(t *testing.T) {
	const eth0 = 2
	for _, tt := range []struct {
		name  string
		links []link // with the indexes from 3 on
		want  string
	}{
		{"alone", nil, ""},
		{"port of a bridge", []link{{"bridge", 0, 0}}, "bridge3"},
		{"port of another bridge", []link{{"openvswitch", 0, 0}}, "openvswitch3"},
		{"bond", []link{{"bond", 0, 0}}, ""},
		{"bond that is a port", []link{{"bond", 4, 0}, {"bridge", 0, 0}}, "bridge4"},
		{"in a VRF", []link{{"vrf", 0, 0}}, ""},
		{"beside a port", []link{{"bond", 0, 0}, {"veth", 5, 0}, {"bridge", 0, 0}}, ""},
		{"VLAN", []link{{"bond", 0, 0}, {"vlan", 0, eth0}}, ""},
		{"VLAN that is a port", []link{{"bond", 0, 0}, {"vlan", 5, eth0}, {"bridge", 0, 0}}, "bridge5"},
		{"VLAN on a bond that is a port", []link{{"bond", 0, 0}, {"vlan", 5, 3}, {"bridge", 0, 0}}, "bridge5"},
		{"macvlan", []link{{"bond", 0, 0}, {"macvlan", 0, eth0}}, "macvlan4"},
		{"macvlan on a bond", []link{{"bond", 0, 0}, {"macvlan", 0, 3}}, "macvlan4"},
		{"macvtap on a VLAN", []link{{"bond", 0, 0}, {"vlan", 0, eth0}, {"macvtap", 0, 4}}, "macvtap5"},
		{"ipvlan", []link{{"bond", 0, 0}, {"ipvlan", 0, eth0}}, "ipvlan4"},
		{"of another namespace's eth0", []link{{"bond", 0, 0}, {"macvlan", 0, -eth0}}, ""},
		{"a veth's peer", []link{{"bond", 0, 0}, {"veth", 0, eth0}}, ""},
	} {
		links := []netlink.Link{link{"device", 3, 0}.at(eth0)}
		for i, l := range tt.links {
			links = append(links, l.at(3+i))
		}
		if len(tt.links) == 0 {
			links[0].Attrs().MasterIndex = 0
		}
		got := ""
		if by := guests(links, links[0]); by != nil {
			got = by.Attrs().Name
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// link is an interface: a parent below 0 is another namespace's.
type link struct {
	kind           string
	master, parent int
}

func (l link) at(index int) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Index, attrs.Name, attrs.MasterIndex, attrs.ParentIndex = index, fmt.Sprint(l.kind, index), l.master, l.parent
	if l.parent < 0 {
		attrs.ParentIndex, attrs.NetNsID = -l.parent, 0
	}
	return &netlink.GenericLink{LinkAttrs: attrs, LinkType: l.kind}
}

// TestInterfacesOfGuests asks the kernel which interfaces there are.
func TestInterfacesOfGuests(t *testing.T) {
	bpftest.In(t, bpftest.Namespace(t), func() {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		must(t, netlink.LinkAdd(bridge))
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port0", MasterIndex: bridge.Index}, PeerName: "eth0"}
		must(t, netlink.LinkAdd(port))
		eth0, err := netlink.LinkByName("eth0")
		must(t, err)
		attrs := netlink.LinkAttrs{Name: "guest0", ParentIndex: eth0.Attrs().Index}
		must(t, netlink.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}))
		for name, want := range map[string]string{
			"lo": "", "br0": "", "guest0": "",
			"port0": "a part of br0, where containers and guests could speak as this host: name br0 in watch.interfaces",
			"eth0":  "also carries guest0, by which containers and guests could speak as this host",
		} {
			cfg := &config.Config{Interfaces: []string{name}, Services: map[uint16]authz.Service{143: {Protocol: authz.IMAP}}}
			tap, err := openPacketTap(cfg, &Trust{}, slog.New(slog.DiscardHandler), control.NewHub())
			if err == nil {
				bpftest.Close(t, tap)
			}
			if got := fmt.Sprint(err); (err == nil) != (want == "") || !strings.Contains(got, want) {
				t.Errorf("%s: %v, want %q", name, err, want)
			}
		}
	})
}

// TestGuestsCome: what leaves by an interface that becomes one of guests too is not
// believed any more, until it is none.
func TestGuestsCome(t *testing.T) {
	bpftest.In(t, bpftest.Namespace(t), func() {
		eth0 := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}
		must(t, netlink.LinkAdd(eth0))
		cfg := &config.Config{Interfaces: []string{"eth0"}, Services: map[uint16]authz.Service{143: {Protocol: authz.IMAP}}}
		tap, err := openPacketTap(cfg, &Trust{}, slog.New(slog.DiscardHandler), control.NewHub())
		must(t, err)
		defer bpftest.Close(t, tap)
		p := tap.(*packetTap)
		guest := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "guest0", ParentIndex: eth0.Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		must(t, netlink.LinkAdd(guest))
		p.follow()
		if len(p.at) != 0 || len(p.not) != 1 || !strings.Contains(problem("eth0", p.not["eth0"]), "also carries guest0") {
			t.Errorf("with a guest: %v, %v", p.at, p.not)
		}
		must(t, netlink.LinkDel(guest))
		p.follow()
		if p.at["eth0"] != eth0.Index || len(p.not) != 0 {
			t.Errorf("without one: %v, %v", p.at, p.not)
		}
	})
}

// TestGuestsElsewhere: that other interfaces come and go, as those of containers do, is no
// doubt about one.
func TestGuestsElsewhere(t *testing.T) {
	ns := bpftest.Namespace(t)
	bpftest.In(t, ns, func() {
		for i := range 50 { // more than the kernel lists at once
			pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("eth%d", i)}, PeerName: fmt.Sprintf("peer%d", i)}
			must(t, netlink.LinkAdd(pair))
		}
	})
	ended, others := make(chan struct{}), make(chan error)
	go func() {
		others <- ns.Do(func() error {
			for {
				select {
				case <-ended:
					return nil
				default:
				}
				l := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other"}}
				if err := errors.Join(netlink.LinkAdd(l), netlink.LinkDel(l)); err != nil {
					return err
				}
			}
		})
	}()
	bpftest.Do(t, ns, func() error {
		p := &packetTap{names: []string{"eth0"}}
		for range 200 {
			if _, not := p.find(); len(not) > 0 {
				return not["eth0"]
			}
		}
		return nil
	})
	close(ended)
	must(t, <-others)
}
