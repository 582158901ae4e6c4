//go:build linux

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"relaygate/bpf/netns"
)

// daemon is `relaygate run` in the server's namespace.
type daemon struct {
	cmd    *exec.Cmd
	config string
	socket string
	log    bytes.Buffer
	ended  chan struct{} // closed when the process has been reaped
	err    error         // how it ended; valid when ended is closed
}

// startDaemon writes a configuration below dir, starts the daemon, and waits
// until it answers.
func startDaemon(ctx context.Context, exe, dir string, ns *netns.Namespace) (*daemon, error) {
	d := &daemon{socket: filepath.Join(dir, "control.sock"), ended: make(chan struct{})}
	d.config = fmt.Sprintf(`[grant]
lifetime = %q
[gate]
mode = "filter"
[files]
relayhosts = %q
[state]
path = %q
[control]
socket = %q
`, lifetime, filepath.Join(dir, "relayhosts"), filepath.Join(dir, "state.db"), d.socket)
	path := filepath.Join(dir, "relaygate.toml")
	if err := os.WriteFile(path, []byte(d.config), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	d.cmd = exec.Command(exe, "run", "--config", path)
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
		return exec.CommandContext(ctx, exe, "status", "--json", "--socket", d.socket).Run()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("relaygate run did not get ready: %w", err), d.stop(),
			fmt.Errorf("its log:\n%s", d.log.String()))
	}
	return d, nil
}

// stop sends SIGTERM and waits; a daemon that does not end is killed, which is
// an error, and so is one that failed. It may be called again.
func (d *daemon) stop() error {
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

// verb runs one of the program's verbs against the daemon and shows what it
// prints.
func (d *demo) verb(ctx context.Context, args ...string) error {
	d.say("$ relaygate %s", strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.Exe, append(args, "--socket", d.daemon.socket)...)
	out, err := cmd.CombinedOutput()
	d.quote(string(out))
	if err != nil {
		return fmt.Errorf("relaygate %s: %w", args[0], err)
	}
	if len(bytes.TrimSpace(out)) == 0 {
		return fmt.Errorf("relaygate %s printed nothing", args[0])
	}
	return nil
}

// say prints one line of the story.
func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.Out, "    "+format+"\n", args...)
}

// quote prints a text of several lines, set off from the story.
func (d *demo) quote(text string) {
	for line := range strings.Lines(text) {
		fmt.Fprintf(d.Out, "      | %s\n", strings.TrimRight(line, "\n"))
	}
}

// waitFile waits until a file holds exactly want.
func waitFile(ctx context.Context, path, want string, limit time.Duration) error {
	return poll(ctx, limit, 50*time.Millisecond, func() error {
		got, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read the file: %w", err)
		}
		if string(got) != want {
			return fmt.Errorf("%s holds %q, want %q", path, got, want)
		}
		return nil
	})
}
