package nft

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Translations tells of rules by which packets change their address or port. What such a
// rule leads to a socket, whoever looks before it takes for another socket's. That goes for
// those that leave, too (SNAT, masquerade): a connection that the kernel has forgotten begins
// anew with the server's next segment, whose answers are then translated. Our own table leads
// to the relay port alone. It tells of flow tables, too, which make such ways for what is
// forwarded. It may be asked from any goroutine.
type Translations struct {
	mu         sync.Mutex // guards what follows
	conn       conn
	looked     bool
	generation uint32 // of the rules that were looked at
	four, six  string // the tables in which there are some, or ""
	offloads   string // the same of rules that add to flow tables
	rest       time.Time
}

// Each change of our own set makes a generation, too: with a login at once behind the other
// the rules would be read for each. So they are not read again for lookRest times as long as
// it took, a few milliseconds mostly.
const lookRest = 20

// OpenTranslations asks a network namespace, the own one for 0.
func OpenTranslations(netns int) (*Translations, error) {
	c, err := dial(netns)
	if err != nil {
		return nil, err
	}
	return &Translations{conn: c}, nil
}

// Close ends the asking.
func (t *Translations) Close() error { return t.conn.Close() }

// Of names a table that translates IPv4, or IPv6; "" if none does.
func (t *Translations) Of(six bool) (table string, err error) {
	legacy, file := "iptables", "/proc/thread-self/net/ip_tables_names"
	if six {
		legacy, file = "ip6tables", "/proc/thread-self/net/ip6_tables_names"
	}
	// Those of x_tables have a table for it, whose rules are not read.
	names, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("list tables of %s: %w", legacy, err)
	}
	if slices.Contains(strings.Fields(string(names)), "nat") {
		return legacy + " nat", nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	err = again(errInterrupted, t.look)
	if six {
		return t.six, err
	}
	return t.four, err
}

// Offloads names a table whose rules have connections forwarded by a flow table: from one
// interface to another, past those that are made of them, such as bridges; "" if none do.
func (t *Translations) Offloads() (table string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	err = again(errInterrupted, t.look)
	return t.offloads, err
}

// look reads the rules, if they are others than before.
func (t *Translations) look() error {
	generation, err := t.conn.generation()
	if errors.Is(err, unix.EINVAL) {
		return nil // a kernel without nf_tables
	}
	began := time.Now()
	if err != nil || t.looked && (generation == t.generation || began.Before(t.rest)) {
		return err
	}
	t.looked, t.four, t.six, t.offloads = false, "", "", ""
	err = t.conn.list(message(unix.NFT_MSG_GETRULE, 0, nfgenmsg(unix.NFPROTO_UNSPEC, 0)), t.note)
	if err != nil {
		return fmt.Errorf("look for rules that translate: %w", err)
	}
	t.looked, t.generation = true, generation
	t.rest = began.Add(lookRest * time.Since(began))
	return nil
}

// note takes in a rule.
func (t *Translations) note(m netlink.Message) error {
	var table tableID
	var does, offloads bool
	err := decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			table = tableID{m.Data[0], ad.String()}
		case unix.NFTA_RULE_EXPRESSIONS:
			nested(ad, func(expression *netlink.AttributeDecoder) {
				name, translates := translating(expression, m.Data[0])
				does, offloads = does || translates, offloads || name == "flow_offload"
			})
		}
	})
	if err != nil || table == (tableID{unix.NFPROTO_INET, Table}) {
		return err
	}
	name := fmt.Sprintf("%s of nf_tables", table.name)
	if offloads {
		t.offloads = name
	}
	if does && table.family != unix.NFPROTO_IPV6 {
		t.four = name
	}
	if does && table.family != unix.NFPROTO_IPV4 {
		t.six = name
	}
	return nil
}

// translating says whether an expression of a table of a family gives packets other addresses
// or ports, or may, and its name.
func translating(expression *netlink.AttributeDecoder, family byte) (name string, does bool) {
	nested(expression, func(e *netlink.AttributeDecoder) {
		switch {
		case e.Type() == unix.NFTA_EXPR_NAME:
			name = e.String()
			does = slices.Contains([]string{"nat", "masq", "redir"}, name)
		case e.Type() == unix.NFTA_EXPR_DATA && name == "payload":
			a := numbers(e)
			end := a[unix.NFTA_PAYLOAD_OFFSET] + a[unix.NFTA_PAYLOAD_LEN]
			mark := a[unix.NFTA_PAYLOAD_BASE] == unix.NFT_PAYLOAD_NETWORK_HEADER && end <= behindHops(family)
			does = a[unix.NFTA_PAYLOAD_SREG] != 0 && !mark
		case e.Type() == unix.NFTA_EXPR_DATA && name == "target": // of iptables-nft
			nested(e, func(data *netlink.AttributeDecoder) {
				if data.Type() == unix.NFTA_TARGET_NAME {
					does = slices.Contains(targets, data.String())
				}
			})
		}
	})
	return name, does
}

var targets = []string{"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "DNPT", "SNPT"}

// behindHops is how far the octets of an IP header reach that no address comes before: what
// is written there are a mark (DSCP) or hops, and their neighbours, as it goes by pairs of
// octets. The addresses of IPv6 begin before the hops of IPv4 end.
func behindHops(family byte) uint32 {
	if family == unix.NFPROTO_IPV4 {
		return 10
	}
	return 8
}

// numbers are those in an attribute that are numbers, by type.
func numbers(data *netlink.AttributeDecoder) map[uint16]uint32 {
	found := make(map[uint16]uint32)
	nested(data, func(ad *netlink.AttributeDecoder) {
		if len(ad.Bytes()) == 4 {
			found[ad.Type()] = ad.Uint32()
		}
	})
	return found
}
