package bpf_test

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// pair is a client and a server, joined by a cable whose client's end is tapped
// as a gateway's would be: the server's segments come in there.
type pair struct {
	client, server *netns.Namespace
	index          int
}

func newPair(t *testing.T) *pair {
	t.Helper()
	bpftest.RequireRoot(t)
	bpftest.RequireLinux(t, 6, 6, "tcx")
	p := &pair{client: bpftest.Namespace(t), server: bpftest.Namespace(t)}
	must(t, netns.Join(p.client, "lan", bpftest.Prefixes("198.51.100.1/24", "2001:db8:25::1/64"),
		p.server, "eth0", bpftest.Prefixes("198.51.100.25/24", "2001:db8:25::25/64")))
	p.index = bpftest.Interface(t, p.client, "lan").Index
	return p
}

// tap taps the cable.
func (p *pair) tap(t *testing.T) *bpf.Wire {
	t.Helper()
	w, err := bpf.LoadWire(bpf.WireOptions{Ports: []uint16{port}, Inside: true, Servers: bpftest.Prefixes("198.51.100.25/32", "2001:db8:25::25/128")})
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, w) })
	w.HurryUp()
	bpftest.Do(t, p.client, func() error { return w.Attach(p.index) })
	return w
}

// dial connects to the server.
func (p *pair) dial(t *testing.T, addr string) (client, server net.Conn) {
	t.Helper()
	l := bpftest.Listen(t, p.server, "tcp", addr)
	client = bpftest.Dial(t, p.client, addr)
	server = bpftest.Accept(t, l)
	bpftest.Close(t, l)
	return client, server
}

func TestWireLogin(t *testing.T) {
	for _, addr := range []string{"198.51.100.25:61143", "[2001:db8:25::25]:61143"} {
		t.Run(addr, func(t *testing.T) {
			p := newPair(t)
			w := p.tap(t)
			client, server := p.dial(t, addr)
			login(t, client, server)
			got := rest(t, w)
			if len(got) == 0 || got[0].Kind != bpf.Opened || got[0].Client != client.LocalAddr().(*net.TCPAddr).AddrPort() ||
				got[0].Server != netip.MustParseAddrPort(addr) {
				t.Fatalf("records are %+v", got)
			}
			want := "S:+OK ready\r\nC:USER alice\r\nPASS x\r\nS:+OK\r\n+OK logged in\r\n"
			if dialogue := dialogueOf(got); dialogue != want {
				t.Errorf("dialogue is %q, want %q", dialogue, want)
			}
			// What is large comes in super-packets that are not linear.
			bpftest.Send(t, server, client, strings.Repeat("x", 40_000))
			n := 0
			for _, r := range rest(t, w) {
				n += strings.Count(r.payload, "x")
				if strings.Trim(r.payload, "x") != "" || r.Kind != bpf.Packet {
					t.Errorf("record is %+v", r)
				}
			}
			c, err := w.Counters()
			if err != nil || n == 0 || n < 40_000 && c.Truncated == 0 {
				t.Errorf("%d of 40000 bytes are recorded, %+v, %v", n, c, err)
			}
			must(t, w.SetDone(got[0].Client, got[0].Server, got[0].Cookie))
			before := c
			bpftest.Send(t, server, client, strings.Repeat("x", 400_000))
			bpftest.Send(t, client, server, strings.Repeat("y", 400_000))
			bpftest.Close(t, client)
			bpftest.Close(t, server)
			got = collect(t, w, kind(bpf.Closed))
			if len(got) != 1 {
				t.Errorf("after the verdict: records are %+v, want Closed alone", got)
			}
			if c, err = w.Counters(); err != nil || c.Packets != before.Packets || c.Wakeups != before.Wakeups {
				t.Errorf("after the verdict: %+v, before %+v (%v)", c, before, err)
			}
		})
	}
}

// TestWireTwice: two taps of one interface see the same, and each without the
// other.
func TestWireTwice(t *testing.T) {
	p := newPair(t)
	first, second := p.tap(t), p.tap(t)
	login := func() {
		t.Helper()
		client, server := p.dial(t, "198.51.100.25:61143")
		bpftest.Send(t, server, client, "+OK ready\r\n")
		bpftest.Close(t, server)
		bpftest.Close(t, client)
	}
	login()
	for _, w := range []*bpf.Wire{first, second} {
		if got := dialogueOf(collect(t, w, kind(bpf.Closed))); got != "S:+OK ready\r\n" {
			t.Errorf("dialogue is %q", got)
		}
	}
	bpftest.Do(t, p.client, func() error { return first.Detach(p.index) })
	login()
	if got := rest(t, first); len(got) != 0 {
		t.Errorf("detached: records are %+v", got)
	}
	if got := dialogueOf(collect(t, second, kind(bpf.Closed))); got != "S:+OK ready\r\n" {
		t.Errorf("dialogue is %q", got)
	}
}

func TestWireLinksDieWithTheProcess(t *testing.T) {
	p := newPair(t)
	attached := func() (n int) {
		t.Helper()
		bpftest.In(t, p.client, func() {
			for _, a := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
				got, err := bpf.Programs(p.index, a)
				must(t, err)
				n += len(got)
			}
		})
		return n
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", victimEnv, p.index))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	bpftest.Do(t, p.client, cmd.Start)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "loaded\n" {
		t.Fatalf("victim said %q, %v", line, err)
	}
	if n := attached(); n != 2 {
		t.Errorf("%d programs are attached, want 2", n)
	}
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // "signal: killed" is what was asked for
	if n := attached(); n != 0 {
		t.Errorf("%d programs are still attached", n)
	}
}

func TestWireRefuses(t *testing.T) {
	p := newPair(t)
	w := p.tap(t)
	bpftest.Do(t, p.client, func() error {
		if err := w.Attach(p.index); err != nil {
			t.Errorf("attached twice: %v", err)
		}
		if err := w.Attach(1 << 20); err == nil {
			t.Error("attached to an interface that is not there")
		}
		return nil
	})
	must(t, w.SetServers(make([]netip.Prefix, 0)))
	var many []netip.Prefix
	for i := range 5000 {
		many = append(many, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32))
	}
	if err := w.SetServers(many); err == nil || !strings.Contains(err.Error(), "5000 networks are more than the 4096") {
		t.Errorf("too many servers: %v", err)
	}
}
