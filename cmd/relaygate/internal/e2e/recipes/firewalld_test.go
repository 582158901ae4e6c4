//go:build e2e

package recipes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/control"
	"relaygate/cmd/relaygate/internal/e2e/layer"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// firewalld with its bus, and then each command that comes through a pipe; the end
// of each is told in a file.
const firewalldScript = `
shared=$1
mkdir -p /run/dbus
dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid &
firewalld=$!
stop() { kill $firewalld; wait $firewalld || true; }
until firewall-cmd --state; do sleep 0.2; done
touch "$shared/ready"
while read -r number command <"$shared/commands"; do
  $command && touch "$shared/done.$number"
done
`

// What firewalld does to its own rules leaves the gate alone: starting, reloading,
// stopping, and each of the tools of iptables.
func TestFirewalldLeavesTheGateAlone(t *testing.T) {
	n, dir := labtest.Network(t), t.TempDir()
	shared := filepath.Join(dir, "firewalld")
	must(t, os.Mkdir(shared, 0o755))
	must(t, exec.Command("mkfifo", filepath.Join(shared, "commands")).Run())
	mail, err := lab.StartMailServer(n.Server)
	must(t, err)
	t.Cleanup(func() { must(t, mail.Close()) })
	d := labtest.Daemon(t, n.Server, lab.Options{Exe: program, Dir: t.TempDir(), Lifetime: time.Minute})
	_, ok, err := n.Client4.Login(t.Context(), lab.POP3Login(lab.Server4, lab.Password))
	if err != nil || !ok {
		t.Fatalf("login: %v, %v", ok, err)
	}

	layer.Run(t, n.Server, dir, "firewalld", "firewalld", "sh", "-euc", firewalldScript, "sh", shared)
	wait := func(name string) {
		t.Helper()
		settles(t, 30*time.Second, func() error {
			_, err := os.Stat(filepath.Join(shared, name))
			return err
		})
	}
	wait("ready")
	for i, command := range []string{
		// firewalld lets nobody in who is not named: the gate does not overrule it.
		"firewall-cmd --permanent --add-service=smtp --add-service=pop3 --add-service=imap",
		"firewall-cmd --reload", "firewall-cmd --complete-reload", "firewall-cmd --reload",
		"iptables-nft -F", "ip6tables-nft -F", "iptables-nft -t nat -F", "stop",
	} {
		f, err := os.OpenFile(filepath.Join(shared, "commands"), os.O_WRONLY, 0)
		must(t, err)
		_, err = fmt.Fprintf(f, "%d %s\n", i, command)
		must(t, err)
		must(t, f.Close())
		wait(fmt.Sprintf("done.%d", i))
		if i == 0 {
			continue // it holds from the first reload on
		}
		for _, target := range []lab.Target{n.Client4.At(lab.Server4), n.Stranger.At(lab.Server4), n.Stranger.At(lab.Server6)} {
			if target.Host != n.Client4 {
				must(t, target.Refused(t.Context()))
			} else if _, err := target.Open(t.Context()); err != nil {
				t.Errorf("after %s: %v", command, err)
			}
		}
		status, err := control.NewClient(d.Socket).Status(t.Context())
		must(t, err)
		if status.Gate.Losses > 0 {
			t.Errorf("after %s the gate was lost: %s", command, status.Gate.LastLoss)
		}
	}
}
