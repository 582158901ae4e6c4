package sockdiag

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// look takes a new snapshot. If it says so holders must be searched for that, which
// takes another one in the end: on a host with many open files it takes longer than a
// snapshot is believed, and those that were found before are looked at meanwhile.
func (t *Tables) look() (search bool) { return t.take(true) }

// take takes it; a search there is only if it may be.
func (t *Tables) take(maySearch bool) (search bool) {
	t.looking.Lock()
	defer t.looking.Unlock()
	old := t.current.Load()
	next := &snapshot{at: time.Now(), replaced: make(chan struct{}), changed: old.changed}
	if next.listeners, search, next.err = t.listeners(next.at, maySearch); search {
		return true
	}
	same := next.same(old)
	if !same {
		next.changed = make(chan struct{})
	}
	t.current.Store(next)
	close(old.replaced)
	if !same {
		close(old.changed)
	}
	return false
}

// search finds the holders that are sought, and looks again. A listener that came meanwhile
// is for Run to see at once.
func (t *Tables) search() {
	begin := time.Now()
	held, err := holders(t.proc, t.sought, t.fileLimit)
	t.looking.Lock()
	t.held, t.searchErr, t.cost, t.sought = held, err, time.Since(begin), nil
	t.looking.Unlock()
	t.take(false)
	t.lookSoon()
}

// same says whether nobody needs to be told of the new snapshot.
func (s *snapshot) same(old *snapshot) bool {
	return s.err == nil && old.err == nil &&
		slices.EqualFunc(s.listeners, old.listeners, func(a, b Listener) bool {
			return a.Netns == b.Netns && a.Socket == b.Socket && slices.Equal(a.Processes, b.Processes)
		})
}

// listeners lists the listeners of all namespaces with their holders, or says that they
// have to be searched first.
func (t *Tables) listeners(now time.Time, maySearch bool) (all []Listener, search bool, err error) {
	inodes := make(map[uint32]bool)
	unknown, passing := t.forget(), false
	before := t.current.Load().listeners
	for _, ns := range t.namespaces {
		sockets, err := ns.ask.listening(t.ports)
		if err != nil {
			return nil, false, fmt.Errorf("network namespace %d: %w", ns.id, err)
		}
		seen := time.Now() // before that another may have had its place
		for _, s := range sockets {
			l := Listener{Netns: ns.id, Socket: s, Since: seen}
			for i := range before {
				if before[i].Netns == l.Netns && before[i].Socket == l.Socket {
					l.Since = before[i].Since
				}
			}
			if t.owners[s.UID] { // else it does not matter who holds it
				held, known := t.held[s.Inode]
				unknown = unknown || !known
				passing = passing || !started(held)
				l.Processes, inodes[s.Inode] = held, true
			}
			all = append(all, l)
		}
	}
	since := now.Sub(t.searched)
	failed := t.searchErr != nil && !errors.Is(t.searchErr, errTooManyFiles)
	due := unknown || since >= searchInterval ||
		failed && since >= failedCost*t.cost ||
		(t.ended || passing) && since >= max(researchInterval, researchCost*t.cost) ||
		passing && t.wanted.Load() && since >= max(interval, askedCost*t.cost)
	if due && maySearch && t.sought == nil {
		t.wanted.Store(false)
		t.sought, t.searched, t.ended = inodes, now, false
		return nil, true, nil
	}
	if t.searchErr != nil {
		return nil, false, t.searchErr
	}
	return all, false, nil
}

// forget drops the holders that have ended or let go, and says whether that leaves
// a listener without any: somebody whom no search has seen may hold it.
func (t *Tables) forget() (orphans bool) {
	for inode, held := range t.held {
		left := make([]Process, 0, len(held))
		for _, p := range held {
			if now, holds := p.still(t.proc, inode); holds {
				left = append(left, now)
			}
		}
		t.held[inode] = left // never nil; the old list belongs to snapshots
		if len(left) < len(held) {
			t.ended = true
			orphans = orphans || len(left) == 0
		}
	}
	return orphans
}
