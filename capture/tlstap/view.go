package tlstap

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"relaygate/bpf"
	"relaygate/capture/sockdiag"
)

// view is what the last scan saw; it never changes.
type view struct {
	servers []Server
	err     error // why the kernel does not know them
}

// Server is one family with listeners on watched ports.
type Server struct {
	// PID is the process that holds the listeners, 0 where only init does;
	// Name is its program's.
	PID  int
	Name string
	// Listeners are the addresses that it listens on.
	Listeners []netip.AddrPort
	// Processes counts the family.
	Processes int
	// Libraries are the TLS libraries that the family uses or may use.
	Libraries []LibraryUse
	// Why says in words why its TLS cannot be read, to stand behind "because".
	Why string
	// Handshakes and Read count TLS connections that ended or were judged,
	// and those of them whose plaintext was read.
	Handshakes, Read uint64

	head bpf.ServerProcess
}

// LibraryUse is a library file as a server uses it.
type LibraryUse struct {
	// Path is where the first process that was seen with it sees it.
	Path string
	// Users are the command names of the server's processes that use it now,
	// Others those of programs outside of all families: each of their calls
	// costs a trap too.
	Users, Others []string
	// Expected is true if no process of the server was seen with it yet: it is
	// watched because the server may start one that uses it.
	Expected bool
	// Attached is true if its calls are watched, Recognised once a handshake
	// was found in its objects. Why says why it is not attached.
	Attached, Recognised bool
	Why                  string

	inode uint64
}

// namesListed is how many command names are listed.
const namesListed = 8

// Seen says whether its TLS can be read: it has libraries or has not needed one, and all of
// them are attached.
func (s Server) Seen() bool { return s.Why == "" }

// Who names the server.
func (s Server) Who() string {
	if s.PID == 0 {
		return s.Name
	}
	return fmt.Sprintf("%s (pid %d)", s.Name, s.PID)
}

func (s Server) String() string {
	if s.Why != "" {
		return s.Who() + " is not read: " + s.Why
	}
	var used, expected []string
	for _, l := range s.Libraries {
		if l.Expected {
			expected = append(expected, l.Path)
		} else {
			used = append(used, l.Path)
		}
	}
	if len(used) == 0 {
		return s.Who() + " uses no TLS now; watched in advance: " + strings.Join(expected, ", ")
	}
	return s.Who() + " is read through " + strings.Join(used, ", ")
}

// published is what people are told of a family.
func (f *Finder) published(fam *family) Server {
	s := Server{
		PID: int(fam.head.PID), Name: fam.name, Listeners: addresses(fam.listeners),
		Processes: len(fam.members), head: fam.head,
	}
	for _, l := range f.libraries {
		if !l.users[fam.head] && !l.expected[fam.head] {
			continue
		}
		use := LibraryUse{
			Path: l.path, Expected: !l.users[fam.head],
			Attached: l.probes != nil, Recognised: l.found, inode: l.inode,
		}
		if l.err != nil {
			use.Why = l.err.Error()
		}
		for _, p := range fam.members {
			uses := slices.ContainsFunc(p.files, func(k *knownFile) bool { return k.library == l })
			if uses && len(use.Users) < namesListed && !slices.Contains(use.Users, p.name) {
				use.Users = append(use.Users, p.name)
			}
		}
		s.Libraries = append(s.Libraries, use)
	}
	slices.SortFunc(s.Libraries, func(a, b LibraryUse) int { return strings.Compare(a.Path, b.Path) })
	s.Why = f.why(fam, s.Libraries)
	return s
}

func addresses(listeners []sockdiag.Listener) []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range listeners {
		if !slices.Contains(all, l.Local) {
			all = append(all, l.Local)
		}
	}
	return all
}

// publish makes the view of this scan.
func (f *Finder) publish(families []*family, onlyInit []sockdiag.Listener, err error) {
	v := &view{err: err}
	for _, fam := range families {
		s := f.published(fam)
		if err != nil {
			s.Why = err.Error()
		}
		v.servers = append(v.servers, s)
	}
	if len(onlyInit) > 0 {
		v.servers = append(v.servers, Server{
			Name: "init", Listeners: addresses(onlyInit),
			Why: "only init holds the listener and starts a process for each connection: whose it is cannot be told",
		})
	}
	f.view.Store(v)
	f.trimCounts(families)
}
