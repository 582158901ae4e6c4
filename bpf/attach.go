package bpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attach attaches sockops last: who is followed is followed from its first
// packet on.
func (t *Tap) attach() error {
	for _, p := range []struct {
		prog   *ebpf.Program
		attach ebpf.AttachType
	}{
		{t.objs.RelaygateOut, ebpf.AttachCGroupInetEgress},
		{t.objs.RelaygateIn, ebpf.AttachCGroupInetIngress},
		{t.objs.RelaygateConn, ebpf.AttachCGroupSockOps},
	} {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: t.cgroup, Attach: p.attach, Program: p.prog})
		if errors.Is(err, unix.EPERM) { // it would be so without BPF_F_ALLOW_MULTI
			err = fmt.Errorf("%w (a program may be there that lets none stand beside it: bpftool cgroup show %s)", err, t.cgroup)
		}
		if err != nil {
			return fmt.Errorf("attach %s to cgroup %s: %w", p.attach, t.cgroup, err)
		}
		t.links = append(t.links, l)
	}
	return nil
}

// Attached says whether all programs are still attached: an administrator can detach
// them (bpftool link detach), and nothing would be seen any more.
func (t *Tap) Attached() (bool, error) {
	for _, l := range t.links {
		if on, err := attached(l); !on || err != nil {
			return false, err
		}
	}
	return len(t.links) > 0, nil
}

// Reattach attaches the programs again. What connections did meanwhile nobody knows:
// none that was followed is followed any more, no Closed of theirs will come, and their
// cookies are returned, also with an error.
func (t *Tap) Reattach() (cookies []uint64, err error) {
	for _, l := range t.links {
		err = errors.Join(err, l.Close())
	}
	t.links = nil
	if err != nil {
		return nil, fmt.Errorf("detach the tap: %w", err)
	}
	cookies, err = cookiesOf[tapFlow](t.objs.Flows)
	for _, cookie := range cookies {
		err = errors.Join(err, t.Forget(cookie))
	}
	if err != nil {
		return cookies, err
	}
	return cookies, t.attach()
}

// Known lists the connections of which anything is kept: those that are followed, also
// where nothing of them is recorded any more, and those that showed a ServerHello.
func (t *Tap) Known() (cookies []uint64, err error) {
	followed, err := cookiesOf[tapFlow](t.objs.Flows)
	shaken, failed := cookiesOf[[randomBytes]byte](t.objs.Hellos)
	cookies = append(followed, shaken...)
	slices.Sort(cookies)
	return slices.Compact(cookies), errors.Join(err, failed)
}

// End forgets all that is kept of a connection that is over, as if its end had been told.
// It is no error if nothing is.
func (t *Tap) End(cookie uint64) error {
	return errors.Join(t.Forget(cookie), t.forgetHello(cookie))
}

// forgetHello is that of hello.h.
func (t *Tap) forgetHello(cookie uint64) error {
	var random [randomBytes]byte
	var origin tapOrigin
	err := t.objs.Hellos.Lookup(&cookie, &random)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	if err == nil {
		err = t.objs.Randoms.Lookup(&random, &origin)
	}
	if err == nil && origin.Owner == cookie {
		err = t.objs.Randoms.Delete(&random)
	}
	if err == nil || errors.Is(err, ebpf.ErrKeyNotExist) {
		err = t.objs.Hellos.Delete(&cookie)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("forget the handshake of a connection: %w", err)
	}
	return nil
}

// cookiesOf lists the keys of a map, with values of type V. In parts: one by one a busy
// table is begun anew again and again.
func cookiesOf[V any](m *ebpf.Map) (cookies []uint64, err error) {
	const part = 1024
	var at ebpf.MapBatchCursor
	keys, values := make([]uint64, part), make([]V, part)
	for {
		n, err := m.BatchLookup(&at, keys, values, nil)
		cookies = append(cookies, keys[:n]...)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return cookies, nil
		}
		if err != nil {
			return cookies, fmt.Errorf("list the connections: %w", err)
		}
	}
}

// Attached is that of a Tap, for an interface. On a host another program ahead of what
// sees the clients' segments counts as if that were not attached: it may let some pass.
func (w *Wire) Attached(index int) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.links[index] {
		l, ok := c.(link.Link)
		if !ok {
			continue
		}
		if on, err := attached(l); !on || err != nil {
			return false, err
		}
	}
	if len(w.links[index]) == 0 || w.inside {
		return len(w.links[index]) > 0, nil
	}
	return w.first(index)
}

// first says whether what sees the clients' segments is ahead of other programs.
func (w *Wire) first(index int) (bool, error) {
	list, err := Programs(index, ebpf.AttachTCXIngress)
	if err != nil {
		return false, fmt.Errorf("list the programs of interface %d: %w", index, err)
	}
	info, err := w.objs.RelaygateArrive.Info()
	if err != nil {
		return false, fmt.Errorf("look at the tap: %w", err)
	}
	own, ok := info.ID()
	return ok && len(list) > 0 && list[0].ID == own, nil
}

// Programs lists what is attached to an interface or a control group, in its order. It
// asks for the number first, and again if one more came until it asked for them.
func Programs(target int, at ebpf.AttachType) ([]link.AttachedProgram, error) {
	for {
		list, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: at})
		switch {
		case err == nil:
			return list.Programs, nil
		case !errors.Is(err, unix.ENOSPC):
			return nil, err
		}
	}
}

// attached says whether a link's program is attached to anything.
func attached(l link.Link) (bool, error) {
	info, err := l.Info()
	if errors.Is(err, link.ErrNotSupported) {
		return true, nil // it is no link, which nobody can detach by its number
	}
	if err != nil {
		return false, fmt.Errorf("look at the tap: %w", err)
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		return cgroup.CgroupId != 0, nil
	}
	if tcx := info.TCX(); tcx != nil {
		return tcx.Ifindex != 0, nil
	}
	return true, nil
}
