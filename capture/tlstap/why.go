package tlstap

import (
	"fmt"
	"slices"
	"strings"
)

// otherLibraries are TLS libraries that nobody can watch here, by the beginning
// of their file names.
var otherLibraries = []struct{ prefix, name string }{
	{"libssl3.so", "NSS"},
	{"libnss3.so", "NSS"},
	{"libwolfssl.so", "wolfSSL"},
	{"libmbedtls.so", "Mbed TLS"},
	{"libs2n.so", "s2n-tls"},
	{"librustls.so", "rustls"},
	{"libjsse.so", "Java"},
	{"libjvm.so", "Java"},
}

// why says why a family's TLS cannot be read, or "".
func (f *Finder) why(fam *family, libraries []LibraryUse) string {
	var reasons []string
	used := false
	for _, l := range libraries {
		used = used || !l.Expected
		switch {
		case l.Attached:
		case l.Why != "":
			reasons = append(reasons, l.Why)
		default:
			reasons = append(reasons, l.Path+" is not attached yet")
		}
	}
	for _, p := range fam.members {
		for _, k := range p.files {
			if k.suspect() && !slices.Contains(reasons, k.err.Error()) && len(reasons) < namesListed {
				reasons = append(reasons, k.err.Error())
			}
		}
	}
	unread, _ := f.history(fam.head)
	if len(reasons) == 0 && (len(libraries) == 0 || unread) {
		none := "no TLS library was found"
		if used {
			none = "none of its TLS connections was read so far"
		}
		reasons = append(reasons, f.missing(fam, none))
	}
	return strings.Join(reasons, "; ")
}

// missing says why the library that matters was not found, behind what tells so: what
// cannot be read goes first, for that may be the reason.
func (f *Finder) missing(fam *family, none string) string {
	var unread, broken error
	var other string
	inGo := false
	for _, p := range fam.members {
		if p.err != nil && unread == nil {
			unread = fmt.Errorf("%s (pid %d): %w", p.name, p.pid, p.err)
		}
		for _, k := range p.files {
			inGo = inGo || k.goProgram
			if name := k.otherLibrary(); name != "" {
				other = name
			}
			if k.err != nil {
				broken = k.err
			}
		}
	}
	switch {
	case broken != nil:
		return none + ": " + broken.Error()
	case unread != nil && len(fam.members) == 1:
		return none + ": " + unread.Error()
	case f.unread > 0:
		return none + " yet: more processes than can be looked at once"
	case inGo:
		return none + ": a Go program has its own built in"
	case other != "":
		return "it uses " + other + ", which cannot be read"
	case unread != nil:
		return none + ": " + unread.Error()
	}
	return none + ": its TLS may be built in without symbols, or be rustls"
}

// otherLibrary names the TLS library in the file that cannot be watched, or "".
func (k *knownFile) otherLibrary() string {
	for _, o := range otherLibraries {
		if strings.HasPrefix(k.name, o.prefix) {
			return o.name
		}
	}
	return ""
}
