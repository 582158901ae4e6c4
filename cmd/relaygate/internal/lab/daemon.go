//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"relaygate/bpf/netns"
)

// Daemon is `relaygate run` in a namespace, with its files in a directory.
type Daemon struct {
	Config     string
	Socket     string
	Relayhosts string

	cmd   *exec.Cmd
	log   bytes.Buffer
	ended chan struct{} // closed when the process has been reaped
	err   error         // how it ended; valid when ended is closed
}

// StartDaemon writes a configuration below dir, starts the daemon (exe with
// extra environment env), and waits until it answers.
func StartDaemon(ctx context.Context, exe string, env []string, dir string, ns *netns.Namespace, lifetime time.Duration) (*Daemon, error) {
	d := &Daemon{
		Socket:     filepath.Join(dir, "control.sock"),
		Relayhosts: filepath.Join(dir, "relayhosts"),
		ended:      make(chan struct{}),
	}
	d.Config = fmt.Sprintf(`[grant]
lifetime = %q
[gate]
mode = "filter"
[files]
relayhosts = %q
[state]
path = %q
[control]
socket = %q
`, lifetime, d.Relayhosts, filepath.Join(dir, "state.db"), d.Socket)
	path := filepath.Join(dir, "relaygate.toml")
	if err := os.WriteFile(path, []byte(d.Config), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	d.cmd = exec.Command(exe, "run", "--config", path)
	d.cmd.Env = append(os.Environ(), env...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	// A process group of its own: Ctrl-C reaches the demo alone, which then
	// stops the daemon in order.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := ns.Do(d.cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", exe, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	err := poll(ctx, 10*time.Second, 20*time.Millisecond, func() error {
		select {
		case <-d.ended:
			return errors.New("it ended")
		default:
		}
		conn, err := net.Dial("unix", d.Socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("relaygate run did not get ready: %w", err), d.Stop(),
			fmt.Errorf("its log:\n%s", d.log.String()))
	}
	return d, nil
}

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
	case <-time.After(5 * time.Second):
		err := d.cmd.Process.Kill()
		<-d.ended
		return errors.Join(errors.New("relaygate did not stop within 5 s and was killed"), err)
	}
	if d.err != nil {
		return fmt.Errorf("relaygate run ended with %w; its log:\n%s", d.err, d.log.String())
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

// Log is what the daemon has written; valid once it has ended.
func (d *Daemon) Log() string {
	<-d.ended
	return d.log.String()
}
