package capture_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"relaygate/authz"
	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
	"relaygate/capture"
	"relaygate/capture/flow"
)

var (
	modelServer = netip.MustParseAddrPort("192.0.2.1:61154")
	modelClient = netip.MustParseAddr("192.0.2.7")
)

// truth is what the server of a connection read and wrote: basis is, per byte written, how
// many had been read.
type truth struct {
	conn          *net.TCPConn
	read, written []byte
	basis         []int
	done          chan struct{}
}

// serve answers each line, until there is nothing more to read.
func (s *truth) serve() {
	defer close(s.done)
	write := func(text string) {
		for range len(text) {
			s.basis = append(s.basis, len(s.read))
		}
		s.written = append(s.written, text...)
		_, _ = io.WriteString(s.conn, text) // the client may be gone
	}
	write("hi\n")
	buf := make([]byte, 2000)
	for n, lines := 0, 0; ; {
		var err error
		n, err = s.conn.Read(buf)
		s.read = append(s.read, buf[:n]...)
		for range bytes.Count(buf[:n], []byte("\n")) {
			lines++
			write(fmt.Sprintf("re %*d\n", 1+lines%20, lines))
		}
		if err != nil {
			return
		}
	}
}

// tap is a Ring or an AFPacket.
type tap interface {
	Next(*capture.Event) error
	SetDeadline(time.Time)
}

// modelTap is a tap whose streams are compared with the truth.
type modelTap struct {
	tap
	name  string
	table *flow.Table
	open  map[flow.ID]*stream
	all   []*stream
}

// stream is what a tap believes of a connection, and how much of the client it had
// believed before each of the server's words.
type stream struct {
	client           netip.AddrPort
	released, answer []byte
	before           [][2]int
	doubt            string
}

// drain reads what is there, and waits for more until a time.
func (m *modelTap) drain(t *testing.T, until time.Time) {
	t.Helper()
	m.SetDeadline(until)
	var ev capture.Event
	for {
		if err := m.Next(&ev); errors.Is(err, os.ErrDeadlineExceeded) {
			return
		} else if err != nil {
			t.Fatalf("%s: %v", m.name, err)
		}
		for _, e := range m.table.Feed(&ev) {
			m.take(&e)
		}
	}
}

func (m *modelTap) take(e *flow.Event) {
	if e.Kind == flow.Opened {
		conn, _ := m.table.Conn(e.ID)
		m.open[e.ID] = &stream{client: conn.Client}
		m.all = append(m.all, m.open[e.ID])
	}
	switch s := m.open[e.ID]; {
	case e.Kind == flow.Tainted:
		s.doubt = e.Reason
	case e.Kind == flow.Data && e.Chunk.Dir == authz.FromClient:
		s.released = append(s.released, e.Chunk.Bytes...)
	case e.Kind == flow.Data:
		s.answer = append(s.answer, e.Chunk.Bytes...)
		s.before = append(s.before, [2]int{len(s.answer), len(s.released)})
	}
}

// contradicts says in words what a server knows better, "" if nothing.
func (s *stream) contradicts(server *truth) string {
	if server == nil {
		server = &truth{}
	}
	switch {
	case !bytes.HasPrefix(server.read, s.released):
		return fmt.Sprintf("the client said %q, and the server read %q", s.released, server.read)
	case !bytes.HasPrefix(server.written, s.answer):
		return fmt.Sprintf("the server said %q, and wrote %q", s.answer, server.written)
	}
	for _, b := range s.before {
		if basis := server.basis[b[0]-1]; basis > b[1] {
			return fmt.Sprintf("byte %d of the server comes before byte %d of the client, on which it rests", b[0], basis)
		}
	}
	return ""
}

// modelWorld is a host with a server, three taps and a neighbour.
type modelWorld struct {
	host   *netns.Namespace
	taps   []*modelTap
	server net.Listener
	client rawClient // what all clients have
}

func newModelWorld(t *testing.T) *modelWorld {
	host, outside := bpftest.Namespace(t), bpftest.Namespace(t)
	must(t, netns.Join(host, "lan", []netip.Prefix{netip.PrefixFrom(modelServer.Addr(), 24)}, outside, "wan", nil))
	w := &modelWorld{host: host, client: rawClient{
		t: t, remote: modelServer, wire: bpftest.OpenWire(t, outside, "wan"), to: bpftest.Interface(t, host, "lan").HardwareAddr,
	}}
	bpftest.Station(t, host, "lan", modelClient, net.HardwareAddr{2, 0, 0, 0, 0, 9})
	held, err := bpf.OpenNetns(fmt.Sprintf("/proc/self/fd/%d", host.FD()))
	must(t, err)
	t.Cleanup(func() { bpftest.Close(t, held) })
	bpftest.Do(t, host, func() error { return w.tap(t, held) })
	w.server = bpftest.Listen(t, host, "tcp4", modelServer.String())
	return w
}

// tap opens the taps of the host.
func (w *modelWorld) tap(t *testing.T, host *bpf.Netns) error {
	lan, err := net.InterfaceByName("lan")
	if err != nil {
		return err
	}
	ports := []uint16{modelServer.Port()}
	programs, err := bpf.Load(bpf.Options{Ports: ports, Owners: []uint32{0}, Netns: []*bpf.Netns{host}})
	if err != nil {
		return err
	}
	t.Cleanup(func() { bpftest.Close(t, programs) })
	wire, err := bpf.LoadWire(bpf.WireOptions{Ports: ports, Servers: []netip.Prefix{netip.PrefixFrom(modelServer.Addr(), 32)}})
	if err != nil {
		return err
	}
	t.Cleanup(func() { bpftest.Close(t, wire) })
	if err := wire.Attach(lan.Index); err != nil {
		return err
	}
	packets, err := capture.OpenAFPacket([]int{lan.Index}, false, capture.NewDecoder(capture.NewPortSet(ports...)))
	if err != nil {
		return err
	}
	t.Cleanup(func() { bpftest.Close(t, packets) })
	services := map[uint16]authz.Service{modelServer.Port(): {Protocol: authz.POP3}}
	add := func(name string, s tap) {
		w.taps = append(w.taps, &modelTap{tap: s, name: name, table: flow.New(flow.Config{Services: services}), open: map[flow.ID]*stream{}})
	}
	add("cgroup", capture.NewRing(programs))
	add("tcx", capture.NewWireRing(wire, false))
	add("packet sockets", packets)
	return nil
}

// accept serves clients, and hands out each server by its client's port.
func (w *modelWorld) accept(t *testing.T) (of func(port uint16) *truth) {
	var mu sync.Mutex
	all := make(map[uint16]*truth)
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := w.server.Accept()
			if err != nil {
				return // closed
			}
			s := &truth{conn: conn.(*net.TCPConn), done: make(chan struct{})}
			mu.Lock()
			all[conn.RemoteAddr().(*net.TCPAddr).AddrPort().Port()] = s
			mu.Unlock()
			go s.serve()
		}
	}()
	t.Cleanup(func() {
		bpftest.Close(t, w.server)
		<-accepting
		for _, s := range all {
			_ = s.conn.Close() // its client may have reset it
			<-s.done
		}
	})
	return func(port uint16) *truth {
		mu.Lock()
		defer mu.Unlock()
		return all[port]
	}
}

// TestAgainstKernel has clients without a kernel say this and that to a server with one,
// and compares what each tap believes with what the server read and wrote, and when.
// Nobody models that kernel: it decides.
func TestAgainstKernel(t *testing.T) {
	bpftest.RequireRoot(t)
	w := newModelWorld(t)
	server := w.accept(t)
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	clients := make(map[uint16]*rawClient)
	for i := range uint16(400) {
		c := w.client
		c.rng, c.local = rng, netip.AddrPortFrom(modelClient, 20000+i)
		c.isn = []uint32{rng.Uint32(), -uint32(rng.IntN(60)), 1<<31 - uint32(rng.IntN(60))}[rng.IntN(3)]
		if c.odd = rng.IntN(3) > 0; c.odd {
			c.deviates = []int{0, 2, 30, 300}[rng.IntN(4)]
		}
		c.play()
		clients[c.local.Port()] = &c
		w.drain(t, time.Now())
	}
	w.settle(t, server, clients)
	for _, tap := range w.taps {
		useful := 0
		for _, s := range tap.all {
			c := clients[s.client.Port()]
			if c == nil {
				continue // the last, which has a kernel
			}
			text := s.contradicts(server(s.client.Port()))
			if text == "" && !c.odd && s.doubt != "" && tap.name != "packet sockets" { // whose ring is small
				text = "an honest client in doubt: " + s.doubt
			}
			if text != "" {
				t.Errorf("seed %d, %s, %v: %s\nthe client sent:\n%s", seed, tap.name, s.client, text, strings.Join(c.said, "\n"))
			}
			if len(s.released) > 20 {
				useful++
			}
		}
		if useful < 100 {
			t.Errorf("%s: only %d of %d streams say something", tap.name, useful, len(tap.all))
		}
	}
}

func (w *modelWorld) drain(t *testing.T, until time.Time) {
	for _, tap := range w.taps {
		tap.drain(t, until)
	}
}

// settle waits until the taps have seen what is acknowledged, and each server has read
// that.
func (w *modelWorld) settle(t *testing.T, server func(uint16) *truth, clients map[uint16]*rawClient) {
	var last net.Conn // behind all others in the listener's queue
	bpftest.Do(t, w.host, func() (err error) {
		last, err = net.Dial("tcp4", modelServer.String())
		return err
	})
	if _, err := io.ReadFull(last, make([]byte, len("hi\n"))); err != nil {
		t.Fatal(err)
	}
	bpftest.Close(t, last)
	w.drain(t, time.Now().Add(300*time.Millisecond))
	for port := range clients {
		if s := server(port); s != nil {
			_ = s.conn.CloseRead() // behind what has come; its client may have reset it
			<-s.done
		}
	}
}
