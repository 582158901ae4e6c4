//go:build e2e

package overtls

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/e2e/layer"
	"relaygate/cmd/relaygate/internal/lab"
)

// start runs a command in the server's namespace until the test ends, with a
// layer over the host's files if one is named.
func (w *world) start(t *testing.T, name, over string, argv ...string) *layer.Server {
	t.Helper()
	host := w.server
	if name == balancer || name == director {
		host = w.client
	}
	return layer.Run(t, host, w.dir, name, over, argv...)
}

// file writes a file below the server's directory, and makes that.
func (w *world) file(t *testing.T, name, format string, args ...any) string {
	t.Helper()
	path := filepath.Join(w.dir, name)
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644))
	return path
}

// up waits until all services of a server greet or take a TLS handshake.
func (w *world) up(t *testing.T, s *layer.Server, services []service) {
	t.Helper()
	for _, one := range services {
		err := lab.Poll(t.Context(), 20*time.Second, 100*time.Millisecond, func() error { return w.greets(one) })
		if err != nil {
			t.Fatalf("%s: port %d: %v\n%s", s.Name, one.port, err, s.Log())
		}
	}
	w.services = append(w.services, services...)
}

func (w *world) greets(s service) error {
	c, err := w.dial(clients4.Addr().Next(), s.at.v4, s.port)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if s.implicit {
		return nil
	}
	_, err = bufio.NewReader(net.Conn(c)).ReadString('\n')
	return err
}
