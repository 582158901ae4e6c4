package lab_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
)

// totals is what status tells of logins.
type totals struct {
	Logins, Refused, Tainted int
	Doubts                   map[string]int
	Drops                    map[string]int
	Tap                      struct{ Flows, Opened int }
}

func (w *world) totals(t *testing.T) (s totals) {
	t.Helper()
	must(t, json.Unmarshal([]byte(w.verb(t, "status", "--json")), &s))
	return s
}

// talkTo plays a dialogue, one command at a time, and returns the last answer.
func talkTo(h *lab.Host, to netip.AddrPort, commands ...string) (answer string, err error) {
	err = h.NS.Do(func() error {
		d := net.Dialer{Timeout: long}
		d.SetMultipathTCP(false)
		conn, err := d.Dial("tcp", to.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(long)); err != nil {
			return err
		}
		lines := bufio.NewReader(conn)
		if _, err := lines.ReadString('\n'); err != nil {
			return err
		}
		for _, c := range commands {
			if _, err := io.WriteString(conn, c+"\r\n"); err != nil {
				return err
			}
			if answer, err = lines.ReadString('\n'); err != nil {
				return err
			}
		}
		return nil
	})
	return answer, err
}

// dialogues plays logins at the same time, of which every third has the wrong
// password, and counts those that the server accepted and refused.
func dialogues(t *testing.T, h *lab.Host, server netip.Addr, n int) (accepted, refused int) {
	t.Helper()
	var all sync.WaitGroup
	results := make(chan string, n)
	for i := range n {
		all.Go(func() {
			password := lab.Password
			if i%3 == 2 {
				password = "wrong"
			}
			var answer string
			var err error
			if i%2 == 0 {
				answer, err = talkTo(h, netip.AddrPortFrom(server, lab.IMAPPort), "a1 LOGIN "+lab.User+" "+password)
			} else {
				answer, err = talkTo(h, netip.AddrPortFrom(server, lab.POP3Port), "USER "+lab.User, "PASS "+password)
			}
			if err != nil {
				answer = err.Error()
			}
			results <- answer
		})
	}
	all.Wait()
	close(results)
	for answer := range results {
		switch {
		case strings.HasPrefix(answer, "+OK"), strings.HasPrefix(answer, "a1 OK"):
			accepted++
		case strings.HasPrefix(answer, "-ERR"), strings.HasPrefix(answer, "a1 NO"):
			refused++
		default:
			t.Errorf("a dialogue ended with %q", answer)
		}
	}
	return accepted, refused
}

// counts waits until the daemon counts as many.
func (w *world) counts(t *testing.T, logins, refused int) {
	t.Helper()
	settles(t, 5*time.Second, func() error {
		if s := w.totals(t); s.Logins != logins || s.Refused != refused || s.Tainted != 0 {
			return fmt.Errorf("status tells %+v, want %d logins, %d refused, none in doubt", s, logins, refused)
		}
		return nil
	})
}

func TestGatewayManyFlows(t *testing.T) {
	for _, watch := range []string{tcxLan, "tap = \"afpacket\"\ninterfaces = [\"lan\"]"} {
		t.Run(strings.Fields(watch)[2], func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, watch)
			yes, no := dialogues(t, w.Client4, lab.Server4, 300)
			more, less := dialogues(t, w.Client6, lab.Server6, 300)
			w.counts(t, yes+more, no+less)
			settles(t, 5*time.Second, func() error {
				if s := w.totals(t); s.Tap.Flows != 0 {
					return fmt.Errorf("%d connections are followed that are over", s.Tap.Flows)
				}
				return nil
			})
		})
	}
}

// A path that loses, doubles and reorders costs no login and invents none, be it
// before the router or behind it.
func TestGatewayOverALossyPath(t *testing.T) {
	for _, watch := range []string{tcxLan, "tap = \"afpacket\"\ninterfaces = [\"lan\"]"} {
		t.Run(strings.Fields(watch)[2], func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, watch)
			must(t, w.daemon.Stop())
			cable := bpftest.Namespace(t)
			bpftest.Do(t, w.gateway.Router, func() error { return deleteLink(lab.Lan) })
			none := []netip.Prefix(nil)
			router := []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("2001:db8:25::1/64")}
			server := []netip.Prefix{netip.PrefixFrom(lab.Server4, 24), netip.PrefixFrom(lab.Server6, 64)}
			must(t, netns.Join(w.gateway.Router, lab.Lan, router, cable, "a", none))
			must(t, netns.Join(w.Server, "eth0", server, cable, "b", none))
			for _, p := range router {
				must(t, w.Server.DefaultRoute(p.Addr()))
			}
			// The interfaces send whole packets: what a program carries no hardware completes.
			bpftest.Do(t, w.gateway.Router, func() error { return netns.SetOffload(lab.Lan, false, unix.ETHTOOL_STXCSUM) })
			bpftest.Do(t, w.Server, func() error { return netns.SetOffload("eth0", false, unix.ETHTOOL_STXCSUM) })
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			newLossy(t, cable, "a", "b", 12, seed)
			w.start(t)
			t.Cleanup(func() { must(t, w.daemon.Stop()) }) // before its interface goes
			yes, no := dialogues(t, w.Client4, lab.Server4, 60)
			more, less := dialogues(t, w.Client6, lab.Server6, 60)
			w.counts(t, yes+more, no+less)
		})
	}
}

// deleteLink deletes an interface of the current namespace.
func deleteLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkDel(l)
}

// Spoofed SYNs, which the server answers, neither fill the table nor keep a login
// from being seen.
func TestGatewayUnderASYNFlood(t *testing.T) {
	w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, tcxLan)
	from := w.wireTo(t, "to-stranger", w.Stranger.NS)
	flood := func(n int) {
		t.Helper()
		frames := make([][]byte, n)
		one := segment{flags: "S"}.frame(t, from, 0)
		server := lab.Server4.As4()
		copy(one[14+16:], server[:])
		for i := range frames {
			f := append([]byte(nil), one...)
			f[14+12], f[14+13], f[14+14], f[14+15] = 10, byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())
			f[34], f[35] = byte(1+rand.IntN(200)), byte(rand.Uint32())
			frames[i] = checksummed(f)
		}
		from.send(t, frames...)
	}
	var floods sync.WaitGroup
	floods.Go(func() {
		for range 10 {
			flood(5000)
		}
	})
	yes, no := dialogues(t, w.Client4, lab.Server4, 30)
	floods.Wait()
	more, less := dialogues(t, w.Client6, lab.Server6, 30)
	w.counts(t, yes+more, no+less)
	s := w.totals(t)
	if s.Tap.Opened != 60 || s.Tap.Flows > 60 {
		t.Errorf("the flood made connections: %+v", s)
	}
	if s.Drops["tap: handshakes displaced by others"] == 0 {
		t.Errorf("the flood displaced no handshake: %+v", s)
	}
	t.Logf("%+v", s.Drops)
}

// checksummed corrects the checksums of an IPv4 TCP frame.
func checksummed(f []byte) []byte {
	ip, tcp := f[14:34], f[34:]
	ip[10], ip[11], tcp[16], tcp[17] = 0, 0, 0, 0
	sum := func(parts ...[]byte) (n uint32) {
		for _, p := range parts {
			for i, b := range p {
				n += uint32(b) << (8 * (1 - i%2))
			}
		}
		for n > 0xffff {
			n = n&0xffff + n>>16
		}
		return ^n
	}
	s := sum(ip)
	ip[10], ip[11] = byte(s>>8), byte(s)
	s = sum(ip[12:20], []byte{0, 6, byte(len(tcp) >> 8), byte(len(tcp))}, tcp)
	tcp[16], tcp[17] = byte(s>>8), byte(s)
	return f
}

// tagging attaches a program to an interface that pushes or pops a VLAN tag, for
// kernels without VLAN interfaces.
func tagging(t *testing.T, ns *netns.Namespace, name string, push bool, id int32) {
	t.Helper()
	code := asm.Instructions{asm.FnSkbVlanPop.Call()}
	attach, anchor := ebpf.AttachTCXIngress, link.Tail()
	if push {
		const tpid = 0x0081 // 802.1Q in network byte order
		code = asm.Instructions{asm.Mov.Imm(asm.R2, tpid), asm.Mov.Imm(asm.R3, id), asm.FnSkbVlanPush.Call()}
		attach, anchor = ebpf.AttachTCXEgress, link.Head()
	}
	attachTCX(t, ns, name, attach, anchor, append(code, asm.Mov.Imm(asm.R0, -1), asm.Return())...)
}

// On a trunk the server's VLAN is the one that leads to it.
func TestGatewayOnATrunk(t *testing.T) {
	for vlan, want := range map[uint16]bool{20: true, 30: false, 0: false} {
		t.Run(fmt.Sprint("a ghost on VLAN ", vlan), func(t *testing.T) {
			w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, tcxLan)
			for name, ns := range map[string]*netns.Namespace{"lan": w.gateway.Router, "eth0": w.Server} {
				tagging(t, ns, name, true, 20)
				tagging(t, ns, name, false, 0)
			}
			login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
			settles(t, time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
			w.haunt(t, "lan")
			inside := w.wireTo(t, "lan", w.Server)
			inside.raw, inside.vlan = true, vlan
			if got := w.granted(t, w.wireTo(t, "to-stranger", w.Stranger.NS), inside, forgedLogin()); got != want {
				t.Errorf("granted: %v, want %v", got, want)
			}
		})
	}
}

// imapAnswers accepts every login on one listener.
func imapAnswers(t *testing.T, l net.Listener) {
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, "* OK ready\r\n")
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					tag, _, _ := strings.Cut(lines.Text(), " ")
					_, _ = io.WriteString(conn, tag+" OK done\r\n")
				}
			}()
		}
	}()
}

// Where the kernel can hand the server other bytes than the wire showed, nothing
// is believed.
func TestGatewayDoubtsWhatTheKernelMayChange(t *testing.T) {
	const port = 1143
	watch := "imap = [143, 1143]\n" + tcxLan
	server := netip.AddrPortFrom(lab.Server4, port)
	listen := func(w *gatewayWorld, mptcp bool, control func(fd int) error) {
		bpftest.Do(t, w.Server, func() error {
			lc := net.ListenConfig{}
			lc.SetMultipathTCP(mptcp)
			l, err := lc.Listen(context.Background(), "tcp4", server.String())
			if err != nil {
				return err
			}
			imapAnswers(t, l)
			raw, err := l.(*net.TCPListener).SyscallConn()
			if err != nil || control == nil {
				return err
			}
			return errors.Join(raw.Control(func(fd uintptr) { err = control(int(fd)) }), err)
		})
	}
	nobody := func(w *gatewayWorld) {
		t.Helper()
		login(t, w.Client6, lab.IMAPLogin(lab.Server6, lab.Password))
		settles(t, time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
		if got := w.expires(t); len(got) != 1 {
			t.Errorf("granted: %v\n%s", got, w.verb(t, "why", lab.Client4.String()))
		}
	}
	t.Run("plain", func(t *testing.T) {
		w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, watch)
		listen(w, false, nil)
		_, err := talkTo(w.Client4, server, "a1 LOGIN alice x")
		must(t, err)
		settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	})
	t.Run("Multipath TCP", func(t *testing.T) {
		w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, watch)
		listen(w, true, nil)
		bpftest.Do(t, w.Client4.NS, func() error {
			d := net.Dialer{Timeout: long}
			d.SetMultipathTCP(true)
			conn, err := d.Dial("tcp", server.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			if multi, err := conn.(*net.TCPConn).MultipathTCP(); err != nil || !multi {
				return errors.Join(err, errors.New("the connection is not Multipath TCP: the test proves nothing"))
			}
			_, err = io.WriteString(conn, "a1 LOGIN alice x\r\n")
			if err == nil {
				_, err = bufio.NewReader(conn).ReadString('d')
			}
			return err
		})
		nobody(w)
	})
	t.Run("TCP Fast Open", func(t *testing.T) {
		w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, watch)
		bpftest.Sysctl(t, w.Server, "1539", "ipv4/tcp_fastopen") // client, server, and neither asks for a cookie
		bpftest.Sysctl(t, w.Client4.NS, "1541", "ipv4/tcp_fastopen")
		listen(w, false, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN, 16) })
		bpftest.In(t, w.Client4.NS, func() {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			defer unix.Close(fd)
			err = unix.Sendto(fd, []byte("a1 LOGIN alice x\r\n"), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: port, Addr: lab.Server4.As4()})
			var got string
			for err == nil && !strings.Contains(got, "a1 OK") {
				var b [100]byte
				var n int
				n, err = unix.Read(fd, b[:])
				got += string(b[:n])
			}
			must(t, err)
			info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
			if err == nil && info.Options&0x20 == 0 { // TCPI_OPT_SYN_DATA
				err = errors.New("the SYN carried no data: the test proves nothing")
			}
			must(t, err)
		})
		nobody(w)
	})
	t.Run("urgent data", func(t *testing.T) {
		w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, watch)
		listen(w, false, nil)
		bpftest.Do(t, w.Client4.NS, func() error {
			conn, err := net.Dial("tcp4", server.String())
			if err != nil {
				return err
			}
			defer conn.Close()
			raw, err := conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				return err
			}
			lines := bufio.NewReader(conn)
			_, err = lines.ReadString('\n')
			return errors.Join(err, raw.Write(func(fd uintptr) bool {
				err = unix.Sendto(int(fd), []byte("a1 LOGIN alice x!"), unix.MSG_OOB, nil)
				return true
			}), err, func() error {
				if _, err := io.WriteString(conn, "\r\n"); err != nil {
					return err
				}
				_, err := lines.ReadString('\n')
				return err
			}())
		})
		nobody(w)
	})
}

// TestHostWithoutCgroups: there tap "auto" takes the interfaces that are named.
func TestHostWithoutCgroups(t *testing.T) {
	bpftest.RequireLinux(t, 6, 6, "tcx")
	w := newWorld(t, 30*time.Second, "")
	must(t, w.daemon.Stop())
	w.opts.Exe = weak(t, "grep cgroup2 /proc/self/mounts | cut -d' ' -f2 | xargs umount -l")
	w.opts.Config = "[watch]\ninterfaces = [\"to-client4\", \"to-client6\", \"to-stranger\"]\n"
	w.start(t)
	w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort))
	settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "status", "tcx (interfaces to-client4, to-client6, to-stranger)")())
}

// weak is the program on a host that a shell command takes something from, in a
// mount namespace of its own.
func weak(t *testing.T, take string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "weak")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c '%s; exec \"$0\" \"$@\"' %q \"$@\"\n", strings.ReplaceAll(take, "'", `'\''`), program)
	must(t, os.WriteFile(path, []byte(script), 0o700))
	return path
}

// TestGatewayWithoutTCX: on a kernel without it a packet socket does. Here it is the
// kernel's BTF that is missing.
func TestGatewayWithoutTCX(t *testing.T) {
	w := newGatewayWorld(t, lab.Options{Lifetime: time.Minute}, tcxLan)
	must(t, w.daemon.Stop())
	w.opts.Exe = weak(t, "mount --bind /dev/null /sys/kernel/btf/vmlinux")
	w.opts.Config = "[watch]\ninterfaces = [\"lan\"]\n"
	w.start(t)
	login(t, w.Client4, lab.IMAPLogin(lab.Server4, lab.Password))
	settles(t, time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	must(t, w.says(t, "status", "afpacket (inside interfaces lan, blind to memory")())
	must(t, w.daemon.Stop())

	w.opts.Config = "[watch]\ninterfaces = [\"lan\", \"dmz\"]\n"
	w.start(t)
	admit(t, w.Client6.At(lab.Server6))
	must(t, w.daemon.Stop())
	w.opts.Exe, w.opts.Config = program, "[watch]\n"+tcxLan+"\n"
	w.start(t)
}
