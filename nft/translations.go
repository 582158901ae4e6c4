package nft

import (
	"encoding/binary"
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
// rule leads to a socket, whoever looks before it takes for another socket's. Our own table
// leads to the relay port alone. It may be asked from any goroutine.
type Translations struct {
	mu         sync.Mutex // guards what follows
	conn       conn
	looked     time.Time     // when the last look ended, 0 if it failed
	took       time.Duration // it
	generation uint32        // of the rules that were looked at
	four, six  string        // the tables in which there are some, or ""
}

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
	const attempts = 10 // others may be writing all the time
	for range attempts {
		if err = t.look(); !errors.Is(err, errInterrupted) {
			break
		}
	}
	if six {
		return t.six, err
	}
	return t.four, err
}

// Where there are very many rules looks take a lookShare-th of the time: each grant makes a
// new generation.
const (
	dearLook  = 10 * time.Millisecond
	lookShare = 10
)

// look reads the rules, if they may be others than before.
func (t *Translations) look() error {
	begin := time.Now()
	if t.took > dearLook && begin.Sub(t.looked) < lookShare*t.took {
		return nil
	}
	generation, err := t.conn.generation()
	if errors.Is(err, unix.EINVAL) {
		return nil // a kernel without nf_tables
	}
	if err != nil || !t.looked.IsZero() && generation == t.generation {
		return err
	}
	t.looked, t.four, t.six = time.Time{}, "", ""
	err = t.conn.list(message(unix.NFT_MSG_GETRULE, 0, nfgenmsg(unix.NFPROTO_UNSPEC, 0)), func(m netlink.Message) error {
		table, does, err := translates(m)
		if err != nil || !does || table == (tableID{unix.NFPROTO_INET, Table}) {
			return err
		}
		name := fmt.Sprintf("%s of nf_tables", table.name)
		if table.family != unix.NFPROTO_IPV6 {
			t.four = name
		}
		if table.family != unix.NFPROTO_IPV4 {
			t.six = name
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for rules that translate: %w", err)
	}
	t.looked, t.generation = time.Now(), generation
	t.took = t.looked.Sub(begin)
	return nil
}

// translates says whether a rule does, and of which table it is.
func translates(m netlink.Message) (table tableID, does bool, err error) {
	err = decode(m, func(ad *netlink.AttributeDecoder) {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			table = tableID{m.Data[0], ad.String()}
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *netlink.AttributeDecoder) error {
						does = translating(e) || does
						return nil
					})
				}
				return nil
			})
		}
	})
	return table, does, err
}

// translating says whether an expression gives a packet another destination, or may give
// it other addresses or ports. That of others' connections (SNAT, masquerade) is none.
func translating(e *netlink.AttributeDecoder) (does bool) {
	name := ""
	for e.Next() {
		switch {
		case e.Type() == unix.NFTA_EXPR_NAME:
			name = e.String()
			does = name == "redir"
		case e.Type() == unix.NFTA_EXPR_DATA:
			e.Nested(func(data *netlink.AttributeDecoder) error {
				data.ByteOrder = binary.BigEndian
				switch name {
				case "nat":
					for data.Next() {
						if data.Type() == unix.NFTA_NAT_TYPE {
							does = data.Uint32() == unix.NFT_NAT_DNAT
						}
					}
				case "payload":
					does = rewriting(data)
				case "target": // of iptables-nft
					for data.Next() {
						if data.Type() == unix.NFTA_TARGET_NAME {
							does = slices.Contains([]string{"DNAT", "REDIRECT", "NETMAP", "DNPT", "SNPT"}, data.String())
						}
					}
				}
				return nil
			})
		}
	}
	return does
}

// rewriting says whether an expression on a packet's bytes may write addresses or ports.
func rewriting(data *netlink.AttributeDecoder) bool {
	var base, size, source uint32
	for data.Next() {
		switch data.Type() {
		case unix.NFTA_PAYLOAD_BASE:
			base = data.Uint32()
		case unix.NFTA_PAYLOAD_LEN:
			size = data.Uint32()
		case unix.NFTA_PAYLOAD_SREG:
			source = data.Uint32()
		}
	}
	const address = 4 // octets; less are a mark (DSCP) or hops
	return source != 0 && (size >= address || base == unix.NFT_PAYLOAD_TRANSPORT_HEADER)
}
