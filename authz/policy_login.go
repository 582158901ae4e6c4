package authz

import "strings"

// CheckLogin decides about a verdict apart from its client's address: whether
// it proves that somebody logged in who may open a relay.
func CheckLogin(v *Verdict) Decision {
	refuse := func(reason string) Decision { return Decision{Rule: RuleLogin, Reason: reason} }
	switch {
	case v.Result != Success:
		return refuse("no successful login was proved (" + v.Result.String() + ")")
	case v.Origin != FromHost && v.Origin != FromInside && v.Origin != FromHandshake:
		return refuse("nothing shows that this host sent the server's answer")
	case v.Anonymous || strings.EqualFold(v.Mechanism, "ANONYMOUS"):
		return refuse("an anonymous login proves nobody (RFC 4505)")
	case strings.EqualFold(v.Mechanism, "PREAUTH"):
		return refuse("a PREAUTH greeting proves nobody (RFC 9051 §7.1.4)")
	case anonymous(v.User):
		return refuse("the user name anonymous proves nobody")
	case !v.Conn.Client.Addr().IsValid() || !v.Conn.Server.Addr().IsValid():
		return refuse("the connection's addresses are not known")
	case v.Conn.Client.Addr().Unmap() == v.Conn.Server.Addr().Unmap():
		return refuse("client and server are the same address")
	}
	return Decision{Allow: true, Rule: RuleDefault}
}

// anonymous reports whether a server may take a login with this name for one of
// ANONYMOUS. UW IMAP and its heirs do with the name itself, Cyrus also with what it
// takes off a name: a domain behind @ or %, and the sign + of a folder.
func anonymous(name string) bool {
	if i := strings.IndexAny(name, "@%+"); i >= 0 {
		name = name[:i]
	}
	return strings.EqualFold(strings.TrimSpace(name), "anonymous")
}
