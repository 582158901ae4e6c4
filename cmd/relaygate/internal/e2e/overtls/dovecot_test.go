//go:build e2e

package overtls

import (
	"fmt"
	"path/filepath"
	"testing"
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
listen = *, ::
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
haproxy_trusted_networks = 127.0.0.0/8
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
    port = %[6]d
  }
  inet_listener imaps {
    port = %[7]d
    ssl = yes
  }
  inet_listener announced {
    port = %[10]d
    haproxy = yes
  }
}
service pop3-login {
  %[5]s
  inet_listener pop3 {
    port = %[8]d
  }
  inet_listener pop3s {
    port = %[9]d
    ssl = yes
  }
}
`

// ports are the four of a server.
type ports struct{ imap, imaps, pop3, pop3s uint16 }

func (p ports) services(name string) []service {
	return []service{
		{name, p.imap, imap, false},
		{name, p.imaps, imap, true},
		{name, p.pop3, pop3, false},
		{name, p.pop3s, pop3, true},
	}
}

// The two shapes of Dovecot's login processes: one for many clients, and one
// for each, chrooted both.
const (
	busy = "service_count = 0\n  process_min_avail = 1\n  process_limit = 1\n  client_limit = 2000"
	fork = "service_count = 1\n  process_limit = 500"
)

// dovecotPorts are those of the busy one, announcedPort is its port for clients
// that a proxy announces.
var dovecotPorts = ports{143, 993, 110, 995}

const announcedPort = 6143

func (w *world) startDovecot(t *testing.T, name, shape string, p ports, announced uint16) *server {
	t.Helper()
	dir := filepath.Join(w.dir, name)
	for _, sub := range []string{"new", "cur", "tmp"} {
		w.owned(t, filepath.Join(dir, "mail", sub), 65534)
	}
	config := w.file(t, name+"/dovecot.conf", dovecotConfig, dir, w.cert, w.key, right, shape,
		p.imap, p.imaps, p.pop3, p.pop3s, announced)
	s := w.start(t, name, "", "dovecot", "-F", "-c", config)
	w.up(t, s, p.services(name))
	return s
}

func (w *world) startBusyDovecot(t *testing.T) *server {
	return w.startDovecot(t, "dovecot-busy", busy, dovecotPorts, announcedPort)
}

func (w *world) startForkingDovecot(t *testing.T) *server {
	return w.startDovecot(t, "dovecot-fork", fork, ports{1143, 1993, 1110, 1995}, 0)
}

// user is the name of a client.
func user(i int) string { return fmt.Sprintf("u%05d", i) }
