package nft

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

func openCutter(t testing.TB, ns *netns.Namespace) *Cutter {
	t.Helper()
	c, err := OpenCutter(ns.FD())
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	return c
}

// silent accepts connections and sends nothing. It returns the server's ends.
func silent(t testing.TB, ns *netns.Namespace, port uint16) <-chan net.Conn {
	t.Helper()
	ends := make(chan net.Conn, 100)
	listen(t, ns, port, func(c net.Conn) { ends <- c })
	return ends
}

// ends waits for the end of a connection.
func ends(t *testing.T, c net.Conn) {
	t.Helper()
	const within = 20 * time.Second
	_ = c.SetReadDeadline(time.Now().Add(within))
	_, err := c.Read(make([]byte, 1))
	if !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.ECONNABORTED) && !errors.Is(err, io.EOF) {
		t.Errorf("%s: %v, want a reset within %v", c.LocalAddr(), err, within)
	}
}

func TestCut(t *testing.T) {
	w := newWorld(t)
	accepted := silent(t, w.server, 25)
	relayed := silent(t, w.server, 925)
	g := openGate(t, inMode(Redirect, w.server))
	rebuild(t, g, minute(member4, member6)...)
	cutter := openCutter(t, w.server)
	tests := []struct {
		name     string
		from, to netip.Addr
		prefix   string
		server   <-chan net.Conn
	}{
		{"redirected", member4, server4, "192.0.2.2/32", relayed},
		{"redirected", member6, server6, "2001:db8::2/128", relayed},
		{"not redirected", strange4, server4, "192.0.2.8/30", accepted},
		{"not redirected", strange6, server6, "2001:db8::8/125", accepted},
		{"IPv4-mapped", strange4, server4, "::ffff:192.0.2.9/128", accepted},
	}
	for _, tt := range tests {
		t.Run(tt.name+" "+tt.from.String(), func(t *testing.T) {
			client := w.hold(t, netip.AddrPortFrom(tt.from, 0), netip.AddrPortFrom(tt.to, 25))
			bystander := w.hold(t, netip.AddrPortFrom(static4A, 0), netip.AddrPortFrom(server4, 25))
			server := <-tt.server
			other := <-relayed
			sockets, entries, err := cutter.Cut([]uint16{25, 925}, netip.MustParsePrefix(tt.prefix))
			if err != nil || sockets != 1 || entries != 1 {
				t.Errorf("got %d sockets, %d entries, %v, want one of each", sockets, entries, err)
			}
			ends(t, client)
			ends(t, server)
			bpftest.Send(t, bystander, other, "NOOP\r\n")
		})
	}
	if s, e, err := cutter.Cut([]uint16{25, 925}, netip.MustParsePrefix("192.0.2.2/32")); s+e != 0 || err != nil {
		t.Errorf("nothing to cut: got %d, %d, %v", s, e, err)
	}
	client4 := w.hold(t, netip.AddrPortFrom(strange4, 0), netip.AddrPortFrom(server4, 25))
	client6 := w.hold(t, netip.AddrPortFrom(strange6, 0), netip.AddrPortFrom(server6, 25))
	s, e, err := cutter.Cut([]uint16{25}, netip.MustParsePrefix("192.0.2.8/30"), netip.Prefix{}, netip.PrefixFrom(member4, 32), netip.PrefixFrom(strange6, 128))
	if s != 2 || e != 2 || err == nil {
		t.Errorf("many, with one that is no prefix: got %d, %d, %v, want 2 of each and an error", s, e, err)
	}
	ends(t, client4)
	ends(t, client6)
	other := w.hold(t, netip.AddrPortFrom(strange4, 0), netip.AddrPortFrom(server4, 25))
	if n, m, err := cutter.Cut(nil, netip.PrefixFrom(strange4, 32)); n+m != 0 || err == nil {
		t.Errorf("no ports: got %d, %d, %v, want an error", n, m, err)
	}
	_ = (<-accepted).Close() // those that were cut
	_ = (<-accepted).Close()
	bpftest.Send(t, other, <-accepted, "NOOP\r\n")
	if _, _, err := cutter.Cut([]uint16{25}, netip.Prefix{}); err == nil {
		t.Error("no prefix: got no error")
	}
}

// Among very many others, a connection ends as fast.
func TestCutAmongMany(t *testing.T) {
	w := newWorld(t)
	accepted := silent(t, w.server, 25)
	g := openGate(t, inMode(Redirect, w.server)) // which has connections tracked
	rebuild(t, g)
	const entries = 60_000 // net.netfilter.nf_conntrack_max has 65,536 with less than 4 GiB
	c := openCutter(t, w.server)
	for i := range entries / 2 {
		track(t, c, nth4(i), server4)
		track(t, c, nth6(1000+i), server6)
	}
	for _, addr := range []struct{ from, to netip.Addr }{{member4, server4}, {member6, server6}} {
		client := w.hold(t, netip.AddrPortFrom(addr.from, 0), netip.AddrPortFrom(addr.to, 25))
		server := <-accepted
		prefix := netip.PrefixFrom(addr.from, addr.from.BitLen())
		start := time.Now()
		if n, err := c.Forget([]uint16{25}, prefix); n != 0 || err != nil {
			t.Errorf("forgot %d, %v, want none", n, err)
		}
		forgotten := time.Since(start)
		start = time.Now()
		sockets, n, err := c.Cut([]uint16{25}, prefix)
		if err != nil || sockets != 1 || n != 1 {
			t.Errorf("got %d sockets, %d entries, %v, want one of each", sockets, n, err)
		}
		t.Logf("%s, of %d entries: nothing to forget after %v, cut after %v", addr.from, entries, forgotten, time.Since(start))
		ends(t, client)
		ends(t, server)
	}
}

// track makes an entry of a connection to port 25 that nobody has.
func track(t testing.TB, c *Cutter, from, to netip.Addr) {
	t.Helper()
	family, source := byte(unix.AF_INET), uint16(ctaIPv4Source)
	if from.Is6() {
		family, source = unix.AF_INET6, ctaIPv6Source
	}
	a := attributes{family, unix.NFNETLINK_V0, 0, 0}
	tuple := func(typ uint16, from, to netip.Addr, fromPort, toPort uint16) {
		at := a.open(typ)
		ip := a.open(ctaTupleIP)
		a.bytes(source, from.AsSlice())
		a.bytes(source+1, to.AsSlice())
		a.close(ip)
		proto := a.open(ctaTupleProto)
		a.bytes(ctaProtoNum, []byte{unix.IPPROTO_TCP})
		a.bytes(ctaProtoSourcePort, binary.BigEndian.AppendUint16(nil, fromPort))
		a.bytes(ctaProtoDestPort, binary.BigEndian.AppendUint16(nil, toPort))
		a.close(proto)
		a.close(at)
	}
	tuple(ctaTupleOrig, from, to, 50000, 25)
	tuple(2, to, from, 25, 50000)                                                // CTA_TUPLE_REPLY
	a.uint32(7, 600)                                                             // CTA_TIMEOUT
	a.bytes(4|unix.NLA_F_NESTED, []byte{12, 0, 1, 0x80, 5, 0, 1, 0, 3, 0, 0, 0}) // CTA_PROTOINFO: ESTABLISHED
	_, err := c.tracking.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK << 8, Flags: netlink.Request | netlink.Create | netlink.Acknowledge},
		Data:   a,
	})
	must(t, err)
}
