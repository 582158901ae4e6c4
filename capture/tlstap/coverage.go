package tlstap

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/capture/sockdiag"
)

// count is what became of a server's TLS connections.
type count struct{ handshakes, read uint64 }

// Judged counts a TLS connection whose plaintext was read, or was not; one that
// was not makes Run look for libraries again.
func (f *Finder) Judged(conn authz.Conn, read bool) {
	if !read {
		f.lookAgain()
	}
	i, ok := f.server(conn)
	if !ok {
		return
	}
	head := f.view.Load().servers[i].head
	f.counting.Lock()
	defer f.counting.Unlock()
	c := f.counts[head]
	if c == nil {
		c = &count{}
		f.counts[head] = c
	}
	c.handshakes++
	if read {
		c.read++
	}
}

// unreadLimit is from how many TLS connections on a server is said to be unread
// if none of them was read: fewer may be scanners, that leave after a handshake.
const unreadLimit = 5

// history says whether a server's TLS seems not to be read, and whether some was.
func (f *Finder) history(head bpf.ServerProcess) (unread, read bool) {
	f.counting.Lock()
	defer f.counting.Unlock()
	c := f.counts[head]
	if c == nil {
		return false, false
	}
	return c.handshakes >= unreadLimit && c.read == 0, c.read > 0
}

// trimCounts forgets the servers that are gone, so that counts stay as few as
// servers.
func (f *Finder) trimCounts(families []*family) {
	f.counting.Lock()
	defer f.counting.Unlock()
	maps.DeleteFunc(f.counts, func(head bpf.ServerProcess, _ *count) bool {
		return !slices.ContainsFunc(families, func(fam *family) bool { return fam.head == head })
	})
}

// server finds which server of the last view accepted a connection.
func (f *Finder) server(conn authz.Conn) (index int, ok bool) {
	owners := f.tables.Owners(conn.Server, conn.Netns)
	servers := f.view.Load().servers
	for i, s := range servers {
		for _, p := range owners {
			if s.PID == p.PID && s.head.Start == p.Start {
				return i, true
			}
		}
	}
	return 0, false
}

// Explain says in words why the TLS of a connection could not be read. It is
// only asked about those that could not.
func (f *Finder) Explain(conn authz.Conn) string {
	v := f.view.Load()
	if v.err != nil {
		return v.err.Error()
	}
	i, ok := f.server(conn)
	if !ok {
		return f.nobody(conn, v)
	}
	s := v.servers[i]
	if !s.Seen() {
		return s.String()
	}
	var silent []string
	for _, l := range s.Libraries {
		if !l.Recognised && !l.Expected {
			silent = append(silent, l.Path)
		}
	}
	if len(silent) > 0 {
		return fmt.Sprintf("%s: %s is watched, but no handshake was recognised in it yet", s.Who(), strings.Join(silent, ", "))
	}
	return s.Who() + ": the connection began before its library was watched, or used another TLS library than the one that is"
}

// nobody says why a connection has no server.
func (f *Finder) nobody(conn authz.Conn, v *view) string {
	if ok, reason := f.tables.Check(conn.Server, conn.Netns); !ok {
		return reason
	}
	others := func(p sockdiag.Process) bool { return !p.Starts() }
	if slices.ContainsFunc(f.tables.Owners(conn.Server, conn.Netns), others) {
		return fmt.Sprintf("the server on %v is not known yet", conn.Server)
	}
	for _, s := range v.servers {
		if s.PID == 0 {
			return s.String()
		}
	}
	return "init holds the listener"
}

// Coverage lists the servers, which of their TLS libraries are watched, and who
// else uses those.
func (f *Finder) Coverage() []Server {
	servers := f.Servers()
	others := f.others()
	for i := range servers {
		s := &servers[i]
		s.Libraries = slices.Clone(s.Libraries)
		for j := range s.Libraries {
			s.Libraries[j].Others = others[s.Libraries[j].inode]
		}
	}
	return servers
}

// Servers lists what Coverage does, without who else uses the libraries: that
// costs little.
func (f *Finder) Servers() []Server {
	servers := slices.Clone(f.view.Load().servers)
	f.counting.Lock()
	defer f.counting.Unlock()
	for i := range servers {
		if c := f.counts[servers[i].head]; c != nil {
			servers[i].Handshakes, servers[i].Read = c.handshakes, c.read
		}
	}
	return servers
}

// sharesTime is how long it is believed who shares a library: to find out takes
// a look at every process of the host. sharesWait is how long anybody waits for that: it
// lasts for ever where a file system hangs that one of them waits for.
const (
	sharesTime = 30 * time.Second
	sharesWait = time.Second
)

// shares are the programs outside of all families that use watched libraries.
type shares struct {
	at     time.Time
	names  map[uint64][]string // by inode
	search chan struct{}       // closed when the one that goes on is over; nil while none does
}

// others lists the names of programs that share the libraries of the view, or what was
// found before.
func (f *Finder) others() map[uint64][]string {
	f.sharing.Lock()
	defer f.sharing.Unlock()
	s := &f.shares
	if s.search == nil && (s.names == nil || time.Since(s.at) >= sharesTime) {
		s.search = make(chan struct{})
		go func() {
			names := f.searchOthers()
			f.sharing.Lock()
			defer f.sharing.Unlock()
			close(s.search)
			*s = shares{at: time.Now(), names: names}
		}()
	}
	if search := s.search; search != nil {
		f.sharing.Unlock()
		select {
		case <-search:
		case <-time.After(sharesWait):
		}
		f.sharing.Lock()
	}
	return s.names
}

func (f *Finder) searchOthers() map[uint64][]string {
	watched := make(map[uint64]bool)
	heads := make(map[int]bool)
	for _, s := range f.view.Load().servers {
		heads[s.PID] = true
		for _, l := range s.Libraries {
			watched[l.inode] = true
		}
	}
	names := make(map[uint64][]string)
	if len(watched) == 0 {
		return names
	}
	t, err := walk(f.files)
	if err != nil {
		return names
	}
	for pid := range heads {
		for _, member := range t.members(pid, processLimit) {
			delete(t.stats, member)
		}
	}
	for pid, stat := range t.stats {
		if stat.Size == 0 {
			continue // the kernel's own
		}
		files, _ := readMaps(f.proc, pid) // what cannot be read is not listed
		for _, m := range files {
			list := names[m.id.inode]
			if watched[m.id.inode] && len(list) < namesListed && !slices.Contains(list, stat.Name) {
				names[m.id.inode] = append(list, stat.Name)
			}
		}
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names
}
