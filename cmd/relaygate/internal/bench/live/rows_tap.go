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
)

func nativeUint64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

// afterVerdict watches the daemon while a connection goes on behind its login:
// a mail is read, and commands are answered.
func (m *measure) afterVerdict(ctx context.Context) (rows []bench.Row, err error) {
	const mails, commands = 16, 20_000
	err = m.withAgent(ctx, func(a *agent) (err error) {
		o, err := objectsOf(a.PID())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, o.close()) }()
		if err := m.open(mailPort); err != nil {
			return err
		}
		before, err := activityOf(a, &o)
		if err != nil {
			return err
		}
		if _, err := m.client.do(Task{Verb: "fetch", Count: mails, Size: mailSize}); err != nil {
			return err
		}
		if _, err := m.client.do(Task{Verb: "exchange", Count: commands}); err != nil {
			return err
		}
		after, err := activityOf(a, &o)
		if err != nil {
			return err
		}
		rows = []bench.Row{
			bench.AtMost("after the verdict: ring records", 0, float64(after.bytes-before.bytes), "bytes",
				fmt.Sprintf("%d MB of mail and %d commands answered", mails*mailSize>>20, commands)),
			bench.AtMost("after the verdict: wake-ups by the tap", 0, float64(after.wakeups-before.wakeups), "",
				fmt.Sprintf("%d switches of all its threads meanwhile", after.switches-before.switches)),
		}
		_, err = m.client.do(Task{Verb: "leave"})
		return err
	})
	return rows, err
}

const mailSize = 64 << 20

// open logs in from a new address and stays, and waits until the daemon has seen
// it: nothing of the login is left in the rings.
func (m *measure) open(port int) error {
	if _, err := m.client.do(Task{Verb: "open", First: m.addresses(1), Port: port}); err != nil {
		return err
	}
	rest(settled)
	return nil
}

// activity is what the daemon's tap did so far.
type activity struct {
	bytes    uint64 // put into the rings
	wakeups  uint64
	switches int64 // of the daemon's threads, because they waited
}

func activityOf(a *agent, o *objects) (s activity, err error) {
	for _, ring := range []string{"packets", "events"} {
		at, err := produced(o.maps[ring])
		if err != nil {
			return s, err
		}
		s.bytes += at
	}
	if s.wakeups, err = counter(o.maps["counters"], "wakeups"); err != nil {
		return s, err
	}
	s.switches, err = switches(a.PID())
	return s, err
}

// counter sums a member of the tap's struct counters over all processors.
func counter(counters *ebpf.Map, name string) (sum uint64, err error) {
	offset, err := memberOffset(counters, name)
	if err != nil {
		return 0, err
	}
	var each [][]byte
	if err := counters.Lookup(uint32(0), &each); err != nil {
		return 0, fmt.Errorf("read the tap's counters: %w", err)
	}
	for _, b := range each {
		sum += nativeUint64(b[offset:])
	}
	return sum, nil
}

// switches counts how often threads of a process gave up the processor.
func switches(pid int) (sum int64, err error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, fmt.Errorf("list threads: %w", err)
	}
	for _, t := range threads {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, t.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read switches: %w", err)
		}
		text := strings.ReplaceAll(string(b), ":\t", " ")
		n, err := statValue(text, "voluntary_ctxt_switches")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// packets says what a packet costs in the daemon's programs, above one that does
// nothing. The hooks see both ends of each connection, as both are on this
// machine: a half of the packets of a mail connection are a client's, of
// another port.
func (m *measure) packets(ctx context.Context) (rows []bench.Row, err error) {
	err = m.withTimes(ctx, func(a *agent) error {
		other, mail, err := m.packetTimes(a)
		if err != nil {
			return err
		}
		rows = []bench.Row{
			bench.AtMost("BPF per packet above an empty program: other ports", 30, other, "ns", ""),
			bench.AtMost("BPF per packet above an empty program: mail after the verdict", 80, mail, "ns", ""),
		}
		return nil
	})
	return rows, err
}

func (m *measure) packetTimes(a *agent) (other, mail float64, err error) {
	t, err := newPacketTimer(a)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	var others, both []float64
	for range pairs {
		for port, into := range map[int]*[]float64{otherPort: &others, mailPort: &both} {
			each, err := m.timePackets(t, port, pick(m, 10_000, 50_000))
			if err != nil {
				return 0, 0, err
			}
			*into = append(*into, each)
		}
	}
	other = bench.Median(others)
	return other, 2*bench.Median(both) - other, nil
}

// timePackets returns the time per packet while commands are answered on a
// connection to port.
func (m *measure) timePackets(t *packetTimer, port, commands int) (float64, error) {
	if err := m.open(port); err != nil {
		return 0, err
	}
	before, err := t.read()
	if err != nil {
		return 0, err
	}
	if _, err := m.client.do(Task{Verb: "exchange", Count: commands}); err != nil {
		return 0, err
	}
	after, err := t.read()
	if err != nil {
		return 0, err
	}
	_, err = m.client.do(Task{Verb: "leave"})
	return t.above(before, after), err
}

// packetTimer reads the times of the daemon's programs and of empty ones.
type packetTimer struct {
	objects
	empty *hooks
}

func newPacketTimer(a *agent) (*packetTimer, error) {
	o, err := objectsOf(a.PID())
	if err != nil {
		return nil, err
	}
	e, err := attachEmpties()
	if err != nil {
		return nil, errors.Join(err, o.close())
	}
	return &packetTimer{o, e}, nil
}

func (t *packetTimer) close() error { return errors.Join(t.objects.close(), t.empty.close()) }

// read returns the runs of the programs in, out, and of the empty ones.
func (t *packetTimer) read() (all [4]runs, err error) {
	for i, p := range []*ebpf.Program{t.programs["relaygate_in"], t.programs["relaygate_out"], t.empty.progs[0], t.empty.progs[1]} {
		if all[i], err = runsOf(p); err != nil {
			return all, err
		}
	}
	return all, nil
}

// above is the time per packet above the empty programs, the mean of both
// directions, in ns.
func (t *packetTimer) above(before, after [4]runs) float64 {
	each := func(i int) float64 { return after[i].since(before[i]).each() }
	return (each(0) - each(2) + each(1) - each(3)) / 2
}
