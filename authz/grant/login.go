package grant

import (
	"fmt"
	"net/netip"
	"time"

	"relaygate/authz"
)

// Admission is a login that Admit judged. What it opened can be written to the
// gate before Explain tells of it.
type Admission struct {
	// Kind and Arm are those of the Change to come; Prefix and Expires those of
	// its grant, if Arm is true.
	Kind    Kind
	Arm     bool
	Prefix  netip.Prefix
	Expires time.Time

	time    time.Time
	verdict authz.Verdict
	entry   uint32 // 0 if it was refused
	reason  string // why
}

// Admit judges a verdict, into a, and grants or renews its client's address for one
// lifetime from then, or says why not (Refused). It reports false where there is nothing
// to say: the verdict is no success, or the address needs no grant because an always rule
// names it. Else Explain must follow before anything else is done to the table.
func (t *Table) Admit(now time.Time, v *authz.Verdict, a *Admission) bool {
	at := t.see(now)
	if v.Result != authz.Success {
		return false
	}
	client := v.Conn.Client.Addr()
	p := t.Key(client)
	d := authz.CheckLogin(v)
	if d.Allow {
		d = t.policy.Check(client)
	}
	if d.Rule == authz.RuleAlways {
		return false
	}
	if d.Allow && !p.IsSingleIP() {
		d = t.policy.CheckPrefix(p)
	}
	*a = Admission{Kind: Refused, Prefix: p, time: now, verdict: *v, reason: d.Reason}
	a.verdict.Answer = authz.SafeAnswer(v)
	late := lateness(now, v)
	switch {
	case !d.Allow:
	case t.paused != nil:
		a.reason = t.paused.words()
	case late >= t.lifetime:
		a.reason = "relaygate came to know of the login too late: its time is over"
	default:
		a.entry, a.reason = t.admit(at, p, v)
	}
	if a.entry == 0 {
		return true
	}
	e := t.entry(a.entry)
	a.Kind = t.extend(a.entry, at, t.lifetime-late, Login)
	e.brake = noBrake
	a.Arm = e.arm(t.slack)
	a.Expires = t.clock.time(e.expires)
	return true
}

// lateness is how long ago, in ticks, the server's answer was: much where the agent hung.
// By now the address may be another's, so that a lifetime counts from the login.
func lateness(now time.Time, v *authz.Verdict) uint32 {
	if v.Time.IsZero() {
		return 0
	}
	return ticks(now.Sub(v.Time))
}

// Explain keeps what an admitted login shows, and tells of it: the Cause is that of
// the Admission.
func (t *Table) Explain(a *Admission) Change {
	v := &a.verdict
	c := Change{Kind: a.Kind, Time: a.time, Cause: v, Reason: a.reason, Arm: a.Arm}
	if a.entry == 0 {
		c.Grant = t.standing(a.Prefix)
		return c
	}
	kept := t.explain(a.entry, t.user(v.User, t.entry(a.entry).key()), v)
	c.Grant, c.Reason = t.grant(a.entry), "login of "+display(v.User)
	if g := &c.Grant; !kept { // this change can be explained all the same
		u := userOf(v)
		u.Seen = a.time
		g.Users, g.Conn, g.Protocol, g.Mechanism, g.TLS, g.Answer = []User{u}, v.Conn, u.Protocol, v.Mechanism, v.TLS, v.Answer
	}
	return c
}

func display(user string) string {
	if user == "" {
		return "a user whose name was not shown"
	}
	return authz.Quote(user)
}

// admit counts the user towards the prefix and the prefix towards the user, and
// says which of the two brakes stops the grant, if one does: then i is 0.
func (t *Table) admit(at uint32, p netip.Prefix, v *authz.Verdict) (i uint32, reason string) {
	k := keyOf(p)
	user := t.user(v.User, k)
	if i = t.find(k); i != 0 {
		t.settle(i, at)
		t.prune(i, t.stale(at))
	}
	if i == 0 || t.named(i, user) == nil {
		if n := t.addresses(user, at); n >= t.cfg.MaxAddresses {
			if i != 0 {
				t.entry(i).brake = tooManyAddresses
			}
			t.stopped.Addresses++
			return 0, fmt.Sprintf("%s already holds %d addresses, which is the limit for one user", display(v.User), n)
		}
	}
	if i == 0 {
		if t.entries.n >= t.cfg.MaxGrants {
			return 0, t.full()
		}
		i = t.insert(k)
		t.due.push(timer{at + t.lifetime - t.slack, i})
	}
	if t.note(i, user, at) > t.cfg.MaxUsers {
		t.entry(i).brake = tooManyUsers
		t.dropSessions(i) // nobody's session keeps a shared address open
		if d := t.details[i]; d != nil {
			d.name(user, userOf(v), t.cfg.MaxUsers+1)
		}
		t.stopped.Users++
		return 0, t.shared()
	}
	return i, ""
}

// extend opens an entry or moves its deadline, never to an earlier time.
func (t *Table) extend(i, at, lifetime uint32, s Source) Kind {
	e := t.entry(i)
	until := at + lifetime
	if e.state == open && t.promise(i, at) > at {
		if until >= e.expires {
			e.expires, e.source = until, s
		}
		return Renewed
	}
	t.close(i) // its time ran out and Expire was not called yet
	e.state, e.source, e.brake = open, s, noBrake
	e.since, e.expires, e.armed = at, until, 0
	t.granted++
	return Granted
}

// arm tells whether the kernel must be told the entry's deadline now: it knows
// another one that is earlier by more than slack. Then it counts as told.
func (e *entry) arm(slack uint32) bool {
	if e.expires <= e.armed+slack && e.armed != 0 {
		return false
	}
	e.armed = e.expires
	return true
}

// standing is the grant of p as it is, or only p where there is none.
func (t *Table) standing(p netip.Prefix) Grant {
	if p.IsValid() {
		if i := t.find(keyOf(p)); i != 0 && t.live(i) {
			return t.grant(i)
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
