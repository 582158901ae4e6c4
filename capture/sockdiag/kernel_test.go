package sockdiag

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

func TestMain(m *testing.M) { os.Exit(bpftest.RunNoLeaks(m)) }

const (
	port   = 61144
	nobody = 65534
)

func held(t *testing.T, ns *netns.Namespace) *bpf.Netns {
	t.Helper()
	h, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", ns.FD()))
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	return h
}

func open(t *testing.T, o Options) *Tables {
	t.Helper()
	tables, err := New(o)
	must(t, err)
	t.Cleanup(func() { must(t, tables.Close()) })
	return tables
}

func TestKernelListeners(t *testing.T) {
	for _, test := range []struct {
		network, listen string
		uid             int
		server          string
		want            string
	}{
		{"tcp4", "127.0.0.1:61144", 0, "127.0.0.1:61144", ""},
		{"tcp4", "0.0.0.0:61144", 0, "127.0.0.1:61144", ""},
		{"tcp6", "[::1]:61144", 0, "[::1]:61144", ""},
		{"tcp", "[::]:61144", 0, "127.0.0.1:61144", ""},
		{"tcp4", "127.0.0.1:61144", nobody, "127.0.0.1:61144", "belongs to uid 65534"},
		{"tcp4", "127.0.0.1:61144", 0, "127.0.0.2:61144", "nobody is known"},
		{"tcp4", "127.0.0.1:61145", 0, "127.0.0.1:61145", "nobody is known"}, // not watched
		{"tcp6", "[::]:61144", 0, "127.0.0.1:61144", "nobody is known"},      // IPv6 only
	} {
		t.Run(fmt.Sprint(test.network, " ", test.listen, " ", test.uid), func(t *testing.T) {
			ns := bpftest.Namespace(t)
			bpftest.ListenAs(t, ns, test.uid, test.network, test.listen)
			h := held(t, ns)
			tables := open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{h}})
			ok, reason := tables.Check(netip.MustParseAddrPort(test.server), h.ID())
			if ok != (test.want == "") || !strings.Contains(reason, test.want) {
				t.Errorf("got %v because %q, want %q", ok, reason, test.want)
			}
			if ok, _ := tables.Check(netip.MustParseAddrPort(test.server), h.ID()+1); ok {
				t.Error("believed in another namespace")
			}
		})
	}
}

func TestKernelForwarder(t *testing.T) {
	ns := bpftest.Namespace(t)
	bpftest.Listen(t, ns, "tcp4", "127.0.0.1:61144")
	old, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	must(t, os.WriteFile("/proc/self/comm", []byte("docker-proxy"), 0))
	defer func() {
		must(t, os.WriteFile("/proc/self/comm", old, 0))
	}()
	h := held(t, ns)
	tables := open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{h}})
	ok, reason := tables.Check(netip.MustParseAddrPort("127.0.0.1:61144"), h.ID())
	if ok || !strings.Contains(reason, "only forwards") {
		t.Errorf("got %v because %q", ok, reason)
	}
	listeners, at, err := tables.Listeners()
	if err != nil || len(listeners) != 1 || time.Since(at) > time.Minute {
		t.Fatalf("listeners are %+v at %v, %v", listeners, at, err)
	}
	if p := listeners[0].Processes; len(p) != 1 || p[0].PID != os.Getpid() || p[0].Name != "docker-proxy" {
		t.Errorf("processes are %+v, want this one", p)
	}
}

// TestKernelHolderLetsGo: a process that has inherited the listener closes it and
// lives on.
func TestKernelHolderLetsGo(t *testing.T) {
	ns := bpftest.Namespace(t)
	l := bpftest.Listen(t, ns, "tcp4", "127.0.0.1:61144")
	file, err := l.(*net.TCPListener).File()
	must(t, err)
	defer bpftest.Close(t, file)
	child := exec.Command("sh", "-c", "echo has; read x; exec 3<&-; echo not; read x")
	child.ExtraFiles = []*os.File{file}
	in, err := child.StdinPipe()
	must(t, err)
	out, err := child.StdoutPipe()
	must(t, err)
	must(t, child.Start())
	defer func() {
		_ = in.Close() // it ends
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(out)
	h := held(t, ns)
	var tables *Tables
	for _, has := range []bool{true, false} {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if tables == nil {
			tables = open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{h}})
		} else {
			tables.lookNow()
		}
		list := pids(tables.Owners(netip.MustParseAddrPort("127.0.0.1:61144"), h.ID()))
		if got := slices.Contains(list, child.Process.Pid); got != has || !slices.Contains(list, os.Getpid()) {
			t.Errorf("owners are %v; that %d is one: %v", list, child.Process.Pid, has)
		}
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKernelEstablished(t *testing.T) {
	for _, test := range []struct{ name, network, listen, dial string }{
		{"IPv4", "tcp4", "127.0.0.1:61144", "127.0.0.1:61144"},
		{"IPv6", "tcp6", "[::1]:61144", "[::1]:61144"},
		{"IPv4-mapped", "tcp", "[::]:61144", "127.0.0.1:61144"},
	} {
		t.Run(test.name, func(t *testing.T) {
			ns, other := bpftest.Namespace(t), bpftest.Namespace(t)
			l := bpftest.Listen(t, ns, test.network, test.listen)
			client := bpftest.Dial(t, ns, test.dial)
			var server net.Conn
			bpftest.As(t, ns, nobody, func() (err error) {
				server, err = l.Accept()
				return err
			})
			defer server.Close()
			c := authz.Conn{
				Client: client.LocalAddr().(*net.TCPAddr).AddrPort(),
				Server: netip.MustParseAddrPort(test.dial),
			}

			foreign, h := held(t, other), held(t, ns)
			elsewhere := open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{foreign, h}})
			if ok, _ := confirms(elsewhere, c, time.Now()); ok {
				t.Error("believed a connection of another namespace than the own")
			}
			tables := open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{h, foreign}})
			if ok, reason := confirms(tables, c, time.Now()); !ok {
				t.Errorf("not believed because %q", reason)
			}
			stranger := c
			stranger.Client = netip.AddrPortFrom(c.Client.Addr(), c.Client.Port()^1)
			if ok, reason := confirms(tables, stranger, time.Now()); ok || !strings.Contains(reason, "no socket") {
				t.Errorf("a connection that is not there: %v, %q", ok, reason)
			}
		})
	}
}

// TestKernelTransparent: a firewall (TPROXY) can lead what is for the mail server's port to
// a transparent listener at any other, whose connections are so, too.
func TestKernelTransparent(t *testing.T) {
	set := func(network string, c syscall.RawConn) (failed error) {
		level, option := unix.SOL_IP, unix.IP_TRANSPARENT
		if network == "tcp6" {
			level, option = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
		}
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
		return errors.Join(err, failed)
	}
	for _, test := range []struct {
		network, listen, address string
		listener                 bool // is transparent, else its connection alone
		want                     string
	}{
		{"tcp4", "127.0.0.1:61144", "127.0.0.1:61144", true, ""},
		{"tcp4", "0.0.0.0:61144", "127.0.0.1:61144", true, "for other hosts"},
		{"tcp6", "[::]:61144", "[::1]:61144", true, "for other hosts"},
		{"tcp4", "0.0.0.0:61144", "127.0.0.1:61144", false, "transparent proxy"},
		{"tcp6", "[::1]:61144", "[::1]:61144", false, "transparent proxy"},
	} {
		ns := bpftest.Namespace(t)
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		if test.listener {
			config.Control = func(network, _ string, c syscall.RawConn) error { return set(network, c) }
		}
		var l net.Listener
		bpftest.Do(t, ns, func() (err error) {
			l, err = config.Listen(t.Context(), test.network, test.listen)
			return err
		})
		client := bpftest.Dial(t, ns, test.address)
		server, err := l.Accept()
		must(t, err)
		if !test.listener {
			raw, err := server.(syscall.Conn).SyscallConn()
			must(t, err)
			must(t, set(test.network, raw))
		}
		c := authz.Conn{Client: client.LocalAddr().(*net.TCPAddr).AddrPort(), Server: netip.MustParseAddrPort(test.address)}
		tables := open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{held(t, ns)}})
		if ok, reason := confirms(tables, c, time.Now()); ok != (test.want == "") || !strings.Contains(reason, test.want) {
			t.Errorf("%+v: %v, %q", test, ok, reason)
		}
		must(t, errors.Join(server.Close(), l.Close()))
	}
}

// TestKernelBoundToDevice: a connection is found whose listener is bound to a device.
func TestKernelBoundToDevice(t *testing.T) {
	ns := bpftest.Namespace(t)
	bound := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (failed error) {
		err := c.Control(func(fd uintptr) { failed = unix.BindToDevice(int(fd), "lo") })
		return errors.Join(err, failed)
	}}
	bound.SetMultipathTCP(false)
	for network, address := range map[string]string{"tcp4": "127.0.0.1:61144", "tcp6": "[::1]:61144"} {
		var l net.Listener
		bpftest.Do(t, ns, func() (err error) {
			l, err = bound.Listen(t.Context(), network, address)
			return err
		})
		client := bpftest.Dial(t, ns, address)
		server, err := l.Accept()
		must(t, err)
		c := authz.Conn{Client: client.LocalAddr().(*net.TCPAddr).AddrPort(), Server: netip.MustParseAddrPort(address)}
		tables := open(t, Options{Ports: []uint16{port}, Owners: []uint32{0}, Netns: []*bpf.Netns{held(t, ns)}})
		if ok, reason := confirms(tables, c, time.Now()); !ok {
			t.Errorf("%s: not believed because %q", network, reason)
		}
		c.Client = netip.AddrPortFrom(c.Client.Addr(), c.Client.Port()^1)
		if ok, reason := confirms(tables, c, time.Now()); ok || !strings.Contains(reason, "no socket") {
			t.Errorf("%s: a connection that is not there: %v, %q", network, ok, reason)
		}
		must(t, errors.Join(server.Close(), l.Close()))
	}
}

func FuzzParse(f *testing.F) {
	f.Add(make([]byte, inetDiagMsgLen))
	f.Add(append(make([]byte, inetDiagMsgLen), 5, 0, inetDiagSKV6Only, 0, 1, 0, 0, 0))
	f.Add([]byte{2, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parse(b); err == nil && (!s.Local.IsValid() || !s.Remote.IsValid()) {
			t.Errorf("%+v has no addresses", s)
		}
	})
}

// TestKernelAnswersThatCannotBeRead: reading an answer fails, as it does without memory.
// What is left of it is no answer to what is asked later.
func TestKernelAnswersThatCannotBeRead(t *testing.T) {
	ns := bpftest.Namespace(t)
	l := bpftest.Listen(t, ns, "tcp4", "127.0.0.1:61144")
	client := bpftest.Dial(t, ns, "127.0.0.1:61144")
	server, err := l.Accept()
	must(t, err)
	defer server.Close()
	addr := func(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }
	c, err := dial(ns.FD())
	must(t, err)
	defer c.Close()
	ask := map[string]func() (int, error){
		"listeners": func() (int, error) {
			list, err := c.listening([]uint16{port})
			return len(list), err
		},
		"connection": func() (int, error) {
			ok, err := c.has(addr(server.LocalAddr()), addr(client.LocalAddr()), 0, false)
			return map[bool]int{true: 1}[ok], err
		},
		"sessions": func() (n int, err error) {
			err = c.sessions([]uint16{port}, 1<<tcpEstablished, func(Session) error { n++; return nil })
			return n, err
		},
	}
	for failing, fail := range ask {
		must(t, c.SetReadDeadline(time.Unix(1, 0)))
		if _, err := fail(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %v, want the end of the time to read in", failing, err)
		}
		for what, do := range ask {
			if n, err := do(); err != nil || n != 1 {
				t.Errorf("%s behind %s that could not be read: %d, %v", what, failing, n, err)
			}
		}
		err := bpftest.Unsent(t, unix.EINTR, func() error { _, err := fail(); return err })
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got %v, want the end of the time to send in", failing, err)
		}
	}
}

// TestNamespaces has processes in namespaces of their own, as in a container.
func TestNamespaces(t *testing.T) {
	bpftest.RequireRoot(t)
	proc := os.DirFS("/proc")
	own := namespaces(proc, "self")
	for flags, guest := range map[uintptr]bool{
		0: false, syscall.CLONE_NEWNET: false, syscall.CLONE_NEWNS: false,
		syscall.CLONE_NEWPID: true, syscall.CLONE_NEWUSER: true, syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID: true,
	} {
		cmd := exec.Command("/bin/cat")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		in, err := cmd.StdinPipe()
		must(t, err)
		must(t, cmd.Start())
		if got := namespaces(proc, strconv.Itoa(cmd.Process.Pid)); got == "" || (got != own) != guest {
			t.Errorf("namespaces by flags %#x are %q, ours %q", flags, got, own)
		}
		must(t, errors.Join(in.Close(), cmd.Wait()))
	}
}
