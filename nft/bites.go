package nft

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Bites says how many connections of members each brake refused since the table
// was last built. Without a table, or a brake, it is 0.
func (g *Gate) Bites() (rate, concurrent uint64, err error) {
	if !g.cfg.Brakes.on() {
		return 0, 0, nil
	}
	for brake, total := range map[bite]*uint64{tooFast: &rate, tooMany: &concurrent} {
		body := g.table.body()
		body.string(unix.NFTA_RULE_CHAIN, brake.chain)
		err := g.conn.list(message(unix.NFT_MSG_GETRULE, 0, body), func(m netlink.Message) error {
			packets, err := parseCounter(m)
			*total += packets
			return err
		})
		if unreadable(err) {
			return 0, 0, fmt.Errorf("read counters of brakes: %w", err)
		}
	}
	return rate, concurrent, nil
}

// unreadable leaves out that there is no such brake, or that the table changed.
func unreadable(err error) bool {
	return err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, errInterrupted)
}

// Bitten is a member of whom brakes refused connections of late: so many since
// the table was last built, or since the last hour without a bite.
type Bitten struct {
	Addr             netip.Addr
	TooFast, TooMany uint64
}

// Bitten lists the bitten, at most 4,096 by each brake. Ask for it when Bites
// says more than before.
func (g *Gate) Bitten() ([]Bitten, error) {
	if !g.cfg.Brakes.on() {
		return nil, nil
	}
	found := make(map[netip.Addr]Bitten)
	for _, b := range []bite{tooFast, tooMany} {
		for _, set := range []string{b.set4, b.set6} {
			err := g.conn.list(listElements(g.table, set), func(m netlink.Message) error {
				return eachElement(m, func(e listed) {
					who := found[e.key]
					who.Addr = e.key
					if b == tooFast {
						who.TooFast = e.packets
					} else {
						who.TooMany = e.packets
					}
					found[e.key] = who
				})
			})
			if unreadable(err) {
				return nil, fmt.Errorf("read who was bitten: %w", err)
			}
		}
	}
	return slices.Collect(maps.Values(found)), nil
}

// parseCounter returns how many packets a rule's counters saw.
func parseCounter(m netlink.Message) (packets uint64, err error) {
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		if ad.Type() == unix.NFTA_RULE_EXPRESSIONS {
			nested(ad, func(list *netlink.AttributeDecoder) { packets += counted(list) })
		}
	})
	return packets, err
}

// counted is the number of packets in a counter, 0 for another expression.
func counted(expression *netlink.AttributeDecoder) (packets uint64) {
	name := ""
	nested(expression, func(e *netlink.AttributeDecoder) {
		switch {
		case e.Type() == unix.NFTA_EXPR_NAME:
			name = e.String()
		case e.Type() == unix.NFTA_EXPR_DATA && name == "counter":
			nested(e, func(data *netlink.AttributeDecoder) {
				if data.Type() == unix.NFTA_COUNTER_PACKETS {
					packets = data.Uint64()
				}
			})
		}
	})
	return packets
}
