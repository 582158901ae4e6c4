//go:build linux

package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

const tapInterfaces = `[watch]
tap = "afpacket"
interfaces = ["to-client4", "to-client6", "to-stranger"]
`

// The whole way over AF_PACKET: packets, dialogue, socket tables, gate. The
// clients stay connected: a session that is over before its packets are read
// can no longer be confirmed.
func TestTappedInterfacesOpenForALogin(t *testing.T) {
	w := newWorld(t, 30*time.Second, tapInterfaces)
	imap := "a1 LOGIN alice " + lab.Password + "\r\n"
	w.stay(t, w.Client4, netip.AddrPortFrom(lab.Server4, lab.IMAPPort), imap)
	w.stay(t, w.Client6, netip.AddrPortFrom(lab.Server6, lab.IMAPPort), imap)
	settles(t, 2*time.Second, open(t.Context(), w.Client4.At(lab.Server4)))
	settles(t, 2*time.Second, open(t.Context(), w.Client6.At(lab.Server6)))
	must(t, w.Stranger.At(lab.Server4).Refused(t.Context()))
	if out := w.verb(t, "status"); !strings.Contains(out, "afpacket") {
		t.Errorf("status does not tell the tap:\n%s", out)
	}
}

// stay sends a command, waits for its answer and stays connected.
func (w *world) stay(t *testing.T, h *lab.Host, to netip.AddrPort, command string) {
	t.Helper()
	conn, err := h.Dial(t.Context(), to)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	lines := bufio.NewReader(conn)
	_, err = lines.ReadString('\n')
	must(t, err)
	_, err = io.WriteString(conn, command)
	must(t, err)
	answer, err := lines.ReadString('\n')
	must(t, err)
	if !strings.Contains(answer, "OK") {
		must(t, fmt.Errorf("the server answered %q", answer))
	}
}
