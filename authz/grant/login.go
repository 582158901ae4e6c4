package grant

import (
	"container/heap"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"relaygate/authz"
)

// Login judges a verdict and grants or renews its client's address for one
// lifetime from now, or says why not (Refused). It reports false where there is
// nothing to say: the verdict is no success, or the address needs no grant
// because an always rule names it.
func (t *Table) Login(now time.Time, v authz.Verdict) (Change, bool) {
	off := t.offset(now)
	if v.Result != authz.Success {
		return Change{}, false
	}
	v.Answer = authz.SafeAnswer(v)
	p := t.Key(v.Conn.Client.Addr())
	d := authz.CheckLogin(v)
	if d.Allow {
		d = t.policy.Check(v.Conn.Client.Addr())
	}
	if d.Rule == authz.RuleAlways {
		return Change{}, false
	}
	if d.Allow && !p.IsSingleIP() {
		d = t.policy.CheckPrefix(p)
	}
	c := Change{Kind: Refused, Time: now, Cause: &v}
	slot, reason := int32(0), d.Reason
	if d.Allow {
		slot, reason = t.admit(off, p, v)
	}
	if reason != "" || !d.Allow {
		c.Grant, c.Reason = t.standing(p), reason
		return c, true
	}
	e := &t.entries[slot]
	c.Kind = t.extend(e, off, t.cfg.Lifetime, Login)
	if c.Kind == Granted {
		e.logins = 0
	}
	e.logins++
	e.conn, e.mechanism, e.tls, e.answer, e.held = v.Conn, v.Mechanism, v.TLS, v.Answer, ""
	c.Grant, c.Reason = t.grant(e), "login of "+display(v.User)
	return c, true
}

func display(user string) string {
	if user == "" {
		return "a user whose name was not shown"
	}
	return authz.Quote(user)
}

// admit counts the user towards the address and the address towards the user,
// and says which of the two brakes stops the grant, if one does.
func (t *Table) admit(off int64, p netip.Prefix, v authz.Verdict) (slot int32, reason string) {
	user := limit(v.User)
	// Mail servers fold case; without it one user has many names.
	folded := strings.ToLower(user)
	i, ok := t.index[keyOf(p)]
	if ok {
		t.prune(&t.entries[i], off)
	}
	a := t.accounts[folded]
	if !ok || !t.entries[i].names(a) {
		if t.everywhere(off, a) {
			reason = fmt.Sprintf("%s already holds %d addresses, which is the limit for one user", display(user), a.addresses)
			if ok {
				t.entries[i].held = reason
			}
			return 0, reason
		}
		a = t.accounts[folded] // it may have gone with its last old login
	}
	if !ok {
		if len(t.index) >= t.cfg.MaxGrants {
			return 0, t.full()
		}
		i = t.insert(keyOf(p))
	}
	if a == nil {
		a = &account{name: strings.Clone(user), folded: strings.Clone(folded)}
		t.accounts[a.folded] = a
	}
	e := &t.entries[i]
	t.note(i, off, a, v)
	if len(e.users) > t.cfg.MaxUsers {
		e.held = fmt.Sprintf("more than %d users logged in from it within %v: it counts as shared", t.cfg.MaxUsers, t.cfg.Lifetime)
		return 0, e.held
	}
	return i, ""
}

func (e *entry) names(a *account) bool {
	return a != nil && slices.ContainsFunc(e.users, func(h holder) bool { return h.account == a })
}

// everywhere reports whether a holds as many addresses as one user may, logins
// older than a lifetime not counted. A name that is not shown is nobody's.
func (t *Table) everywhere(off int64, a *account) bool {
	if a == nil || a.folded == "" || a.addresses < t.cfg.MaxAddresses {
		return false
	}
	for _, i := range slices.Clone(a.slots) {
		t.prune(&t.entries[i], off)
	}
	return a.addresses >= t.cfg.MaxAddresses
}

// note puts a in front of the users of slot i. One more than MaxUsers are kept:
// the oldest of them tells whether the address is shared still.
func (t *Table) note(i int32, off int64, a *account, v authz.Verdict) {
	e := &t.entries[i]
	h := holder{a, off, v.Conn.Service.Protocol, v.Mechanism}
	at := slices.IndexFunc(e.users, func(h holder) bool { return h.account == a })
	if at < 0 {
		a.addresses++
		if a.folded != "" {
			a.slots = append(a.slots, i)
		}
		if len(e.users) > t.cfg.MaxUsers {
			t.drop(e, len(e.users)-1)
		}
		e.users = append(e.users, holder{})
		at = len(e.users) - 1
	}
	copy(e.users[1:at+1], e.users[:at])
	e.users[0] = h
	e.forget = max(e.forget, after(off, t.cfg.Lifetime))
	heap.Fix(&t.due, int(e.position))
}

// prune drops the users whose login no longer holds the address open.
func (t *Table) prune(e *entry, off int64) {
	for n := len(e.users); n > 0 && after(e.users[n-1].seen, t.cfg.Lifetime) <= off; n-- {
		t.drop(e, n-1)
	}
}

// drop takes one user off an entry.
func (t *Table) drop(e *entry, at int) {
	a := e.users[at].account
	if at := slices.Index(a.slots, t.index[e.key]); at >= 0 {
		a.slots = slices.Delete(a.slots, at, at+1)
	}
	if a.addresses--; a.addresses == 0 {
		delete(t.accounts, a.folded)
	}
	e.users = slices.Delete(e.users, at, at+1)
}

// extend opens an entry or moves its deadline, never to an earlier time.
func (t *Table) extend(e *entry, off int64, lifetime time.Duration, s Source) Kind {
	kind := Renewed
	until := after(off, lifetime)
	if !e.open || e.expires <= off {
		if !e.open {
			t.granted++
		}
		kind = Granted
		e.open, e.since, e.expires, e.source = true, off, until, s
	}
	if until >= e.expires {
		e.expires, e.source = until, s
	}
	heap.Fix(&t.due, int(e.position))
	return kind
}

// standing is the grant of p as it is, or only p where there is none.
func (t *Table) standing(p netip.Prefix) Grant {
	if p.IsValid() {
		if i, ok := t.index[keyOf(p)]; ok && t.live(&t.entries[i]) {
			return t.grant(&t.entries[i])
		}
	}
	return Grant{Prefix: p}
}

func (t *Table) refused(now time.Time, p netip.Prefix, reason string) Change {
	return Change{Kind: Refused, Time: now, Grant: t.standing(p), Reason: reason}
}

func (t *Table) full() string {
	return fmt.Sprintf("the table is full (%d addresses)", t.cfg.MaxGrants)
}

// insert makes an entry that is not open yet. Its deadline is set by the caller
// before it returns.
func (t *Table) insert(k key) int32 {
	var i int32
	if n := len(t.free); n > 0 {
		i, t.free = t.free[n-1], t.free[:n-1]
	} else {
		i = int32(len(t.entries))
		t.entries = append(t.entries, entry{})
	}
	t.entries[i] = entry{key: k, forget: math.MinInt64}
	t.index[k] = i
	t.lengths[k.bits]++
	heap.Push(&t.due, i)
	return i
}

// remove forgets an entry and its users.
func (t *Table) remove(i int32) {
	e := &t.entries[i]
	for n := len(e.users); n > 0; n-- {
		t.drop(e, n-1)
	}
	if e.open {
		t.granted--
	}
	heap.Remove(&t.due, int(e.position))
	delete(t.index, e.key)
	t.lengths[e.key.bits]--
	t.entries[i] = entry{}
	t.free = append(t.free, i)
}
