package authz

import (
	"fmt"
	"net/netip"
	"slices"
)

// Rules are what the configuration says about addresses. Precedence: denials
// (Policy.Denying), Never, Always, then the built-in rules (own addresses, loopback,
// link-local, unspecified, multicast, broadcast and reserved ranges, next hops of
// default routes, container subnets, trusted proxies), then manual grants and logins.
type Rules struct {
	// Never are not granted, whatever else holds.
	Never []netip.Prefix
	// Always may relay without a login; it overrides the built-in rules.
	Always []netip.Prefix
	// Proxies may announce clients and are never granted themselves.
	Proxies []netip.Prefix
}

// Policy decides about addresses. It is immutable, and safe for concurrent use.
// A nil Policy allows nothing.
type Policy struct {
	deny          prefixTable[string] // to the words about who denied it
	never, always prefixTable[struct{}]
	builtin       prefixTable[verdict]
}

// NewPolicy makes a policy. A prefix that cannot be understood is an error, and
// nothing is left out silently.
func NewPolicy(h Host, r Rules) (*Policy, error) {
	p := &Policy{}
	for _, list := range []struct {
		name string
		in   []netip.Prefix
		out  *prefixTable[struct{}]
	}{{"never", r.Never, &p.never}, {"always", r.Always, &p.always}} {
		for _, prefix := range list.in {
			n, err := NormalPrefix(prefix)
			if err != nil {
				return nil, fmt.Errorf("%s rule: %w", list.name, err)
			}
			list.out.put(n, struct{}{})
		}
	}
	var err error
	if p.builtin, err = builtin(h, r.Proxies); err != nil {
		return nil, err
	}
	return p, nil
}

// Denial is one prefix that is denied while the program runs. Words complete the
// sentence "is denied …", for instance with who said so; they may be empty.
type Denial struct {
	Prefix netip.Prefix
	Words  string
}

// Denying is p with further denials. Prefixes that cannot be understood are an
// error. A nil Policy stays nil: it allows nothing anyway.
func (p *Policy) Denying(denials []Denial) (*Policy, error) {
	if p == nil {
		return nil, nil
	}
	more := *p
	more.deny = p.deny.clone()
	for _, d := range denials {
		n, err := NormalPrefix(d.Prefix)
		if err != nil {
			return nil, fmt.Errorf("denial: %w", err)
		}
		more.deny.put(n, d.Words)
	}
	return &more, nil
}

// Check decides about one address. IPv4-mapped addresses are IPv4.
func (p *Policy) Check(a netip.Addr) Decision {
	a, err := normalAddr(a)
	if err != nil {
		return Decision{Rule: RuleInvalid, Reason: "is not an address"}
	}
	return p.check(single(a))
}

// CheckPrefix decides about a grant for every address of a prefix: it is
// allowed only if no address in it is refused.
func (p *Policy) CheckPrefix(prefix netip.Prefix) Decision {
	n, err := NormalPrefix(prefix)
	if err != nil {
		return Decision{Rule: RuleInvalid, Reason: "is not a prefix"}
	}
	return p.check(n)
}

func (p *Policy) check(n netip.Prefix) Decision {
	if p == nil {
		return Decision{Rule: RuleInvalid, Reason: "is not granted: this host's own addresses are not known yet"}
	}
	if key, words, ok := p.deny.overlapping(n); ok {
		if words != "" {
			words = " " + words
		}
		return Decision{Rule: RuleDeny, Reason: relation(n, key) + " denied" + named(n, key) + words}
	}
	if key, _, ok := p.never.overlapping(n); ok {
		return Decision{Rule: RuleNever, Reason: relation(n, key) + " never granted, says the configuration" + named(n, key)}
	}
	if key, _, ok := p.always.covering(n); ok {
		return Decision{Allow: true, Rule: RuleAlways, Reason: "is always allowed, says the configuration" + named(n, key)}
	}
	if key, v, ok := p.builtin.overlapping(n); ok {
		reason := v.reason
		if key.Bits() > n.Bits() {
			reason = "contains " + PrefixString(key) + ", which " + reason
		}
		return Decision{Rule: v.rule, Reason: reason}
	}
	return Decision{Allow: true, Rule: RuleDefault}
}

// Always lists the addresses that may relay without a login: the always rules
// without what is denied or never granted, sorted, none inside another.
func (p *Policy) Always() []netip.Prefix {
	if p == nil {
		return nil
	}
	var out []netip.Prefix
	for prefix := range p.always.values {
		if wider, _, ok := p.always.covering(parent(prefix)); ok && wider != prefix {
			continue
		}
		out = punch(out, prefix, p.against(prefix))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// against lists the deny and never rules that share an address with prefix.
func (p *Policy) against(prefix netip.Prefix) []netip.Prefix {
	return p.never.overlaps(prefix, p.deny.overlaps(prefix, nil))
}

// punch appends the parts of prefix that no hole touches. Each level looks only
// at the holes of its own half, so that many holes stay cheap.
func punch(out []netip.Prefix, prefix netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	if len(holes) == 0 {
		return append(out, prefix)
	}
	for _, h := range holes {
		if h.Bits() <= prefix.Bits() {
			return out
		}
	}
	low, high := halves(prefix)
	at := slices.IndexFunc(holes, func(h netip.Prefix) bool { return h.Overlaps(high) })
	if at < 0 {
		at = len(holes)
	}
	return punch(punch(out, low, holes[:at]), high, holes[at:])
}

// parent is prefix with one bit less.
func parent(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Addr(), max(p.Bits()-1, 0)).Masked()
}

// halves splits a prefix that is not a single address.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	upper, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(upper, p.Bits()+1)
}

func relation(n, key netip.Prefix) string {
	if key.Bits() > n.Bits() {
		return "contains " + PrefixString(key) + ", which is"
	}
	return "is"
}

// named tells the rule's prefix where it is wider than what was asked for.
func named(n, key netip.Prefix) string {
	if key.Bits() >= n.Bits() {
		return ""
	}
	return " (" + key.String() + ")"
}
