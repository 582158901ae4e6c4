package authz

// The rules that a Decision names. They stand here in the order of precedence,
// the built-in ones together.
const (
	RuleInvalid = "invalid"
	// RuleLogin: what the login proves is not enough (CheckLogin).
	RuleLogin       = "login"
	RuleDeny        = "deny"
	RuleNever       = "never"
	RuleAlways      = "always"
	RuleOwn         = "own"
	RuleNextHop     = "next-hop"
	RuleContainer   = "container"
	RuleProxy       = "proxy"
	RuleLoopback    = "loopback"
	RuleLinkLocal   = "link-local"
	RuleUnspecified = "unspecified"
	RuleMulticast   = "multicast"
	RuleBroadcast   = "broadcast"
	RuleReserved    = "reserved"
	// RuleDefault: nothing stands against a grant.
	RuleDefault = "default"
)

// Decision says whether an address may be granted.
type Decision struct {
	Allow bool
	// Rule is one of the Rule constants.
	Rule string
	// Reason completes the sentence "192.0.2.7 …"; "" with RuleDefault.
	Reason string
}

// verdict is a rule that stands against a grant, with its reason.
type verdict struct{ rule, reason string }
