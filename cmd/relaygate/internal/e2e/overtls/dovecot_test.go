//go:build e2e

package overtls

import (
	"fmt"
	"path/filepath"
	"testing"

	"relaygate/cmd/relaygate/internal/e2e/layer"
)

// Dovecot takes any user with the one password. All share one empty mailbox;
// its index is kept in memory, so that no two sessions wait for each other.
// The only curve makes a client that guesses another one come twice
// (HelloRetryRequest, RFC 8446 §4.1.4).
const dovecotConfig = `
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/dovecot.log
protocols = imap pop3
listen = %[6]s, %[7]s
ssl = yes
ssl_cert = <%[2]s
ssl_key = <%[3]s
ssl_min_protocol = TLSv1.2
ssl_curve_list = P-256
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
mail_location = maildir:%[1]s/mail:INDEX=MEMORY
mail_max_userip_connections = 0
default_process_limit = 1000
default_client_limit = 4000
haproxy_trusted_networks = 198.51.100.0/24 192.0.2.0/24
passdb {
  driver = static
  args = password=%[4]s
}
userdb {
  driver = static
  args = uid=65534 gid=65534 home=%[1]s/mail
}
service anvil {
  # The penalty delays an address after each failure.
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  %[5]s
  inet_listener imap {
    port = 143
  }
  inet_listener imaps {
    port = 993
    ssl = yes
  }
  inet_listener announced {
    address = %[8]s
    port = 143
    haproxy = yes
  }
  inet_listener passed {
    address = %[9]s
    port = 993
    ssl = yes
    haproxy = yes
  }
}
service pop3-login {
  %[5]s
  inet_listener pop3 {
    port = 110
  }
  inet_listener pop3s {
    port = 995
    ssl = yes
  }
  inet_listener passed {
    address = %[9]s
    port = 995
    ssl = yes
    haproxy = yes
  }
}
`

// The two shapes of Dovecot's login processes: one for many clients, and one
// for each, chrooted both.
const (
	busy = "service_count = 0\n  process_min_avail = 1\n  process_limit = 1\n  client_limit = 2000"
	fork = "service_count = 1\n  process_limit = 500"
)

// startDovecot starts it at a place, and at two more addresses where a proxy must
// announce the client: in clear text, and before TLS.
func (w *world) startDovecot(t *testing.T, name, shape string, p place, announced, passed string) *layer.Server {
	t.Helper()
	dir := filepath.Join(w.dir, name)
	for _, sub := range []string{"new", "cur", "tmp"} {
		w.owned(t, filepath.Join(dir, "mail", sub), 65534)
	}
	config := w.file(t, name+"/dovecot.conf", dovecotConfig, dir, w.cert, w.key, right, shape, p.v4, p.v6, announced, passed)
	s := w.start(t, name, "", "dovecot", "-F", "-c", config)
	w.up(t, s, p.services(name))
	return s
}

func (w *world) startBusyDovecot(t *testing.T) *layer.Server {
	return w.startDovecot(t, "dovecot-busy", busy, atBusy, atAnnounced.v4.String(), atPassed.v4.String())
}

func (w *world) startForkingDovecot(t *testing.T) *layer.Server {
	return w.startDovecot(t, "dovecot-fork", fork, atFork, "127.0.0.1", "127.0.0.2")
}

// user is the name of a client.
func user(i int) string { return fmt.Sprintf("u%05d", i) }
