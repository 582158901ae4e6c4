package grant

import (
	"slices"
	"strings"
	"unique"

	"relaygate/authz"
)

// detail is what explains a grant. The bound is on grants with details, the
// oldest grants keep theirs: nobody pushes out what explains another.
type detail struct {
	conn              authz.Conn
	mechanism, answer string
	by, note          string
	users             []known
	logins            uint32
	tls               bool
}

// known is a link's user with a name.
type known struct {
	user      uint64
	name      string
	protocol  authz.Protocol
	mechanism string
}

// detailOf is the detail of entry i, nil where there is no room for it. What
// the administrator does always has room.
func (t *Table) detailOf(i uint32, always bool) *detail {
	d := t.details[i]
	if d == nil {
		if len(t.details) >= t.cfg.MaxDetails && !always {
			t.dropped.Details++
			return nil
		}
		d = &detail{}
		t.details[i] = d
	}
	return d
}

// explain keeps what a login shows.
func (t *Table) explain(i uint32, user uint64, v *authz.Verdict) {
	d := t.detailOf(i, false)
	if d == nil {
		return
	}
	d.logins++
	d.conn, d.tls, d.mechanism, d.answer = v.Conn, v.TLS, intern(v.Mechanism), intern(v.Answer)
	d.name(user, userOf(v), t.cfg.MaxUsers+1)
}

func userOf(v *authz.Verdict) User {
	return User{Name: limit(v.User), Protocol: v.Conn.Service.Protocol, Mechanism: v.Mechanism}
}

// name notes a user as the latest, and keeps at most that many.
func (d *detail) name(user uint64, u User, most int) {
	k := known{user, "", u.Protocol, intern(u.Mechanism)}
	if at := slices.IndexFunc(d.users, func(k known) bool { return k.user == user }); at >= 0 {
		k.name = d.users[at].name
		d.users = slices.Delete(d.users, at, at+1)
	} else {
		k.name = strings.Clone(limit(u.Name))
	}
	if len(d.users) >= most {
		d.users = slices.Delete(d.users, 0, 1)
	}
	d.users = append(d.users, k)
}

// intern keeps one copy of texts that many grants share.
func intern(s string) string { return unique.Make(s).Value() }

// users are those of entry i that have names, the newest first.
func (t *Table) users(i uint32, d *detail) []User {
	var out []User
	for n := t.entry(i).links; n != 0; n = t.link(n).next {
		l := t.link(n)
		for _, k := range d.users {
			if k.user == l.user() {
				out = append(out, User{k.name, t.clock.time(l.seen), k.protocol, k.mechanism})
				break
			}
		}
	}
	return out
}
