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
	relaygate      string // program
	dir            string
	serverNS       *netns.Namespace
	clientNS       *netns.Namespace
	groups         groups
	server, client *helper
	next           int // client address that has not been used yet
}

func newWorld(ctx context.Context, relaygate, dir string) (w *world, err error) {
	w = &world{relaygate: relaygate, dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := raiseFiles(); err != nil {
		return w, err
	}
	if w.groups, err = newGroups("server", "client", "agent"); err != nil {
		return w, err
	}
	if w.serverNS, err = netns.New(); err != nil {
		return w, err
	}
	if w.clientNS, err = netns.New(); err != nil {
		return w, err
	}
	if err := w.wire(); err != nil {
		return w, err
	}
	if w.server, err = startHelper(ctx, w.serverNS, w.groups["server"], "server"); err != nil {
		return w, err
	}
	w.client, err = startHelper(ctx, w.clientNS, w.groups["client"], "client")
	return w, err
}

// wire joins the two machines.
func (w *world) wire() error {
	err := netns.Join(w.serverNS, serverPort, []netip.Prefix{serverLeg}, w.clientNS, clientPort, []netip.Prefix{clientLeg})
	if err != nil {
		return err
	}
	err = w.serverNS.Do(func() error {
		if err := netns.AddAddresses("lo", netip.PrefixFrom(serverAddr, serverAddr.BitLen())); err != nil {
			return err
		}
		return netns.AddRoute(clientNet, clientLeg.Addr())
	})
	if err != nil {
		return err
	}
	err = w.clientNS.Do(func() error { return netns.AddRoute(clientNet, netip.Addr{}) })
	return errors.Join(err, w.clientNS.DefaultRoute(serverLeg.Addr()))
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

// agent starts the daemon. stop ends it and takes its gate away, so that the
// next one begins with nothing.
func (w *world) agent(ctx context.Context) (a *agent, err error) {
	return w.agentWith(ctx, gateMode)
}

// agentWith does the same, with a table gate of its own in the configuration.
func (w *world) agentWith(ctx context.Context, gate string) (a *agent, err error) {
	dir, err := os.MkdirTemp(w.dir, "agent")
	if err != nil {
		return nil, fmt.Errorf("make the daemon's folder: %w", err)
	}
	d, err := lab.StartDaemon(ctx, w.serverNS, lab.Options{
		Exe: w.relaygate, Dir: dir, Lifetime: time.Hour, Mode: gate,
		Config: fmt.Sprintf("[watch]\npop3 = [%d, %d]\n", mailPort, pairPort),
	})
	if err != nil {
		return nil, err
	}
	if err := w.groups.move("agent", d.PID()); err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return &agent{Daemon: d, world: w, dir: dir}, nil
}

// gateMode is the gate that is measured: port 25 is closed to all but members.
const gateMode = "mode = \"filter\"\nmax_new_per_minute = 0\nmax_concurrent = 0\n"

type agent struct {
	*lab.Daemon
	world *world
	dir   string
}

func (a *agent) stop() error {
	return errors.Join(a.Stop(), a.world.serverNS.Do(dropGate), os.RemoveAll(a.dir))
}

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

func newGroups(names ...string) (g groups, err error) {
	root, err := bpf.RootCgroup()
	if err != nil {
		return nil, err
	}
	g = make(groups)
	for _, name := range names {
		folder, err := os.MkdirTemp(root, "relaygate-bench-"+name+"-")
		if err != nil {
			return g, errors.Join(fmt.Errorf("make a control group: %w", err), g.close())
		}
		g[name] = folder
	}
	return g, nil
}

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
