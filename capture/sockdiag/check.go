package sockdiag

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
)

// patience is how long a check waits for what is about to be known of a listener. Behind one
// that waited in vain none waits for vainCost times as long, nor for the same listener for
// impatience.
const (
	patience   = time.Second
	impatience = 10 * time.Second
	vainCost   = 10
)

// Check says whether whoever accepts connections on the server's address may be believed
// now, and if not why.
func (t *Tables) Check(server netip.AddrPort, netns uint64) (ok bool, reason string) {
	belief, reason := t.CheckListener(server, netns, anyListener)
	return belief == authz.Believed, reason
}

// anyListener stands for each that could have accepted a connection.
const anyListener = 0

// CheckListener is Check for the listener with this cookie alone, which accepted the
// connection: another may have had its place when the tables were looked at. If it is not
// known yet it waits a moment for Run to look.
func (t *Tables) CheckListener(server netip.AddrPort, netns, cookie uint64) (belief authz.Belief, reason string) {
	var room [4]*Listener
	begin := time.Now()
	s, accepting := t.await(room[:0], begin, server, netns, cookie)
	if s.err != nil {
		return authz.Undecided, fmt.Sprintf("who listens on %v is not known: %v", server, s.err)
	}
	if s.stale(begin) {
		return authz.Undecided, fmt.Sprintf("who listens on %v was not looked at for a while", server)
	}
	if len(accepting) == 0 {
		return authz.Undecided, fmt.Sprintf("nobody is known to listen on %v in a trusted network namespace", server)
	}
	belief = authz.Believed
	for _, l := range accepting {
		switch b, why := t.judge(l); b {
		case authz.Disbelieved:
			return b, why
		case authz.Undecided:
			belief, reason = b, why
		}
	}
	if belief == authz.Undecided && t.wanted.CompareAndSwap(false, true) {
		t.lookSoon()
	}
	return belief, reason
}

func (s *snapshot) stale(now time.Time) bool { return now.Sub(s.at) > staleAfter }

// await finds what could have accepted a connection, or did. It waits while that is about
// to be known, but not again and again in vain: connections to unknown listeners must not
// slow everybody down.
func (t *Tables) await(room []*Listener, begin time.Time, server netip.AddrPort, netns, cookie uint64) (*snapshot, []*Listener) {
	s := t.current.Load()
	accepting := s.accepting(room, server, netns, cookie)
	if !t.comes(s, accepting, begin) {
		return s, accepting
	}
	if vain := t.vain.Load(); vain != nil && vain.forbids(begin, cookie) {
		return s, accepting
	}
	t.lookSoon()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	slow := false
	for !slow && t.comes(s, accepting, begin) {
		select {
		case <-s.replaced:
		case <-timer.C:
			slow = true
		}
		s = t.current.Load()
		accepting = s.accepting(room, server, netns, cookie)
	}
	if len(accepting) == 0 || t.comes(s, accepting, begin) {
		t.vain.Store(&vain{cookie, begin, time.Now()})
	}
	return s, accepting
}

// vain is a check that waited in vain, for a listener that is gone or for a host that is slow
// to search.
type vain struct {
	cookie     uint64
	begin, end time.Time
}

// forbids says whether another is not to wait for this listener.
func (v *vain) forbids(now time.Time, cookie uint64) bool {
	since := now.Sub(v.end)
	return since < vainCost*v.end.Sub(v.begin) || v.cookie == cookie && since < impatience
}

// comes says whether the next look will tell more of what could have accepted a connection
// before that time.
func (t *Tables) comes(s *snapshot, accepting []*Listener, asked time.Time) bool {
	switch {
	case s.err != nil:
		return false
	case len(accepting) == 0:
		return !s.at.After(asked)
	}
	return s.stale(asked) || slices.ContainsFunc(accepting, func(l *Listener) bool { return t.owners[l.UID] && l.Processes == nil })
}

// accepting appends all listeners that could have accepted a connection to the
// address, or the one that did.
func (s *snapshot) accepting(all []*Listener, server netip.AddrPort, netns, cookie uint64) []*Listener {
	for i := range s.listeners {
		l := &s.listeners[i]
		if l.Netns == netns && l.Local.Port() == server.Port() && l.covers(server.Addr()) &&
			(cookie == anyListener || cookie == l.cookie) {
			all = append(all, l)
		}
	}
	return all
}

// covers says whether a listener takes connections to the address.
func (s Socket) covers(addr netip.Addr) bool {
	local := s.Local.Addr()
	if !local.IsUnspecified() {
		return local.WithZone("") == addr.WithZone("")
	}
	return local.Is4() == addr.Is4() || local.Is6() && !s.V6Only
}

// judge says whether the listener is to be believed, and if not why.
func (t *Tables) judge(l *Listener) (authz.Belief, string) {
	if belief, reason := t.doubt(l); belief != authz.Believed {
		return belief, reason
	}
	if !l.Started() {
		return authz.Undecided, fmt.Sprintf("%v alone holds the listener on %v: which program it starts for a connection is not known", l.Processes[0], l.Local)
	}
	return authz.Believed, ""
}

// doubt is judge for a listener that init may hold alone.
func (t *Tables) doubt(l *Listener) (authz.Belief, string) {
	if !t.owners[l.UID] {
		return authz.Disbelieved, fmt.Sprintf("the listener on %v belongs to uid %d, who is not trusted", l.Local, l.UID)
	}
	if l.transparent && l.Local.Addr().IsUnspecified() {
		return authz.Disbelieved, fmt.Sprintf("the listener on %v takes what is for other hosts, too (IP_TRANSPARENT): which server its clients name is not known", l.Local)
	}
	if l.Processes == nil {
		return authz.Undecided, fmt.Sprintf("who holds the listener on %v is not known yet", l.Local)
	}
	if len(l.Processes) == 0 {
		return authz.Undecided, fmt.Sprintf("no process is seen that holds the listener on %v", l.Local)
	}
	for _, p := range l.Processes {
		if p.Forwards() {
			return authz.Disbelieved, fmt.Sprintf("the listener on %v only forwards: %v holds it", l.Local, p)
		}
	}
	return authz.Believed, ""
}

// believable says whether nothing is known against a listener but that init may hold it
// alone.
func (t *Tables) believable(l *Listener) bool {
	belief, _ := t.doubt(l)
	return belief == authz.Believed
}

// Started says whether a process of a listener that is held is there to answer.
func (l *Listener) Started() bool { return started(l.Processes) }

// Owners lists the processes that hold the listener that accepted a connection
// on the server's address: those of every listener that could have, init too. It
// is empty in every other case of doubt that Check names. It does not wait.
func (t *Tables) Owners(server netip.AddrPort, netns uint64) []Process {
	s := t.current.Load()
	if s.err != nil || s.stale(time.Now()) {
		return nil
	}
	var all []Process
	for _, l := range s.accepting(nil, server, netns, anyListener) {
		if !t.believable(l) {
			return nil
		}
		all = append(all, l.Processes...)
	}
	return all
}

// Servers lists the listeners that Check believes, and those that init holds alone,
// with their processes.
func (t *Tables) Servers() []Listener {
	s := t.current.Load()
	if s.err != nil || s.stale(time.Now()) {
		return nil
	}
	var all []Listener
	for i := range s.listeners {
		if l := &s.listeners[i]; t.believable(l) {
			all = append(all, *l)
		}
	}
	return all
}

// Unheld lists the listeners of trusted owners that no process is seen to hold: nobody who
// logs in there is believed.
func (t *Tables) Unheld() (list []netip.AddrPort) {
	for _, l := range t.current.Load().listeners {
		if t.owners[l.UID] && l.Processes != nil && len(l.Processes) == 0 {
			list = append(list, l.Local)
		}
	}
	return list
}

// CheckConnection says whether a connection that was only seen on the wire, and
// opened at that time, may be believed: it must exist in the first of the trusted
// namespaces, that of the interfaces, and its listener pass Check and have been there
// all the time, or another may have accepted it. The connection's own owner says
// nothing: it is whoever accepted it, such as a login process without privileges.
func (t *Tables) CheckConnection(c authz.Conn, opened time.Time) (belief authz.Belief, reason string) {
	if len(t.namespaces) == 0 {
		return authz.Undecided, "no network namespace is trusted"
	}
	own := t.namespaces[0]
	ok, err := t.exists(own, c)
	if err != nil {
		return authz.Undecided, fmt.Sprintf("whether the connection exists is not known: network namespace %d: %v", own.id, err)
	}
	if !ok {
		return authz.Undecided, "no socket of this host has this connection, but perhaps a transparent proxy's"
	}
	if belief, reason := t.CheckListener(c.Server, own.id, anyListener); belief != authz.Believed {
		return belief, reason
	}
	listening, err := own.ask.listening([]uint16{c.Server.Port()})
	if err != nil {
		return authz.Undecided, fmt.Sprintf("who listens on %v is not known: %v", c.Server, err)
	}
	known, found := t.current.Load().accepting(nil, c.Server, own.id, anyListener), false
	for _, s := range listening {
		if !s.covers(c.Server.Addr()) {
			continue
		}
		i := slices.IndexFunc(known, func(l *Listener) bool { return l.Socket == s })
		if i < 0 || known[i].Since.After(opened) {
			return authz.Undecided, fmt.Sprintf("the listener on %v is not known to be older than the connection, which another may have accepted", s.Local)
		}
		found = true
	}
	if !found {
		return authz.Undecided, fmt.Sprintf("nobody listens on %v any more", c.Server)
	}
	return authz.Believed, ""
}

// exists says whether there is such a connection. The kernel finds one whose listener is
// bound to a device by that device alone.
func (t *Tables) exists(own namespace, c authz.Conn) (bool, error) {
	devices, transparent := []uint32{0}, false
	for _, l := range t.current.Load().accepting(nil, c.Server, own.id, anyListener) {
		if !slices.Contains(devices, l.device) {
			devices = append(devices, l.device)
		}
		transparent = transparent || l.transparent
	}
	for _, device := range devices {
		if ok, err := own.ask.has(c.Server, c.Client, device, transparent); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}
