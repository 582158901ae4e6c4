package bpf

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
)

func TestBudgets(t *testing.T) {
	const unansweredMax, flowMax = 8192, 256 * 1024
	payload := ip4(6, 0, tcp(ack, 0, 100))
	for _, test := range []struct {
		name    string
		egress  bool
		ring    uint32
		flow    tapFlow
		want    Kind
		reason  Reason
		counted func(Counters) uint64
	}{
		{
			"client: just within", false, 0,
			tapFlow{State: tapFlowStateREADING, Unanswered: unansweredMax - 100},
			Packet, None, nil,
		},
		{
			"client: too much unanswered", false, 0,
			tapFlow{State: tapFlowStateREADING, Unanswered: unansweredMax - 99},
			Lost, Unanswered,
			func(c Counters) uint64 { return c.Unanswered },
		},
		{
			"client: counter beyond its bound", false, 0,
			tapFlow{State: tapFlowStateREADING, Unanswered: unansweredMax + 1000},
			Lost, Unanswered,
			func(c Counters) uint64 { return c.Unanswered },
		},
		{
			"server: answers", true, 0,
			tapFlow{State: tapFlowStateREADING, Unanswered: unansweredMax},
			Packet, None, nil,
		},
		{
			"both: just within", true, 0,
			tapFlow{State: tapFlowStateREADING, Total: flowMax - 172},
			Packet, None, nil,
		},
		{
			"both: too much", true, 0,
			tapFlow{State: tapFlowStateREADING, Total: flowMax - 171},
			Lost, FlowFull,
			func(c Counters) uint64 { return c.FlowFull },
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBench(t, test.ring)
			b.expect(t, test.flow)
			prog := b.objs.RelaygateIn
			if test.egress {
				prog = b.objs.RelaygateOut
			}
			got := b.run(t, prog, payload)
			if len(got) != 1 || got[0].Kind != test.want || got[0].Reason != test.reason {
				t.Fatalf("records are %+v, want one of kind %d, reason %q", got, test.want, test.reason)
			}
			var flow tapFlow
			must(t, b.objs.Flows.Lookup(got[0].Cookie, &flow))
			if lost := flow.State == tapFlowStateLOST; lost != (test.want == Lost) {
				t.Errorf("entry is %+v after a record of kind %d", flow, test.want)
			}
			if test.egress && test.want == Packet && flow.Unanswered != 0 {
				t.Errorf("%d bytes unanswered after an answer", flow.Unanswered)
			}
			counters, err := b.Counters()
			must(t, err)
			if test.counted != nil && test.counted(counters) != 1 {
				t.Errorf("not counted: %+v", counters)
			}
		})
	}
}

// TestRoomOfRecords: whatever a client chooses to send, it takes little more of the ring
// than four times as much.
func TestRoomOfRecords(t *testing.T) {
	const head = ringHeader + 32 // of a record, with the struct packet
	for _, size := range []int{128 - head, 129 - head, 512 - head, 513 - head, 2048 - head, 2049 - head} {
		b := newBench(t, 0)
		b.expect(t, tapFlow{State: tapFlowStateREADING})
		got := b.run(t, b.objs.RelaygateOut, ip4(6, 0, tcp(ack, 0, size-40)))
		if len(got) != 1 || len(got[0].Data) != size {
			t.Fatalf("records are %+v, want one of %d bytes", got, size)
		}
		if room := int(b.reader.position); room > 4*(head+size) {
			t.Errorf("%d bytes take %d of the ring", size, room)
		}
	}
}

// TestRingFull fills a small ring with nobody reading.
func TestRingFull(t *testing.T) {
	b := newBench(t, uint32(os.Getpagesize()))
	packet := ip4(6, 0, tcp(ack, 0, 1400))
	var counters Counters
	for tries := 0; counters.RingFull == 0 && tries < 100; tries++ { // others may take the cookie
		b.expect(t, tapFlow{State: tapFlowStateREADING})
		if _, err := b.objs.RelaygateOut.Run(&ebpf.RunOptions{Data: packet}); err != nil {
			t.Fatal(err)
		}
		var err error
		if counters, err = b.Counters(); err != nil {
			t.Fatal(err)
		}
	}
	got := drain(t, b.reader)
	if len(got) != 2 || got[0].Kind != Packet || got[1].Kind != Lost || got[1].Reason != RingFull {
		t.Errorf("records are %+v, want a packet and a Lost", got)
	}
	if counters.RingFull != 1 {
		t.Errorf("counters are %+v", counters)
	}
}
