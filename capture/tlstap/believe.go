package tlstap

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"relaygate/authz"
	"relaygate/capture/sockdiag"
)

// Bounds of what Believe remembers.
const (
	beliefLimit = 4096
	beliefTime  = time.Second
)

// belief remembers what was judged, while nothing changes.
type belief struct {
	mu      sync.Mutex
	since   time.Time
	changed <-chan struct{} // of the tables
	heads   *map[uint32]uint64
	judged  map[question]answer
}

type question struct {
	process, server uint32
	local           netip.AddrPort
	netns           uint64
}

// answer is "" in reason for a process that may speak; else stranger says that it is
// known to be none of the connection's server.
type answer struct {
	reason   string
	stranger bool
}

// Believe says whether a process may speak for a connection, and if not why:
// server is the head of the process's family, found by the kernel among those
// that it was told, where both are in one control group. That head must hold the very
// listener that accepted the connection. Of a process that may not speak it is told
// whether it is known to be a stranger.
func (f *Finder) Believe(conn authz.Conn, process, server uint32) (ok, stranger bool, reason string) {
	q := question{process, server, conn.Server, conn.Netns}
	heads := f.heads.Load()
	now := time.Now()
	b := &f.belief
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.outdated(now, heads) || len(b.judged) >= beliefLimit {
		b.since, b.heads, b.changed = now, heads, f.tables.Changed()
		b.judged = make(map[question]answer)
	}
	a, known := b.judged[q]
	if !known {
		a = f.judge(q, heads)
		b.judged[q] = a
	}
	return a.reason == "", a.stranger, a.reason
}

// outdated says whether what was judged must be judged again.
func (b *belief) outdated(now time.Time, heads *map[uint32]uint64) bool {
	if b.judged == nil || b.heads != heads || now.Sub(b.since) >= beliefTime {
		return true
	}
	select {
	case <-b.changed:
		return true
	default:
		return false
	}
}

// judge asks the tables and the process.
func (f *Finder) judge(q question, heads *map[uint32]uint64) answer {
	if heads == nil {
		return answer{reason: "no server is known yet"}
	}
	start, known := (*heads)[q.server]
	if !known || q.server == initProcess {
		return answer{reason: fmt.Sprintf("process %d is no server on a watched port", q.server)}
	}
	owners := f.tables.Owners(q.local, q.netns)
	holds := slices.ContainsFunc(owners, func(p sockdiag.Process) bool {
		return uint32(p.PID) == q.server && p.Start == start
	})
	if !holds {
		// Another's family, if it is known whose the listener is.
		stranger := slices.ContainsFunc(owners, func(p sockdiag.Process) bool {
			return (*heads)[uint32(p.PID)] == p.Start
		})
		return answer{fmt.Sprintf("process %d does not hold the listener on %v", q.server, q.local), stranger}
	}
	if q.process == q.server {
		return answer{}
	}
	return f.strange(q)
}

// strange says why a descendant of the server is not one of its own, on hosts where the
// kernel's programs cannot tell: systemd may have its control groups in version 1 alone,
// and they look at those of version 2 (src/family.h).
func (f *Finder) strange(q question) answer {
	own, err := readCgroup(f.files, int(q.server))
	if err != nil {
		return answer{reason: fmt.Sprintf("the control group of the server is not known: %v", err)}
	}
	if rootCgroup(own) {
		return answer{}
	}
	theirs, err := readCgroup(f.files, int(q.process))
	if err != nil {
		return answer{reason: fmt.Sprintf("process %d ended before its control group was known", q.process)}
	}
	if !rootCgroup(theirs) && theirs != own {
		return answer{stranger: true, reason: fmt.Sprintf("process %d is in the control group %s, its server in %s",
			q.process, strconv.QuoteToASCII(theirs), strconv.QuoteToASCII(own))}
	}
	return answer{}
}
