package nft

import (
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What brakes keep: an element for each member that opened a connection of
// late, or has one.
const (
	rate4 = "rate4"
	rate6 = "rate6"
	conn4 = "conn4"
	conn6 = "conn6"
)

const brakes = "brakes" // their chain

// bite is the chain to which a brake leads a connection too many. It keeps an
// element with a counter for each address that was bitten of late.
type bite struct{ chain, words, set4, set6 string }

var (
	tooFast = bite{"too_fast", "too many new connections", "fast4", "fast6"}
	tooMany = bite{"too_many", "too many connections at a time", "many4", "many6"}
)

// How many bitten addresses are told, and for how long after the last bite.
const (
	maxBitten  = 4096
	bittenLife = time.Hour
)

func (b bite) sets() []set {
	flags := uint32(unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT)
	return []set{
		{name: b.set4, key: ipv4Addr, flags: flags, size: maxBitten, timeout: bittenLife, comment: b.words},
		{name: b.set6, key: ipv6Addr, flags: flags, size: maxBitten, timeout: bittenLife, comment: b.words},
	}
}

// chainTo notes who is bitten, and then does what stop says. Where there is no
// room for a note its rule ends there, and the next one stops all the same.
func (b bite) chainTo(stop match) chain {
	note := func(set string) match { return dynamic(unix.NFT_DYNSET_OP_UPDATE, set, &expr.Counter{}) }
	return chain{name: b.chain, comment: b.words, rules: []rule{
		{all(network(unix.NFPROTO_IPV4, 12, 4), note(b.set4)), "who"},
		{all(network(unix.NFPROTO_IPV6, 8, 16), note(b.set6)), "who"},
		{all(counter(), stop), b.words},
	}}
}

// brakeSets are the sets for b, of size elements each. Those of connections
// have no timeout: the kernel collects an element when its last connection is
// gone, and a timeout would forget connections that last longer.
func brakeSets(b Brakes, size uint32) (sets []set) {
	const full = 3 * time.Minute // a bucket is full again after one
	if b.NewPerMinute > 0 {
		flags := uint32(unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT)
		sets = append(sets,
			set{name: rate4, key: ipv4Addr, flags: flags, size: size, timeout: full, comment: "members' new connections"},
			set{name: rate6, key: ipv6Addr, flags: flags, size: size, timeout: full, comment: "members' new connections"})
		sets = append(sets, tooFast.sets()...)
	}
	if b.Concurrent > 0 {
		sets = append(sets,
			set{name: conn4, key: ipv4Addr, flags: unix.NFT_SET_EVAL, size: size, comment: "members' connections"},
			set{name: conn6, key: ipv6Addr, flags: unix.NFT_SET_EVAL, size: size, comment: "members' connections"})
		sets = append(sets, tooMany.sets()...)
	}
	return sets
}

// brakeChains returns the chains of b, or none. stop is what happens to a
// connection too many. Strangers leave no trace in them: only members fill their
// sets.
func brakeChains(b Brakes, stop match) (chains []chain) {
	if !b.on() {
		return nil
	}
	c := chain{name: brakes, comment: "what one member may do", rules: staticRules(returns())}
	bites := func(to bite, operation uint32, set4, set6 string, over expr.Any) {
		chains = append(chains, to.chainTo(stop))
		c.rules = append(c.rules, memberRules(
			all(dynamic(operation, set4, over), jump(to.chain)),
			all(dynamic(operation, set6, over), jump(to.chain)), to.words)...)
	}
	if b.NewPerMinute > 0 {
		bites(tooFast, unix.NFT_DYNSET_OP_UPDATE, rate4, rate6, &expr.Limit{
			Type: expr.LimitTypePkts, Rate: uint64(b.NewPerMinute), Unit: expr.LimitTimeMinute,
			Burst: uint32(b.NewPerMinute), Over: true,
		})
	}
	if b.Concurrent > 0 {
		bites(tooMany, unix.NFT_DYNSET_OP_ADD, conn4, conn6,
			&expr.Connlimit{Count: uint32(b.Concurrent), Flags: expr.NFT_CONNLIMIT_F_INV})
	}
	return append(chains, c)
}

// braked leads to the chain of brakes, if there is one.
func braked(b Brakes, when match) []rule {
	if !b.on() {
		return nil
	}
	return []rule{{all(when, jump(brakes)), "brakes"}}
}
