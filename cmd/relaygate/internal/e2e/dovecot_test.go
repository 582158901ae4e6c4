//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"relaygate/bpf/netns"
	"relaygate/cmd/relaygate/internal/lab"
	"relaygate/cmd/relaygate/internal/lab/labtest"
)

// The accounts. Bob's password needs quoting in IMAP and has a space.
const (
	alice, alicePassword = "alice", "correct-horse"
	bob, bobPassword     = "bob", `bat"tery \staple`
)

// Dovecot without its delays, and with the client's port in its log. A method
// that is not listed here is refused.
const dovecotConfig = `
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/dovecot.log
protocols = imap pop3
listen = *, ::
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 scram-sha-1 anonymous apop
auth_failure_delay = 0
login_log_format_elements = user=<%%u> method=%%m rip=%%r rport=%%b
mail_location = maildir:~/Maildir
mail_max_userip_connections = 0
passdb {
  driver = passwd-file
  args = %[1]s/passwd
}
userdb {
  driver = static
  args = uid=65534 gid=65534 home=%[1]s/mail/%%n
}
service anvil {
  # The penalty delays an address after each failure.
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  service_count = 0
  inet_listener imap {
    port = 143
  }
  inet_listener imaps {
    port = 0
  }
}
service pop3-login {
  service_count = 0
  inet_listener pop3 {
    port = 110
  }
  inet_listener pop3s {
    port = 0
  }
}
`

// dovecot is a running server.
type dovecot struct {
	log string
}

// startDovecot runs Dovecot on all addresses of a namespace.
func startDovecot(t *testing.T, ns *netns.Namespace) *dovecot {
	t.Helper()
	exe, err := exec.LookPath("dovecot")
	if err != nil {
		t.Fatalf("%v: `make e2e` installs it", err)
	}
	dir := labtest.Folder(t)
	must(t, os.Mkdir(filepath.Join(dir, "mail"), 0o700))
	must(t, os.Chown(filepath.Join(dir, "mail"), 65534, 65534))
	config := filepath.Join(dir, "dovecot.conf")
	must(t, os.WriteFile(config, fmt.Appendf(nil, dovecotConfig, dir), 0o644))
	passwd := fmt.Sprintf("%s:{PLAIN}%s\n%s:{PLAIN}%s\n", alice, alicePassword, bob, bobPassword)
	must(t, os.WriteFile(filepath.Join(dir, "passwd"), []byte(passwd), 0o644))

	d := &dovecot{log: filepath.Join(dir, "dovecot.log")}
	cmd := exec.Command(exe, "-F", "-c", config)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, ns.Do(cmd.Start))
	t.Cleanup(func() {
		must(t, cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil {
			t.Errorf("dovecot ended with %v", err)
		}
		// What it left of its group is ended with it.
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Errorf("end dovecot's processes: %v", err)
		}
	})
	return d
}

// up waits until both services answer.
func (d *dovecot) up(t *testing.T, h *lab.Host, server netip.Addr) {
	t.Helper()
	for _, port := range []uint16{lab.IMAPPort, lab.POP3Port} {
		must(t, lab.Poll(t.Context(), 10*time.Second, 50*time.Millisecond, func() error {
			conn, err := h.Dial(context.Background(), netip.AddrPortFrom(server, port))
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1))
			return err
		}))
	}
}

// key names a connection: the server's address follows from the client's.
type key struct {
	protocol string // imap or pop3
	client   netip.AddrPort
}

func (k key) String() string { return fmt.Sprintf("%s from %s", k.protocol, k.client) }

// loginLine is a login in Dovecot's log. User names in it are of Dovecot's
// auth_username_chars, so nobody can write such a line himself.
var loginLine = regexp.MustCompile(
	`(?m)^\w+ +\d+ [\d:]+ (imap|pop3)-login: Info: Login: user=<([^<>]*)>, method=([A-Z0-9-]*), rip=([0-9a-f.:]+), rport=(\d+)`)

// logins reads the log: the user of each connection that logged in.
func (d *dovecot) logins(t *testing.T) map[key]string {
	t.Helper()
	log, err := os.ReadFile(d.log)
	must(t, err)
	out := make(map[key]string)
	for _, m := range loginLine.FindAllSubmatch(log, -1) {
		k := key{protocol: string(m[1])}
		addr, err := netip.ParseAddr(string(m[4]))
		must(t, err)
		port, err := strconv.ParseUint(string(m[5]), 10, 16)
		must(t, err)
		k.client = netip.AddrPortFrom(addr, uint16(port))
		if _, twice := out[k]; twice {
			t.Errorf("%v logged in twice: the log cannot tell the connections apart", k)
		}
		out[k] = string(m[2])
	}
	return out
}
