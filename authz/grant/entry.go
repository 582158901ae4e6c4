package grant

import (
	"hash/maphash"
	"strings"
)

// entry is a prefix that is open, or that was and whose users still count. Its
// 40 bytes have no pointers; what explains it is in details.
type entry struct {
	addr [16]byte
	// since is when it opened, expires what is promised, armed what the kernel
	// was told; armed is never later than expires.
	since, expires, armed uint32
	links                 uint32 // the users, the newest login first
	next                  uint32 // rows' chain
	bits                  uint8
	source                Source
	state                 state
	brake                 brake
}

// state is what the entry's row is used for.
type state uint8

const (
	free state = iota
	// dead: the row is in no chain and waits for its timer.
	dead
	// closed: nothing is open, the users count still.
	closed
	open
)

// brake says why a later login did not renew.
type brake uint8

const (
	noBrake brake = iota
	tooManyUsers
	tooManyAddresses
)

func (e *entry) chain() *uint32 { return &e.next }
func (e *entry) key() key       { return key{e.addr, e.bits} }

// link says that a user logged in from an entry's prefix. Users are known by
// a hash with a secret key; two of one hash count as one user, who then reaches
// MaxAddresses earlier.
type link struct {
	high, low uint32 // the hash
	next      uint32 // the next link of the entry
	peers     uint32 // rows' chain, which holds all links of a user
	seen      uint32
}

func (l *link) chain() *uint32 { return &l.peers }
func (l *link) user() uint64   { return uint64(l.high)<<32 | uint64(l.low) }

func (t *Table) hash(k key) uint64             { return maphash.Comparable(t.seed, k) }
func (t *Table) hashOfEntry(e *entry) uint64   { return t.hash(e.key()) }
func hashOfLink(l *link) uint64                { return l.user() }
func (t *Table) link(i uint32) *link           { return t.links.at(i) }
func (t *Table) entry(i uint32) *entry         { return t.entries.at(i) }
func (t *Table) fresh(l *link, at uint32) bool { return l.seen+t.lifetime > at }

// user is the hash of a name. Mail servers fold case; without that one user has
// many names. A name that is not shown is nobody's: it counts as one user of
// this prefix alone.
func (t *Table) user(name string, k key) uint64 {
	if name == "" {
		return t.hash(k)
	}
	return maphash.String(t.seed, strings.ToLower(limit(name)))
}

// find is the entry of k, 0 if there is none.
func (t *Table) find(k key) uint32 {
	for i := t.entries.first(t.hash(k)); i != 0; {
		e := t.entry(i)
		if e.bits == k.bits && e.addr == k.addr {
			return i
		}
		i = e.next
	}
	return 0
}

// insert makes an entry that is closed. It needs a timer once it is open.
func (t *Table) insert(k key) uint32 {
	i := t.entries.add(t.hash(k), t.hashOfEntry)
	e := t.entry(i)
	e.addr, e.bits, e.state = k.addr, k.bits, closed
	t.lengths[k.bits]++
	return i
}

// bury forgets an entry and its users. Its number is free once its timer comes.
func (t *Table) bury(i uint32) {
	e := t.entry(i)
	t.close(i)
	t.prune(i, func(*link) bool { return true })
	t.entries.unlink(i, t.hash(e.key()))
	t.lengths[e.bits]--
	e.state = dead
	t.dead++
}

// close ends what an entry has open.
func (t *Table) close(i uint32) {
	e := t.entry(i)
	if e.state != open {
		return
	}
	e.state = closed
	t.granted--
	t.dropSessions(i)
	delete(t.details, i)
}

// prune drops the users of an entry for whom gone is true.
func (t *Table) prune(i uint32, gone func(*link) bool) {
	for at := &t.entry(i).links; *at != 0; {
		n := *at
		l := t.link(n)
		if !gone(l) {
			at = &l.next
			continue
		}
		*at = l.next
		t.links.unlink(n, l.user())
		t.links.release(n)
	}
}

// stale is for prune: those whose last login is a lifetime old.
func (t *Table) stale(at uint32) func(*link) bool {
	return func(l *link) bool { return !t.fresh(l, at) }
}

// named finds a user among those of an entry.
func (t *Table) named(i uint32, user uint64) *link {
	for n := t.entry(i).links; n != 0; n = t.link(n).next {
		if l := t.link(n); l.user() == user {
			return l
		}
	}
	return nil
}

// addresses counts the prefixes at which a user counts.
func (t *Table) addresses(user uint64, at uint32) int {
	n := 0
	for i := t.links.first(user); i != 0; i = t.link(i).peers {
		if l := t.link(i); l.user() == user && t.fresh(l, at) {
			n++
		}
	}
	return n
}

// note puts a user in front of those of an entry, and returns how many count.
// One more than MaxUsers are kept: the oldest of them tells whether the prefix
// is shared still.
func (t *Table) note(i uint32, user uint64, at uint32) int {
	e := t.entry(i)
	count, oldest := 0, uint32(0)
	for n := e.links; n != 0; n = t.link(n).next {
		count++
		oldest = n
	}
	if l := t.named(i, user); l != nil {
		seen := max(l.seen, at)
		t.prune(i, func(other *link) bool { return other == l })
		count--
		at = seen
	} else if count > t.cfg.MaxUsers {
		last := t.link(oldest)
		t.prune(i, func(other *link) bool { return other == last })
		count--
	}
	n := t.links.add(user, hashOfLink)
	l := t.link(n)
	l.high, l.low, l.seen = uint32(user>>32), uint32(user), at
	l.next, e.links = e.links, n
	return count + 1
}
