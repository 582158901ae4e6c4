package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
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

// What the rules say in their comments, by which Bites tells them apart.
const (
	tooFast = "too many new connections"
	tooMany = "too many connections at a time"
)

const brakes = "brakes" // their chain

// brakeSets are the sets for b, of size elements each. Those of connections
// have no timeout: the kernel collects an element when its last connection is
// gone, and a timeout would forget connections that last longer.
func brakeSets(b Brakes, size uint32) (sets []set) {
	const memory = 2 * time.Minute // more than it takes a bucket to fill up again
	if b.NewPerMinute > 0 {
		// A bucket of burst tokens is full again after burst/rate minutes.
		full := memory + time.Duration(b.burst())*time.Minute/time.Duration(b.NewPerMinute)
		flags := uint32(unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT)
		sets = append(sets,
			set{name: rate4, key: ipv4Addr, flags: flags, size: size, timeout: full, comment: "members' new connections"},
			set{name: rate6, key: ipv6Addr, flags: flags, size: size, timeout: full, comment: "members' new connections"})
	}
	if b.Concurrent > 0 {
		sets = append(sets,
			set{name: conn4, key: ipv4Addr, flags: unix.NFT_SET_EVAL, size: size, comment: "members' connections"},
			set{name: conn6, key: ipv6Addr, flags: unix.NFT_SET_EVAL, size: size, comment: "members' connections"})
	}
	return sets
}

func (b Brakes) burst() int {
	if b.Burst > 0 {
		return b.Burst
	}
	return b.NewPerMinute
}

// brakeChains returns the chain of b, or none. stop is what happens to a
// connection too many. Strangers leave no trace in it: only members fill its
// sets.
func brakeChains(b Brakes, stop match) []chain {
	if !b.on() {
		return nil
	}
	stop = all(counter(), stop)
	c := chain{name: brakes, comment: "what one member may do", rules: staticRules(returns())}
	if b.NewPerMinute > 0 {
		over := &expr.Limit{
			Type: expr.LimitTypePkts, Rate: uint64(b.NewPerMinute), Unit: expr.LimitTimeMinute,
			Burst: uint32(b.burst()), Over: true,
		}
		c.rules = append(c.rules, memberRules(
			all(dynamic(unix.NFT_DYNSET_OP_UPDATE, rate4, over), stop),
			all(dynamic(unix.NFT_DYNSET_OP_UPDATE, rate6, over), stop), tooFast)...)
	}
	if b.Concurrent > 0 {
		over := &expr.Connlimit{Count: uint32(b.Concurrent), Flags: expr.NFT_CONNLIMIT_F_INV}
		c.rules = append(c.rules, memberRules(
			all(dynamic(unix.NFT_DYNSET_OP_ADD, conn4, over), stop),
			all(dynamic(unix.NFT_DYNSET_OP_ADD, conn6, over), stop), tooMany)...)
	}
	return []chain{c}
}

// braked leads to the chain of brakes, if there is one.
func braked(b Brakes, when match) []rule {
	if !b.on() {
		return nil
	}
	return []rule{{all(when, jump(brakes)), "brakes"}}
}

// Bites says how many connections of members each brake refused since the table
// was last built. Without a table, or a brake, it is 0.
func (g *Gate) Bites() (rate, concurrent uint64, err error) {
	if g.cfg.Mode == UserSets || !g.cfg.Brakes.on() {
		return 0, 0, nil
	}
	body := g.table.body()
	body.string(unix.NFTA_RULE_CHAIN, brakes)
	err = g.conn.list(message(unix.NFT_MSG_GETRULE, 0, body), func(m netlink.Message) error {
		text, packets, err := parseCounter(m)
		switch text {
		case tooFast:
			rate += packets
		case tooMany:
			concurrent += packets
		}
		return err
	})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, errInterrupted) {
		return 0, 0, fmt.Errorf("read counters of brakes: %w", err)
	}
	return rate, concurrent, nil
}

// parseCounter returns what a rule's comment says and how many packets its
// counter saw.
func parseCounter(m netlink.Message) (text string, packets uint64, err error) {
	ad, err := decoder(m)
	if err != nil {
		return "", 0, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_USERDATA:
			text = parseComment(ad.Bytes())
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						n, err := counted(e)
						packets += n
						return err
					})
				}
				return nil
			})
		}
	}
	return text, packets, ad.Err()
}

// counted is the number of packets in a counter, 0 for another expression.
func counted(e *netlink.AttributeDecoder) (packets uint64, err error) {
	name := ""
	for e.Next() {
		switch {
		case e.Type() == unix.NFTA_EXPR_NAME:
			name = e.String()
		case e.Type() == unix.NFTA_EXPR_DATA && name == "counter":
			e.Nested(func(data *netlink.AttributeDecoder) error {
				data.ByteOrder = binary.BigEndian
				for data.Next() {
					if data.Type() == unix.NFTA_COUNTER_PACKETS {
						packets = data.Uint64()
					}
				}
				return nil
			})
		}
	}
	return packets, nil
}
