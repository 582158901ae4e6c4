package live

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"relaygate/cmd/relaygate/internal/bench/must"
	"relaygate/cmd/relaygate/internal/lab"
)

//go:embed peer/fail2ban peer/pop-before-smtp
var tailerFiles embed.FS

// tailer is a program that reads the mail server's log and adds elements with
// nft(8). Its configuration is the folder of its name in peer. @DIR@ stands for
// the folder in which it runs: there are the mail server's mail.log and its own
// own.log.
type tailer struct {
	name    string
	command []string
	// ready is what it writes to own.log when it has begun.
	ready string
	// goal is how many times later it may be than relaygate.
	goal float64
	// install says how to have it.
	install string
}

var allTailers = []tailer{
	{
		name:    "fail2ban",
		command: []string{"fail2ban-server", "-x", "-f", "-c", "@DIR@", "start"},
		ready:   "Jail 'logins' started",
		goal:    1000,
		install: "apt-get install fail2ban",
	},
	{
		name:    "pop-before-smtp",
		command: []string{"pop-before-smtp", "--config=@DIR@/pop-before-smtp-conf.pl"},
		ready:   "starting up",
		goal:    10_000,
		install: "Debian has none; popbsmtp.sourceforge.net",
	},
}

// The table and set that tailers fill, as their configurations name them.
const (
	tailerTable = "relaygate-bench"
	tailerSet   = "members"
)

// missing is the program that is not there, "" if none.
func (t *tailer) missing() string {
	for _, program := range []string{t.command[0], "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	return ""
}

// configure writes the configuration to dir.
func (t *tailer) configure(dir string) error {
	root := path.Join("peer", t.name)
	return fs.WalkDir(tailerFiles, root, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("configure %s: %w", t.name, err)
		}
		to := filepath.Join(dir, strings.TrimPrefix(name, root))
		if e.IsDir() {
			return os.MkdirAll(to, 0o700)
		}
		b, err := tailerFiles.ReadFile(name)
		if err != nil {
			return fmt.Errorf("configure %s: %w", t.name, err)
		}
		return os.WriteFile(to, bytes.ReplaceAll(b, []byte("@DIR@"), []byte(dir)), 0o600)
	})
}

const (
	tailerReady = 20 * time.Second // until it has begun
	tailerEnd   = 5 * time.Second  // until it is killed
)

// withTailer runs do while a tailer is in the agent's place and has begun. Its
// configuration is in dir.
func (m *measure) withTailer(ctx context.Context, t *tailer, dir string, do func()) {
	var args []string
	for _, a := range t.command {
		args = append(args, strings.ReplaceAll(a, "@DIR@", dir))
	}
	running, end := context.WithCancel(ctx)
	cmd := exec.CommandContext(running, args[0], args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has children to wait for
	cmd.WaitDelay = tailerEnd
	var output bytes.Buffer // to be read when it has ended
	cmd.Stdout, cmd.Stderr = &output, &output
	must.Do(startIn(m.serverNS, m.groups["agent"], cmd))
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // it is ended from here
		end()          // or there is nothing more to wait for
		close(ended)
	}()
	stop := func() { end(); <-ended }
	defer stop()
	err := lab.Poll(running, tailerReady, 50*time.Millisecond, func() error {
		log, err := os.ReadFile(filepath.Join(dir, "own.log"))
		if err == nil && !bytes.Contains(log, []byte(t.ready)) {
			err = fmt.Errorf("no %q in its log:\n%s", t.ready, log)
		}
		return err
	})
	if err != nil {
		stop()
		must.Do(fmt.Errorf("start %s: %w; it says:\n%s", t.name, err, &output))
	}
	do()
}
