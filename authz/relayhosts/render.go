// Package relayhosts writes the files that mail servers and control panels of
// POP-before-SMTP read: relayhosts, one address per line, and the users file,
// which names who logged in from each. The formats are those of cPanel's
// antirelayd.
//
// A reader that finds no file, or half of one, refuses mail or opens too much.
// So a file is never absent and never half: it is written aside, made durable
// and renamed over the old one. Where it is itself a mount point and cannot be
// renamed over, it is written in place.
package relayhosts

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"

	"relaygate/authz"
	"relaygate/authz/grant"
)

// Dialect is how the reader of relayhosts wants IPv6 addresses.
type Dialect uint8

const (
	// IPLSearch quotes what has a colon: Exim's net-iplsearch lookup, and
	// cPanel's own format.
	IPLSearch Dialect = iota
	// Plain quotes nothing: a file named in an Exim host list, OpenSMTPD's
	// table. A quoted line there would hide every later one.
	Plain
	// Postfix is its cidr table (cidr_table(5)): each line has a result.
	Postfix
)

// Dialects are the names of the dialects, by Dialect.
var Dialects = []string{"iplsearch", "plain", "postfix"}

func (d Dialect) String() string { return Dialects[d] }

// Static names the user of an entry that nobody logged in for.
const Static = "-alwaysrelay-"

// Entry is what the files say of a grant: much less than it is, as there may be a
// million.
type Entry struct {
	Prefix netip.Prefix
	// Users are fit for the users file, the newest first.
	Users []string
}

// EntryOf takes out of a grant what the files say.
func EntryOf(g *grant.Grant) Entry { return Entry{g.Prefix, userNames(g)} }

// renderHosts is the relayhosts file of grants: one prefix per line, IPv4 first
// and IPv6 last, so that a reader of the other dialect loses IPv6 alone.
func renderHosts(d Dialect, grants []Entry) []byte {
	b := make([]byte, 0, 20*len(grants))
	for _, g := range sorted(grants) {
		b = appendHost(b, d, g.Prefix)
		if d == Postfix {
			b = append(b, " OK"...)
		}
		b = append(b, '\n')
	}
	return b
}

// renderUsers is the users file of grants: "address: user, user", the newest
// first. What was granted without a login names Static; an address whose users
// are not known is left out.
func renderUsers(grants []Entry) []byte {
	b := make([]byte, 0, 20*len(grants))
	for _, g := range sorted(grants) {
		if len(g.Users) == 0 {
			continue
		}
		b = appendHost(b, IPLSearch, g.Prefix)
		b = append(b, ": "...)
		b = append(b, strings.Join(g.Users, ", ")...)
		b = append(b, '\n')
	}
	return b
}

// sorted drops what is no prefix, and puts IPv4 before IPv6, each by address and
// then by length; of equal ones the first counts.
func sorted(grants []Entry) []*Entry {
	// The numbers of an IPv4 prefix and its place in the list fit in one word: 0.4 of the
	// time of a comparison by parts, all of the rendering included.
	const atBits, lengthBits = 26, 6
	four := make([]uint64, 0, len(grants))
	var six []int
	for i := range grants {
		switch p := grants[i].Prefix; {
		case !p.IsValid():
		case p.Addr().Is4() && i < 1<<atBits:
			a := p.Addr().As4()
			four = append(four, uint64(binary.BigEndian.Uint32(a[:]))<<(lengthBits+atBits)|uint64(p.Bits())<<atBits|uint64(i))
		default:
			six = append(six, i)
		}
	}
	slices.Sort(four)
	slices.SortFunc(six, func(i, j int) int {
		a, b := grants[i].Prefix, grants[j].Prefix
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()), cmp.Compare(i, j))
	})
	list := make([]*Entry, 0, len(four)+len(six))
	add := func(i int) {
		if e := &grants[i]; len(list) == 0 || list[len(list)-1].Prefix != e.Prefix {
			list = append(list, e)
		}
	}
	for _, word := range four {
		add(int(word & (1<<atBits - 1)))
	}
	for _, i := range six {
		add(i)
	}
	return list
}

func appendHost(b []byte, d Dialect, p netip.Prefix) []byte {
	quote := d == IPLSearch && p.Addr().Is6()
	if quote {
		b = append(b, '"')
	}
	if p.IsSingleIP() { // as authz.PrefixString
		b = p.Addr().AppendTo(b)
	} else {
		b = p.AppendTo(b)
	}
	if quote {
		b = append(b, '"')
	}
	return b
}

func userNames(g *grant.Grant) []string {
	var names []string
	for _, u := range g.Users {
		if name := sanitise(u.Name); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) == 0 && (g.Source == grant.Always || g.Source == grant.Manual) {
		names = append(names, Static)
	}
	return names
}

// sanitise makes a user name fit for the users file: nothing in it can end the
// name or the line, look like Static, or act on a page that shows the file.
// Readers take a colon between user and domain for an at sign, so does this;
// everything else that does not belong in a name becomes an underscore.
func sanitise(user string) string {
	var b strings.Builder
	for i, r := range strings.ToValidUTF8(user, "_") {
		switch {
		case r == ':' && i > 0:
			r = '@'
		case strings.ContainsRune(" ,;", r), !authz.Shown(r, i == 0), i == 0 && (r == '#' || r == ':'):
			r = '_'
		}
		if b.Len()+utf8.RuneLen(r) > authz.UserLimit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
