package bpf

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
)

// The programs run here on crafted packets without a network. The kernel gives
// each such run a socket of its own, with local port 0 and a fresh cookie.

// tcpFlags are the control bits of RFC 9293 §3.1.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
)

// ethernet is the header that a test run wants before the IP header.
func ethernet(etherType uint16) []byte {
	return binary.BigEndian.AppendUint16(make([]byte, 12), etherType)
}

func tcp(flags byte, options, payload int) []byte {
	b := make([]byte, 20+options+payload)
	b[12], b[13] = byte(20+options)/4<<4, flags
	for i := range payload {
		b[20+options+i] = 'x'
	}
	return b
}

func ip4(proto byte, options int, body []byte) []byte {
	b := make([]byte, 20+options)
	b[0], b[8], b[9] = 0x40|byte(20+options)/4, 64, proto
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)+len(body)))
	return append(append(ethernet(0x0800), b...), body...)
}

func ip6(next byte, body []byte) []byte {
	b := make([]byte, 40)
	b[0], b[6], b[7] = 0x60, next, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	return append(append(ethernet(0x86dd), b...), body...)
}

// destinationOptions is an empty options header before TCP (RFC 8200 §4.6).
func destinationOptions(body []byte) []byte {
	return append([]byte{6, 0, 1, 4, 0, 0, 0, 0}, body...)
}

// bench is a loaded tap that is not attached to anything.
type bench struct {
	*Tap
	first uint64   // cookies of the next test runs start about here
	flow  *tapFlow // what their entries are, if there are any
}

// newBench loads the programs.
func newBench(t testing.TB, ringBytes uint32) *bench {
	t.Helper()
	bpftest.RequireRoot(t)
	b := &bench{Tap: &Tap{}}
	t.Cleanup(func() { must(t, b.Close()) })
	must(t, b.prepare(Options{Ports: []uint16{0}, RingBytes: ringBytes}))
	return b
}

// stay keeps a test, which has a goroutine of its own, on one CPU: the kernel gives
// each CPU cookies of its own.
func stay(t testing.TB) {
	t.Helper()
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	var old, one unix.CPUSet
	must(t, unix.SchedGetaffinity(0, &old))
	cpu := 0
	for !old.IsSet(cpu) {
		cpu++
	}
	one.Set(cpu)
	must(t, unix.SchedSetaffinity(0, &one))
	t.Cleanup(func() { _ = unix.SchedSetaffinity(0, &old) })
}

// expect stays on a CPU, and makes entries in state for the cookies of the next runs.
func (b *bench) expect(t testing.TB, flow tapFlow) {
	t.Helper()
	stay(t)
	// Other programs of this CPU take some of them. It draws 4096 at a time (COOKIE_LOCAL_BATCH),
	// so near the end of these the next ones cannot be told.
	const drawn = 4096
	for b.first = nextCookie(t); b.first%drawn > drawn-foretold; b.first = nextCookie(t) {
	}
	for i := range uint64(foretold) {
		must(t, b.objs.Flows.Put(b.first+i, &flow))
	}
	b.flow = &flow
}

// foretold is for how many cookies expect makes entries.
const foretold = 256

func nextCookie(t testing.TB) uint64 {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	must(t, errors.Join(err, unix.Close(fd)))
	return cookie
}

// run runs a program on a packet and returns what came out, once more where nothing did
// and others took all cookies that had entries, while this test waited for the CPU.
func (b *bench) run(t testing.TB, prog *ebpf.Program, packet []byte) []Record {
	t.Helper()
	for {
		verdict, err := prog.Run(&ebpf.RunOptions{Data: packet})
		must(t, err)
		if verdict != 1 {
			t.Errorf("verdict is %d: the packet would be dropped", verdict)
		}
		got := drain(t, b.reader)
		if len(got) > 0 || b.flow == nil || nextCookie(t)-b.first < foretold {
			return got
		}
		b.expect(t, *b.flow)
	}
}

// drain takes what is in the rings.
func drain(t testing.TB, r *Reader) []Record {
	t.Helper()
	r.SetDeadline(time.Unix(1, 0))
	var all []Record
	for {
		var rec Record
		err := r.Next(&rec)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		must(t, err)
		rec.Data = append([]byte(nil), rec.Data...)
		all = append(all, rec)
	}
}

func TestPacketShapes(t *testing.T) {
	b := newBench(t, 0)
	in, out := b.objs.RelaygateIn, b.objs.RelaygateOut
	reading := tapFlow{State: tapFlowStateREADING}
	for _, test := range []struct {
		name   string
		prog   *ebpf.Program
		flow   tapFlow
		packet []byte
		want   bool
	}{
		{"client: acknowledgement", in, reading, ip4(6, 0, tcp(ack, 12, 0)), false},
		{"client: SYN", in, reading, ip4(6, 0, tcp(syn, 20, 0)), false},
		{"client: RST", in, reading, ip4(6, 0, tcp(rst, 0, 0)), false},
		{"client: UDP", in, reading, ip4(17, 0, tcp(ack, 0, 9)), false},
		{"client: IPv6, acknowledgement", in, reading, ip6(6, tcp(ack, 12, 0)), false},
		{"client: IPv6, UDP", in, reading, ip6(17, tcp(ack, 0, 9)), false},
		{"client: IPv6, no next header", in, reading, ip6(59, tcp(ack, 0, 9)), false},
		{"client: too short for TCP", in, reading, ip4(6, 0, tcp(ack, 0, 0)[:12]), false},
		{"client: ARP", in, reading, append(ethernet(0x0806), make([]byte, 28)...), false},
		{"client: connection is opening", in, tapFlow{State: tapFlowStateOPENING}, ip4(6, 0, tcp(ack, 0, 9)), false},
		{"client: verdict is there", in, tapFlow{State: tapFlowStateDONE}, ip4(6, 0, tcp(ack, 0, 9)), false},
		{"client: lost", in, tapFlow{State: tapFlowStateLOST}, ip4(6, 0, tcp(ack, 0, 9)), false},
		{"client: payload", in, reading, ip4(6, 0, tcp(ack, 0, 1)), true},
		{"client: payload behind options", in, reading, ip4(6, 8, tcp(ack, 40, 1)), true},
		{"client: FIN", in, reading, ip4(6, 0, tcp(fin|ack, 0, 0)), true},
		{"client: urgent pointer without payload", in, reading, ip4(6, 0, tcp(urg|ack, 0, 0)), true},
		{"client: data offset beyond the packet, FIN", in, reading, ip4(6, 0, append(tcp(0, 0, 0)[:12], 0xf0, fin, 0, 0, 0, 0, 0, 0)), true},
		{"client: IPv6, payload", in, reading, ip6(6, tcp(ack, 0, 1)), true},
		{"client: IPv6, FIN", in, reading, ip6(6, tcp(fin|ack, 0, 0)), true},
		{"client: IPv6, urgent pointer without payload", in, reading, ip6(6, tcp(urg|ack, 0, 0)), true},
		{"client: IPv6, extension header", in, reading, ip6(60, destinationOptions(tcp(ack, 0, 1))), true},
		{"server: acknowledgement", out, reading, ip4(6, 0, tcp(ack, 12, 0)), true},
		{"server: payload", out, reading, ip4(6, 0, tcp(psh|ack, 12, 9)), true},
		{"server: RST", out, reading, ip4(6, 0, tcp(rst, 0, 0)), true},
		{"server: IPv6, payload", out, reading, ip6(6, tcp(psh|ack, 12, 9)), true},
		{"server: UDP", out, reading, ip4(17, 0, tcp(ack, 0, 9)), false},
		{"server: verdict is there", out, tapFlow{State: tapFlowStateDONE}, ip4(6, 0, tcp(ack, 0, 9)), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b.expect(t, test.flow)
			got := b.run(t, test.prog, test.packet)
			if !test.want {
				if len(got) != 0 {
					t.Errorf("records are %+v, want none", got)
				}
				return
			}
			if len(got) != 1 || got[0].Kind != Packet {
				t.Fatalf("records are %+v, want one packet", got)
			}
			packet := test.packet[14:]
			if string(got[0].Data) != string(packet) || got[0].WireLen != len(packet) {
				t.Errorf("packet is %x of %d bytes, want %x", got[0].Data, got[0].WireLen, packet)
			}
			if egress := test.prog == out; got[0].Egress != egress {
				t.Errorf("egress is %v, want %v", got[0].Egress, egress)
			}
			if got[0].Cookie < b.first || got[0].Cookie >= b.first+foretold {
				t.Errorf("cookie is %d, want one from %d", got[0].Cookie, b.first)
			}
		})
	}
}

func TestPortNotWatched(t *testing.T) {
	b := newBench(t, 0)
	must(t, setPorts(b.objs.WatchedPorts, []uint16{143}))
	b.expect(t, tapFlow{State: tapFlowStateREADING})
	if got := b.run(t, b.objs.RelaygateIn, ip4(6, 0, tcp(ack, 0, 9))); len(got) != 0 {
		t.Errorf("records are %+v, want none", got)
	}
}

// TestSizeClasses takes packets around the sizes of the records.
func TestSizeClasses(t *testing.T) {
	b := newBench(t, 0)
	for _, size := range []int{41, 95, 96, 97, 479, 480, 481, 2015, 2016, 2017, 3500} {
		b.expect(t, tapFlow{State: tapFlowStateREADING})
		packet := ip4(6, 0, tcp(ack, 0, size-40))
		got := b.run(t, b.objs.RelaygateOut, packet)
		if len(got) != 1 || string(got[0].Data) != string(packet[14:]) || got[0].WireLen != size {
			t.Errorf("%d bytes: records are %+v", size, got)
		}
	}
}

// BenchmarkPrograms says what a packet costs in each program.
func BenchmarkPrograms(b *testing.B) {
	t := newBench(b, 0)
	must(b, t.watchHandshakes())
	packet := ip4(6, 0, tcp(ack, 12, 60))
	for _, direction := range []struct {
		name string
		prog *ebpf.Program
	}{{"ingress", t.objs.RelaygateIn}, {"egress", t.objs.RelaygateOut}} {
		for _, test := range []struct {
			name  string
			ports []uint16
			flow  *tapFlow
		}{
			{"other port", nil, nil},
			{"watched port, no entry", []uint16{0}, nil},
			{"after the verdict", []uint16{0}, &tapFlow{State: tapFlowStateDONE}},
			{"encrypted", []uint16{0}, &tapFlow{State: tapFlowStateENCRYPTED}},
		} {
			b.Run(direction.name+", "+test.name, func(b *testing.B) {
				must(b, setPorts(t.objs.WatchedPorts, test.ports))
				if test.flow != nil {
					t.expect(b, *test.flow)
				}
				const repeat = 1_000_000
				_, took, err := direction.prog.Benchmark(packet, repeat, nil)
				must(b, err)
				b.ReportMetric(float64(took.Nanoseconds()), "ns/packet")
				b.ReportMetric(0, "ns/op") // each run of the function is a million packets
			})
		}
	}
}
