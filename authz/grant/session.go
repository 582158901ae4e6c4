package grant

import (
	"net/netip"
	"slices"
	"time"
)

// Session is a connection that stays open after a proved login.
type Session struct {
	// ID tells it from every other that is open, as the socket cookie does.
	ID     uint64
	Client netip.Addr
	// User is who logged in, as in the verdict.
	User string
	// Begin is when it was opened; Config.MaxSession counts from it.
	Begin time.Time
}

// session is a Session as its entry keeps it.
type session struct {
	id    uint64
	user  uint64
	begin uint32
}

// Hold lets a session hold the grant of its client: while it is open the grant
// does not run out. Call it for the connection of a login that was granted or
// renewed. It reports false, and the grant's time runs from the login, where
// Config.Follow is off, nothing is open for the client, a brake stopped the last
// login, or the bound is reached.
func (t *Table) Hold(now time.Time, s Session) bool {
	at := t.see(now)
	i := t.holder(s.Client)
	if i == 0 || !t.cfg.Follow || t.entry(i).brake != noBrake {
		return false
	}
	t.forgetSession(i, s.ID)
	if t.followed >= t.cfg.MaxSessions {
		t.dropped.Sessions++
		return false
	}
	begin := min(t.clock.ticks(s.Begin), at)
	if s.Begin.IsZero() {
		begin = at
	}
	e := t.entry(i)
	user := t.user(s.User, e.key())
	if l := t.named(i, user); l != nil {
		l.seen = max(l.seen, at)
	}
	t.sessions[i] = append(t.sessions[i], session{s.ID, user, begin})
	t.followed++
	return true
}

// Release says that a session is no longer open, or that nothing was heard from
// its client since heard. With the last one the lifetime starts: from heard, or
// from now where heard is zero. It never shortens what was promised before. A
// session that holds nothing is no error.
//
// What is promised then may be much more than the kernel was told last: it is told
// (Rearmed).
func (t *Table) Release(now time.Time, s Session, heard time.Time) (Change, bool) {
	at := t.see(now)
	i := t.holder(s.Client)
	if i == 0 {
		return Change{}, false
	}
	until := at
	if !heard.IsZero() {
		until = min(t.clock.ticks(heard), at)
	}
	gone, ok := t.forgetSession(i, s.ID)
	if !ok {
		return Change{}, false
	}
	t.released(i, gone.user, min(until, gone.begin+t.maxSession))
	e := t.entry(i)
	if len(t.sessions[i]) > 0 || e.expires <= at || !e.arm(t.slack) {
		return Change{}, false
	}
	return Change{Kind: Rearmed, Time: now, Grant: t.grant(i), Arm: true, Reason: "its last session ended"}, true
}

// released starts the lifetime of what one session held until then.
func (t *Table) released(i uint32, user uint64, until uint32) {
	e := t.entry(i)
	e.expires = max(e.expires, until+t.lifetime)
	if l := t.named(i, user); l != nil {
		l.seen = max(l.seen, until)
	}
}

// holder is the entry that a session of this client holds.
func (t *Table) holder(client netip.Addr) uint32 {
	if !client.IsValid() {
		return 0
	}
	i := t.find(keyOf(t.Key(client)))
	if i == 0 || t.entry(i).state != open {
		return 0
	}
	return i
}

// settle ends the sessions that are older than MaxSession, and lets the others
// hold their entry and its users until now.
func (t *Table) settle(i, at uint32) {
	list := t.sessions[i]
	if len(list) == 0 {
		return
	}
	young := list[:0]
	for _, s := range list {
		if end := s.begin + t.maxSession; end <= at {
			t.released(i, s.user, end)
			continue
		}
		t.released(i, s.user, at)
		young = append(young, s)
	}
	t.followed -= len(list) - len(young)
	if t.sessions[i] = young; len(young) == 0 {
		delete(t.sessions, i)
	}
}

// promise is when an entry would close if its sessions ended now.
func (t *Table) promise(i, at uint32) uint32 {
	until := t.entry(i).expires
	for _, s := range t.sessions[i] {
		until = max(until, min(s.begin+t.maxSession, at)+t.lifetime)
	}
	return until
}

func (t *Table) forgetSession(i uint32, id uint64) (gone session, ok bool) {
	list := t.sessions[i]
	at := slices.IndexFunc(list, func(s session) bool { return s.id == id })
	if at < 0 {
		return session{}, false
	}
	gone = list[at]
	if t.followed--; len(list) == 1 {
		delete(t.sessions, i)
	} else {
		t.sessions[i] = slices.Delete(list, at, at+1)
	}
	return gone, true
}

func (t *Table) dropSessions(i uint32) {
	t.followed -= len(t.sessions[i])
	delete(t.sessions, i)
}

// Followed counts the sessions that hold a grant.
func (t *Table) Followed() int { return t.followed }
