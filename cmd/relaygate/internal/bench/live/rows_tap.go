package live

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"

	"relaygate/cmd/relaygate/internal/bench"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// afterVerdict watches the daemon while a connection goes on behind its login:
// a mail is read, and commands are answered.
func (m *measure) afterVerdict(ctx context.Context) {
	const mails, commands = 16, 20_000
	m.withAgent(ctx, func(a *lab.Daemon) {
		m.withObjects(a.PID(), func(o *objects) {
			m.connected(mailPort, func() {
				before := activityOf(a, o)
				must.Get(m.client.do(Task{Verb: "fetch", Count: mails, Size: mailSize}))
				must.Get(m.client.do(Task{Verb: "exchange", Count: commands}))
				after := activityOf(a, o)
				m.Tell(
					bench.AtMost("after the verdict: ring records", 0, float64(after.bytes-before.bytes), "bytes",
						fmt.Sprintf("%d MB of mail and %d commands answered", mails*mailSize>>20, commands)),
					bench.AtMost("after the verdict: wake-ups by the tap", 0, float64(after.wakeups-before.wakeups), "",
						fmt.Sprintf("%d switches of all its threads meanwhile", after.switches-before.switches)),
				)
			})
		})
	})
}

const mailSize = 64 << 20

// connected runs do while a client is logged in from a new address, and the daemon has
// seen it: nothing of the login is left in the rings.
func (m *measure) connected(port int, do func()) {
	must.Get(m.client.do(Task{Verb: "open", First: m.addresses(1), Port: port}))
	rest(settled)
	do()
	must.Get(m.client.do(Task{Verb: "leave"}))
}

// activity is what the daemon's tap did so far.
type activity struct {
	bytes    uint64 // put into the rings
	wakeups  uint64
	switches int64 // of the daemon's threads, because they waited
}

func activityOf(a *lab.Daemon, o *objects) activity {
	return activity{
		bytes:    produced(o.maps["packets"]) + produced(o.maps["events"]),
		wakeups:  counter(o.maps["counters"], "wakeups"),
		switches: switches(a.PID()),
	}
}

// counter sums a member of the tap's struct counters over all processors.
func counter(counters *ebpf.Map, name string) (sum uint64) {
	offset := memberOffset(counters, name)
	var each [][]byte
	must.Do(counters.Lookup(uint32(0), &each))
	for _, b := range each {
		sum += nativeUint64(b[offset:])
	}
	return sum
}

// switches counts how often threads of a process gave up the processor.
func switches(pid int) (sum int64) {
	for _, t := range must.Get(os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, t.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must.Do(err)
		sum += statValue(strings.ReplaceAll(string(b), ":\t", " "), "voluntary_ctxt_switches")
	}
	return sum
}

// packets says what a packet costs in the daemon's programs, above one that does
// nothing. The hooks see both ends of each connection, as both are on this
// machine: a half of the packets of a mail connection are a client's, of
// another port.
func (m *measure) packets(ctx context.Context) {
	m.withPacketTimer(ctx, func(t *packetTimer) {
		var others, both []float64
		for range pairs {
			for port, into := range map[int]*[]float64{otherPort: &others, mailPort: &both} {
				*into = append(*into, m.timePackets(t, port, pick(m, 10_000, 50_000)))
			}
		}
		other := bench.Median(others)
		m.Tell(
			bench.AtMost("BPF per packet above an empty program: other ports", 30, other, "ns", ""),
			bench.AtMost("BPF per packet above an empty program: mail after the verdict", 80, 2*bench.Median(both)-other, "ns", ""),
		)
	})
}

// timePackets returns the time per packet while commands are answered on a
// connection to port.
func (m *measure) timePackets(t *packetTimer, port, commands int) (ns float64) {
	m.connected(port, func() {
		before := t.read()
		must.Get(m.client.do(Task{Verb: "exchange", Count: commands}))
		ns = t.above(before, t.read())
	})
	return ns
}

// packetTimer reads the times of the daemon's programs and of empty ones.
type packetTimer struct {
	*objects
	empty hooks
}

// withPacketTimer runs do while the daemon runs and its programs are timed.
func (m *measure) withPacketTimer(ctx context.Context, do func(*packetTimer)) {
	m.withTimes(ctx, func(a *lab.Daemon) {
		m.withObjects(a.PID(), func(o *objects) {
			t := &packetTimer{objects: o}
			defer m.End(t.empty.close)
			t.empty.attachEmpties()
			do(t)
		})
	})
}

// read returns the runs of the programs in, out, and of the empty ones.
func (t *packetTimer) read() (all [4]runs) {
	for i, p := range []*ebpf.Program{t.programs["relaygate_in"], t.programs["relaygate_out"], t.empty.progs[0], t.empty.progs[1]} {
		all[i] = runsOf(p)
	}
	return all
}

// above is the time per packet above the empty programs, the mean of both
// directions, in ns.
func (t *packetTimer) above(before, after [4]runs) float64 {
	each := func(i int) float64 { return after[i].since(before[i]).each() }
	return (each(0) - each(2) + each(1) - each(3)) / 2
}
