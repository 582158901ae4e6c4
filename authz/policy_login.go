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
	case strings.EqualFold(v.User, "anonymous"):
		// UW IMAP and its heirs take LOGIN with this name for ANONYMOUS.
		return refuse("the user name anonymous proves nobody")
	case !v.Conn.Client.Addr().IsValid() || !v.Conn.Server.Addr().IsValid():
		return refuse("the connection's addresses are not known")
	case v.Conn.Client.Addr().Unmap() == v.Conn.Server.Addr().Unmap():
		return refuse("client and server are the same address")
	}
	return Decision{Allow: true, Rule: RuleDefault}
}

// RuleLogin: what the login proves is not enough.
const RuleLogin = "login"
