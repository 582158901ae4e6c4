package livetap

import (
	"testing"

	"github.com/vishvananda/netlink"

	"relaygate/bpf/bpftest"
)

// TestLinksCome: one that came is told of once, also if it is gone by then; what is known
// may change.
func TestLinksCome(t *testing.T) {
	bpftest.In(t, bpftest.Namespace(t), func() {
		l, err := openLinks()
		must(t, err)
		defer func() {
			must(t, l.close())
		}()
		known := map[int]bool{1: true}
		came := func() bool {
			came, err := l.came(func(index int) bool { return known[index] })
			if err != nil {
				t.Error(err)
			}
			return came
		}
		if came() {
			t.Error("nothing has come")
		}
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "new"}, PeerName: "peer"}
		must(t, netlink.LinkAdd(veth))
		if !came() || came() {
			t.Error("it is not told, or twice")
		}
		peer, err := netlink.LinkByName("peer")
		must(t, err)
		known[veth.Index], known[peer.Attrs().Index] = true, true
		must(t, netlink.LinkSetUp(veth))
		if came() {
			t.Error("what is known has come")
		}
		must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "short"}}))
		must(t, netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "short"}}))
		if !came() {
			t.Error("one that is gone again was not told of")
		}
	})
}
