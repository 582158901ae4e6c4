package live

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

// The two machines and the cable between them. Clients log in from the whole of
// clientNet, which the client's machine takes for its own.
var (
	serverAddr = netip.MustParseAddr("198.51.100.25")
	serverLeg  = netip.MustParsePrefix("192.0.2.1/24")
	clientLeg  = netip.MustParsePrefix("192.0.2.10/24")
	clientNet  = netip.MustParsePrefix("10.0.0.0/8")
)

const (
	serverPort = "mail0" // interface names
	clientPort = "net0"
)

// world is a mail server's machine, its clients' machine, and a process on each.
// The processes have control groups of their own, which tell what they spend.
type world struct {
	serverNS       *netns.Namespace
	clientNS       *netns.Namespace
	groups         groups
	server, client *helper
	next           int // client address that has not been used yet
}

// build makes the machines, the cable and the processes.
func (w *world) build(ctx context.Context) {
	must.Do(raiseFiles())
	root := must.Get(bpf.RootCgroup())
	for _, name := range []string{"server", "client", "agent"} {
		w.groups[name] = must.Get(os.MkdirTemp(root, "relaygate-bench-"+name+"-"))
	}
	w.serverNS, w.clientNS = must.Get(netns.New()), must.Get(netns.New())
	must.Do(netns.Join(w.serverNS, serverPort, []netip.Prefix{serverLeg}, w.clientNS, clientPort, []netip.Prefix{clientLeg}))
	must.Do(w.serverNS.Do(func() error {
		err := netns.AddAddresses("lo", netip.PrefixFrom(serverAddr, serverAddr.BitLen()))
		return errors.Join(err, netns.AddRoute(clientNet, clientLeg.Addr()))
	}))
	must.Do(w.clientNS.Do(func() error { return netns.AddRoute(clientNet, netip.Addr{}) }))
	must.Do(w.clientNS.DefaultRoute(serverLeg.Addr()))
	w.server = must.Get(startHelper(ctx, w.serverNS, w.groups["server"], "server"))
	w.client = must.Get(startHelper(ctx, w.clientNS, w.groups["client"], "client"))
}

// clientAddr is the i-th client's address.
func clientAddr(i int) netip.Addr {
	n := 1<<16 + i
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// addresses reserves n client addresses and returns the first one's number.
func (w *world) addresses(n int) int {
	first := w.next
	w.next += n
	return first
}

// withGate runs do while the daemon runs, with a table gate of its own in the
// configuration. Its gate goes with it, so that the next one begins with nothing.
func (m *measure) withGate(ctx context.Context, gate string, do func(*lab.Daemon)) {
	dir := must.Get(os.MkdirTemp(m.Dir, "agent"))
	defer m.End(func() error { return os.RemoveAll(dir) })
	d := must.Get(lab.StartDaemon(ctx, m.serverNS, lab.Options{
		Exe: m.Relaygate, Dir: dir, Lifetime: time.Hour, Mode: gate,
		Config: fmt.Sprintf("[watch]\npop3 = [%d, %d]\n", mailPort, pairPort),
	}))
	defer m.End(func() error { return errors.Join(d.Stop(), m.serverNS.Do(dropGate)) })
	must.Do(m.groups.move("agent", d.PID()))
	do(d)
}

// gateMode is the gate that is measured: port 25 is closed to all but members.
const gateMode = "mode = \"filter\"\nmax_new_per_minute = 0\nmax_concurrent = 0\n"

func (w *world) close() error {
	var errs []error
	for _, h := range []*helper{w.client, w.server} {
		errs = append(errs, h.stop())
	}
	return errors.Join(append(errs, w.clientNS.Close(), w.serverNS.Close(), w.groups.close())...)
}

// raiseFiles lets the processes open as many files as they may.
func raiseFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}

// groups are the control groups of the processes, by name: their folders.
type groups map[string]string

func (g groups) move(name string, pid int) error {
	if err := os.WriteFile(filepath.Join(g[name], "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		return fmt.Errorf("move process %d to a control group: %w", pid, err)
	}
	return nil
}

func (g groups) close() error {
	var errs []error
	for _, folder := range g {
		errs = append(errs, os.Remove(folder))
	}
	return errors.Join(errs...)
}
