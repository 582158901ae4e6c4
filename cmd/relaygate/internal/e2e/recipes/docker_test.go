//go:build e2e

package recipes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/e2e/layer"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// Docker, and a container with Dovecot and somebody who greets as an SMTP server, and
// says whom he sees. All of it is in a PID namespace: nothing outlives the test.
const (
	dockerScript = `
shared=$1
export DOCKER_HOST=unix:///run/e2e-docker.sock
dockerd --host $DOCKER_HOST --data-root /var/lib/e2e --exec-root /run/e2e-docker --pidfile /run/e2e-docker.pid \
  --storage-driver vfs --exec-opt native.cgroupdriver=cgroupfs &
until docker version >/dev/null 2>&1; do sleep 0.2; done
system=${RELAYGATE_LAYERS:-/var/cache/relaygate-e2e}/debian13/system
tar -C $system --exclude=./proc --exclude=./usr/share/doc --exclude=./usr/share/locale -c . | docker import - mail
. $shared/network
docker run --detach --network mail -p 25:25 -p 925:925 -p 110:110 --volume $shared:/e2e:ro mail sh /e2e/serve >$shared/id
touch $shared/ready
wait
`

	containerScript = `
mkdir -p /tmp/mail
chown 65534:65534 /tmp/mail
for port in 25 925; do
  perl -MIO::Socket::INET -e '
    $l = IO::Socket::INET->new(LocalPort => $ARGV[0], Listen => 9, ReuseAddr => 1) or die;
    while ($c = $l->accept) { print $c "220 ", $c->peerhost, "\r\n"; close $c }' $port &
done
exec dovecot -F -c /e2e/dovecot.conf
`

	containerDovecot = `
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
protocols = pop3
log_path = /dev/stderr
ssl = no
auth_allow_cleartext = yes
mail_driver = maildir
mail_path = /tmp/mail
passdb static {
  password = %s
}
userdb static {
  fields {
    uid = 65534
    gid = 65534
    home = /tmp/mail
  }
}
`
)

// A port that Docker publishes is as closed as the host's own, and the recipe for
// containers opens it to who logged in to one.
func TestDockerPublishesNoWayAround(t *testing.T) {
	n, dir := labtest.Network(t), labtest.Folder(t)
	shared := filepath.Join(dir, "docker")
	must(t, os.Mkdir(shared, 0o755))
	for name, text := range map[string]string{
		"network": snippet(t, "docker", "containers"), "serve": containerScript,
		"dovecot.conf": fmt.Sprintf(containerDovecot, lab.Password),
	} {
		must(t, os.WriteFile(filepath.Join(shared, name), []byte(text), 0o644))
	}
	t.Cleanup(func() { forgetContainer(t, filepath.Join(shared, "id")) })
	layer.Run(t, n.Server, dir, "docker", "docker",
		"unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", dockerScript, "sh", shared)
	settles(t, 90*time.Second, func() error {
		_, err := os.Stat(filepath.Join(shared, "ready"))
		return err
	})
	const open = true
	expect := func(h *lab.Host, server netip.Addr, port uint16, want bool, sees netip.Addr) {
		t.Helper()
		greeting, err := greetingAt(t, h, netip.AddrPortFrom(server, port))
		switch {
		case !want && errors.Is(err, syscall.ECONNREFUSED):
		case want && err == nil && greeting == "220 "+sees.String():
		default:
			t.Errorf("%s at port %d of %s: %q, %v", h.Name, port, server, greeting, err)
		}
	}
	settles(t, 20*time.Second, func() error {
		_, err := greetingAt(t, n.Stranger, netip.AddrPortFrom(lab.Server4, 925))
		return err
	})

	for _, mode := range []string{"filter", "redirect"} {
		d := labtest.Daemon(t, n.Server, lab.Options{Exe: program, Dir: t.TempDir(), Lifetime: time.Minute, Mode: fmt.Sprintf("mode = %q", mode)})
		guarded := map[string]uint16{"filter": 25, "redirect": 925}[mode]
		expect(n.Stranger, lab.Server4, guarded, !open, netip.Addr{})
		expect(n.Stranger, lab.Server6, guarded, !open, netip.Addr{}) // at docker-proxy
		expect(n.Stranger, lab.Server4, map[string]uint16{"filter": 925, "redirect": 25}[mode], open, lab.Stranger4)
		must(t, d.Stop())
	}

	labtest.Daemon(t, n.Server, lab.Options{Exe: program, Dir: t.TempDir(), Raw: snippet(t, "gate", "containers")})
	expect(n.Client4, lab.Server4, 25, !open, netip.Addr{})
	answer, ok, err := n.Client4.Login(t.Context(), lab.POP3Login(lab.Server4, lab.Password))
	if err != nil || !ok {
		t.Fatalf("login: %q, %v", answer, err)
	}
	settles(t, 5*time.Second, func() error {
		_, err := greetingAt(t, n.Client4, netip.AddrPortFrom(lab.Server4, 25))
		return err
	})
	expect(n.Client4, lab.Server4, 25, open, lab.Client4)
	expect(n.Stranger, lab.Server4, 25, !open, netip.Addr{})
}

// forgetContainer removes the cgroups of a container, of version 2 and 1, once its processes
// have ended, and those of Docker if no other is there.
func forgetContainer(t *testing.T, path string) {
	t.Helper()
	id, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	must(t, err)
	for _, place := range []string{"/sys/fs/cgroup/docker", "/sys/fs/cgroup/*/docker"} {
		groups, err := filepath.Glob(filepath.Join(place, strings.TrimSpace(string(id))))
		must(t, err)
		for _, group := range groups {
			must(t, lab.Poll(context.Background(), 10*time.Second, 50*time.Millisecond, func() error {
				if err := os.Remove(group); !errors.Is(err, fs.ErrNotExist) { // several are links
					return err
				}
				return nil
			}))
			_ = os.Remove(filepath.Dir(group))
		}
	}
}

// greetingAt is the line that a server says first.
func greetingAt(t *testing.T, h *lab.Host, at netip.AddrPort) (string, error) {
	t.Helper()
	conn, err := h.Dial(t.Context(), at)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	b := make([]byte, 100)
	k, err := conn.Read(b)
	return strings.TrimSpace(string(b[:k])), err
}
