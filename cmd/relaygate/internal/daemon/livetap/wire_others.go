package livetap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/hostinfo"
)

// others is what is known of the interfaces of a host that are not named. A client that
// can reach it by one of these too, as with the help of a container, could have the
// kernel read there what the tap does not see: so they are tapped as well.
type others struct {
	sync.Mutex
	links  *links
	tapped map[int]bool // by index
	// unseen says why one of them is not, "" if all are. below is the first connection
	// that began behind the last time when something may not have been seen.
	unseen string
	below  uint64
}

const (
	reasonUnseen = "some of what clients send may not be seen: "
	reasonCame   = "an interface came while the connection was there, and what it brought may not have been seen"
)

// doubt says why a connection that the tap followed is not believed, "" if it is. It is
// asked with each login: the kernel tells of an interface before that brings anything.
func (t *wireTap) doubt(cookie uint64) string {
	t.others.Lock()
	defer t.others.Unlock()
	if came, err := t.others.links.came(t.knows); came || err != nil {
		t.look(came, err)
	}
	switch {
	case t.others.unseen != "":
		return reasonUnseen + t.others.unseen
	case cookie < t.others.below:
		return reasonCame
	}
	return ""
}

// unseen says why no login is believed, "" if that is not so.
func (t *wireTap) unseen() string {
	t.others.Lock()
	defer t.others.Unlock()
	return t.others.unseen
}

// seeOthers taps those that are there at the start.
func (t *wireTap) seeOthers() (err error) {
	if t.inside {
		return nil
	}
	if t.others.links, err = openLinks(); err != nil {
		return err
	}
	if _, _, err = t.attachOthers(); err == nil {
		t.others.below, err = t.programs.Doubt()
	}
	return err
}

// keepOthers taps other interfaces as they come. Whoever asks for doubt does not wait until
// each was looked at, which takes long where there are many.
func (t *wireTap) keepOthers() {
	if t.inside {
		return
	}
	t.others.Lock()
	defer t.others.Unlock()
	came, err := t.others.links.came(t.knows)
	if !came && err == nil && t.others.unseen == "" {
		tapped := maps.Clone(t.others.tapped)
		t.others.Unlock()
		same := t.areTapped(tapped)
		t.others.Lock()
		if same {
			return
		}
	}
	t.look(came, err)
}

// areTapped says whether there are no other interfaces than these, and all are tapped.
func (t *wireTap) areTapped(tapped map[int]bool) bool {
	list, err := hostinfo.Links()
	if err != nil {
		return false
	}
	seen := 0
	for _, l := range list {
		switch index := l.Attrs().Index; {
		case t.isNamed(index) == tapped[index], tapped[index] && !t.isTapped(index):
			return false
		case tapped[index]:
			seen++
		}
	}
	return seen == len(tapped)
}

// isTapped says whether the tap is still on an interface, or that cannot be looked at: as
// with those that are named.
func (t *wireTap) isTapped(index int) bool {
	on, err := t.programs.Attached(index)
	return on || err != nil
}

// knows says whether an interface is tapped already.
func (t *wireTap) knows(index int) bool { return t.others.tapped[index] || t.isNamed(index) }

// isNamed says whether one is tapped as it is named.
func (t *wireTap) isNamed(index int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(t.attached)), index)
}

// look taps the interfaces that came. While one of them is not seen no login is believed,
// nor is one behind that whose connection began before.
func (t *wireTap) look(came bool, err error) {
	found, lost, failed := t.attachOthers()
	err = errors.Join(err, failed)
	was := t.others.unseen
	if err == nil && (came || found || lost || was != "") {
		t.others.below, err = t.programs.Doubt()
	}
	if err != nil {
		if t.others.unseen = err.Error(); was == "" {
			t.sayOthers("no login is believed: " + reasonUnseen + t.others.unseen)
		}
		return
	}
	t.others.unseen = ""
	if was != "" || lost {
		t.sayOthers("what clients send is seen again; connections of before are not believed")
	}
}

// attachOthers taps what comes in by the others: by the loopback device as well, where
// who makes packets on this host (raw(7)) can have any source. found says that one was not
// tapped until now, and lost that it had been: somebody had detached it.
func (t *wireTap) attachOthers() (found, lost bool, err error) {
	list, failed := hostinfo.Links()
	if failed != nil {
		return false, false, fmt.Errorf("list the interfaces: %w", failed)
	}
	tapped := t.others.tapped
	gone := maps.Clone(tapped)
	for _, l := range list {
		a := l.Attrs()
		delete(gone, a.Index)
		if t.isNamed(a.Index) {
			delete(tapped, a.Index) // it has come, and was tapped as another until then
			continue
		}
		if tapped[a.Index] {
			if t.isTapped(a.Index) {
				continue
			}
			lost = true
			delete(tapped, a.Index)
			err = errors.Join(err, t.programs.Detach(a.Index))
		}
		switch failed := t.programs.AttachArrivals(a.Index); {
		case failed == nil:
			tapped[a.Index], found = true, true
		case !errors.Is(failed, unix.ENODEV): // else it is gone by now
			err = errors.Join(err, fmt.Errorf("see what comes in by interface %s: %w", a.Name, failed))
		}
	}
	for index := range gone {
		delete(tapped, index)
		err = errors.Join(err, t.programs.Detach(index))
	}
	return found, lost, err
}

func (t *wireTap) sayOthers(words string) {
	t.log.Warn(words)
	t.hub.Tell(time.Now(), "coverage", words)
}
