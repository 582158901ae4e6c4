// Package netns makes throw-away network namespaces for the demo and for
// kernel tests: unnamed (they vanish with the last reference), joined by veth
// pairs, and entered on threads that die when they cannot be restored.
package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Namespace is a network namespace held open by a file descriptor.
type Namespace struct{ file *os.File }

// New makes a namespace with its loopback interface up.
func New() (*Namespace, error) {
	ns := &Namespace{}
	err := onThrowawayThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return fmt.Errorf("open new network namespace: %w", err)
		}
		ns.file = f
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find loopback: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set loopback up: %w", err)
		}
		return nil
	})
	if err != nil {
		_ = ns.Close()
		return nil, err
	}
	return ns, nil
}

// FD is the namespace's file descriptor, valid until Close.
func (ns *Namespace) FD() int { return int(ns.file.Fd()) }

// Close drops the reference. The namespace goes when its last process, socket
// and reference are gone.
func (ns *Namespace) Close() error {
	if ns == nil || ns.file == nil {
		return nil
	}
	return ns.file.Close()
}

// Do runs fn on a thread inside the namespace. Sockets that fn opens stay in
// it; goroutines that fn starts do not.
func (ns *Namespace) Do(fn func() error) error {
	return onThrowawayThread(func() error {
		if err := unix.Setns(ns.FD(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// errEnded says that a function ended its goroutine, as tests do that fail there.
var errEnded = errors.New("what was run did not return")

// onThrowawayThread runs fn on a locked thread that is never unlocked, so that
// the runtime ends the thread with the goroutine and no later goroutine can
// find itself in a foreign namespace.
func onThrowawayThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := errEnded
		defer func() { done <- err }()
		err = fn()
	}()
	return <-done
}

// Join makes a veth pair between two namespaces and sets both ends up with the
// given addresses (a prefix each, without duplicate address detection). Packets pass
// when it returns.
func Join(a *Namespace, nameA string, addrA []netip.Prefix, b *Namespace, nameB string, addrB []netip.Prefix) error {
	err := a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: nameA},
			PeerName:      nameB,
			PeerNamespace: netlink.NsFd(b.FD()),
		})
	})
	if err != nil {
		return fmt.Errorf("make veth pair %s-%s: %w", nameA, nameB, err)
	}
	if err := a.Do(func() error { return AddAddresses(nameA, addrA...) }); err != nil {
		return err
	}
	if err := b.Do(func() error { return AddAddresses(nameB, addrB...) }); err != nil {
		return err
	}
	return errors.Join(a.Do(func() error { return risen(nameA) }), b.Do(func() error { return risen(nameB) }))
}

// risen waits until an interface works whose other end is up. The kernel sees to that
// when it has time; until then it drops what is sent by it without a word.
func risen(name string) error {
	const limit = 20 * time.Second
	for end := time.Now().Add(limit); ; <-time.After(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		switch {
		case err != nil:
			return fmt.Errorf("look at interface %s: %w", name, err)
		case link.Attrs().OperState == netlink.OperUp:
			// The lock that this takes is the one under which the kernel does the rest.
			return netlink.LinkSetUp(link)
		case time.Now().After(end):
			return fmt.Errorf("interface %s is %s for %v", name, link.Attrs().OperState, limit)
		}
	}
}

// AddAddresses gives an interface of the current namespace addresses and sets
// it up.
func AddAddresses(name string, addrs ...netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	for _, p := range addrs {
		addr, err := netlink.ParseAddr(p.String())
		if err != nil {
			return fmt.Errorf("address %s: %w", p, err)
		}
		if p.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", p, name, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

// AddRoute gives the current namespace a route by a neighbour or, without one, takes the
// whole prefix for its own (ip-route(8), type local).
func AddRoute(to netip.Prefix, gw netip.Addr) error {
	dst, err := netlink.ParseIPNet(to.String())
	if err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	r := &netlink.Route{Dst: dst, Gw: gw.AsSlice()}
	if !gw.IsValid() {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find loopback: %w", err)
		}
		r.LinkIndex, r.Type, r.Table, r.Scope = lo.Attrs().Index, unix.RTN_LOCAL, unix.RT_TABLE_LOCAL, netlink.SCOPE_HOST
	}
	if err := netlink.RouteAdd(r); err != nil {
		return fmt.Errorf("route to %s: %w", to, err)
	}
	return nil
}

// DefaultRoute sends everything that is not local through gw.
func (ns *Namespace) DefaultRoute(gw netip.Addr) error {
	return ns.Do(func() error {
		err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()})
		if err != nil {
			return fmt.Errorf("default route via %s: %w", gw, err)
		}
		return nil
	})
}
