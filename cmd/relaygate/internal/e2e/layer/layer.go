// Package layer runs real servers for tests: each alone in a cgroup, as systemd
// runs services, and those that cannot stand beside others in a layer of their own
// over the host's files, as in a container, or in another release of Debian.
// install.sh makes these.
package layer

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf"
	"relaygate/bpf/bpftest"
	"relaygate/bpf/netns"
)

// folder is where install.sh puts the layers.
func folder() string {
	if dir := os.Getenv("RELAYGATE_LAYERS"); dir != "" {
		return dir
	}
	return "/var/cache/relaygate-e2e"
}

// inLayer runs a command with a layer over other files as its root, in a mount
// namespace of its own. Its arguments are those files, the layer, which is copied,
// or nothing, a directory for what it writes, one that it shares with the host, and
// the command.
const inLayer = `
lower=$1 layer=$2 own=$3 shared=$4
shift 4
mkdir -p "$own/work" "$own/root"
if [ "$layer" ]; then cp -a "$layer" "$own/upper"; else mkdir "$own/upper"; fi
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$own/upper,workdir=$own/work" "$own/root"
mount --rbind /dev "$own/root/dev"
mount --rbind /proc "$own/root/proc"
mount --rbind /sys "$own/root/sys"
mkdir -p "$own/root$shared"
mount --bind "$shared" "$own/root$shared"
exec chroot "$own/root" "$@"
`

// Server is a running mail server or proxy.
type Server struct {
	Name string

	cmd    *exec.Cmd
	cgroup string
	log    Output
}

// Output is what a process says, readable while it runs.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	const most = 1 << 20
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.b.Len() < most {
		o.b.Write(p)
	}
	return len(p), nil
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Run runs a command in a network namespace until the end of the test, and shows what it
// said where that failed. dir is the test's folder: with a layer, the command sees
// dir/name of it, and what it writes to its own root is below dir/name.layer/upper.
func Run(t testing.TB, ns *netns.Namespace, dir, name, layer string, argv ...string) *Server {
	t.Helper()
	s, err := start(ns, dir, name, layer, argv...)
	bpftest.Must(t, err)
	t.Cleanup(func() {
		err := s.Stop()
		if err != nil || t.Failed() {
			t.Logf("%s said:\n%s", name, s.Log())
		}
		bpftest.Must(t, err)
	})
	return s
}

func start(ns *netns.Namespace, dir, name, layer string, argv ...string) (*Server, error) {
	if layer != "" {
		lower, upper := "/", filepath.Join(folder(), layer, "upper")
		if system := filepath.Join(folder(), layer, "system"); exists(system) {
			lower, upper = system, ""
		} else if !exists(upper) {
			return nil, fmt.Errorf("there is no %s: `make e2e` makes it", upper)
		}
		argv = append([]string{
			"unshare", "--mount", "--propagation", "private", "sh", "-euc", inLayer, "sh",
			lower, upper, filepath.Join(dir, name+".layer"), filepath.Join(dir, name),
		}, argv...)
	}
	root, err := bpf.RootCgroup()
	if err != nil {
		return nil, err
	}
	s := &Server{Name: name, cgroup: filepath.Join(root, filepath.Base(dir)+"-"+name)}
	if err := os.Mkdir(s.cgroup, 0o755); err != nil {
		return nil, err
	}
	group, err := os.Open(s.cgroup)
	if err != nil {
		return nil, errors.Join(err, os.Remove(s.cgroup))
	}
	s.cmd = exec.Command(argv[0], argv[1:]...)
	s.cmd.Dir = "/"
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	s.cmd.WaitDelay = time.Second
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(group.Fd())}
	err = errors.Join(ns.Do(s.cmd.Start), group.Close())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), os.Remove(s.cgroup))
	}
	return s, nil
}

// Cgroup is the folder of the server's cgroup.
func (s *Server) Cgroup() string { return s.cgroup }

// Log is what the server has said until now.
func (s *Server) Log() string { return s.log.String() }

// Stop ends every process of the server. It may be called again.
func (s *Server) Stop() error {
	if s.cgroup == "" {
		return nil
	}
	if err := os.WriteFile(filepath.Join(s.cgroup, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("end the processes of %s: %w", s.Name, err)
	}
	_ = s.cmd.Wait() // killed
	var err error
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 100 { // the last process may still be a zombie
		if err = os.Remove(s.cgroup); err == nil {
			s.cgroup = ""
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("remove the cgroup of %s: %w", s.Name, err)
}
