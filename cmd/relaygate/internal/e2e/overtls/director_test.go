//go:build e2e

package overtls

import (
	"path/filepath"
	"testing"

	"relaygate/cmd/relaygate/internal/e2e/layer"
)

// director is a Dovecot 2.4 on another host that ends TLS and logs in anew, over TLS, to the
// Dovecot 2.4 that trusts it: it announces its clients by ID and XCLIENT, and has the
// answers to ID framed.
const (
	director = "director"

	directorConfig = `
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
base_dir = %[1]s/run
state_dir = %[1]s/state
log_path = /dev/stderr
protocols = imap pop3
listen = %[3]s, %[4]s
ssl = yes
ssl_server_cert_file = %[2]s/cert.pem
ssl_server_key_file = %[2]s/key.pem
ssl_client_require_valid_cert = no
auth_allow_cleartext = yes
auth_mechanisms = plain login
auth_failure_delay = 0
default_process_limit = 1000
default_client_limit = 4000
passdb static {
  fields {
    nopassword = yes
    proxy = yes
    host = %[5]s
    source_ip = %[3]s
    ssl = any-cert
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service imap-login {
  restart_request_count = 1
  process_limit = 500
  inet_listener imaps {
    port = 993
    ssl = yes
  }
}
service pop3-login {
  restart_request_count = 1
  process_limit = 500
  inet_listener pop3s {
    port = 995
    ssl = yes
  }
}
`
)

func (w *world) startDirector(t *testing.T) *layer.Server {
	t.Helper()
	dir := filepath.Join(w.dir, director)
	config := w.file(t, director+"/dovecot.conf", directorConfig, dir, dir, atDirector.v4, atDirector.v6, atNew.v4)
	w.copyCertificate(t, director)
	s := w.start(t, director, debian13, "dovecot", "-F", "-c", config)
	w.up(t, s, atDirector.services(director))
	return s
}
