package grant

import (
	"net/netip"
	"slices"
)

// Get finds the grant that lets an address relay: the narrowest one. A grant
// whose time ran out is not found, even before Expire.
func (t *Table) Get(a netip.Addr) (Grant, bool) {
	a = a.Unmap().WithZone("")
	if !a.IsValid() {
		return Grant{}, false
	}
	k, shortest := keyOf(netip.PrefixFrom(a, a.BitLen())), 0
	if a.Is4() {
		shortest = 96
	}
	for bits := 128; bits >= shortest; bits-- {
		if t.lengths[bits] == 0 {
			continue
		}
		if i, ok := t.index[k.narrow(bits)]; ok && t.live(&t.entries[i]) {
			return t.grant(&t.entries[i]), true
		}
	}
	for _, g := range t.always {
		if g.Prefix.Contains(a) {
			return g, true
		}
	}
	return Grant{}, false
}

// List is every grant, IPv4 first, sorted by prefix.
func (t *Table) List() []Grant {
	list := make([]Grant, 0, t.Len())
	list = append(list, t.always...)
	for i := range t.entries {
		if e := &t.entries[i]; t.live(e) {
			list = append(list, t.grant(e))
		}
	}
	slices.SortFunc(list, func(a, b Grant) int { return a.Prefix.Compare(b.Prefix) })
	return list
}

// Len counts the grants that were not expired yet.
func (t *Table) Len() int { return t.granted + len(t.always) }

// live reports whether the entry's grant stands at the latest time seen.
func (t *Table) live(e *entry) bool {
	return e.open && e.expires > int64(t.last.Sub(t.base))
}

// grant copies an entry out of the table.
func (t *Table) grant(e *entry) Grant {
	g := Grant{
		Prefix:    e.key.prefix(),
		Since:     t.time(e.since),
		Expires:   t.time(e.expires),
		Source:    e.source,
		Logins:    e.logins,
		Conn:      e.conn,
		Protocol:  e.conn.Service.Protocol,
		Mechanism: e.mechanism,
		TLS:       e.tls,
		Answer:    e.answer,
	}
	if len(e.users) > 0 {
		g.Users = make([]User, len(e.users))
		for i, h := range e.users {
			g.Users[i] = User{h.account.name, t.time(h.seen), h.protocol, h.mechanism}
		}
	}
	return g
}
