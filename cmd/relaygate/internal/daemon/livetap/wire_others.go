//go:build linux

package livetap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/hostinfo"
)

// attachOthers taps what comes in by the interfaces of a host that are not named. A
// client that can reach it by one of these too, as with the help of a container, could
// have the kernel read there what the tap does not see: by the loopback device as well,
// where who makes packets here (raw(7)) can have any source. lost says that this was so with
// one that was tapped before: somebody had detached it.
func (t *wireTap) attachOthers() (lost bool, err error) {
	if t.inside {
		return false, nil
	}
	links, failed := hostinfo.Links()
	if failed != nil {
		return false, fmt.Errorf("list the interfaces: %w", failed)
	}
	gone := maps.Clone(t.others)
	for _, l := range links {
		a := l.Attrs()
		delete(gone, a.Index)
		if slices.Contains(t.names, a.Name) {
			continue
		}
		if t.others[a.Index] {
			if on, failed := t.programs.Attached(a.Index); failed != nil || on {
				continue // it cannot be looked at: as with those that are named
			}
			lost = true
			delete(t.others, a.Index)
			err = errors.Join(err, t.programs.Detach(a.Index))
		}
		switch failed := t.programs.AttachArrivals(a.Index); {
		case failed == nil:
			t.others[a.Index] = true
		case !errors.Is(failed, unix.ENODEV): // else it is gone by now
			err = errors.Join(err, fmt.Errorf("see what comes in by interface %s: %w", a.Name, failed))
		}
	}
	for index := range gone {
		delete(t.others, index)
		err = errors.Join(err, t.programs.Detach(index))
	}
	return lost, err
}

// keepOthers attaches to other interfaces as they come. While one of them is not seen
// no login is believed, nor is one behind that whose connection began before.
func (t *wireTap) keepOthers() {
	lost, err := t.attachOthers()
	was := t.trust.unseen.Load()
	if err != nil {
		words := err.Error()
		if t.trust.unseen.Store(&words); was == nil {
			t.sayOthers("no login is believed: " + reasonUnseen + words)
		}
		return
	}
	if was == nil && !lost {
		return
	}
	t.mu.Lock()
	tapped := maps.Clone(t.attached)
	t.mu.Unlock()
	for name, index := range tapped {
		// Detach closes what was followed there.
		if err := errors.Join(t.programs.Detach(index), t.programs.Attach(index)); err != nil {
			t.log.Warn("connections of before may still be read", "interface", name, "error", err)
			return
		}
	}
	t.trust.unseen.Store(nil)
	t.sayOthers("what clients send is seen again; connections of before are not read")
}

func (t *wireTap) sayOthers(words string) {
	t.log.Warn(words)
	t.hub.Tell(time.Now(), "coverage", words)
}
