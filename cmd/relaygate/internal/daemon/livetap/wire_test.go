//go:build linux

package livetap

import (
	"log/slog"
	"testing"

	"github.com/vishvananda/netlink"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
)

// TestOtherInterfaces: what comes in by those of a host that are not named is seen too,
// also by one that was made later.
func TestOtherInterfaces(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.Do(t, bpftest.Namespace(t), func() error {
		add := func(name string) (int, error) {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
			err := netlink.LinkAdd(l)
			return l.Index, err
		}
		if _, err := add("lan"); err != nil {
			return err
		}
		cfg := &config.Config{Interfaces: []string{"lan"}, Services: map[uint16]authz.Service{143: {Protocol: authz.IMAP}}}
		tap, err := openWireTap(cfg, &Trust{}, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return err
		}
		defer bpftest.Close(t, tap)
		w := tap.(*wireTap)
		late, err := add("late")
		if err != nil {
			return err
		}
		if err := w.attachOthers(); err != nil {
			return err
		}
		peer, err := netlink.LinkByName("lan-peer")
		if err != nil {
			return err
		}
		for _, index := range []int{peer.Attrs().Index, late} {
			if on, err := w.programs.Attached(index); err != nil || !on {
				t.Errorf("interface %d: attached %v, %v", index, on, err)
			}
		}
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "late", Index: late}}); err != nil {
			return err
		}
		if err := w.attachOthers(); err != nil {
			return err
		}
		if w.others[late] || len(w.others) != 1 {
			t.Errorf("it still knows the interfaces %v", w.others)
		}
		return nil
	})
}
