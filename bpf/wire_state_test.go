package bpf

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// change edits the one entry of the table.
func (b wireBench) change(t testing.TB, edit func(*wireWire)) {
	t.Helper()
	var key wireTuple
	var value wireWire
	all := b.objs.Wires.Iterate()
	if !all.Next(&key, &value) {
		t.Fatalf("no connection is followed: %v", all.Err())
	}
	edit(&value)
	must(t, b.objs.Wires.Put(&key, &value))
}

func (b wireBench) counted(t testing.TB) Counters {
	t.Helper()
	c, err := b.Counters()
	must(t, err)
	return c
}

// TestWireDone: after the verdict nothing comes but the end.
func TestWireDone(t *testing.T) {
	login := cl(psh|ack, 1001, 5001, "a1 LOGIN")
	for _, test := range []struct {
		name           string
		client, server netip.AddrPort
		other          bool // the cookie of another connection
		want           string
	}{
		{"this one", client4, mail4, false, "C"},
		{"another with these ends", client4, mail4, true, "csC"},
		{"another client", netip.MustParseAddrPort("192.0.2.11:50000"), mail4, false, "csC"},
		{"another port", netip.MustParseAddrPort("192.0.2.10:50001"), mail4, false, "csC"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newWireBench(t)
			cookie := b.play(t, handshake()...)[0].Cookie
			if test.other {
				cookie++
			}
			must(t, b.SetDone(test.client, test.server, cookie))
			got := b.play(t, login, sv(rst|ack, 5001, 1009, ""))
			if story(got) != test.want {
				t.Errorf("records are %s, want %s", story(got), test.want)
			}
		})
	}
}

// TestWireForget: of what is forgotten nothing comes, nor its end, but the next
// connection of the same ends is followed.
func TestWireForget(t *testing.T) {
	b := newWireBench(t)
	cookie := b.play(t, handshake()...)[0].Cookie
	for _, other := range []uint64{1, 0, 0} { // another's number; again it is no error
		must(t, b.Forget(client4, mail4, cookie+other))
		want := ""
		if other != 0 {
			want = "c"
		}
		if got := story(b.play(t, cl(psh|ack, 1001, 5001, "a1 NOOP"))); got != want {
			t.Errorf("records are %q, want %q", got, want)
		}
	}
	if got := story(b.play(t, sv(rst|ack, 5001, 1009, ""))); got != "" {
		t.Errorf("at the end %q, want nothing", got)
	}
	if got := b.play(t, handshake()...); len(got) == 0 || got[0].Kind != Opened || got[0].Cookie == cookie {
		t.Errorf("the next is %+v, want another connection", got)
	}
}

func TestWireBudgets(t *testing.T) {
	hundred := strings.Repeat("x", 100)
	for _, test := range []struct {
		name    string
		ring    uint32
		edit    func(*wireWire)
		frame   frame
		want    string
		reason  Reason
		counted func(Counters) uint64
	}{
		{
			"just within", 0, func(w *wireWire) { w.Read.Unanswered = 8192 - 100 },
			cl(ack, 1001, 5001, hundred), "c", None, nil,
		},
		{
			"too much unanswered", 0, func(w *wireWire) { w.Read.Unanswered = 8192 - 99 },
			cl(ack, 1001, 5001, hundred), "L", Unanswered, func(c Counters) uint64 { return c.Unanswered },
		},
		{
			"answered", 0, func(w *wireWire) { w.Read.Unanswered = 8192 },
			sv(ack, 5001, 1001, "+OK"), "s", None, nil,
		},
		{
			"too much of both", 0, func(w *wireWire) { w.Read.Total = 256*1024 - 171 },
			sv(ack, 5001, 1001, hundred), "L", FlowFull, func(c Counters) uint64 { return c.FlowFull },
		},
		{
			"longer than its header can say", 0, func(*wireWire) {},
			edited(sv(ack, 5001, 1001, hundred), lengthless), "L", FlowFull, func(c Counters) uint64 { return c.FlowFull },
		},
		{
			"the ring is full", uint32(os.Getpagesize()), func(*wireWire) {},
			sv(ack, 5001, 1001, strings.Repeat("x", 3000)), "L", RingFull, func(c Counters) uint64 { return c.RingFull },
		},
		{
			"lost before", 0, func(w *wireWire) { w.Read.State = uint32(tapFlowStateLOST) },
			cl(ack, 1001, 5001, hundred), "", None, nil,
		},
		{
			"opening", 0, func(w *wireWire) { w.Read.State = uint32(tapFlowStateOPENING) },
			cl(ack, 1001, 5001, hundred), "", None, nil,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newWireBench(t, func(o *WireOptions) { o.RingBytes = test.ring })
			b.play(t, handshake()...)
			b.change(t, test.edit)
			got := b.play(t, test.frame)
			if story(got) != test.want {
				t.Fatalf("records are %s, want %s", story(got), test.want)
			}
			if test.want == "L" && got[0].Reason != test.reason {
				t.Errorf("reason is %q, want %q", got[0].Reason, test.reason)
			}
			if test.counted != nil && test.counted(b.counted(t)) != 1 {
				t.Errorf("not counted: %+v", b.counted(t))
			}
		})
	}
}

// TestWireLanes: the server is where this host sends to it, on that interface
// and VLAN. What bears its address and comes in elsewhere is another's.
func TestWireLanes(t *testing.T) {
	b := newWireBench(t)
	ns, peer := bpftest.Namespace(t), bpftest.Namespace(t)
	must(t, netns.Join(ns, "lan", nil, peer, "lan", nil))
	must(t, netns.Join(ns, "wan", nil, peer, "wan", nil))
	right, wrong := bpftest.Interface(t, ns, "lan"), bpftest.Interface(t, ns, "wan")
	at := func(i *net.Interface, f frame) frame {
		f.ifindex = uint32(i.Index)
		return edited(f, func(b []byte) []byte { copy(b, i.HardwareAddr); return b })
	}
	shake := handshake()
	login, ok := cl(psh|ack, 1001, 5001, "a1 LOGIN"), sv(psh|ack, 5001, 1009, "a1 OK")
	play := func(frames ...frame) (got []Record) {
		t.Helper()
		bpftest.Do(t, ns, func() error { got = b.play(t, frames...); return nil })
		return got
	}
	if got := play(at(right, shake[0]), at(wrong, shake[1]), at(right, shake[2])); len(got) != 0 {
		t.Errorf("answered from elsewhere: records are %+v", got)
	}
	if got := play(at(right, shake[0]), at(right, shake[1]), at(right, shake[2])); story(got) != "O" {
		t.Fatalf("records are %s", story(got))
	}
	// The client's bytes count wherever they leave: the server may get them.
	got := play(at(wrong, ok), at(right, login), at(wrong, ok), at(right, ok), at(wrong, cl(ack, 1009, 5006, "x")), at(wrong, sv(rst, 5006, 0, "")))
	if story(got) != "csc" {
		t.Errorf("records are %s", story(got))
	}
	if n := b.counted(t).Forged; n != 4 {
		t.Errorf("%d forged segments are counted, want 4", n)
	}
	// With its interface a connection ends.
	must(t, b.Detach(wrong.Index))
	if got := drain(t, b.reader); len(got) != 0 {
		t.Errorf("another interface is gone: records are %+v", got)
	}
	must(t, b.Detach(right.Index))
	if got := drain(t, b.reader); story(got) != "C" || b.followed(t) != 0 {
		t.Errorf("its interface is gone: records are %+v", got)
	}
}

// TestWireDoubtsEnd: what could not be read before a connection began does not
// concern it.
func TestWireDoubtsEnd(t *testing.T) {
	b := newWireBench(t)
	b.play(t, edited(cl(ack, 1001, 5001, "xx"), fragmentOf(0x2000)))
	must(t, b.Tick(b.start.Add(tick)))
	if got := b.play(t, then(cl(psh|ack, 1001, 5001, "a1 LOGIN"))...); story(got) != "Oc" {
		t.Errorf("records are %s", story(got))
	}
	if n := b.counted(t).Unreadable; n != 1 {
		t.Errorf("%d are counted", n)
	}
}

// BenchmarkWire says what a packet costs, above an empty program.
func BenchmarkWire(b *testing.B) {
	w := newWireBench(b)
	empty, err := ebpf.NewProgram(emptyProgram())
	must(b, err)
	defer empty.Close()
	const repeat = 1_000_000
	cost := func(prog *ebpf.Program, f frame) time.Duration {
		_, took, err := prog.Benchmark(f.bytes(), repeat, nil)
		must(b, err)
		return took
	}
	cookie := w.play(b, handshake()...)[0].Cookie
	six := w.play(b, sixes(handshake())...)[0].Cookie
	must(b, w.SetDone(client4, mail4, cookie))
	must(b, w.SetDone(client6, mail6, six))
	web := frame{mail: netip.MustParseAddrPort("198.51.100.25:443"), flags: ack, payload: strings.Repeat("x", 60)}
	download := sv(ack, 5001, 1001, strings.Repeat("x", 60))
	stranger := frame{client: netip.MustParseAddrPort("203.0.113.7:999"), flags: ack, seq: 1}
	for _, test := range []struct {
		name string
		f    frame
	}{
		{"other port", web},
		{"other port, IPv6", frame{client: client6, mail: netip.MustParseAddrPort("[2001:db8:25::25]:443"), flags: ack}},
		{"no entry", stranger},
		{"after the verdict, server", download},
		{"after the verdict, client", cl(ack, 1001, 5001, "")},
		{"after the verdict, server, IPv6", sixes([]frame{download})[0]},
	} {
		prog := w.objs.RelaygateLeave
		if test.f.server {
			prog = w.objs.RelaygateArrive
		}
		b.Run(test.name, func(b *testing.B) {
			floor := min(cost(empty, test.f), cost(empty, test.f), cost(empty, test.f))
			took := min(cost(prog, test.f), cost(prog, test.f), cost(prog, test.f))
			b.ReportMetric(float64((took - floor).Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op") // each run of the function is millions of packets
		})
	}
	if got := drain(b, w.reader); len(got) != 0 {
		b.Errorf("records are %s", story(got))
	}
}
