package tlstap

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"relaygate/bpf"
	"relaygate/capture/sockdiag"
)

// family is a server: the process that holds listeners, and its descendants.
type family struct {
	head      bpf.ServerProcess
	name      string // of the head's program
	listeners []sockdiag.Listener
	members   []*process
}

// holder is a process with the listeners that it holds.
type holder struct {
	process   sockdiag.Process
	listeners []sockdiag.Listener
}

// headLimit bounds the heads, as the kernel side does, and nearGenerations how
// far above a holder another one is looked for.
const (
	headLimit       = 1024
	nearGenerations = 4
)

// initProcess is the ancestor of all: who inherits from it is nobody's family.
const initProcess = 1

// heads picks the processes whose families are servers: those that hold
// listeners, but none whose listeners an ancestor holds too, such as a login
// process that inherited them. A listener that only init holds has no head.
func heads(listeners []sockdiag.Listener, t tree) (list []holder, onlyInit []sockdiag.Listener) {
	holders := make(map[int]*holder)
	for _, l := range listeners {
		if len(l.Processes) > 0 && !l.Started() {
			onlyInit = append(onlyInit, l)
		}
		for _, p := range l.Processes {
			if p.Starts() || t.stats[p.PID].Start != p.Start {
				continue
			}
			h := holders[p.PID]
			if h == nil {
				h = &holder{process: p}
				holders[p.PID] = h
			}
			h.listeners = append(h.listeners, l)
		}
	}
	for pid, h := range holders {
		covered := slices.ContainsFunc(t.ancestors(pid), func(a int) bool {
			return holders[a] != nil && holders[a].holdsAll(h.listeners)
		})
		if !covered {
			list = append(list, *h)
		}
	}
	// A limit cuts those that started last.
	slices.SortFunc(list, func(a, b holder) int { return cmp.Compare(a.process.Start, b.process.Start) })
	return list[:min(len(list), headLimit)], onlyInit
}

// holdsAll says whether h holds these listeners, and maybe more.
func (h *holder) holdsAll(listeners []sockdiag.Listener) bool {
	return !slices.ContainsFunc(listeners, func(l sockdiag.Listener) bool {
		return !slices.ContainsFunc(h.listeners, func(own sockdiag.Listener) bool { return own.Inode == l.Inode })
	})
}

func (h *holder) head() bpf.ServerProcess {
	return bpf.ServerProcess{PID: uint32(h.process.PID), Start: h.process.Start}
}

// follow tells the kernel the servers as soon as their listeners change, ahead of the scan,
// which waits where there are many processes: of a connection that began before its server
// was told nothing is believed. Others may wait: those of Cyrus hold its listeners by the
// thousand, and come and go.
func (f *Finder) follow() {
	listeners := f.tables.Servers()
	if !slices.ContainsFunc(listeners, f.untold) {
		return
	}
	list, _ := heads(listeners, above(f.files, listeners))
	_ = f.tell(list) // an error: said, and the scan tries again
}

// untold says whether a server has a listener that the kernel knows no process of.
func (f *Finder) untold(l sockdiag.Listener) bool {
	told := f.heads.Load()
	return told == nil || l.Started() && !slices.ContainsFunc(l.Processes, func(p sockdiag.Process) bool {
		start, known := (*told)[uint32(p.PID)]
		return known && start == p.Start
	})
}

// tell gives the kernel the heads, if they are others than before; now and then
// all the same, because it also tidies up then.
func (f *Finder) tell(list []holder) (err error) {
	defer func() { f.complain(err) }()
	next := make(map[uint32]uint64, len(list))
	all := make([]bpf.ServerProcess, 0, len(list))
	for i := range list {
		head := list[i].head()
		next[head.PID] = head.Start
		all = append(all, head)
	}
	if old := f.heads.Load(); old != nil && maps.Equal(*old, next) && f.scans%keepScans != 0 {
		return nil
	}
	// Believe must know a head before the kernel speaks of it.
	f.heads.Store(&next)
	if err := f.tap.SetServers(all); err != nil {
		f.heads.Store(nil) // to try again
		return fmt.Errorf("tell the kernel the servers: %w", err)
	}
	return nil
}
