// Command baseline is the obvious program for the replay's work: gopacket's
// packet source and reassembly, and lines split by hand. It stands beside the
// product to be measured, and believes whatever it reads: each "+OK" behind a
// PASS is a login. It prints what it counted.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"github.com/google/gopacket/reassembly" //nolint:depguard // it is the peer to be measured, in a program of its own
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "baseline:", err)
		os.Exit(1)
	}
}

// counts is what the program found.
type counts struct {
	logins  map[netip.Addr]int
	success int
	failed  int
}

func run(args []string, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("name one pcap file")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return fmt.Errorf("open capture: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	in, err := pcapgo.NewReader(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	c := &counts{logins: make(map[netip.Addr]int)}
	assembler := reassembly.NewAssembler(reassembly.NewStreamPool(c))
	n := 0
	for p := range gopacket.NewPacketSource(in, in.LinkType()).Packets() {
		tcp, ok := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		if !ok || !mail(tcp.SrcPort) && !mail(tcp.DstPort) {
			continue
		}
		assembler.AssembleWithContext(p.NetworkLayer().NetworkFlow(), tcp, &where{p.Metadata().CaptureInfo})
		if n++; n%10000 == 0 {
			assembler.FlushCloseOlderThan(p.Metadata().Timestamp.Add(-2 * time.Minute))
		}
	}
	assembler.FlushAll()
	fmt.Fprintf(out, "success=%d failure=%d clients=%d\n", c.success, c.failed, len(c.logins))
	return nil
}

func mail(port layers.TCPPort) bool { return port == 110 || port == 143 }

type where struct{ info gopacket.CaptureInfo }

func (w *where) GetCaptureInfo() gopacket.CaptureInfo { return w.info }

// New begins a connection.
func (c *counts) New(network, _ gopacket.Flow, tcp *layers.TCP, _ reassembly.AssemblerContext) reassembly.Stream {
	client, _ := netip.AddrFromSlice(network.Src().Raw())
	if mail(tcp.SrcPort) {
		client, _ = netip.AddrFromSlice(network.Dst().Raw())
	}
	return &stream{dialogue{
		pop3: tcp.DstPort == 110 || tcp.SrcPort == 110,
		verdict: func(success bool) {
			if !success {
				c.failed++
				return
			}
			c.success++
			c.logins[client]++
		},
	}}
}

type stream struct{ dialogue }

func (s *stream) Accept(*layers.TCP, gopacket.CaptureInfo, reassembly.TCPFlowDirection, reassembly.Sequence, *bool, reassembly.AssemblerContext) bool {
	return true
}

func (s *stream) ReassembledSG(sg reassembly.ScatterGather, _ reassembly.AssemblerContext) {
	dir, _, _, _ := sg.Info()
	n, _ := sg.Lengths()
	if dir == reassembly.TCPDirClientToServer {
		s.fromClient(sg.Fetch(n))
	} else {
		s.fromServer(sg.Fetch(n))
	}
}

func (s *stream) ReassemblyComplete(reassembly.AssemblerContext) bool { return true }
