//go:build e2e

package overtls

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/cmd/relaygate/internal/lab"
)

// layers is where install.sh puts the servers that cannot stand beside Dovecot.
func layers() string {
	if dir := os.Getenv("RELAYGATE_LAYERS"); dir != "" {
		return dir
	}
	return "/var/cache/relaygate-e2e"
}

// inLayer runs a command with a layer over the host's files as its root, in a
// mount namespace of its own, as a container's process does. Its arguments are
// the layer, which is copied, a directory for what it writes, one that it shares
// with the host, and the command.
const inLayer = `
layer=$1 own=$2 shared=$3
shift 3
mkdir -p "$own/work" "$own/root"
cp -a "$layer" "$own/upper"
mount -t overlay overlay -o "lowerdir=/,upperdir=$own/upper,workdir=$own/work" "$own/root"
mount --rbind /dev "$own/root/dev"
mount --rbind /proc "$own/root/proc"
mkdir -p "$own/root$shared"
mount --bind "$shared" "$own/root$shared"
exec chroot "$own/root" "$@"
`

// cgroup2 finds the mount point of the unified hierarchy.
func cgroup2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no cgroup2 is mounted")
}

// server is a running mail server or proxy, alone in a cgroup, as systemd runs
// services.
type server struct {
	name   string
	cmd    *exec.Cmd
	cgroup string
	log    output
}

// output is what a process says, readable while it runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b.Len() < 1<<20 {
		o.b.Write(p)
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start runs a command in the server's namespace until the test ends, with a
// layer over the host's files if one is named.
func (w *world) start(t *testing.T, name, layer string, argv ...string) *server {
	t.Helper()
	if layer != "" {
		upper := filepath.Join(layers(), layer, "upper")
		if _, err := os.Stat(upper); err != nil {
			t.Fatalf("%v: `make e2e` makes it", err)
		}
		argv = append([]string{
			"unshare", "--mount", "--propagation", "private", "sh", "-euc", inLayer, "sh",
			upper, filepath.Join(w.dir, name+".layer"), filepath.Join(w.dir, name),
		}, argv...)
	}
	root, err := cgroup2()
	must(t, err)
	s := &server{name: name, cgroup: filepath.Join(root, filepath.Base(w.dir)+"-"+name)}
	must(t, os.Mkdir(s.cgroup, 0o755))
	group, err := os.Open(s.cgroup)
	must(t, err)
	defer group.Close()
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir = "/"
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.WaitDelay = time.Second
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	must(t, w.server.Do(s.cmd.Start))
	t.Cleanup(func() {
		must(t, s.stop())
		if t.Failed() {
			t.Logf("%s said:\n%s", name, s.log.String())
		}
	})
	return s
}

// stop ends every process of the server. It may be called again.
func (s *server) stop() error {
	if s.cgroup == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(s.cgroup, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("end the processes of %s: %w", s.name, err)
	}
	_ = s.cmd.Wait() // killed
	var err error
	for range 100 { // the last process may still be a zombie
		if err = os.Remove(s.cgroup); err == nil {
			s.cgroup = ""
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("remove the cgroup of %s: %w", s.name, err)
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
func (w *world) up(t *testing.T, s *server, services []service) {
	t.Helper()
	for _, one := range services {
		err := lab.Poll(t.Context(), 20*time.Second, 100*time.Millisecond, func() error { return w.greets(one) })
		if err != nil {
			t.Fatalf("%s: port %d: %v\n%s", s.name, one.port, err, s.log.String())
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
