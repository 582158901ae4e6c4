package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"relaygate/bpf/netns"
)

// Daemon is `relaygate run` in a namespace, with its files in a directory.
type Daemon struct {
	Config     string
	Socket     string
	Relayhosts string

	path, usual string // of the configuration file, and what always is in it

	cmd   *exec.Cmd
	log   bytes.Buffer
	ended chan struct{} // closed when the process has been reaped
	err   error         // how it ended; valid when ended is closed
}

// Options say how a daemon is started.
type Options struct {
	Exe      string
	Env      []string // in addition to the own environment
	Dir      string   // for its configuration, socket and files
	Lifetime time.Duration
	// Grant is added to the table grant of the configuration.
	Grant string
	// Mode is what the table gate of the configuration says; "" is mode filter.
	// Config is appended to the configuration.
	Mode, Config string
	// Ready bounds the time until the daemon says that it is ready (30 s).
	Ready time.Duration
	// Raw is a whole configuration without the tables state and control. Then
	// Grant, Lifetime, Mode and Config do not count.
	Raw string
	// Relayhosts, State and Socket are paths outside of Dir, if they are not empty.
	Relayhosts, State, Socket string
	// Without are capabilities(7) that the daemon cannot have.
	Without []uintptr
	// Ahead is by how much its clocks that nobody sets are shifted
	// (time_namespaces(7)), in whole seconds.
	Ahead time.Duration
}

// readyLimit is the default of Options.Ready.
const readyLimit = 30 * time.Second

// StartDaemon writes a configuration, starts the daemon in a namespace, and
// waits until it says that it is ready, as systemd would (sd_notify(3)).
func StartDaemon(ctx context.Context, ns *netns.Namespace, o Options) (_ *Daemon, err error) {
	d := &Daemon{
		Socket:     cmp.Or(o.Socket, filepath.Join(o.Dir, "control.sock")),
		Relayhosts: cmp.Or(o.Relayhosts, filepath.Join(o.Dir, "relayhosts")),
		ended:      make(chan struct{}),
	}
	config := filepath.Join(o.Dir, "relaygate.toml")
	d.path = config
	if err := d.configure(o); err != nil {
		return nil, err
	}
	notify := filepath.Join(o.Dir, "notify.sock")
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for the daemon's readiness: %w", err)
	}
	defer func() { err = errors.Join(err, ready.Close(), os.Remove(notify)) }()

	d.cmd = exec.Command(o.Exe, "run", "--config", config)
	d.cmd.Env = append(append(os.Environ(), o.Env...), "NOTIFY_SOCKET="+notify)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	// A process group of its own: Ctrl-C reaches the demo alone, which then
	// stops the daemon in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = ns.Do(func() error { // on a thread that ends with it
		for _, c := range o.Without {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return fmt.Errorf("give up capability %d: %w", c, err)
			}
		}
		if o.Ahead != 0 {
			if err := shiftClocks(o.Ahead); err != nil {
				return err
			}
		}
		return d.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Exe, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
		cancel() // nothing more to wait for
	}()
	if err := d.waitReady(ctx, ready, cmp.Or(o.Ready, readyLimit)); err != nil {
		stopped := d.Stop()
		return nil, errors.Join(err, stopped, fmt.Errorf("its log:\n%s", d.Log()))
	}
	return d, nil
}

// shiftClocks gives the programs that this thread starts a time namespace.
func shiftClocks(ahead time.Duration) error {
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return fmt.Errorf("make a time namespace: %w", err)
	}
	offsets := fmt.Appendf(nil, "monotonic %d 0\nboottime %[1]d 0\n", int64(ahead/time.Second))
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/timens_offsets", unix.Gettid()), offsets, 0); err != nil {
		return fmt.Errorf("shift the clocks: %w", err)
	}
	return nil
}

// configure writes the configuration file.
func (d *Daemon) configure(o Options) error {
	mode := o.Mode
	if mode == "" {
		mode = "mode = \"filter\"\nmax_new_per_minute = 0" // tests knock often
	}
	own := fmt.Sprintf(ownFormat, cmp.Or(o.State, filepath.Join(o.Dir, "state.db")), d.Socket)
	d.usual = fmt.Sprintf(configFormat, o.Lifetime, o.Grant, d.Relayhosts) + own
	d.Config = fmt.Sprintf("%s[gate]\n%s\n%s", d.usual, mode, o.Config)
	if o.Raw != "" {
		d.Config = o.Raw + own
	}
	if err := os.WriteFile(d.path, []byte(d.Config), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

const configFormat = `[grant]
lifetime = %q
%s
[files]
relayhosts = %q
`

const ownFormat = `[state]
path = %q
[control]
socket = %q
`

// waitReady reads notifications until READY=1.
func (d *Daemon) waitReady(ctx context.Context, conn *net.UnixConn, limit time.Duration) error {
	return Poll(ctx, limit, 10*time.Millisecond, func() error {
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return err
		}
		buf := make([]byte, 4096)
		n, err := conn.Read(buf)
		if err != nil {
			return fmt.Errorf("relaygate run did not say that it is ready: %w", err)
		}
		if !bytes.Contains(buf[:n], []byte("READY=1")) {
			return fmt.Errorf("relaygate run said %q, and not that it is ready", buf[:n])
		}
		return nil
	})
}

// stopTime is far more than a daemon needs to stop, also where other tests keep all processors busy.
const stopTime = 15 * time.Second

// Stop sends SIGTERM and waits; a daemon that does not end is killed, which is
// an error, and so is one that failed. It may be called again.
func (d *Daemon) Stop() error {
	select {
	case <-d.ended:
		return nil
	default:
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop relaygate: %w", err)
	}
	select {
	case <-d.ended:
	case <-time.After(stopTime):
		err := d.cmd.Process.Kill()
		<-d.ended
		return errors.Join(fmt.Errorf("relaygate did not stop within %v and was killed", stopTime), err)
	}
	if d.err != nil {
		return fmt.Errorf("relaygate run ended with %w; its log:\n%s", d.err, d.log.String())
	}
	return nil
}

// Reload writes another configuration, appended to the usual one, and sends
// SIGHUP.
func (d *Daemon) Reload(more string) error {
	if err := os.WriteFile(d.path, []byte(d.usual+more), 0o600); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return d.hangUp()
}

// Reconfigure writes the configuration of other options, and sends SIGHUP.
func (d *Daemon) Reconfigure(o Options) error {
	if err := d.configure(o); err != nil {
		return err
	}
	return d.hangUp()
}

func (d *Daemon) hangUp() error {
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("signal relaygate: %w", err)
	}
	return nil
}

// Kill ends the daemon with SIGKILL, as a crash would.
func (d *Daemon) Kill() error {
	if err := d.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill relaygate: %w", err)
	}
	<-d.ended
	return nil
}

// Freeze lets the daemon hang, until Thaw: it returns when every thread stands.
func (d *Daemon) Freeze(ctx context.Context) error {
	if err := d.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return fmt.Errorf("freeze relaygate: %w", err)
	}
	return Poll(ctx, time.Second, time.Millisecond, func() error {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", d.PID()))
		for _, file := range threads {
			stat, err := os.ReadFile(file)
			// State follows the name in brackets (proc_pid_stat(5)).
			if at := bytes.LastIndexByte(stat, ')'); err == nil && !bytes.HasPrefix(stat[at+1:], []byte(" T")) {
				return fmt.Errorf("a thread of relaygate still runs: %s", stat)
			}
		}
		return err
	})
}

// Thaw ends Freeze.
func (d *Daemon) Thaw() error {
	if err := d.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		return fmt.Errorf("thaw relaygate: %w", err)
	}
	return nil
}

// Log is what the daemon has written; valid once it has ended.
func (d *Daemon) Log() string {
	<-d.ended
	return d.log.String()
}

// PID is the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }
