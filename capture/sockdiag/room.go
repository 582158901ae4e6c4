package sockdiag

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// The bounds of a search, in descriptors: of all of root's processes and of all guests,
// the share of each other user and of each guest in that, who may open as many as they
// like, and of one process: listeners are among the first, as they are opened before
// connections come.
const (
	fileLimit    = 1 << 20
	share        = 4
	processFiles = 1 << 14
)

// errTooManyFiles says that root has more open than fileLimit.
var errTooManyFiles = errors.New("too many open files on this host to search them all")

// payer is whose room a process takes: its user's, or the container's that it is in,
// where anybody can be root, or any user. The zero value is this host's root.
type payer struct {
	user  uint32
	guest string // its namespaces, where they are not ours
}

// room is how many descriptors a search still looks at.
type room struct {
	proc   fs.FS
	own    string // our namespaces
	limit  int
	looked map[payer]int
	guests int // looked at, of all of them
}

func newRoom(proc fs.FS, limit int) *room {
	return &room{proc: proc, own: namespaces(proc, "self"), limit: limit, looked: make(map[payer]int)}
}

// namespaces names those of a process that make it a guest (namespaces(7)); a process
// that is gone has none.
func namespaces(proc fs.FS, pid string) string {
	ids, err := fs.ReadLink(proc, path.Join(pid, "ns/pid"))
	if err != nil {
		return ""
	}
	users, err := fs.ReadLink(proc, path.Join(pid, "ns/user"))
	if err != nil {
		return ""
	}
	return ids + " " + users
}

// descriptors lists those of a process that there is room to look at.
func (r *room) descriptors(pid string) ([]fs.DirEntry, error) {
	who, err := r.whose(pid)
	if err != nil || r.used(who) {
		return nil, err
	}
	fds, err := descriptors(r.proc, pid)
	switch {
	case err != nil:
		return nil, err
	case r.take(who, len(fds)):
		return fds, nil
	case who == payer{}:
		return nil, errTooManyFiles
	}
	return nil, nil
}

// whose says who pays for a process.
func (r *room) whose(pid string) (payer, error) {
	if in := namespaces(r.proc, pid); in != "" && in != r.own {
		return payer{guest: in}, nil
	}
	user, err := userOf(r.proc, pid)
	return payer{user: user}, err
}

// used says whether there is no room for anything of his any more.
func (r *room) used(who payer) bool {
	switch {
	case who == payer{}:
		return r.looked[who] > r.limit
	case who.guest != "" && r.guests > r.limit:
		return true
	}
	return r.looked[who] > r.limit/share
}

// take says whether there is room for so many more.
func (r *room) take(who payer, files int) bool {
	r.looked[who] += files
	if r.used(who) {
		return false
	}
	if who.guest != "" {
		r.guests += files
	}
	return !r.used(who)
}

// userOf is the real user of a process, who stays the same for what he starts with
// another's rights (proc_pid_status(5)).
func userOf(proc fs.FS, pid string) (uint32, error) {
	text, err := fs.ReadFile(proc, path.Join(pid, "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if list, ok := strings.CutPrefix(line, "Uid:"); ok {
			var user uint32
			_, err := fmt.Sscan(list, &user)
			return user, err
		}
	}
	return 0, errors.New("a process without a user")
}
