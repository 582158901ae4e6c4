package grant

import (
	"net/netip"
	"slices"
	"strings"
	"unique"

	"relaygate/authz"
)

// detail is what explains a grant. The bound is on grants with details, the
// oldest grants keep theirs: nobody pushes out what explains another.
type detail struct {
	client            netip.AddrPort
	cookie            uint64
	server            unique.Handle[authz.Conn] // the connection without these two
	mechanism, answer text
	admin             *admin // nil but for manual grants
	users             []known
	room              [1]known // of users, for most have one
	logins            uint32
	tls               bool
}

// admin is who granted by hand.
type admin struct{ by, note string }

// known is a link's user with a name.
type known struct {
	user      uint64
	name      string
	mechanism text
	protocol  authz.Protocol
}

// text is a string of which grants share one copy.
type text struct{ shared unique.Handle[string] }

func intern(s string) text { return text{unique.Make(s)} }

func (t text) String() string {
	if t == (text{}) {
		return ""
	}
	return t.shared.Value()
}

func (d *detail) setConn(c authz.Conn) {
	d.client, d.cookie = c.Client, c.Cookie
	c.Client, c.Cookie = netip.AddrPort{}, 0
	d.server = unique.Make(c)
}

func (d *detail) conn() authz.Conn {
	var c authz.Conn
	if d.server != (unique.Handle[authz.Conn]{}) {
		c = d.server.Value()
	}
	c.Client, c.Cookie = d.client, d.cookie
	return c
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
		d.users = d.room[:0]
		t.details[i] = d
	}
	return d
}

// explain keeps what a login shows, if there is room.
func (t *Table) explain(i uint32, user uint64, v *authz.Verdict) bool {
	d := t.detailOf(i, false)
	if d == nil {
		return false
	}
	d.logins++
	d.setConn(v.Conn)
	d.tls, d.mechanism, d.answer = v.TLS, intern(v.Mechanism), intern(v.Answer)
	d.name(user, userOf(v), t.cfg.MaxUsers+1)
	return true
}

func userOf(v *authz.Verdict) User {
	return User{Name: limit(v.User), Protocol: v.Conn.Service.Protocol, Mechanism: v.Mechanism}
}

// name notes a user as the latest, and keeps at most that many.
func (d *detail) name(user uint64, u User, most int) {
	k := known{user: user, protocol: u.Protocol, mechanism: intern(u.Mechanism)}
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

// users are those of entry i that have names, the newest first.
func (t *Table) users(i uint32, d *detail) []User {
	var out []User
	for n := t.entry(i).links; n != 0; n = t.link(n).next {
		l := t.link(n)
		for _, k := range d.users {
			if k.user == l.user() {
				out = append(out, User{k.name, t.clock.time(l.seen), k.protocol, k.mechanism.String()})
				break
			}
		}
	}
	return out
}
