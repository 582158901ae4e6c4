package bpf

import (
	"errors"
	"net/netip"
	"testing"
)

// taken makes a handshake one that a processor makes a connection of.
func (b wireBench) taken(key *wireTuple) error {
	for i := range b.objs.Shaking.MaxEntries() {
		var set wireHandshakes
		if err := b.objs.Shaking.Lookup(i, &set); err != nil {
			return err
		}
		for j := range set.Way {
			if set.Way[j].Tuple == *key {
				set.Way[j].Stage = 3 // TAKEN
				return b.objs.Shaking.Put(i, &set)
			}
		}
	}
	return errors.New("no such handshake")
}

// TestWireOtherProcessor: client bytes that pass while another processor begins
// their connection are not recorded, so it proves nothing.
func TestWireOtherProcessor(t *testing.T) {
	login, ok := cl(psh|ack, 1001, 5001, "a1 LOGIN"), sv(psh|ack, 5001, 1009, "a1 OK")
	for name, begin := range map[string]func(wireBench, *wireTuple, *wireWire) error{
		"it is not in the table": func(b wireBench, key *wireTuple, _ *wireWire) error {
			return errors.Join(b.objs.Wires.Delete(key), b.taken(key))
		},
		"it is not told of so far": func(b wireBench, key *wireTuple, w *wireWire) error { return b.objs.Wires.Put(key, w) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newWireBench(t)
			b.play(t, handshake()...)
			var key wireTuple
			var value wireWire
			if all := b.objs.Wires.Iterate(); !all.Next(&key, &value) {
				t.Fatal(all.Err())
			}
			opening := value
			opening.Read.State = uint32(tapFlowStateOPENING)
			must(t, begin(b, &key, &opening))
			if got := b.play(t, login); len(got) != 0 {
				t.Errorf("records are %s", story(got))
			}
			must(t, b.objs.Wires.Put(&key, &value))
			if got := b.play(t, login, ok); story(got) != "L" || got[0].Reason != Unreadable {
				t.Errorf("records are %s: %+v", story(got), got)
			}
		})
	}
}

// TestWireDoubt: a connection whose handshake was under way is lost, those of before are
// told by their cookies, and those of later are none's concern.
func TestWireDoubt(t *testing.T) {
	b := newWireBench(t)
	doubt := func() uint64 {
		below, err := b.Doubt()
		must(t, err)
		return below
	}
	before := b.play(t, handshake()...)
	if len(before) == 0 || before[0].Kind != Opened || before[0].Cookie >= doubt() {
		t.Errorf("of before: %s", story(before))
	}
	from := func(port uint16) []frame {
		all := handshake()
		for i := range all {
			all[i].client = netip.AddrPortFrom(client4.Addr(), port)
		}
		return all
	}
	b.play(t, from(1)[0])
	below := doubt()
	if got := b.play(t, from(1)[1:]...); story(got) != "OL" || got[1].Reason != Blind {
		t.Errorf("under way: %s", story(got))
	}
	if got := b.play(t, from(2)...); story(got) != "O" || got[0].Cookie < below {
		t.Errorf("of later: %s", story(got))
	}
}
