package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"relaygate/bpf/bpftest"
	"relaygate/cmd/relaygate/internal/lab"
)

// A proxy in this kernel that forwards by splice(2), as one in Go does, sends memory that
// others have filled: that is believed of those that are trusted.
func TestSplicingProxy(t *testing.T) {
	for _, trusted := range []bool{true, false} {
		t.Run(fmt.Sprint(trusted), func(t *testing.T) {
			t.Parallel()
			config := ""
			if trusted {
				config = fmt.Sprintf("[watch]\ntrusted_proxies = [%q]\n", lab.Stranger4)
			}
			w := newWorld(t, time.Minute, config)
			front := lab.Stranger4.String() + ":1143"
			splice(t, w, front)
			conn := bpftest.Dial(t, w.Stranger.NS, front)
			r := bufio.NewReader(conn)
			for _, command := range []string{
				"", "a1 ID (\"x-originating-ip\" \"" + lab.Client4.String() + "\")\r\n",
				"a2 LOGIN " + lab.User + " " + lab.Password + "\r\n",
			} {
				_, err := io.WriteString(conn, command)
				must(t, err)
				tag, _, _ := strings.Cut(command, " ")
				for line := ""; line == "" || !strings.HasPrefix(line, tag); {
					line, err = r.ReadString('\n')
					must(t, err)
				}
			}
			if trusted {
				w.onlyClient4(t)
				return
			}
			settles(t, 2*time.Second, w.says(t, "why "+lab.Stranger4.String(), "can still change what it sent"))
			w.grantedTo(t, 0)
		})
	}
}

// splice forwards one connection from front, in the stranger's namespace, to the server.
func splice(t *testing.T, w *world, front string) {
	t.Helper()
	l := bpftest.Listen(t, w.Stranger.NS, "tcp", front)
	back := bpftest.Dial(t, w.Stranger.NS, fmt.Sprintf("%s:%d", lab.Server4, lab.IMAPPort))
	go func() {
		client, err := l.Accept()
		if err != nil {
			return // the test is over
		}
		defer client.Close()
		go io.Copy(client, back) // until the test is over, as well
		_, _ = back.(*net.TCPConn).ReadFrom(client)
	}()
}
