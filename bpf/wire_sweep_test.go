package bpf

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// TestWireFlood: SYNs of strangers, answered or not, take no entry of the table,
// and push out one another.
func TestWireFlood(t *testing.T) {
	b := newWireBench(t)
	const places, flood = 4096 * 4, 3 * 4096 * 4
	for i := range flood {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 999)
		for _, f := range handshake()[:1+i%2] {
			f.client = from
			b.run(t, map[bool]*ebpf.Program{false: b.objs.RelaygateLeave, true: b.objs.RelaygateArrive}[f.server], f)
		}
	}
	if n := b.followed(t); n != 0 {
		t.Errorf("%d connections are followed", n)
	}
	if n := b.counted(t).Displaced; n < flood-places || n > flood {
		t.Errorf("%d handshakes were displaced, want some of %d and not less than %d", n, flood, flood-places)
	}
	if got := b.play(t, handshake()...); story(got) != "O" {
		t.Errorf("after the flood: records are %s", story(got))
	}
}

// TestWireFull: a full table follows nobody new and forgets nobody.
func TestWireFull(t *testing.T) {
	b := newWireBench(t)
	keys, values := make([]wireTuple, 1024), make([]wireWire, 1024)
	n := int(b.objs.Wires.MaxEntries())
	for from := 0; from < n; from += len(keys) {
		for i := range keys {
			keys[i].Client[0] = uint32(from + i + 1)
		}
		if _, err := b.objs.Wires.BatchUpdate(keys, values, nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.play(t, then(cl(psh|ack, 1001, 5001, "a1 LOGIN"))...); len(got) != 0 {
		t.Errorf("records are %s", story(got))
	}
	if c := b.counted(t); c.FlowsFull != 1 || b.followed(t) != n {
		t.Errorf("%d of %d followed, %+v", b.followed(t), n, c)
	}
}

func TestWireSweep(t *testing.T) {
	ticks := func(n uint16) func(*wireWire) { return func(w *wireWire) { w.Seen -= n } }
	for _, test := range []struct {
		name string
		edit func(*wireWire)
		want string
	}{
		{"heard now", ticks(0), ""},
		{"silent, not for long", ticks(900), ""},
		{"silent", ticks(1200), "C"},
		{"silent, and the client is heard", func(w *wireWire) { w.Seen -= 1200; w.Heard = w.Seen }, "C"},
		{"the server has closed, lately", func(w *wireWire) { w.Fins = serverFIN; w.Seen -= 50 }, ""},
		{"the server has closed", func(w *wireWire) { w.Fins = serverFIN; w.Seen -= 150 }, "C"},
		{"the client has closed", func(w *wireWire) { w.Fins, w.ClientFin = clientFIN, w.Acked; w.Seen -= 150 }, "C"},
		{"somebody says the client has closed", func(w *wireWire) { w.Fins, w.ClientFin = clientFIN, w.Acked+1; w.Seen -= 150 }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newWireBench(t)
			b.play(t, handshake()...)
			b.change(t, test.edit)
			must(t, b.Sweep(1000*tick, 100*tick))
			if got := drain(t, b.reader); story(got) != test.want {
				t.Errorf("records are %s, want %s", story(got), test.want)
			}
			if idle := b.counted(t).Idle; idle != uint64(len(test.want)) {
				t.Errorf("%d are counted", idle)
			}
		})
	}
}

func TestWireSessions(t *testing.T) {
	b := newWireBench(t)
	cookie := b.play(t, then(cl(psh|ack, 1001, 5001, "a1 LOGIN"), sv(psh|ack, 5001, 1009, "a1 OK"))...)[0].Cookie
	other := handshake()
	for i := range other {
		other[i].client = netip.MustParseAddrPort("192.0.2.11:50000")
	}
	b.play(t, append(other, frame{server: true, client: other[0].client, flags: fin | ack, seq: 5001, ack: 1001})...)
	b.play(t, sixes(handshake())...)
	get := func() []WireSession {
		t.Helper()
		all, err := b.Sessions()
		must(t, err)
		slices.SortFunc(all, func(a, b WireSession) int { return int(a.Cookie) - int(b.Cookie) })
		return all
	}
	all := get()
	if len(all) != 2 || all[0].Client != client4 || all[0].Server != mail4 || all[0].Cookie != cookie || all[0].Silent > 2*tick || all[1].Client != client6 {
		t.Fatalf("sessions are %+v", all)
	}
	age := func() {
		var key wireTuple
		var value wireWire
		entries := b.objs.Wires.Iterate()
		for entries.Next(&key, &value) {
			value.Heard -= 600
			must(t, b.objs.Wires.Put(&key, &value))
		}
	}
	for _, test := range []struct {
		name  string
		frame frame
		heard bool
	}{
		{"nobody", frame{}, false},
		{"the server alone", sv(psh|ack, 5006, 1009, "* OK Still here"), false},
		{"the client", cl(ack, 1009, 5021, ""), true},
		{"the client keeps alive", cl(ack, 1008, 5021, ""), true},
		{"somebody who guesses", cl(ack, 1010, 5021, ""), false},
		{"old data", cl(ack, 1001, 5021, "a1 LOGIN"), false},
	} {
		age()
		if test.frame.flags != 0 {
			b.play(t, test.frame)
		}
		if all := get(); (all[0].Silent < 5*tick) != test.heard {
			t.Errorf("%s: silent for %v", test.name, all[0].Silent)
		}
		if test.heard {
			continue
		}
		b.play(t, cl(ack, 1009, 5021, ""))
	}
}

// TestWireMemory: what one connection takes in the kernel, all included.
func TestWireMemory(t *testing.T) {
	b := newWireBench(t)
	memory := func(m *ebpf.Map) int {
		info, err := m.Info()
		must(t, err)
		n, ok := info.Memlock()
		if !ok {
			t.Fatal("the kernel does not tell a map's memory")
		}
		return int(n)
	}
	const goal = 160
	each := memory(b.objs.Wires) / int(b.objs.Wires.MaxEntries())
	t.Logf("%d bytes per connection; %d KiB for handshakes, %d KiB for doubts", each, memory(b.objs.Shaking)>>10, memory(b.objs.Doubts)>>10)
	if each > goal {
		t.Errorf("%d bytes per connection, want %d at most", each, goal)
	}
}
