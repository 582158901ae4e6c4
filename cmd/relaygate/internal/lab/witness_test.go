package lab_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"relaygate/cmd/relaygate/internal/lab"
)

// witness looks at the table by itself every few milliseconds, and knows when it
// was not as it was at the start: it is no part of the agent.
type witness struct {
	*victim
	wanted string

	mu      sync.Mutex
	hurt    gap       // the present one; zero while the table is whole
	done    time.Time // from when on a look counts
	gaps    []gap
	excused []span
	stall   time.Time // the end of the last one
}

// gap is a time in which the table was not surely whole.
type gap struct {
	span
	slow bool
}

func newWitness(t *testing.T, v *victim) *witness {
	t.Helper()
	w := &witness{victim: v}
	c, err := w.dial()
	must(t, err)
	w.wanted, err = w.sketch(c)
	must(t, errors.Join(err, c.Close()))
	return w
}

// sketch tells of all that keeps strangers out: the number of rules in the
// chains, and which strangers are members.
func (w *witness) sketch(c *netlink.Conn) (string, error) {
	text := ""
	for _, name := range []string{"pre", "in", w.guard().Name} {
		rules, err := listRules(c, name)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf("%s %d ", name, len(rules))
	}
	for _, stranger := range []netip.Addr{lab.Stranger4, lab.Stranger6} {
		member, err := isMember(c, stranger)
		if err != nil {
			return "", err
		}
		if member {
			text += stranger.String()
		}
	}
	return text, nil
}

// listRules returns the handles of the rules of a chain; none if there is no
// chain.
func listRules(c *netlink.Conn, chain string) (handles []uint64, err error) {
	answers, err := ask(c, unix.NFT_MSG_GETRULE, netlink.Dump, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_RULE_TABLE, table.Name)
		ae.String(unix.NFTA_RULE_CHAIN, chain)
	})
	for _, m := range answers {
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return nil, err
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_RULE_HANDLE {
				handles = append(handles, ad.Uint64())
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
	}
	return handles, err
}

func isMember(c *netlink.Conn, addr netip.Addr) (bool, error) {
	answers, err := ask(c, unix.NFT_MSG_GETSETELEM, 0, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, table.Name)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, allowSet(addr).Name)
		ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
			list.Nested(unix.NFTA_LIST_ELEM, func(elem *netlink.AttributeEncoder) error {
				elem.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
					key.Bytes(unix.NFTA_DATA_VALUE, addr.AsSlice())
					return nil
				})
				return nil
			})
			return nil
		})
	})
	return len(answers) > 0, err
}

// ask sends one request about our table's family. That something is not there is
// no error.
func ask(c *netlink.Conn, kind uint16, flags netlink.HeaderFlags, body func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	body(ae)
	attributes, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	answers, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attributes...),
	})
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	return answers, err
}

// around does a harm: from now on the table is not believed to be whole, until a
// look that begins after the harm finds it so.
func (w *witness) around(h harm, do func() error) error {
	w.mu.Lock()
	if w.hurt.begin.IsZero() {
		w.hurt = gap{span: span{begin: time.Now()}}
	}
	w.hurt.slow = w.hurt.slow || h.slow
	w.done = time.Time{}
	w.mu.Unlock()
	err := do()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = time.Now()
	return err
}

// excuse runs do, during which nobody can mend the table.
func (w *witness) excuse(do func()) {
	begin := time.Now()
	do()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.excused = append(w.excused, span{begin, time.Now()})
}

// run looks until ctx is done.
func (w *witness) run(ctx context.Context) error {
	c, err := w.dial()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	whole, last := time.Now(), time.Now() // when it last was, and when it was looked at
	for ctx.Err() == nil {
		begin := time.Now()
		w.woke(begin, last)
		last = begin
		text, err := w.sketch(c)
		if err != nil {
			return err
		}
		w.mu.Lock()
		switch {
		case text != w.wanted:
			if w.hurt.begin.IsZero() {
				w.hurt, w.done = gap{span: span{begin: whole}}, begin
			}
		case w.hurt.begin.IsZero():
			whole = begin
		case !w.done.IsZero() && begin.After(w.done):
			w.hurt.end = time.Now()
			w.gaps = append(w.gaps, w.hurt)
			w.hurt, whole = gap{}, begin
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// woke takes note of a stall: a machine that has no time for this witness may have none
// for the agent.
func (w *witness) woke(now, last time.Time) {
	if now.Sub(last) < settle/4 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stall, w.excused = now, append(w.excused, span{last, now})
}

// stalled is the end of the last stall.
func (w *witness) stalled() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stall
}

// explains says whether the table was not whole at some time within s.
func (w *witness) explains(s span) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.gaps {
		if g.begin.Before(s.end) && s.begin.Before(g.end) {
			return true
		}
	}
	return !w.hurt.begin.IsZero() && w.hurt.begin.Before(s.end)
}

// measure tells how long the table was not whole. With an agent that runs it is
// mended within a second, or what is hidden when members are compared.
func (w *witness) measure(t *testing.T) (total, longest time.Duration) {
	t.Helper()
	if !w.hurt.begin.IsZero() {
		t.Error("the table is not whole at the end")
	}
	for _, g := range w.gaps {
		length := g.end.Sub(g.begin)
		total, longest = total+length, max(longest, length)
		for _, e := range w.excused {
			if e.begin.Before(g.end) && g.begin.Before(e.end) {
				length -= e.end.Sub(e.begin)
			}
		}
		if length > settle && !g.slow || length > settle+slowLook {
			t.Errorf("the table was not whole for %v", length)
		}
	}
	return total, longest
}
