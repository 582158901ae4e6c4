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
// announce the client: in clear text, and before TLS. It is the host's, or that of
// another release of Debian.
func (w *world) startDovecot(t *testing.T, name, release, config, shape string, p place, announced, passed string) *layer.Server {
	t.Helper()
	dir := filepath.Join(w.dir, name)
	for _, sub := range []string{"new", "cur", "tmp"} {
		w.owned(t, filepath.Join(dir, "mail", sub), 65534)
	}
	w.copyCertificate(t, name)
	config = w.file(t, name+"/dovecot.conf", config, dir, filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"),
		right, shape, p.v4, p.v6, announced, passed)
	s := w.start(t, name, release, "dovecot", "-F", "-c", config)
	w.up(t, s, p.services(name))
	return s
}

func (w *world) startBusyDovecot(t *testing.T) *layer.Server {
	return w.startDovecot(t, "dovecot-busy", "", dovecotConfig, busy, atBusy, atAnnounced.v4.String(), atPassed.v4.String())
}

func (w *world) startForkingDovecot(t *testing.T) *layer.Server {
	return w.startDovecot(t, "dovecot-fork", "", dovecotConfig, fork, atFork, "127.0.0.1", "127.0.0.1")
}

// Debian 11 has Dovecot 2.3 with OpenSSL 1.1.1, Debian 13 Dovecot 2.4 with OpenSSL
// 3.5: these keep their objects otherwise.
const debian11, debian13 = "debian11", "debian13"

func (w *world) startOldDovecot(t *testing.T) *layer.Server {
	return w.startDovecot(t, debian11, debian11, dovecotConfig, fork, atOld, "127.0.0.2", "127.0.0.2")
}

func (w *world) startNewDovecot(t *testing.T) *layer.Server {
	return w.startDovecot(t, debian13, debian13, dovecot24Config, "restart_request_count = 1\n  process_limit = 500", atNew, "127.0.0.3", "127.0.0.3")
}

// dovecot24Config is dovecotConfig in the language of Dovecot 2.4.
const dovecot24Config = `
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = %[1]s/dovecot.log
protocols = imap pop3
listen = %[6]s, %[7]s
ssl = yes
ssl_server_cert_file = %[2]s
ssl_server_key_file = %[3]s
ssl_min_protocol = TLSv1.2
ssl_curve_list = P-256
auth_allow_cleartext = yes
auth_mechanisms = plain login
auth_failure_delay = 0
login_trusted_networks = 192.0.2.11
mail_driver = maildir
mail_path = %[1]s/mail
mail_index_path = MEMORY
mail_max_userip_connections = 0
default_process_limit = 1000
default_client_limit = 4000
passdb static {
  password = %[4]s
}
userdb static {
  fields {
    uid = 65534
    gid = 65534
    home = %[1]s/mail
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  %[5]s
  inet_listener imaps {
    port = 993
    ssl = yes
  }
  inet_listener announced {
    listen = %[8]s
    port = 143
    haproxy = yes
  }
}
service pop3-login {
  %[5]s
  inet_listener pop3s {
    port = 995
    ssl = yes
  }
  inet_listener passed {
    listen = %[9]s
    port = 995
    ssl = yes
    haproxy = yes
  }
}
`

// user is the name of a client.
func user(i int) string { return fmt.Sprintf("u%05d", i) }
