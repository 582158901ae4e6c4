package livetap

import (
	"testing"

	"github.com/vishvananda/netlink"

	"relaygate/bpf/bpftest"
)

// TestLinksCome: one that came is told of once, also if it is gone by then; what is known
// may change.
func TestLinksCome(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.Do(t, bpftest.Namespace(t), func() error {
		l, err := openLinks()
		if err != nil {
			return err
		}
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
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		if !came() || came() {
			t.Error("it is not told, or twice")
		}
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		known[veth.Index], known[peer.Attrs().Index] = true, true
		if err := netlink.LinkSetUp(veth); err != nil {
			return err
		}
		if came() {
			t.Error("what is known has come")
		}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "short"}}); err != nil {
			return err
		}
		if err := netlink.LinkDel(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "short"}}); err != nil {
			return err
		}
		if !came() {
			t.Error("one that is gone again was not told of")
		}
		return nil
	})
}
