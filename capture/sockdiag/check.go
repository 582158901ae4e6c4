package sockdiag

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"relaygate/authz"
)

// patience is how long Check waits for a look at a listener that it does not
// know, and impatience for how long it does not wait again.
const (
	patience   = 100 * time.Millisecond
	impatience = time.Second
)

// Check says whether whoever accepts connections on the server's address may be believed,
// and if not why. If the answer is not known it waits a moment for Run to look; when in
// doubt the answer is no.
func (t *Tables) Check(server netip.AddrPort, netns uint64) (ok bool, reason string) {
	return t.CheckListener(server, netns, anyListener)
}

// anyListener stands for each that could have accepted a connection.
const anyListener = 0

// CheckListener is Check for the listener with this cookie alone, which accepted the
// connection: another may have had its place when the tables were looked at.
func (t *Tables) CheckListener(server netip.AddrPort, netns, cookie uint64) (ok bool, reason string) {
	s := t.current.Load()
	var room [4]*Listener
	accepting := s.accepting(room[:0], server, netns, cookie)
	if len(accepting) == 0 || time.Since(s.at) > staleAfter {
		s = t.fresh(s)
		accepting = s.accepting(room[:0], server, netns, cookie)
	}
	if s.err != nil {
		return false, fmt.Sprintf("who listens on %v is not known: %v", server, s.err)
	}
	if time.Since(s.at) > staleAfter {
		return false, fmt.Sprintf("who listens on %v was not looked at for a while", server)
	}
	if len(accepting) == 0 {
		return false, fmt.Sprintf("nobody is known to listen on %v in a trusted network namespace", server)
	}
	for _, l := range accepting {
		if reason := t.doubt(l); reason != "" {
			return false, reason
		}
		if onlyInit(l.Processes) {
			return false, fmt.Sprintf("init (pid 1) alone holds the listener on %v: which program it starts for a connection is not known", l.Local)
		}
	}
	return true, ""
}

// fresh asks for a new look and waits for it, but not often: connections to
// unknown listeners must not slow everybody down.
func (t *Tables) fresh(old *snapshot) *snapshot {
	select {
	case t.ask <- struct{}{}:
	default: // asked already
	}
	now := time.Now().UnixNano()
	waited := t.waited.Load()
	if now-waited < int64(impatience) || !t.waited.CompareAndSwap(waited, now) {
		return t.current.Load()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-old.replaced:
	case <-timer.C:
	}
	return t.current.Load()
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

// doubt says why the listener is not to be believed, or "".
func (t *Tables) doubt(l *Listener) string {
	if !t.owners[l.UID] {
		return fmt.Sprintf("the listener on %v belongs to uid %d, who is not trusted", l.Local, l.UID)
	}
	if l.Processes == nil {
		return fmt.Sprintf("who holds the listener on %v is not known yet", l.Local)
	}
	if len(l.Processes) == 0 {
		return fmt.Sprintf("no process is seen that holds the listener on %v", l.Local)
	}
	if l.transparent && l.Local.Addr().IsUnspecified() {
		return fmt.Sprintf("the listener on %v takes what is for other hosts, too (IP_TRANSPARENT): which server its clients name is not known", l.Local)
	}
	for _, p := range l.Processes {
		if p.Forwards() {
			return fmt.Sprintf("the listener on %v only forwards: %v holds it", l.Local, p)
		}
	}
	return ""
}

// onlyInit says whether init alone holds a listener (systemd.socket(5)). What
// answers there is a program that it starts with the first connection or with each:
// it may be one that only forwards, and was not there to be seen.
func onlyInit(holders []Process) bool {
	return len(holders) == 1 && holders[0].PID == 1
}

// Owners lists the processes that hold the listener that accepted a connection
// on the server's address: those of every listener that could have, init too. It
// is empty in every other case of doubt that Check names. It does not wait.
func (t *Tables) Owners(server netip.AddrPort, netns uint64) []Process {
	s := t.current.Load()
	if s.err != nil || time.Since(s.at) > staleAfter {
		return nil
	}
	var all []Process
	for _, l := range s.accepting(nil, server, netns, anyListener) {
		if t.doubt(l) != "" {
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
	if s.err != nil || time.Since(s.at) > staleAfter {
		return nil
	}
	var all []Listener
	for i := range s.listeners {
		if l := &s.listeners[i]; t.doubt(l) == "" {
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
func (t *Tables) CheckConnection(c authz.Conn, opened time.Time) (ok bool, reason string) {
	if len(t.namespaces) == 0 {
		return false, "no network namespace is trusted"
	}
	own := t.namespaces[0]
	ok, err := t.exists(own, c)
	if err != nil {
		return false, fmt.Sprintf("whether the connection exists is not known: network namespace %d: %v", own.id, err)
	}
	if !ok {
		return false, "no socket of this host has this connection, but perhaps a transparent proxy's"
	}
	if ok, reason := t.Check(c.Server, own.id); !ok {
		return false, reason
	}
	listening, err := own.ask.listening([]uint16{c.Server.Port()})
	if err != nil {
		return false, fmt.Sprintf("who listens on %v is not known: %v", c.Server, err)
	}
	known, found := t.current.Load().accepting(nil, c.Server, own.id, anyListener), false
	for _, s := range listening {
		if !s.covers(c.Server.Addr()) {
			continue
		}
		i := slices.IndexFunc(known, func(l *Listener) bool { return l.Socket == s })
		if i < 0 || known[i].Since.After(opened) {
			return false, fmt.Sprintf("the listener on %v is not known to be older than the connection, which another may have accepted", s.Local)
		}
		found = true
	}
	if !found {
		return false, fmt.Sprintf("nobody listens on %v any more", c.Server)
	}
	return true, ""
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
