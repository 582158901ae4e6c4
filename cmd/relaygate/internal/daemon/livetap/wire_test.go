package livetap

import (
	"log/slog"
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	tcx "github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/config"
	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/engine"
)

// TestOtherInterfaces: what comes in by those of a host that are not named is seen too,
// also by one that was made later.
func TestOtherInterfaces(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.RequireLinux(t, 6, 6, "tcx")
	bpftest.In(t, bpftest.Namespace(t), func() {
		add := func(name string) int {
			l := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}
			must(t, netlink.LinkAdd(l))
			return l.Index
		}
		add("lan")
		cfg := &config.Config{Interfaces: []string{"lan", "tunnel"}, Services: map[uint16]authz.Service{143: {Protocol: authz.IMAP}}}
		tap, err := openWireTap(cfg, &Trust{}, slog.New(slog.DiscardHandler), control.NewHub())
		must(t, err)
		defer bpftest.Close(t, tap)
		w := tap.(*wireTap)
		late := add("late")
		// The kernel has told of it, and that was read before it was listed.
		if came, err := w.others.links.came(w.knows); err != nil || !came {
			t.Errorf("it came: %v, %v", came, err)
		}
		same := func(want bool) {
			t.Helper()
			if got := w.areTapped(maps.Clone(w.others.tapped)); got != want {
				t.Errorf("all are tapped: %v, want %v", got, want)
			}
		}
		same(false)
		w.others.below = 0
		if w.keepOthers(); w.others.below == 0 {
			t.Error("connections of before it was tapped are believed")
		}
		same(true)
		peer, err := netlink.LinkByName("lan-peer")
		must(t, err)
		const loopback = 1
		for _, index := range []int{loopback, peer.Attrs().Index, late} {
			if on, err := w.programs.Attached(index); err != nil || !on {
				t.Errorf("interface %d: attached %v, %v", index, on, err)
			}
		}
		must(t, netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "late", Index: late}}))
		same(false)
		w.keepOthers()
		same(true)
		if w.others.tapped[late] || len(w.others.tapped) != 2 {
			t.Errorf("it still knows the interfaces %v", w.others.tapped)
		}
		// One that is named is another until it is tapped as such.
		tunnel := add("tunnel")
		if w.keepOthers(); !w.others.tapped[tunnel] {
			t.Error("what comes in by a named one is not seen at once")
		}
		w.follow("tunnel")
		same(true)
		if w.keepOthers(); w.others.tapped[tunnel] || !w.isNamed(tunnel) {
			t.Errorf("it is %v, %v", w.others.tapped, w.attached)
		}
		if on, err := w.programs.Attached(tunnel); err != nil || !on {
			t.Errorf("attached %v, %v", on, err)
		}
	})
}

// crowd attaches as many programs to what comes in by an interface as there is room for
// (BPF_MPROG_MAX), and returns what takes the last away.
func crowd(t *testing.T, index int) (leave func()) {
	t.Helper()
	for n := 0; ; n++ {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
		})
		must(t, err)
		t.Cleanup(func() { bpftest.Close(t, prog) })
		l, err := tcx.AttachTCX(tcx.TCXOptions{Interface: index, Program: prog, Attach: ebpf.AttachTCXIngress})
		if err != nil && n > 0 {
			return leave
		}
		must(t, err)
		leave = func() { bpftest.Close(t, l) }
		t.Cleanup(func() { _ = l.Close() })
	}
}

// TestInsteadOfTCX: where another interface cannot be seen by tcx, a packet socket takes
// its place, and nothing of it is left.
func TestInsteadOfTCX(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.RequireLinux(t, 6, 6, "tcx")
	bpftest.In(t, bpftest.Namespace(t), func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan"}, PeerName: "lan-peer"}))
		peer, err := netlink.LinkByName("lan-peer")
		must(t, err)
		crowd(t, peer.Attrs().Index)
		cfg := &config.Config{Interfaces: []string{"lan"}, Services: map[uint16]authz.Service{143: {Protocol: authz.IMAP}}}
		trust := &Trust{}
		if _, err := openWireTap(cfg, trust, slog.New(slog.DiscardHandler), control.NewHub()); err == nil || !strings.Contains(err.Error(), "lan-peer") {
			t.Errorf("tcx: %v", err)
		}
		if trust.unsure || trust.tap != nil {
			t.Errorf("it is left with %+v", trust)
		}
	})
}

// TestUnseenInterface: while what comes in by another interface cannot be seen, or was
// not, no login is believed.
func TestUnseenInterface(t *testing.T) {
	bpftest.RequireRoot(t)
	bpftest.RequireLinux(t, 6, 6, "tcx")
	bpftest.In(t, bpftest.Namespace(t), func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "lan"}, PeerName: "lan-peer"}))
		cfg := &config.Config{Interfaces: []string{"lan"}, Services: map[uint16]authz.Service{143: {Protocol: authz.IMAP}}}
		trust := &Trust{}
		tap, err := openWireTap(cfg, trust, slog.New(slog.DiscardHandler), control.NewHub())
		must(t, err)
		defer bpftest.Close(t, tap)
		w := tap.(*wireTap)
		other, err := netlink.LinkByName("lan-peer")
		must(t, err)
		lan, peer := w.attached["lan"], other.Attrs().Index
		must(t, w.programs.Detach(peer)) // as an administrator can
		if w.areTapped(maps.Clone(w.others.tapped)) {
			t.Error("it is not missed")
		}
		leave := crowd(t, peer)
		w.keepOthers()
		c := authz.Conn{Client: netip.MustParseAddrPort("192.0.2.1:9"), Server: netip.MustParseAddrPort("192.0.2.2:143")}
		if belief, why := trust.Confirm(c, engine.Opening{Time: time.Now()}); belief == authz.Believed || !strings.Contains(why, "lan-peer") {
			t.Errorf("%v: %q", belief, why)
		}
		leave()
		w.keepOthers()
		if words := w.unseen(); words != "" {
			t.Errorf("still unseen: %s", words)
		}
		if belief, why := trust.Confirm(c, engine.Opening{Time: time.Now()}); belief == authz.Believed || !strings.Contains(why, "an interface came") {
			t.Errorf("one of before: %v: %q", belief, why)
		}
		for _, index := range []int{lan, peer} {
			if on, err := w.programs.Attached(index); err != nil || !on {
				t.Errorf("interface %d: attached %v, %v", index, on, err)
			}
		}
	})
}
