package lab_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"relaygate/authz"
	"relaygate/bpf/bpftest"
)

// TestCanaryNeverComesOutOfReplay crafts a capture of each dialogue.
func TestCanaryNeverComesOutOfReplay(t *testing.T) {
	file := filepath.Join(t.TempDir(), "canary.pcap")
	list := readDialogues(t, "testdata/canary.txt")
	writeCapture(t, file, list)
	seen := 0
	for _, d := range list {
		seen += len(d.want)
	}
	for _, out := range replays(t, file) {
		free(t, "replay", out)
		if got := verdictLines(out); got < seen {
			t.Errorf("replay tells %d verdicts, want at least %d:\n%s", got, seen, out)
		}
	}
}

// replays is what replay prints about a file, without and with --json.
func replays(t *testing.T, file string) (outputs [][]byte) {
	t.Helper()
	for _, args := range [][]string{{"replay", file}, {"replay", "--json", file}} {
		out, err := exec.Command(program, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("replay: %v\n%s", err, out)
		}
		outputs = append(outputs, out)
	}
	return outputs
}

// tape writes the frames of TCP connections between one client and one server.
type tape struct {
	w    *pcapgo.Writer
	time time.Time
}

// writeCapture writes one complete connection per dialogue, acknowledged at
// once, on Ethernet.
func writeCapture(t *testing.T, path string, list []dialogue) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	tp := &tape{w: pcapgo.NewWriter(f), time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	must(t, tp.w.WriteFileHeader(1<<16, layers.LinkTypeEthernet))
	for i, d := range list {
		tp.connection(t, layers.TCPPort(40000+i), layers.TCPPort(d.port), d.chunks)
	}
	must(t, f.Close())
}

func (tp *tape) connection(t *testing.T, client, server layers.TCPPort, chunks []authz.Chunk) {
	t.Helper()
	next := [2]uint32{authz.FromClient: 1000, authz.FromServer: 9000}
	send := func(dir authz.Dir, tcp layers.TCP, payload []byte) {
		t.Helper()
		other := authz.FromClient + authz.FromServer - dir
		tcp.SrcPort, tcp.DstPort, tcp.Window = client, server, 65535
		if dir == authz.FromServer {
			tcp.SrcPort, tcp.DstPort = server, client
		}
		tcp.Seq = next[dir]
		if tcp.ACK {
			tcp.Ack = next[other]
		}
		tp.frame(t, dir, &tcp, payload)
		next[dir] += uint32(len(payload))
		if tcp.SYN || tcp.FIN {
			next[dir]++
		}
	}
	send(authz.FromClient, layers.TCP{SYN: true}, nil)
	send(authz.FromServer, layers.TCP{SYN: true, ACK: true}, nil)
	send(authz.FromClient, layers.TCP{ACK: true}, nil)
	for _, c := range chunks {
		send(c.Dir, layers.TCP{ACK: true, PSH: true}, c.Bytes)
		send(authz.FromClient+authz.FromServer-c.Dir, layers.TCP{ACK: true}, nil)
	}
	send(authz.FromServer, layers.TCP{ACK: true, FIN: true}, nil)
	send(authz.FromClient, layers.TCP{ACK: true, FIN: true}, nil)
	send(authz.FromServer, layers.TCP{ACK: true}, nil)
}

func (tp *tape) frame(t *testing.T, dir authz.Dir, tcp *layers.TCP, payload []byte) {
	t.Helper()
	hosts := [2]struct {
		mac net.HardwareAddr
		ip  net.IP
	}{
		authz.FromClient: {net.HardwareAddr{2, 0, 0, 0, 0, 7}, net.IPv4(192, 0, 2, 7)},
		authz.FromServer: {net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.IPv4(198, 51, 100, 2)},
	}
	from, to := hosts[dir], hosts[authz.FromClient+authz.FromServer-dir]
	eth := &layers.Ethernet{SrcMAC: from.mac, DstMAC: to.mac, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: from.ip.To4(), DstIP: to.ip.To4()}
	must(t, tcp.SetNetworkLayerForChecksum(ip))
	frame := bpftest.Frame(t, eth, ip, tcp, gopacket.Payload(payload))
	tp.time = tp.time.Add(time.Millisecond)
	info := gopacket.CaptureInfo{Timestamp: tp.time, CaptureLength: len(frame), Length: len(frame)}
	must(t, tp.w.WritePacket(info, frame))
}
